"""The verdict on a search: the reasons why its result must not be used.

for reason in verdict.reasons(found):
    console.say(verdict.warning(reason, colour=console.wants_colour()))
"""

from __future__ import annotations

import collections
from typing import TYPE_CHECKING

from trainer.evaluation.guards import CHANCE
from trainer.system import text
from tuner import records
from tuner.reports import formats

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tuner.reports.results import SearchResults, TrialResult

DO_NOT_USE = "DO NOT USE THIS RESULT:"
_RED, _RESET = "\x1b[1;31m", "\x1b[0m"


def warning(reason: str, *, colour: bool) -> str:
    """Returns the line that the console prints, in red if `colour`."""
    start, end = (_RED, _RESET) if colour else ("", "")
    return f"{start}{DO_NOT_USE} {reason}{end}"


def reasons(results: SearchResults) -> tuple[str, ...]:
    """Returns why the best trial so far must not be used; empty if it may, or none has ended.

    The trainer's guard, applied to the best trial's predictions of the validation split, at the
    epoch of its score. Of a trial of an earlier version, its metrics decide.
    """
    if results.best is not None:
        return (*_of_best(results, results.best), *results.refit_warnings)
    if not results.finished:
        return ()
    failures = [records.cause_of(trial.reason) or "no reason" for trial in results.failures]
    listed = ", ".join(f"{cause}: {n}" for cause, n in collections.Counter(failures).items())
    trials = text.counted(len(results.finished), "trial")
    return (f"No trial has a score: {trials} failed ({listed}).",)


def undefined(objective: str, class_counts: Mapping[str, int]) -> str:
    """Returns why the objective is undefined on the validation split; empty if it is defined."""
    missing = [name for name, count in class_counts.items() if not count]
    if not missing or objective.endswith("loss"):
        return ""
    return f"{objective} is undefined: the validation split has no example of {missing[0]}"


def _of_best(results: SearchResults, best: TrialResult) -> Iterator[str]:
    counts = results.class_counts
    yield from (
        f"The validation split has no example of {name}." for name, n in counts.items() if not n
    )
    if best.warnings is None:
        yield from _of_metrics(results, best)
    else:
        yield from (f"The best trial, on validation: {warning}" for warning in best.warnings)


def _of_metrics(results: SearchResults, best: TrialResult) -> Iterator[str]:
    """Yields what the metrics of the best epoch show."""
    epoch, counts = _best_epoch(results.objective, best), results.class_counts
    auc = epoch.get("val_auc")
    if records.is_defined(auc) and auc <= CHANCE:
        yield (
            f"The best trial's val_auc {formats.score(auc)} is not above {CHANCE}, that of chance."
        )
    accuracy = epoch.get("val_accuracy")
    if not counts or not records.is_defined(accuracy):
        return
    total, (majority, most) = sum(counts.values()), max(counts.items(), key=lambda item: item[1])
    correct = round(accuracy * total)
    if correct <= most:
        yield (
            f"The best trial's validation accuracy {100 * correct / total:.2f} % ({correct} of "
            f"{total}) is not above the {100 * most / total:.2f} % ({most} of {total}) of always "
            f"predicting {majority}."
        )


def _best_epoch(objective: str, best: TrialResult) -> Mapping[str, float]:
    """Returns the metrics of the epoch that has the trial's score; empty without a history."""
    return next((row for row in best.curve if row.get(objective) == best.score), {})
