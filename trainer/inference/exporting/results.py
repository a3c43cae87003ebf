"""What became of an export: a row a format, as a table and as JSON. No TensorFlow.

table.to_text(); table.to_json(); table.failed
"""

from __future__ import annotations

import dataclasses
import pathlib
from typing import TYPE_CHECKING, Any

from trainer.inference.exporting.earlier import EarlierExports

if TYPE_CHECKING:
    from trainer.inference.exporting.formats import Format


@dataclasses.dataclass(frozen=True)
class ExportedFormat:
    """One format.

    Attributes:
      format: the format.
      problem: why it was not written, a sentence; empty if it was.
      images: number of images that it was compared on.
      size_mb: in megabytes, 10^6 bytes.
      difference: largest difference of a probability from Keras in float32.
      difference_from_run: the same from Keras in the run's own precision; None if that is float32.
      equal_labels: of the images, those with the same class at the operating point.
      accuracy: of the labelled images, in Keras and exported; None without labels.
      lost: labelled images that only Keras gives their true class; None without labels.
      latency_ms: median time of an image alone.
      batch_ms: time of an image in a batch of 8; None if it takes one at a time.
      wrong: by the kind of wrong image, how it is refused.
      is_inaccurate: whether the loss of accuracy alone is the problem.
      starts_in_float32: whether a format of 8 bits computes on large maps in float32.
    """

    format: Format
    problem: str = ""
    images: int = 0
    size_mb: float | None = None
    difference: float | None = None
    difference_from_run: float | None = None
    equal_labels: int | None = None
    accuracy: tuple[float, float] | None = None
    lost: int | None = None
    latency_ms: float | None = None
    batch_ms: float | None = None
    wrong: dict[str, str] = dataclasses.field(default_factory=dict)
    is_inaccurate: bool = False
    starts_in_float32: bool = False

    def to_json(self) -> dict[str, Any]:
        """Returns the row as JSON."""
        row = dataclasses.asdict(self) | {
            "format": self.format.name,
            "file": self.format.file,
            "runtime": self.format.runtime,
            "tolerance": self.format.tolerance,
            "written": not self.problem,
        }
        del row["is_inaccurate"]  # `problem` says it.
        if self.accuracy:
            row["accuracy"] = {"keras": self.accuracy[0], "exported": self.accuracy[1]}
        return row


@dataclasses.dataclass(frozen=True)
class Exports:
    """All formats of one export.

        exports = trainer.export("runs/a", ["onnx", "litert"])
        exports.failed
        print(exports)

    Attributes:
      rows: in the order in which they were asked for.
      notes: what else is to be known, sentences.
      folder: where they are.
      model: digest of the model's file; empty if it is not known.
      earlier: what lies there from earlier exports.
    """

    rows: tuple[ExportedFormat, ...]
    notes: tuple[str, ...] = ()
    folder: pathlib.Path = pathlib.Path()
    model: str = ""
    earlier: EarlierExports = dataclasses.field(default_factory=EarlierExports)

    guard_fired = False
    """Whether the model may be used is said where it is evaluated."""

    @property
    def failed(self) -> bool:
        """Whether a format was not written."""
        return any(row.problem for row in self.rows)

    def __str__(self) -> str:
        """Returns the table as plain text."""
        return self.to_text()

    def to_json(self) -> dict[str, Any]:
        """Returns the table as JSON."""
        rows = [row.to_json() | {"model": self.model or None} for row in self.rows]
        return {
            "formats": [*rows, *self.earlier.same],
            "others": list(self.earlier.others),
            "notes": list(self.notes),
        }

    def to_text(self) -> str:
        """Returns the table as plain text, then a line for each problem and note."""
        heads = (
            "format",
            "file",
            "MB",
            "max difference",
            "labels",
            "accuracy",
            "ms",
            "ms in batch",
        )
        cells = [heads, *(_cells(row) for row in self.rows)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = [
            "  ".join(
                cell.ljust(width) if column < 2 else cell.rjust(width)
                for column, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in cells
        ]
        said = [f"{row.format.name} was not written: {row.problem}" for row in self.rows]
        lines += [line for line, row in zip(said, self.rows, strict=True) if row.problem]
        return "\n".join([*lines, *self.notes])


def _cells(row: ExportedFormat) -> tuple[str, ...]:
    def shown(value: float | None, pattern: str) -> str:
        return "–" if value is None else format(value, pattern)

    labels = "–" if row.equal_labels is None else f"{row.equal_labels}/{row.images}"
    accuracy = "–"
    if row.accuracy:
        accuracy = (
            f"{100 * row.accuracy[1]:.2f} % ({100 * (row.accuracy[1] - row.accuracy[0]):+.2f})"
        )
    return (
        row.format.name,
        "not written" if row.problem else row.format.file,
        shown(row.size_mb, ".1f"),
        shown(row.difference, ".1e"),
        labels,
        accuracy,
        shown(row.latency_ms, ".1f"),
        shown(row.batch_ms, ".1f"),
    )
