"""What is compared: a model, trained once or with several seeds, and its figures.

of = compared_models.ComparedModel("vgg16", {0: table, 1: other})
of.figures(drawn)["roc_auc"]                 # [S, R]
of.mean_intervals(drawn)["roc_auc"]          # (0.981, 0.993), or None
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from trainer.evaluation import intervals, resampling

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import numpy.typing as npt

    from trainer.evaluation.predictions import Predictions
    from trainer.evaluation.resampling import PatientBootstrap

    Floats = npt.NDArray[np.floating[Any]]
    Decisions = npt.NDArray[np.intp]

AT_POINT = "_at_point"
"""Ends the names of figures of decisions at the operating point."""


@dataclasses.dataclass(frozen=True, eq=False)
class ComparedModel:
    """A model, trained once or with several seeds.

    Attributes:
      name: what it is called in tables.
      tables: by seed: the predictions for the test examples, each in the order of file names.
      thresholds: by seed: from which probability on the positive class is predicted at the
        operating point of that model; empty where a model has none.
    """

    name: str
    tables: Mapping[int, Predictions]
    thresholds: Mapping[int, float] = dataclasses.field(default_factory=dict)
    _computed: dict[tuple[int, PatientBootstrap | None], dict[str, Floats]] = dataclasses.field(
        default_factory=dict, init=False, repr=False
    )

    def __post_init__(self) -> None:
        """Sorts the rows of each table: the order of examples means nothing."""
        ordered = {seed: table.take(_order(table)) for seed, table in self.tables.items()}
        object.__setattr__(self, "tables", ordered)

    @property
    def first(self) -> Predictions:
        """The table of the first seed: labels and patients are those of all."""
        return next(iter(self.tables.values()))

    @property
    def patient_id(self) -> npt.NDArray[np.str_]:
        """[N] str: the patient of each example."""
        return self.first.patient_id

    @property
    def is_binary(self) -> bool:
        """Whether there are two classes, of which the second is the positive one."""
        return len(self.first.class_names) == 2

    @property
    def has_points(self) -> bool:
        """Whether every model has an operating point."""
        return self.is_binary and set(self.thresholds) >= set(self.tables)

    def limited_to(self, seeds: Sequence[int]) -> ComparedModel:
        """Returns the models of these seeds alone."""
        found = dataclasses.replace(
            self,
            tables={seed: self.tables[seed] for seed in seeds},
            thresholds={s: self.thresholds[s] for s in seeds if s in self.thresholds},
        )
        object.__setattr__(found, "_computed", self._computed)  # The models are the same.
        return found

    def figures(self, drawn: PatientBootstrap | None = None) -> dict[str, Floats]:
        """Returns each figure by seed and resample, [S, R]; what some seed lacks is left out.

        Args:
          drawn: resamples of these examples, in the order of file names; None: the figures of the
            examples themselves, R being 1.
        """
        by_seed = [self._figures_of(seed, drawn) for seed in self.tables]
        shared = [name for name in by_seed[0] if all(name in found for found in by_seed)]
        return {name: np.stack([found[name] for found in by_seed]) for name in shared}

    def _figures_of(self, seed: int, drawn: PatientBootstrap | None) -> dict[str, Floats]:
        """Returns each figure of a model, [R]; computed once, as a model is in many pairs."""
        key = seed, drawn
        if key not in self._computed:
            table = self.tables[seed]
            how = resampling.PatientBootstrap.undrawn(table.patient_id) if drawn is None else drawn
            found = resampling.distributions(table, how)
            if self.is_binary and seed in self.thresholds:
                at_point = resampling.distributions(table, how, self.thresholds[seed])
                found |= {f"{name}{AT_POINT}": values for name, values in at_point.items()}
            self._computed[key] = found
        return self._computed[key]

    def mean_intervals(self, drawn: PatientBootstrap) -> dict[str, intervals.Interval]:
        """Returns the interval of the mean of each figure over the seeds.

        Of one seed, these are the intervals of that run's own evaluation.
        """
        means = {name: values.mean(axis=0) for name, values in self.figures(drawn).items()}
        own_means = {name: float(values.mean()) for name, values in self.figures().items()}
        found: dict[str, intervals.Interval] = {}
        for ending, names in self._by_decision(means).items():
            bare = {name.removesuffix(ending): means[name] for name in names}
            values = {name.removesuffix(ending): own_means[name] for name in names}
            own = intervals.of_means(bare, values, self._decided(at_point=bool(ending)))
            found |= {f"{name}{ending}": ends for name, ends in own.items()}
        return found

    def patients_behind(self) -> dict[str, int]:
        """Returns how many patients each figure depends on; of several seeds, the fewest."""
        found: dict[str, int] = {}
        for ending, names in self._by_decision(self.figures()).items():
            bare = [name.removesuffix(ending) for name in names]
            own = intervals.patients_behind(bare, self._decided(at_point=bool(ending)))
            found |= {f"{name}{ending}": patients for name, patients in own.items()}
        return found

    @staticmethod
    def _by_decision(names: Iterable[str]) -> dict[str, list[str]]:
        """Returns the names of figures by how they end: those at the operating point apart."""
        found: dict[str, list[str]] = {}
        for name in names:
            found.setdefault(AT_POINT if name.endswith(AT_POINT) else "", []).append(name)
        return found

    def _decided(self, *, at_point: bool) -> list[intervals.Decided]:
        return [(table, self.decisions(s, at_point=at_point)) for s, table in self.tables.items()]

    def decisions(self, seed: int, *, at_point: bool) -> Decisions:
        """[N]: the predicted class of each example, by the highest probability or at the point."""
        table = self.tables[seed]
        return table.decided(self.thresholds[seed]) if at_point else table.predicted


def _order(table: Predictions) -> npt.NDArray[np.intp]:
    return np.lexsort((table.label, table.patient_id, table.file_name))
