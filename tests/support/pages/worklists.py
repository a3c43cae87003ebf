"""Worklists as `--mode=predict` hands them to the page, with plausible numbers."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from tests.support.pages import reports
from trainer.reports.pages.worklist_flags import FLAGS
from trainer.reports.pages.worklist_page import ListedFile, Thumbnail, WorklistSummary

if TYPE_CHECKING:
    from collections.abc import Sequence

POINT = 0.43127
WARNING = "NORMAL is never predicted, but is the true class of 133 of 400 examples."
HOSTILE_NAMES = (
    *reports.NAMES,
    "$x$ \\(y\\) {{ 7 * 7 }} {% raw %}",
    "\u2066\u200f\ud800.png",
    "n" * 10_000,
)
"""Names of files that must stay text, and must not stretch the page."""
_NOTES = {
    "unlike_training_data": "Distance 1.31 of the threshold.",
    "inverted": "The corners are brighter than the centre.",
    "duplicate": "The same image as inbox/person0_virus_0.jpeg.",
}
_REASONS = ("Empty file.", "JPEG, but its data end after 1,204 of 40,960 bytes.")


def files(count: int = 60, *, unreadable: int = 2) -> list[ListedFile]:
    """Returns files of which every third has a flag, and after them the unreadable ones."""
    scores = np.linspace(0.9998, 0.0003, max(count, 1)) ** 2
    kinds = [kind for kind in FLAGS if kind != "unreadable"]
    found = []
    for place in range(count):
        flags = (kinds[place // 3 % len(kinds)],) if place % 3 == 1 else ()
        score = float(scores[place])
        found.append(
            ListedFile(
                rank=place + 1,
                file=f"inbox/person{place}_virus_{place}.jpeg",
                score=score,
                calibrated_probability=0.05 + 0.9 * score,
                predicted="PNEUMONIA" if score >= POINT else "NORMAL",
                flags=flags,
                notes=tuple(_NOTES[flag] for flag in flags if flag in _NOTES),
                novelty=1.31 if "unlike_training_data" in flags else 0.4 + place % 7 / 20,
                height=(1024, 2048, 900)[place % 3],
                width=(1360, 1536, 900)[place % 3],
            )
        )
    reasons = (_REASONS[place % 2] for place in range(unreadable))
    return found + [
        ListedFile(count + place + 1, f"inbox/broken{place}.jpg", "unreadable",
                   flags=("unreadable",), notes=(reason,))
        for place, reason in enumerate(reasons)
    ]  # fmt: skip


def hostile_files() -> list[ListedFile]:
    """Returns files in which every text tries to become something else."""
    kinds = (*FLAGS, *reports.NAMES)
    read = [
        ListedFile(place + 1, name, score=0.9 - place / 20, calibrated_probability=float("nan"),
                   predicted=HOSTILE_NAMES[-place], flags=(kinds[-place - 1], kinds[place]),
                   notes=(name, HOSTILE_NAMES[-1]), novelty=float("inf"), height=1, width=10_000)
        for place, name in enumerate(HOSTILE_NAMES)
    ]  # fmt: skip
    unread = [dataclasses.replace(row, status="unreadable", rank=row.rank + 50) for row in read]
    return read + unread


def summary(rows: Sequence[ListedFile], **changes: Any) -> WorklistSummary:
    """Returns the summary of these rows; `changes` replace its parts."""
    read = [row for row in rows if row.status == "read"]
    found = WorklistSummary(
        model_dir="runs/a",
        class_names=("NORMAL", "PNEUMONIA"),
        positive_class="PNEUMONIA",
        threshold=POINT,
        rule="sensitivity=0.95",
        temperature=1.31,
        files=len(rows),
        read=len(read),
        unreadable=len(rows) - len(read),
        positive=sum(row.predicted == "PNEUMONIA" for row in read),
        flagged={kind: sum(kind in row.flags for row in rows) for kind in FLAGS},
        command="python -m trainer --mode=predict --model_dir=runs/a --images=inbox",
        date="2026-11-30 08:18",
        fingerprint="2234b422eecd253e84a5b60ae0bdccf4b3b39d698f2a055829498a530dc33ff0",
        licence="CC BY 4.0",
    )
    return dataclasses.replace(found, **changes)


def hostile_summary(rows: Sequence[ListedFile]) -> WorklistSummary:
    """Returns a summary in which every text tries to become something else."""
    first, second, third, last = reports.NAMES
    return summary(
        rows,
        model_dir=f"{last}/{HOSTILE_NAMES[-1]}",
        class_names=reports.NAMES,
        positive_class=last,
        rule=second,
        command=f"{last} {third}",
        date=third,
        fingerprint=last,
        licence=first,
        warnings=HOSTILE_NAMES,
        csv_name=f"{last}.csv",
        jsonl_name=second,
    )


def thumbnails(
    rows: Sequence[ListedFile], side: int = 96, *, overlays: bool = False
) -> dict[int, Thumbnail]:
    """Returns images with some structure, as large in a file as radiographs are."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:side, :side] / side
    found = {}
    for row in rows:
        smooth = 120 + 90 * np.sin(3 * x + row.rank) * np.cos(4 * y)
        grey = np.clip(smooth + rng.normal(0, 6, (side, side)), 0, 255).astype(np.uint8)
        over = np.stack([grey, grey // 2, 255 - grey], axis=-1) if overlays else None
        found[row.rank] = Thumbnail(grey, over)
    return found
