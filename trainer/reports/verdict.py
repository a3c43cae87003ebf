"""The verdict on a run: the last lines that a command prints, and the words for them.

verdict.lines(assessed.warnings, colour=True)      # red; none if the model may be used
verdict.first_line(assessed.warnings, notices=1, colour=False)
verdict.headline(assessed)                         # three or four lines

`trainer.runs.evaluated.ending` puts them together.
"""

from __future__ import annotations

import collections
from typing import TYPE_CHECKING, Any

from trainer.system import text

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from trainer.evaluation.assessment import Assessment
    from trainer.evaluation.intervals import Interval

DO_NOT_USE = "DO NOT USE THIS MODEL:"
_LONGEST_RULE = 60
_RED, _RESET = "\x1b[1;31m", "\x1b[0m"


def lines(warnings: Iterable[str], *, colour: bool) -> list[str]:
    """Returns a line for each reason not to use the model, in red if `colour`."""
    found = [f"{DO_NOT_USE} {warning}" for warning in map(text.visible, warnings)]
    return [red(line) for line in found] if colour else found


def first_line(warnings: Sequence[str], *, notices: int = 0, colour: bool) -> str:
    """Returns the verdict in one line.

    Args:
      warnings: the reasons not to use the model.
      notices: number of notes that the report has above this line.
      colour: whether a reason is red.
    """
    if not warnings:
        return passed(notices, "above")
    others = [f"{len(warnings) - 1} more"] if warnings[1:] else []
    others += [text.counted(notices, "note")] if notices else []
    more = f" (and {' and '.join(others)} above)" if others else ""
    return lines([f"{warnings[0]}{more}"], colour=colour)[0]


def passed(notices: int, place: str) -> str:
    """Says that the guard has found nothing, and how many notes stand `above` or `below`."""
    notes = f"; {text.counted(notices, 'note')} {place}" if notices else ""
    return f"Guard: nothing found against this model{notes}."


def trained_on(found: Mapping[str, Any]) -> str:
    """Returns the data set that a model was trained on, and the beginning of its fingerprint."""
    return f"{found.get('name')}, fingerprint {str(found.get('fingerprint'))[:16]}"


def red(line: str) -> str:
    """Returns a line with the ANSI codes that make a terminal show it in red."""
    return f"{_RED}{line}{_RESET}"


def interval(found: Interval) -> str:
    """Returns an interval as text; a dash where there is none."""
    return "–" if found is None else f"{found[0]:.4f} to {found[1]:.4f}"


def looks(split: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """Says how often a split was looked at, and with which settings.

    Args:
      split: its name.
      rows: see `trainer.runs.looks`; the last is this one.
    """
    if len(rows) == 1:
        return f"Looks at the {split} split by this run: 1, this one."
    # A row may come from someone else's file.
    rules = (str(row["settings"].get("operating_point", "?")) for row in rows)
    settings = collections.Counter(text.one_line(rule)[:_LONGEST_RULE] for rule in rules)
    listed = ", ".join(f"{count} with {rule}" for rule, count in settings.items())
    return (
        f"Looks at the {split} split by this run: {len(rows)} ({listed}). To choose between them "
        "makes the figures optimistic."
    )


def headline(assessed: Assessment) -> list[str]:
    """Returns the figures that decide, one line each, with their 95 % intervals."""
    scores, found = assessed.metrics, assessed.intervals
    patients = text.counted(assessed.drawn.num_patients, "patient")
    plain = "at 0.5" if len(scores.class_names) == 2 else "for the most probable class"
    rows = [
        (
            f"accuracy {text.percent(scores.accuracy)}{_between(found['accuracy'], share=True)} of "
            f"{text.counted(scores.examples, 'test example')} of {patients}"
        ),
        (
            f"macro recall {text.percent(scores.macro_recall)}"
            f"{_between(found['macro_recall'], share=True)}; "
            f"ROC-AUC {text.decimal(scores.roc_auc, 4)}{_between(found.get('roc_auc'))}"
        ),
        f"{_pair(vars(scores), found)} {plain}",
    ]
    if assessed.point is not None:
        point = assessed.point
        rows.append(
            f"{_pair(point.figures, point.intervals)} at the operating point "
            f"{point.chosen.threshold:.3f} ({point.chosen.rule})"
        )
    return rows


def _pair(figures: Mapping[str, Any], found: Mapping[str, Interval]) -> str:
    return ", ".join(
        f"{name} {text.decimal(figures[name], 3)}{_between(found[name], digits=3)}"
        for name in ("sensitivity", "specificity")
    )


def _between(found: Interval, *, share: bool = False, digits: int = 4) -> str:
    if found is None:
        return ""
    low, high = found
    if share:
        return f" ({100 * low:.2f} to {100 * high:.2f})"
    return f" ({low:.{digits}f} to {high:.{digits}f})"
