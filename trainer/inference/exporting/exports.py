"""Exports a model to formats of other runtimes, and keeps what each runtime computes as Keras does.

    table = exports.export(model, facts, images, labels, ("savedmodel", "onnx"), folder)
    print(table.to_text())
    table.failed                                   # something was not written

Converters and runtimes run in processes of their own: they print, they may crash, and the check
must not find Keras or this package. A file appears under its name once it has passed; one of an
earlier export stays until then.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import pathlib
import shutil
import tempfile
from typing import TYPE_CHECKING, Any

import numpy as np

from trainer.inference.exporting import checks, children, earlier, formats, graphs, parts
from trainer.inference.exporting.results import ExportedFormat, Exports
from trainer.storage import files
from trainer.system import console, text

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import keras

    from trainer.inference.exporting.checks import Reference
    from trainer.inference.exporting.earlier import EarlierExports, Ledger
    from trainer.inference.exporting.formats import Format

TABLE = earlier.TABLE
CALIBRATION_IMAGES = 100
"""What the ranges of 8-bit numbers are measured on; TensorFlow's guide asks for 100 to 500."""


def export(
    model: keras.Model,
    facts: Mapping[str, Any],
    images: Iterable[np.ndarray],
    labels: Sequence[int] | np.ndarray | None,
    names: Sequence[str],
    folder: pathlib.Path,
    digest: str = "",
) -> Exports:
    """Converts a model, runs each result in its own runtime, and writes what passed.

    Args:
      model: of `trainer.models.saved.load`; it may compute in any precision, and is exported in
        float32.
      facts: what belongs to the model, as JSON: `class_names`, `threshold`, `temperature`, perhaps
        `positive_class`, and whatever else; every format holds all of it.
      images: [N, S, S, 1] uint8 of the validation split, an array or an iterator of images; S as
        the model's preprocessing. Up to 400 are used; all of them for 8 bits, 100 for the others.
      labels: [N] true classes; None if they are unknown.
      names: of the formats, keys of `formats.REGISTRY`.
      folder: where `savedmodel/`, `model.tflite`, `model_int8.tflite`, `model.onnx` and
        `export.json` go; it is made if need be.
      digest: of the model's file, by which exports that lie there are told.

    Returns:
      The table, which `export.json` has as well.

    Raises:
      ConfigError: when packages are missing.
      ValueError: when there are no images, or they, their labels or the class names don't fit.
    """
    formats.require_installed(names)
    facts = json.loads(json.dumps(dict(facts), allow_nan=False))
    given = _stacked(images, checks.num_images(names))
    known = None if labels is None else np.asarray(labels)[: len(given)]
    checks.require_fit(model, given, known, facts)
    rebuilt = parts.in_float32(model)
    reference = checks.Reference.of(model, rebuilt, given, known, facts)
    folder.mkdir(parents=True, exist_ok=True)
    ledger = earlier.Ledger.open(folder, digest)
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=folder) as scratch:
        work = pathlib.Path(scratch)
        _prepare(rebuilt, facts, given, names, work)
        rows = tuple(
            _exported(formats.REGISTRY[name], rebuilt, reference, work, ledger) for name in names
        )
    beside = ledger.beside(names, [row.format.name for row in rows if not row.problem])
    table = Exports(rows, _notes(model, rows, beside), folder, digest, beside)
    files.save_json(folder / TABLE, table.to_json())
    return table


def _stacked(images: Iterable[np.ndarray], count: int) -> np.ndarray:
    first = list(itertools.islice(iter(images), count))
    if not first:
        raise ValueError("images: there is none; an export is compared with Keras on some.")
    return np.stack(first)


def _prepare(
    model: keras.Model,
    facts: Mapping[str, Any],
    images: np.ndarray,
    names: Sequence[str],
    work: pathlib.Path,
) -> None:
    """Writes what the converters start from."""
    if set(names) == {"savedmodel"}:
        return
    graphs.save_for_converting(model, names, work / "graph")
    (work / "facts.json").write_text(_json(facts), encoding="utf-8")
    step = max(1, len(images) // CALIBRATION_IMAGES)
    np.save(work / "calibration.npy", images[::step][:CALIBRATION_IMAGES])


def _exported(
    kind: Format, model: keras.Model, reference: Reference, work: pathlib.Path, ledger: Ledger
) -> ExportedFormat:
    """Exports one format, and writes it to its place if it passed the check."""
    console.say(f"{kind.name}: converts it, and runs it in {kind.runtime} …")
    target, staged = ledger.folder / kind.file, work / kind.file
    row = _staged(kind, model, reference, work)
    if row.is_inaccurate:
        console.say(f"{kind.name}: {row.problem} Again, with float32 on large feature maps …")
        second = _staged(kind, model, reference, work, "starts_in_float32")
        if second.problem and not second.is_inaccurate:  # What the first one lost is still said.
            failed = f"{row.problem} With float32 on large feature maps, {second.problem}"
            row = dataclasses.replace(row, problem=failed)
        else:
            row = second
    if row.problem:
        return dataclasses.replace(row, problem=row.problem + _kept(target))
    ledger.forget(kind.name)
    _move(staged, target)
    if kind.runtime == "LiteRT":
        with files.replacing(target.with_name(f"{target.name}.json")) as partial:
            partial.write_text(_json(reference.facts), encoding="utf-8")
    return row


def _staged(
    kind: Format, model: keras.Model, reference: Reference, work: pathlib.Path, *options: str
) -> ExportedFormat:
    """Exports one format into the scratch folder, and returns what its check says."""
    if kind.name == "savedmodel":
        graphs.save_for_serving(model, reference.facts, work / kind.file)
    elif problem := children.run("convert", [kind.name, str(work), *options]):
        return ExportedFormat(kind, f"it can't be converted ({text.clause(problem)}).")
    else:
        (work / "result").replace(work / kind.file)
    row = checks.check(kind, work / kind.file, reference, work)
    return dataclasses.replace(row, starts_in_float32=bool(options))


def _move(staged: pathlib.Path, target: pathlib.Path) -> None:
    """Moves a file or folder to its place, over an earlier one."""
    for path in [staged, *staged.rglob("*")]:
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    if target.is_dir() and not target.is_symlink():  # It can't be replaced by renaming alone.
        old = staged.with_name("replaced")
        target.rename(old)
        staged.rename(target)
        shutil.rmtree(old, ignore_errors=True)
    else:
        staged.replace(target)


def _kept(target: pathlib.Path) -> str:
    return f" {target.name} of an earlier export is still there." if target.exists() else ""


def _notes(
    model: keras.Model, rows: Sequence[ExportedFormat], beside: EarlierExports
) -> tuple[str, ...]:
    doubts = map(checks.doubt_note, rows)
    notes = [
        checks.precision_note(model), _batch_note(rows), _float_note(rows), *doubts, *beside.notes
    ]  # fmt: skip
    return tuple(filter(None, notes))


def _batch_note(rows: Sequence[ExportedFormat]) -> str:
    alone = [row.format.name for row in rows if not row.problem and row.batch_ms is None]
    return f"batch: {', '.join(alone)} takes one image at a time." if alone else ""


def _float_note(rows: Sequence[ExportedFormat]) -> str:
    mixed = [row.format.name for row in rows if not row.problem and row.starts_in_float32]
    said = (
        "feature maps taller than an eighth of the image are computed in float32, the rest in 8 "
        "bits: with 8 bits alone it loses too much accuracy. A chip without float32 can't run it."
    )
    return f"{', '.join(mixed)}: {said}" if mixed else ""


def _json(facts: Mapping[str, Any]) -> str:
    return json.dumps(dict(facts), indent=2, allow_nan=False) + "\n"
