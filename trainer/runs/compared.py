"""Finished runs, compared on the test examples that all were evaluated on.

    found = compared.of_runs([trained.open_run("runs/a"), trained.open_run("runs/b")])
    found = compared.of_groups({"vgg16": compared.RunGroup({0: run, 1: other})})

The first is the first run against each other one; the second is every pair of groups, such as
backbones, whose runs differ by their seed.
"""

from __future__ import annotations

import dataclasses
import itertools
import pathlib
from typing import TYPE_CHECKING

from trainer.errors import ConfigError
from trainer.evaluation import resampling
from trainer.evaluation.pairs import comparison
from trainer.evaluation.pairs.compared_models import ComparedModel
from trainer.options import planned_runs
from trainer.reports.comparisons import comparison_report, comparison_tables
from trainer.system import text

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from trainer.evaluation.operating_points import OperatingPoint
    from trainer.reports.comparisons.comparison_report import Comparison
    from trainer.runs.trained import Run


@dataclasses.dataclass(frozen=True)
class RunGroup:
    """The runs of a backbone.

    Attributes:
      runs: by seed: the finished runs.
      backbone: the registry's name.
      remark: what else must be known, such as random weights; may be empty.
      failures: by seed: why a run has not finished.
    """

    runs: Mapping[int, Run]
    backbone: str = ""
    remark: str = ""
    failures: Mapping[int, str] = dataclasses.field(default_factory=dict)


def of_runs(runs: Sequence[Run]) -> Comparison:
    """Compares the first run with each other one.

    Raises:
      ConfigError: when there are fewer than two runs, or they have other classes or test examples.
      RunError: when a run has no evaluation, or it can't be read.
    """
    if len(runs) < 2:
        raise ConfigError(f"runs ({len(runs)}) must be two or more, to be compared.")
    groups = {
        name: RunGroup({run.config.runtime.seed: run}, run.config.model.backbone, remark(run))
        for name, run in zip(_names(runs), runs, strict=True)
    }
    # A model is paired with another, whatever their seeds.
    points = _Points.of(groups)
    sides = [
        ComparedModel(name, {0: run.predictions}, points.thresholds({0: run}))
        for name, run in zip(groups, runs, strict=True)
    ]
    found = _compared(groups, sides, [(sides[0], other) for other in sides[1:]])
    return dataclasses.replace(found, points=points.note)


def of_groups(groups: Mapping[str, RunGroup]) -> Comparison:
    """Compares each group with each other one by the seeds that both have, beside the paper.

    Raises:
      ConfigError: when the runs have other classes or test examples.
      RunError: when a run has no evaluation, or it can't be read.
    """
    points = _Points.of(groups)
    sides = [
        ComparedModel(
            name,
            {seed: run.predictions for seed, run in group.runs.items()},
            points.thresholds(group.runs),
        )
        for name, group in groups.items()
        if group.runs
    ]
    pairs = [(a, b) for a, b in itertools.combinations(sides, 2) if set(a.tables) & set(b.tables)]
    found = _compared(groups, sides, pairs)
    return dataclasses.replace(found, points=points.note, with_paper=True)


def _compared(
    groups: Mapping[str, RunGroup],
    sides: Sequence[ComparedModel],
    pairs: Iterable[tuple[ComparedModel, ComparedModel]],
) -> Comparison:
    if not sides:
        rows = tuple(_row(name, group, {}) for name, group in groups.items())
        return comparison_report.Comparison(rows, (), None)
    comparison.require_same_examples(sides)
    drawn = resampling.PatientBootstrap(sides[0].patient_id)
    found = {side.name: comparison.summarise(side, drawn) for side in sides}
    rows = tuple(_row(name, group, found.get(name, {})) for name, group in groups.items())
    first = sides[0].first
    datasets = [run.config.data.dataset for group in groups.values() for run in group.runs.values()]
    tested = comparison_tables.Examined(
        ", ".join(dict.fromkeys(datasets)),
        first.class_names,
        len(first),
        drawn.num_patients,
        drawn.resamples,
    )
    return comparison_report.Comparison(
        rows, tuple(comparison.pair(a, b, drawn) for a, b in pairs), tested
    )


def _row(
    name: str, group: RunGroup, summaries: Mapping[str, comparison.Summary]
) -> comparison_tables.ModelRow:
    runs = group.runs.items()
    return comparison_tables.ModelRow(
        name,
        summaries,
        {seed: run.path for seed, run in runs},
        group.backbone,
        group.remark,
        {seed: run.evaluation.warnings for seed, run in runs if run.evaluation.guard_fired},
        group.failures,
    )


def remark(run: Run) -> str:
    """Returns what must be known of a run's weights; empty for frozen ones of ImageNet."""
    model = run.config.model
    unfrozen, weights = model.layers_to_unfreeze, pathlib.PurePath(model.weights).name
    return ", ".join(
        filter(
            None,
            [
                f"weights={weights}" if weights != "imagenet" else "",
                f"layers_to_unfreeze={unfrozen}" if unfrozen != "0" else "",
            ],
        )
    )


@dataclasses.dataclass(frozen=True)
class _Points:
    """The operating points of runs, which are comparable where one rule has chosen all of them.

    Attributes:
      by_path: of each run, by its path: the point; None of a run that has none.
    """

    by_path: Mapping[str, OperatingPoint | None]

    @classmethod
    def of(cls, groups: Mapping[str, RunGroup]) -> _Points:
        """Reads those of all runs."""
        runs = [run for group in groups.values() for run in group.runs.values()]
        return cls({run.path: run.evaluation.assessment.chosen for run in runs})

    @property
    def rules(self) -> list[str]:
        """The distinct rules, in the order of the runs."""
        return list(dict.fromkeys(point.rule for point in self.by_path.values() if point))

    @property
    def note(self) -> str:
        """What the tables say of them; empty where no run has one."""
        missing = [path for path, point in self.by_path.items() if point is None]
        if len(missing) == len(self.by_path):
            return ""
        if len(self.rules) > 1:
            return (
                "Figures at the operating points are left out: the runs chose them by different "
                f"rules ({', '.join(self.rules)}). Their commands, with one --operating_point, "
                "evaluate them again."
            )
        found = f"Operating points: chosen on validation by {self.rules[0]}, in each run"
        if not missing:
            return f"{found}."
        listed = ", ".join(map(text.visible, missing))
        return (
            f"{found} but {listed}: a row has figures at its points where each of its runs has "
            "one, a pair where both of its rows have them."
        )

    def thresholds(self, runs: Mapping[int, Run]) -> dict[int, float]:
        """Returns the threshold of each run that has one, by seed; none if rules differ."""
        if len(self.rules) > 1:
            return {}
        of_seeds = {seed: self.by_path.get(run.path) for seed, run in runs.items()}
        return {seed: point.threshold for seed, point in of_seeds.items() if point}


def _names(runs: Sequence[Run]) -> list[str]:
    """Returns short names that differ: of folders, or else whole paths.

    Raises:
      ConfigError: for a run that is given twice.
    """
    paths = [run.path.rstrip("/") for run in runs]
    planned_runs.require_distinct(paths)
    short = [pathlib.PurePosixPath(path).name or path for path in paths]
    return short if len(set(short)) == len(short) else paths
