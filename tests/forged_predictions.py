"""What predictions read, as kinds of `tests/test_forged_files.py`.

Journals, lists of files, tables of exports, and the sample of validation that tells unlike images.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from tests.support.pages import worklists
from trainer.data import statistics
from trainer.evaluation.shifts import shift
from trainer.inference import labelled, sources, worklist
from trainer.inference.exporting import earlier, formats, results
from trainer.reports.pages import worklist_page
from trainer.runs import validation_sample
from trainer.storage import files

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

ROW = worklist.WorklistRow(
    "a.png", "9 1", score=0.5, predicted="NORMAL", height=9, width=9, digest="d"
)


def make_journal(folder: Path) -> None:
    """Writes a journal of two files."""
    journal = worklist.Journal.open(folder / worklist.JOURNAL, "m", ["NORMAL"])
    journal.append([ROW, dataclasses.replace(ROW, file="b.png", notes=("x",))])


def read_journal(folder: Path) -> None:
    """What the journal says goes on into the list, its page and the next journal."""
    with worklist.claimed(folder):
        journal = worklist.Journal.open(folder / worklist.JOURNAL, "m", ["NORMAL"])
        rows = worklist.by_urgency(worklist.marked(journal.rows.values()))
        worklist.write(folder, rows)
        listed = [row.listed(rank) for rank, row in enumerate(rows, start=1)]
        worklist_page.write(folder / worklist.PAGE, worklists.summary(listed), listed, {})
        journal.append([ROW])


def make_list(folder: Path) -> None:
    """Writes a list of two files, of which one is beside the folder."""
    (folder / "list.csv").write_text('file,label\n"a.png",0\n../outside/kept,1\n')


def read_list(folder: Path) -> None:
    """Reads the files of a list, and their labels."""
    with sources.opened([str(folder / "list.csv")]) as found:
        labelled.label(found.candidates, ["NORMAL", "PNEUMONIA"])


def make_exports(folder: Path) -> None:
    """Writes the table of two exports, and their files."""
    rows = []
    for name, model in (("onnx", "m"), ("litert", "of another")):
        path = folder / formats.REGISTRY[name].file
        path.write_bytes(b"export")
        row = {"format": name, "written": True, "size_mb": earlier.size_mb(path), "model": model}
        rows.append(row | {"file": path.name})
    files.save_json(folder / earlier.TABLE, {"formats": rows[:1], "others": rows[1:]})


def read_exports(folder: Path) -> None:
    """What the table says goes on into the next one."""
    ledger = earlier.Ledger.open(folder, "m")
    ledger.forget("onnx")
    found = ledger.beside(["onnx"], ["onnx"])
    table = results.Exports((), found.notes, folder, "m", found)
    files.save_json(folder / "next.json", table.to_json())


COUNT = 60
SAMPLE = shift.Sample(
    np.linspace(0.01, 0.99, COUNT),
    np.random.default_rng(0).random((COUNT, 3), np.float32),
    {name: np.linspace(0, 1, COUNT) for name in statistics.NAMES},
    np.array([f"person{i}" for i in range(COUNT)]),
    np.random.default_rng(1).integers(0, 256, (COUNT, 256), np.uint8),
)
"""Large enough to tell unlike images."""


def make_sample(folder: Path) -> None:
    """Writes what a run keeps of validation."""
    validation_sample.save(folder, SAMPLE)


def read_sample(folder: Path) -> Sequence[Callable[[], Any]]:
    """Compares a later data set, and new images, with it."""
    return (lambda: _compare_sets(folder), lambda: _compare_images(folder))


def _compare_sets(folder: Path) -> None:
    found = validation_sample.load(folder)
    if found is not None and found.features.shape[1] == SAMPLE.features.shape[1]:
        shift.measure(None, found, SAMPLE)


def _compare_images(folder: Path) -> None:
    found = validation_sample.load_known_images(folder)
    if found is not None and found.features.shape[1] == SAMPLE.features.shape[1]:
        found.compare(SAMPLE.features, SAMPLE.layouts)
