"""What is said of a model, from its predictions on the test and the validation split.

The operating point and the temperature come from validation alone; the test split is only measured.

    found = assessment.Assessment(test, validation, config.evaluation)
    found.metrics.roc_auc, found.intervals["roc_auc"]
    found.point.figures["specificity"]
    found.warnings                         # reasons not to use the model, one sentence each

Each part is computed when it is first asked for, and is the same each time.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING, Any

import numpy as np

from trainer.evaluation import (
    calibration,
    decisions,
    guards,
    intervals,
    metrics,
    operating_points,
    resampling,
    subgroups,
)
from trainer.evaluation.shifts import prior_correction
from trainer.options import evaluation
from trainer.system import text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from trainer.evaluation.intervals import Interval
    from trainer.evaluation.predictions import Predictions
    from trainer.options import EvaluationOptions
    from trainer.options.evaluation import Rule


@dataclasses.dataclass(frozen=True)
class Sharing:
    """How many examples of a split others have seen.

    Attributes:
      patients: examples whose patient is also in one of the others; None if that is not known.
      images: examples whose image is also there, pixel for pixel; None if that is not known.
      others: names of the other splits.
    """

    patients: int | None = None
    images: int | None = None
    others: Sequence[str] = ("train", "validation")


@dataclasses.dataclass(frozen=True)
class Calibrated:
    """How far the probabilities can be taken at their word."""

    brier: float | None
    ece: float | None
    log_loss: float | None
    reliability: tuple[calibration.Bin, ...]


@dataclasses.dataclass(frozen=True)
class Corrected:
    """The figures with probabilities that are corrected for the class shares of the test split.

    Attributes:
      priors: estimated share of each class.
      training_priors: share of each class in training.
      iterations: of the estimation.
      figures: by name, as in `metrics.Metrics`.
    """

    priors: dict[str, float]
    training_priors: dict[str, float]
    iterations: int
    figures: dict[str, float | None]


def choice(validation: Predictions, rule: Rule) -> dict[str, Any]:
    """Returns what validation decides of how a model is used, as JSON.

    Args:
      validation: predictions on the validation split.
      rule: for the operating point.
    """
    point = operating_points.choose(validation, rule)
    found = {} if point is None else dataclasses.asdict(point)
    return {
        "class_names": list(validation.class_names),
        "rule": str(rule),
        "threshold": None,
        **found,
        "temperature": calibration.fit_temperature(validation),
    }


_OF_PROBABILITIES = ("brier", "log_loss", "ece")


class Assessment:
    """Everything that is computed of a model's predictions.

    Attributes:
      test: predictions on the test split.
      validation: predictions on the validation split; None for a run that did not save them.
      options: how to evaluate.
      sharing: what the test split shares with the splits that decided the model.
      training_priors: share of each class in training; None if it is not known.
    """

    def __init__(
        self,
        test: Predictions,
        validation: Predictions | None,
        options: EvaluationOptions,
        *,
        sharing: Sharing = Sharing(),
        training_priors: Mapping[str, float] | None = None,
    ) -> None:
        """Computes nothing yet."""
        self.test, self.validation, self.options = test, validation, options
        self.sharing, self.training_priors = sharing, training_priors

    @functools.cached_property
    def metrics(self) -> metrics.Metrics:
        """Every metric of the most probable class."""
        return metrics.compute(self.test)

    @functools.cached_property
    def drawn(self) -> resampling.PatientBootstrap:
        """The resamples of the test split's patients."""
        return resampling.PatientBootstrap(self.test.patient_id)

    @functools.cached_property
    def intervals(self) -> dict[str, Interval]:
        """95 % intervals of the metrics, by name."""
        return intervals.of(self.test, self.drawn)

    @functools.cached_property
    def chosen(self) -> operating_points.OperatingPoint | None:
        """The operating point; None without one, or where an output is not finite."""
        if self.validation is None or len(self.test.class_names) != 2:
            return None
        if not np.isfinite(self.test.probabilities).all():
            return None
        return operating_points.choose(self.validation, self.options.rule)

    @functools.cached_property
    def point(self) -> decisions.AtThreshold | None:
        """The figures at the operating point; None without one."""
        return None if self.chosen is None else decisions.at(self.test, self.chosen, self.drawn)

    @functools.cached_property
    def restated(self) -> dict[str, decisions.Restated | None] | None:
        """PPV and NPV for the prevalence of the options, at 0.5 and at the operating point."""
        if not self.options.prevalence or len(self.test.class_names) != 2:
            return None
        point = self.point.chosen.threshold if self.point else None

        def restate(threshold: float | None) -> decisions.Restated:
            prevalence = self.options.prevalence
            return decisions.restate(self.test, threshold, prevalence, self.drawn)

        return {
            "at_half": restate(None),
            "at_operating_point": None if point is None else restate(point),
        }

    @functools.cached_property
    def temperature(self) -> float | None:
        """The temperature with the lowest log-loss on validation; None where there is none."""
        return None if self.validation is None else calibration.fit_temperature(self.validation)

    @functools.cached_property
    def calibration(self) -> dict[str, Calibrated | None]:
        """The probabilities before and after temperature scaling."""
        after = None
        if self.temperature is not None and np.isfinite(self.test.probabilities).all():
            after = calibration.scaled(self.test, self.temperature)
        return {"before": _calibrated(self.test), "after": _calibrated(after) if after else None}

    @functools.cached_property
    def groups(self) -> tuple[subgroups.Subgroup, ...]:
        """The figures by the column of the options."""
        return subgroups.by_column(self.test, self.options.judge_by, self.drawn)

    @functools.cached_property
    def prior_correction(self) -> Corrected | None:
        """The figures after correction for the class shares; None if the options don't ask.

        None, too, where the shares in training are not known, or no output is finite.
        """
        names, priors = self.test.class_names, self.training_priors
        if self.options.prior_correction == "none" or priors is None:
            return None
        shares = [priors.get(name, 0.0) for name in names]
        if min(shares) <= 0 or not np.isfinite(self.test.probabilities).all():
            return None
        # The estimate takes the probabilities at their word: scaled ones, where that is possible.
        table = self.test
        if self.temperature is not None:
            table = calibration.scaled(table, self.temperature)
        given = calibration.normalised(table.probabilities)
        found = prior_correction.correct(given, shares)
        scores = metrics.compute(dataclasses.replace(table, probabilities=found.probabilities))
        figures = (*decisions.FIGURES, *_OF_PROBABILITIES)
        return Corrected(
            dict(zip(names, found.priors.tolist(), strict=True)),
            dict(zip(names, shares, strict=True)),
            found.iterations,
            {name: getattr(scores, name) for name in figures},
        )

    @functools.cached_property
    def warnings(self) -> tuple[str, ...]:
        """The reasons not to use the model, one sentence each."""
        shared, examples = self.sharing, self.metrics.examples
        others = " or ".join(shared.others)
        return (
            *self.metrics.warnings,
            *guards.of_interval(self.intervals.get("roc_auc")),
            *guards.of_sharing(shared.patients or 0, shared.images or 0, examples, others),
        )

    @functools.cached_property
    def notices(self) -> tuple[str, ...]:
        """What a reader should know of the figures, one sentence each."""
        found = (
            self._notice_of_classes(), self._notice_of_interval(), self._notice_of_point(),
            self._notice_of_one_class(), self._notice_of_correction(),
        )  # fmt: skip
        return tuple(filter(None, found))

    def _notice_of_correction(self) -> str:
        if self.options.prior_correction == "none":
            return ""
        found = self.prior_correction
        if found is None:
            return (
                "No prior correction: the shares of the classes in training are not known, or a "
                "probability is not finite."
            )
        if found.iterations >= prior_correction.MAX_ITERATIONS:
            return f"Prior correction has not converged in {found.iterations:,} iterations."
        return ""

    def _notice_of_interval(self) -> str:
        if self.metrics.roc_auc is None or self.intervals.get("roc_auc") is not None:
            return ""
        patients = text.counted(intervals.fewest_patients(self.test), "patient")
        return (
            f"No interval of ROC-AUC: a class has only {patients}. Whether it includes 0.5, that "
            "of chance, can't be told."
        )

    def _notice_of_classes(self) -> str:
        asked = self.options.prevalence or self.options.operating_point != evaluation.YOUDEN
        if len(self.test.class_names) == 2 or not asked:
            return ""
        return (
            f"operating_point and prevalence are not used: they need two classes, and there are "
            f"{len(self.test.class_names)}."
        )

    def _notice_of_point(self) -> str:
        if self.point is not None or len(self.test.class_names) != 2:
            return ""
        if self.validation is None:
            return (
                "No operating point: the run has no predictions of the validation split; run its "
                "command again, which writes them."
            )
        return (
            "No operating point: the validation split lacks a class, or a probability is not "
            "finite."
        )

    def _notice_of_one_class(self) -> str:
        if self.point is None:
            return ""
        matrix = np.array(self.point.confusion_matrix)
        for name, true, predicted in zip(
            self.test.class_names, matrix.sum(axis=1), matrix.sum(axis=0), strict=True
        ):
            if true and not predicted:
                return (
                    f"At the operating point {self.point.chosen.threshold:.4g}, "
                    f"{name} is never predicted."
                )
        return ""

    def to_json(self) -> dict[str, Any]:
        """Returns all of it as dictionaries, sequences and numbers, for `report.json`."""
        found, point = self.metrics.to_json(), self.point
        return {
            "metrics": {**found, "warnings": list(self.warnings)},
            "notices": list(self.notices),
            "intervals": {
                "confidence": resampling.CONFIDENCE,
                "resamples": self.drawn.resamples,
                "patients": self.drawn.num_patients,
                "patients_by_class": intervals.patients_by_class(self.test),
                "metrics": self.intervals,
            },
            "operating_point": None if point is None else _point_as_json(point),
            "prevalence": None if self.restated is None else self._restated_as_json(),
            "calibration": {
                "temperature": self.temperature,
                **{side: _as_json(of) for side, of in self.calibration.items()},
            },
            "prior_correction": _as_json(self.prior_correction),
            "groups": {
                "column": self.options.judge_by,
                "rows": [dataclasses.asdict(group) for group in self.groups],
            },
        }

    def _restated_as_json(self) -> dict[str, Any]:
        restated = self.restated or {}
        sides = {side: _as_json(of) for side, of in restated.items()}
        return {"prevalence": self.options.prevalence, **sides}


def _as_json(part: Any) -> dict[str, Any] | None:
    return None if part is None else dataclasses.asdict(part)


def _point_as_json(point: decisions.AtThreshold) -> dict[str, Any]:
    chosen = point.chosen
    return {
        "rule": chosen.rule,
        "threshold": chosen.threshold,
        "positive_class": chosen.positive_class,
        "validation": {
            "examples": chosen.examples,
            "sensitivity": chosen.sensitivity,
            "specificity": chosen.specificity,
        },
        "figures": point.figures,
        "confusion_matrix": point.confusion_matrix,
        "intervals": point.intervals,
    }


def _calibrated(table: Predictions) -> Calibrated:
    found = metrics.compute(table)
    return Calibrated(found.brier, found.ece, found.log_loss, calibration.reliability(table))
