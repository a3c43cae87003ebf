"""Opens files of saved weights with limits, and runs nothing in them. Does not import Keras.

A `.keras` file is a zip archive of `config.json` (the layers) and `model.weights.h5`; the other
kinds are HDF5 files. All of them may come from someone else. Each function raises a ValueError with
a clause that says what is wrong with the file.

    with archive.weights(path) as file:          # an h5py.File
        ...
    archive.check_model(path)                    # before Keras loads a model from it
    archive.facts(path)                          # {"threshold": 0.43, ...}
"""

from __future__ import annotations

import contextlib
import io
import pathlib
import zipfile
from typing import TYPE_CHECKING, Annotated, Any, NotRequired, TypedDict

import h5py

from trainer.storage import documents
from trainer.system import text

if TYPE_CHECKING:
    from collections.abc import Iterator

FACTS = "trainer"
"""Key in the metadata of what a model says of itself."""
CONFIG, METADATA, WEIGHTS = "config.json", "metadata.json", "model.weights.h5"
MAX_CONFIG_BYTES = 16 << 20
"""The largest backbone's layers take 0.7 MB."""
MAX_DEPTH, MAX_OBJECTS = 64, 100_000
MAX_EXPANSION = 50
"""How many times its own size an archive may unpack to; Keras doesn't compress."""
MAX_NUMBER = 8192
"""No layer of a backbone has a larger number, unless its stored weights are as large."""


class Pixels(TypedDict):
    """What images a model takes.

    `side`: height and width in pixels; `takes`: in words; `record_side`: height and width of the
    records that training has shrunk to `side`.
    """

    side: Annotated[int, documents.within(1, 4096)]
    takes: str
    record_side: NotRequired[Annotated[int, documents.within(1, 4096)]]


class ModelFacts(TypedDict):
    """What a model says of itself: how it is used, by what validation decided, and its origin.

    `threshold`: the positive class is predicted from this probability on, by `rule`; null where
    there is none, as of more than two classes. It may exceed 1: then nothing is positive.
    `temperature`: what logits are divided by for calibrated probabilities; null where undetermined.
    The others are not in models of earlier versions.
    """

    class_names: list[str]
    rule: str
    threshold: Annotated[float, documents.within(0, 2)] | None
    temperature: Annotated[float, documents.within(0.01, 100)] | None
    positive_class: NotRequired[str | None]
    pixels: NotRequired[Pixels]
    data: NotRequired[dict[str, str]]
    versions: NotRequired[dict[str, str]]
    license: NotRequired[str]
    intended_use: NotRequired[str]


class _Metadata(TypedDict):
    """What is read of an archive's metadata."""

    trainer: NotRequired[ModelFacts | None]


_LAYERS = {
    "Activation", "Add", "AveragePooling2D", "BatchNormalization", "Concatenate", "Conv2D", "Dense",
    "DepthwiseConv2D", "Dropout", "Flatten", "GlobalAveragePooling2D", "GlobalMaxPooling2D",
    "InputLayer", "LayerNormalization", "MaxPooling2D", "Multiply", "Normalization", "ReLU",
    "Rescaling", "Reshape", "Resizing", "SeparableConv2D", "ZeroPadding2D",
}  # fmt: skip
_INITIALIZERS = {"GlorotUniform", "HeNormal", "Ones", "VarianceScaling", "Zeros"}
_CLASSES = {
    "keras": {"DTypePolicy", "Sequential"},
    "keras.layers": _LAYERS,
    "keras.initializers": _INITIALIZERS,
    "keras.src.models.functional": {"Functional"},
    "keras.src.applications.convnext": {"LayerScale"},
    "keras.src.applications.inception_resnet_v2": {"CustomScaleLayer"},
    "keras.src.ops.core": {"Cast"},
    "keras.src.ops.nn": {"Relu"},
    "keras.src.ops.numpy": {
        "Absolute", "Add", "All", "Cumsum", "Divide", "Equal", "ExpandDims", "Greater",
        "GreaterEqual", "LessEqual", "LogicalAnd", "LogicalNot", "LogicalOr", "Matmul", "Max",
        "Maximum", "Multiply", "OnesLike", "Round", "Squeeze", "Subtract", "Sum", "Take",
        "Transpose", "Where",
    },
    None: {"__keras_tensor__", "__tensor__"},
}  # fmt: skip
"""What the trainer's models consist of. Keras imports other modules that a file names, and some of
its own classes read files."""


@contextlib.contextmanager
def weights(path: pathlib.Path) -> Iterator[h5py.File]:
    """Opens the weights in a `.keras`, `.weights.h5` or `.h5` file.

    Raises:
      ValueError: when it is neither, or is damaged, or holds what no such file needs.
      OSError: when it can't be read.
    """
    with contextlib.ExitStack() as stack:
        source: Any = path
        if zipfile.is_zipfile(path):
            zipped = stack.enter_context(_open_zip(path))
            source = stack.enter_context(_open_weights(zipped))
        elif path.suffix == ".keras":
            raise ValueError("it is not a .keras archive, which is a zip file")
        try:
            file = stack.enter_context(h5py.File(source, "r"))
        except OSError as error:
            if not path.is_file():
                raise
            raise ValueError("it is not an HDF5 file, or is cut off") from error
        _check_objects(file, _size_of(source))
        yield file


def check_model(path: pathlib.Path) -> None:
    """Raises ValueError unless a `.keras` archive holds a model like the trainer's, undamaged."""
    with weights(path) as file:
        largest = max((max(found.shape, default=0) for _, found in datasets(file)), default=0)
    with _open_zip(path) as zipped:
        config = _parse(zipped, CONFIG)
    for value in _values(config):
        if isinstance(value, dict):
            _check_class(value)
            _check_numbers(value, max(MAX_NUMBER, largest))
    facts(path)


def facts(path: pathlib.Path) -> ModelFacts | None:
    """Returns what the model in a `.keras` archive says of itself; None if it says nothing.

    Raises:
      ValueError: when its metadata is not what `saved.save` writes.
    """
    with _open_zip(path) as zipped:
        metadata = _parse(zipped, METADATA) if METADATA in zipped.namelist() else {}
    try:
        return documents.fit(metadata, _Metadata).get(FACTS)
    except ValueError as error:
        raise ValueError(f"its {METADATA} {error}") from error


def keras_version(path: pathlib.Path) -> str:
    """Returns the version of Keras that saved a `.keras` archive; empty if it doesn't say."""
    try:
        with _open_zip(path) as zipped:
            version = _parse(zipped, METADATA)["keras_version"]
    except (ValueError, KeyError, TypeError, OSError):
        return ""
    is_version = isinstance(version, str) and version.replace(".", "").isalnum()
    return version[:20] if is_version else ""


def datasets(group: h5py.Group) -> Iterator[tuple[str, h5py.Dataset]]:
    """Yields the arrays below a group, with their paths."""
    for name, item in group.items():
        if isinstance(item, h5py.Dataset):
            yield f"{group.name.rstrip('/')}/{name}", item
        else:
            yield from datasets(item)


@contextlib.contextmanager
def _open_zip(path: pathlib.Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(path) as zipped:
            _check_members(zipped, path.stat().st_size)
            yield zipped
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        raise ValueError(f"its zip archive is damaged ({text.clause(error)})") from error


def _check_members(zipped: zipfile.ZipFile, size: int) -> None:
    members = zipped.infolist()
    names = [member.filename for member in members]
    others = set(names) - {CONFIG, METADATA, WEIGHTS}
    if others or len(set(names)) != len(names):
        raise ValueError(
            f"it holds {min(others, default=names[0])!r}, which no archive of Keras layers does"
        )
    if CONFIG not in names or WEIGHTS not in names:
        raise ValueError(f"it holds no {CONFIG} or no {WEIGHTS}")
    if sum(member.file_size for member in members) > MAX_EXPANSION * size:
        raise ValueError(f"it unpacks to more than {MAX_EXPANSION} times its size")
    damaged = zipped.testzip()
    if damaged is not None:
        raise ValueError(f"its {damaged} is damaged (wrong checksum)")


def _open_weights(zipped: zipfile.ZipFile) -> Any:
    if zipped.getinfo(WEIGHTS).compress_type == zipfile.ZIP_STORED:
        return zipped.open(WEIGHTS)
    return io.BytesIO(zipped.read(WEIGHTS))  # HDF5 jumps, and a packed stream can't.


def _size_of(source: Any) -> int:
    if isinstance(source, pathlib.Path):
        return source.stat().st_size
    size = source.seek(0, io.SEEK_END)
    source.seek(0)
    return int(size)


def _check_objects(file: h5py.File, size: int) -> None:
    """Raises ValueError for links, for more objects than a model has, and for absent data."""
    pending, count = [(0, file)], 0
    while pending:
        depth, group = pending.pop()
        for name in group:
            count += 1
            if count > MAX_OBJECTS or depth > MAX_DEPTH:
                raise ValueError("it holds more groups than any model")
            is_link = not isinstance(group.get(name, getlink=True), h5py.HardLink)
            if is_link:
                raise ValueError(f"its {name!r} is a link to another place or file")
            item = group[name]
            if isinstance(item, h5py.Group):
                pending.append((depth + 1, item))
            elif isinstance(item, h5py.Dataset):
                _check_dataset(name, item, size)


def _check_dataset(name: str, found: h5py.Dataset, size: int) -> None:
    if found.external or found.is_virtual:
        raise ValueError(f"its {name!r} is a link to another place or file")
    if found.dtype.kind in "fiub" and found.nbytes > size:  # Text belongs to no weight.
        raise ValueError(f"its {name!r} of shape {found.shape} is larger than the file")


def _parse(zipped: zipfile.ZipFile, name: str) -> Any:
    if zipped.getinfo(name).file_size > MAX_CONFIG_BYTES:
        raise ValueError(f"its {name} has more than {MAX_CONFIG_BYTES >> 20} MiB")
    try:
        return documents.parse(zipped.read(name), allows_nan=True, max_depth=MAX_DEPTH)
    except ValueError as error:
        raise ValueError(f"its {name} {error}") from error


def _values(tree: Any) -> Iterator[Any]:
    """Yields every value in parsed JSON; not recursive."""
    pending = [tree]
    while pending:
        value = pending.pop()
        yield value
        if isinstance(value, dict):
            pending += value.values()
        elif isinstance(value, list):
            pending += value


def _check_class(value: dict[str, Any]) -> None:
    name, module = value.get("class_name"), value.get("module")
    if name is None:
        return
    known = _CLASSES.get(module, ()) if isinstance(module, str | None) else ()
    if not isinstance(name, str) or name not in known:
        shown = f"{module}.{name}"[:80]
        raise ValueError(f"it has a {shown!r}, which no model of the trainer has")


def _check_numbers(value: dict[str, Any], largest: int) -> None:
    for key, inner in value.items():
        numbers = inner if isinstance(inner, list) else [inner]
        for number in numbers:
            if key != "shared_object_id" and isinstance(number, int) and abs(number) > largest:
                raise ValueError(f"its {key} ({str(number)[:20]}) is larger than any weight")
