"""Reads JSON that somebody may have damaged or forged: within limits, against a declared shape.

A shape is a type: `int`, `float`, `str`, `bool`, `list[…]`, `dict[str, …]`, a union, `Any`, a
TypedDict (whose other keys are left alone: a later version may have written them), or one of these
in `Annotated` with functions that raise ValueError, a clause about the value.

    class TrainedOn(TypedDict):
        fingerprint: documents.Name
        patients: list[str]

    documents.load(path, TrainedOn, way_out="evaluate again")

An error is one line: the file, what is wrong with it, the way out. It quotes no control character.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import stat
import types
import typing
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar

from trainer.errors import RunError
from trainer.storage import locations
from trainer.system import text

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Callable, Iterator

MAX_BYTES = 1 << 20
LARGE_BYTES = 16 << 20
"""Limits of a file: of options and states, and of those that grow with the data or the epochs."""
MAX_DEPTH = 32
MAX_DIGITS = 19
"""Of an integer: it fits into 64 bits. More also make Python slow, and overflow a float."""

# A string that never ends takes the rest: otherwise each of its quotes would be tried in turn.
_STRING_OR_BRACKET = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[\[\]{}]', re.DOTALL)

_T = TypeVar("_T")


class DocumentError(RunError):
    """A file is damaged, or is not what its name says.

    Attributes:
      is_missing: whether there is no such file.
    """

    is_missing = False


def at_least(minimum: float) -> Callable[[float], None]:
    """Returns a check of a number."""

    def check(value: float) -> None:
        if not value >= minimum:
            raise ValueError(f"is less than {minimum:g}")

    return check


def within(low: float, high: float) -> Callable[[float], None]:
    """Returns a check of a number."""

    def check(value: float) -> None:
        if not low <= value <= high:
            raise ValueError(f"is not from {low:g} to {high:g}")

    return check


def one_of(*choices: str) -> Callable[[str], None]:
    """Returns a check of a text."""

    def check(value: str) -> None:
        if value not in choices:
            raise ValueError(f"is not one of {', '.join(choices)}")

    return check


Name = Annotated[str, locations.require_name]
"""The name of a file or folder, without a path."""
Count = Annotated[int, at_least(0)]
Seconds = Annotated[float, within(0, 1e11)]
"""A duration, or the seconds since 1970 for some thousand years."""
Number = int | float | None
"""A metric: null stands for NaN and infinity, which JSON lacks."""


def load(
    path: pathlib.Path, shape: type[_T] | Any, *, way_out: str, max_bytes: int = MAX_BYTES
) -> _T:
    """Reads a JSON file of the given shape.

    Args:
      path: the file.
      shape: a type, as in the module's docstring.
      way_out: what the user can do, a clause that ends the error.
      max_bytes: size limit of the file.

    Raises:
      DocumentError: when it can't be read, is not JSON, exceeds a limit, or has another shape.
    """
    with _refusing(path, way_out):
        found: _T = fit(parse(_read(path, max_bytes)), shape)
    return found


def load_rows(
    path: pathlib.Path, shape: type[_T] | Any, *, way_out: str, max_bytes: int = LARGE_BYTES
) -> list[_T]:
    """Reads a file with a JSON value on each line; NaN and infinity are accepted.

    Raises:
      DocumentError: when it can't be read, or a line is not of the given shape.
    """
    rows: list[_T] = []
    with _refusing(path, way_out):
        lines = _decode(_read(path, max_bytes)).removesuffix("\n")
        for number, line in enumerate(lines.split("\n") if lines else [], start=1):
            with _refusing(path, way_out, subject=f"line {number}"):
                rows.append(fit(parse(line, allows_nan=True), shape))
    return rows


def read_text(path: pathlib.Path, *, way_out: str, max_bytes: int = MAX_BYTES) -> str:
    """Reads a text file of limited size.

    Raises:
      DocumentError: when it can't be read, is too large, or is not UTF-8.
    """
    with _refusing(path, way_out):
        return _decode(_read(path, max_bytes))


@contextlib.contextmanager
def _refusing(path: pathlib.Path, way_out: str, *, subject: str = "it") -> Iterator[None]:
    """Turns a clause about the content into an error about the file."""
    try:
        yield
    except (OSError, ValueError) as error:
        problem = error.strerror if isinstance(error, OSError) else f"{subject} {error}"
        refusal = refused(path, str(problem), way_out)
        refusal.is_missing = isinstance(error, FileNotFoundError | NotADirectoryError)
        raise refusal from error


def refused(path: pathlib.Path, problem: str, way_out: str) -> DocumentError:
    """Returns the error about a file; the problem is a sentence, or the system's words."""
    return DocumentError(
        f"{text.one_line(str(path))} can't be read ({problem.rstrip('.')}); {way_out}."
    )


def _read(path: pathlib.Path, max_bytes: int) -> bytes:
    """Reads a regular file; raises ValueError, a clause, for another kind, or a larger one."""
    # Opening a pipe to read would wait for a writer.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise ValueError("is not a regular file")
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise ValueError(f"has {found.st_size} bytes, over the limit of {max_bytes}")
    return data


def _decode(data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")  # Editors on Windows begin a file with a mark.
    except UnicodeDecodeError as error:
        raise ValueError(
            f"is not UTF-8 text (byte {data[error.start]:#04x} at {error.start})"
        ) from error


def parse(data: bytes | str, *, allows_nan: bool = False, max_depth: int = MAX_DEPTH) -> Any:
    """Parses JSON within the limits of depth and of numbers.

    Raises:
      ValueError: a clause that says why it can't be parsed.
    """
    content = data if isinstance(data, str) else _decode(data)
    if not content.strip():
        raise ValueError("is empty")
    _require_shallow(content, max_depth)
    try:
        value = json.loads(
            content,
            parse_int=_parse_int,
            parse_float=float if allows_nan else _parse_float,
            parse_constant=float if allows_nan else _refuse_constant,
            object_pairs_hook=_object,
        )
    except json.JSONDecodeError as error:
        raise ValueError(f"is not JSON ({text.clause(error)})") from error
    if re.search(r"\\u[dD][89a-fA-F]", content):
        _require_unicode(value)
    return value


def _require_shallow(content: str, max_depth: int) -> None:
    depth = 0
    for match in _STRING_OR_BRACKET.finditer(content):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(match[0], 0)
        if depth > max_depth:
            raise ValueError(f"is nested more than {max_depth} deep")


def _parse_int(digits: str) -> int:
    if len(digits.lstrip("-")) > MAX_DIGITS:
        raise ValueError(f"has an integer of {len(digits)} digits")
    return int(digits)


def _parse_float(digits: str) -> float:
    if math.isinf(number := float(digits)):
        raise ValueError(f"has the number {digits:.40}, which is too large")
    return number


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"has {name}, which is not JSON")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in found if names.count(name) > 1)
        raise ValueError(f"is not JSON ({text.shown(twice)} is given twice)")
    return found


def _require_unicode(value: Any) -> None:
    """Refuses lone surrogates, except those by which Python represents bytes in a file's name."""
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise ValueError(
            f"has text that is not Unicode ({text.shown(error.object[error.start])})"
        ) from error


def fit(value: Any, shape: Any, where: str = "") -> Any:
    """Returns a parsed value, with integers as floats where the shape says so.

    Args:
      value: of JSON.
      shape: a type, as in the module's docstring.
      where: the place of the value in the document; empty for the whole.

    Raises:
      ValueError: a clause that says what does not fit, and where.
    """
    if shape is Any:
        return value
    if typing.is_typeddict(shape):
        return _fit_fields(_of(dict, value, where, "an object"), shape, where)
    fit_parts = _OF_PARTS.get(typing.get_origin(shape))
    if fit_parts is not None:
        return fit_parts(value, typing.get_args(shape), where)
    if shape is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    return _of(shape, value, where, _NAMES.get(shape, "null"))


def _of(kind: type, value: Any, where: str, name: str) -> Any:
    # bool is a subclass of int: True would pass for a count.
    if not isinstance(value, kind) or isinstance(value, bool) is not (kind is bool):
        raise ValueError(f"{_has(where, value)}, not {name}")
    return value


def _has(where: str, value: Any) -> str:
    return f"has {where} = {text.shown(value)}" if where else f"has {text.shown(value)}"


def _at(where: str, name: str) -> str:
    shortened = name if name.isidentifier() and len(name) < 60 else text.shown(name)
    return f"{where}.{shortened}" if where else shortened


def _fit_dict(value: Any, parts: tuple[Any, ...], where: str) -> dict[str, Any]:
    found = _of(dict, value, where, "an object")
    return {name: fit(item, parts[1], _at(where, name)) for name, item in found.items()}


def _fit_list(value: Any, parts: tuple[Any, ...], where: str) -> list[Any]:
    found = _of(list, value, where, "a list")
    return [fit(item, parts[0], f"{where}[{i}]") for i, item in enumerate(found)]


def _fit_checked(value: Any, parts: tuple[Any, ...], where: str) -> Any:
    fitted = fit(value, parts[0], where)
    for check in parts[1:]:
        try:
            check(fitted)
        except ValueError as error:
            raise ValueError(f"{_has(where, value)}, which {error}") from error
    return fitted


def _fit_union(value: Any, parts: tuple[Any, ...], where: str) -> Any:
    problem = None
    for part in parts:
        try:
            return fit(value, part, where)
        except ValueError as error:
            problem = problem or error
    raise problem or ValueError(_has(where, value))


def _fit_fields(value: dict[str, Any], shape: Any, where: str) -> dict[str, Any]:
    hints = typing.get_type_hints(shape, include_extras=True)
    fitted = dict(value)
    for name, hint in hints.items():
        # Where annotations are texts, `__required_keys__` doesn't tell.
        is_optional = typing.get_origin(hint) is typing.NotRequired
        if name in value:
            wanted = typing.get_args(hint)[0] if is_optional else hint
            fitted[name] = fit(value[name], wanted, _at(where, name))
        elif not is_optional:
            raise ValueError(f"lacks {_at(where, name)}")
    return fitted


_NAMES = {str: "a text", int: "an integer", float: "a number", bool: "true or false"}
_OF_PARTS: dict[Any, Callable[[Any, tuple[Any, ...], str], Any]] = {
    dict: _fit_dict,
    list: _fit_list,
    Annotated: _fit_checked,
    types.UnionType: _fit_union,
    typing.Union: _fit_union,
}


def finite(value: float | None) -> float:
    """Returns a metric's value: NaN for null."""
    return math.nan if value is None else value
