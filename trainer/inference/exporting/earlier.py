"""Exports that lie in a folder from before, and of which model they are. No TensorFlow.

    ledger = earlier.Ledger.open(folder, model_digest)
    ledger.forget("onnx")                          # before another model.onnx is written
    found = ledger.beside(["onnx"], written=["onnx"])
    found.same, found.others, found.notes

`export.json` has a row for each file, with the digest of the model it was made of. A file is what
its row says as long as it has the row's size.
"""

from __future__ import annotations

import collections
import dataclasses
from typing import TYPE_CHECKING, Any, NotRequired, Self, TypedDict

from trainer.inference.exporting import formats
from trainer.storage import documents, files
from trainer.system import console

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Collection

TABLE = "export.json"
_WAY_OUT = "it is written anew, and of which model earlier exports are is not known"


_SAME = "of the same model"
_ANOTHER = "of another model: export again, or remove what is not needed"
_UNKNOWN = "it is not known of which model: export again, or remove what is not needed"


class _Row(TypedDict):
    """What a row says of its file; it has more."""

    format: str
    written: bool
    size_mb: float | None
    model: NotRequired[str | None]


class _Document(TypedDict):
    formats: list[_Row]
    others: NotRequired[list[_Row]]


@dataclasses.dataclass(frozen=True)
class EarlierExports:
    """Files of formats that an export did not write.

    Attributes:
      same: rows of those that are of the same model.
      others: rows of the rest: `format` and `file`, and `model` if it is known.
      notes: a sentence for each kind.
    """

    same: tuple[dict[str, Any], ...] = ()
    others: tuple[dict[str, Any], ...] = ()
    notes: tuple[str, ...] = ()


class Ledger:
    """The rows of files that lie in a folder, by format.

    Attributes:
      folder: of exports.
    """

    def __init__(self, folder: pathlib.Path, model: str, rows: dict[str, dict[str, Any]]) -> None:
        """Holds rows; use `open`."""
        self.folder, self._model, self._rows = folder, model, rows

    @classmethod
    def open(cls, folder: pathlib.Path, model: str) -> Self:
        """Reads the table of a folder; says a line if it is damaged.

        Args:
          folder: of exports.
          model: a digest of the model that is exported now; empty: not known.
        """
        rows: list[Any] = []
        try:
            found: _Document = documents.load(folder / TABLE, _Document, way_out=_WAY_OUT)
            rows = [*found.get("others", ()), *found["formats"]]
        except documents.DocumentError as error:
            if not error.is_missing:
                console.say(str(error))
        known = {row["format"]: row for row in rows if row["written"]}
        return cls(folder, model, {name: known[name] for name in formats.REGISTRY if name in known})

    def forget(self, name: str) -> None:
        """Drops the row of a format, also on disk: a kill leaves no row of a replaced file."""
        if self._rows.pop(name, None) is not None:
            table = {"formats": list(self._rows.values()), "notes": []}
            files.save_json(self.folder / TABLE, table)

    def beside(self, named: Collection[str], written: Collection[str]) -> EarlierExports:
        """Returns the files that lie in the folder from before.

        Args:
          named: the formats that were asked for.
          written: those of them that were written.
        """
        same: list[dict[str, Any]] = []
        others: list[dict[str, Any]] = []
        names: collections.defaultdict[str, list[str]] = collections.defaultdict(list)
        for name, kind in formats.REGISTRY.items():
            path = self.folder / kind.file
            if name in written or not path.exists():
                continue
            row = self._row_of(name, path)
            model = self._describe(row.get("model"))
            names[model].append(kind.file)
            # A format that was asked for has a row already, of its failure.
            (same if model == _SAME and name not in named else others).append(row)
        notes = tuple(
            f"beside: {', '.join(of)} of an earlier export, {model}." for model, of in names.items()
        )
        return EarlierExports(tuple(same), tuple(others), notes)

    def _describe(self, model: str | None) -> str:
        if not model or not self._model:
            return _UNKNOWN
        return _SAME if model == self._model else _ANOTHER

    def _row_of(self, name: str, path: pathlib.Path) -> dict[str, Any]:
        row = self._rows.get(name)
        if row is not None and row["size_mb"] == size_mb(path):
            return row
        return {"format": name, "file": path.name, "written": True, "size_mb": None, "model": None}


def size_mb(path: pathlib.Path) -> float:
    """Returns the size of a file, or of all files in a folder, in megabytes of 10^6 bytes."""
    return sum(file.stat().st_size for file in [path, *path.rglob("*")] if file.is_file()) / 1e6
