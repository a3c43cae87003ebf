"""What a notebook imports: each public name is documented, typed, loaded lazily and tried."""

from __future__ import annotations

import ast
import functools
import inspect
import json
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import trainer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parent.parent
NAMES = tuple(getattr(trainer, "__all__", ()))
FROM_OUTSIDE = ROOT / "tests" / "trainer" / "whole_runs" / "test_api_from_a_wheel.py"
"""Uses the API as a notebook does, from a folder without the sources."""
OWN = ("cxr_tfds", "trainer", "tuner")
HEAVY = ("tensorflow", "keras", "matplotlib")
IMPORT_S = 0.3
IMPORT = f"""
import json, sys, time
start = time.perf_counter()
import trainer
seconds = time.perf_counter() - start
print(json.dumps([seconds, [name for name in {HEAVY} if name in sys.modules]]))
"""

every_name = pytest.mark.parametrize("name", NAMES)


def _members(name: str) -> Iterator[tuple[str, Any]]:
    """Yields public methods and properties of a public class, inherited ones of ours included."""
    exported = getattr(trainer, name)
    for owner in inspect.getmro(exported) if inspect.isclass(exported) else ():
        if owner.__module__.partition(".")[0] in OWN:
            for member, value in vars(owner).items():
                if not member.startswith("_") and _function_of(value):
                    yield f"{name}.{member}", value


def _function_of(member: Any) -> Callable[..., Any] | None:
    """Returns what is called by a method or property; None: the member is neither."""
    if isinstance(member, property):
        return member.fget
    if isinstance(member, functools.cached_property):
        return member.func
    if isinstance(member, staticmethod | classmethod):
        return member.__func__
    return member if inspect.isfunction(member) else None


def _functions(name: str) -> Iterator[tuple[str, Callable[..., Any]]]:
    """Yields what can be called by a public name: itself, or its methods and constructor."""
    exported = getattr(trainer, name)
    if inspect.isclass(exported):
        constructor = exported.__init__
        if getattr(constructor, "__module__", "").partition(".")[0] in OWN:
            yield f"{name}.__init__", constructor
        for member, value in _members(name):
            function = _function_of(value)
            assert function is not None
            yield member, function
    else:
        yield name, inspect.unwrap(exported)


def _unannotated(function: Callable[..., Any]) -> list[str]:
    signature = inspect.signature(function)
    parameters = [
        parameter.name
        for parameter in signature.parameters.values()
        if parameter.annotation is parameter.empty and parameter.name not in ("self", "cls")
    ]
    # A dataclass annotates its constructor's return itself, as None.
    return parameters + ["return"] * (signature.return_annotation is signature.empty)


def _has_synopsis(name: str, docstring: str) -> bool:
    """Tells whether a docstring shows how the name is used."""
    if docstring.startswith(f"{name}("):
        return False  # A dataclass without a docstring gets its signature.
    if ">>> " in docstring or re.search(rf"\b{name}\(", docstring):
        return True
    # Where all but the first line is code, `inspect.getdoc` has removed its indent.
    _, *blocks = re.split(r"\n\s*?\n", docstring)
    return any(_is_code(textwrap.dedent(block)) for block in blocks)


def _is_code(text: str) -> bool:
    try:
        nodes = ast.walk(ast.parse(text))
    except SyntaxError:
        return False
    return any(isinstance(node, ast.Call | ast.Try) for node in nodes)


@pytest.mark.parametrize(
    ("docstring", "expected"),
    [
        ("Runs.\n\n    trained = trainer.run(config)\n", True),
        ("A run.\n\n  run = open_run('a')\n\n  run.report()\n\nAttributes:\n  a: A path.", True),
        ("Wrong.\n\n    try:\n        f()\n    except Error:\n        pass", True),
        ("Runs.\n\n>>> run", True),
        ("Runs.\n\nArgs:\n  config: what to run (all of it).\n", False),
        ("Runs.\n\n    all that there is to run\n", False),
        ("run(config: Config)", False),
    ],
)
def test_a_synopsis_is_code(docstring, expected):
    assert _has_synopsis("run", docstring) == expected


def test_the_api_has_its_names():
    names = {"Config", "Run", "Evaluation", "train", "open_run", "evaluate", "compare"}
    assert names | {"ConfigError", "RunError"} <= set(NAMES)


def test_dir_lists_the_public_names_alone():
    assert dir(trainer) == sorted(NAMES)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = trainer.no_such_name


@every_name
def test_a_public_name_and_its_members_are_documented(name):
    documented = [(name, getattr(trainer, name)), *_members(name)]
    assert [place for place, value in documented if not inspect.getdoc(value)] == []


@every_name
def test_a_docstring_shows_how_the_name_is_used(name):
    docstring = inspect.getdoc(getattr(trainer, name)) or ""
    assert _has_synopsis(name, docstring), f"trainer.{name} has no synopsis:\n{docstring}"


@every_name
def test_parameters_and_returns_are_annotated(name):
    missing = {place: _unannotated(function) for place, function in _functions(name)}
    assert {place: names for place, names in missing.items() if names} == {}


def test_import_is_quick_and_loads_nothing_heavy():
    runs = [
        subprocess.run([sys.executable, "-c", IMPORT], check=True, capture_output=True, cwd=ROOT)
        for _ in range(3)
    ]
    seconds, loaded = zip(*(json.loads(run.stdout) for run in runs), strict=True)
    assert loaded == ([], [], [])
    assert min(seconds) < IMPORT_S


@every_name
def test_a_public_name_and_its_members_are_tried_from_outside(name):
    text = FROM_OUTSIDE.read_text("utf-8")
    names = [name, *(member for member, _ in _members(name))]
    untried = [n for n in names if not re.search(rf"\.{n.rpartition('.')[2]}\b", text)]
    assert untried == [], f"{FROM_OUTSIDE.name} does not use these."
