"""The options of evaluating a model; none of them changes how it is trained."""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Any

from trainer import option_groups
from trainer.errors import ConfigError
from trainer.option_groups import option
from trainer.system import text

YOUDEN, SENSITIVITY, SPECIFICITY, COST = "youden", "sensitivity", "specificity", "cost"
FORMS = "youden, sensitivity=0.95, specificity=0.9 or cost=FN:FP, such as cost=10:1"
_NUMBER = r"([0-9.eE+-]+)"
_RULE = re.compile(rf"(sensitivity|specificity)={_NUMBER}( ?%)?|cost={_NUMBER}:{_NUMBER}")


@dataclasses.dataclass(frozen=True)
class Rule:
    """What an operating point must achieve on the validation split.

    Attributes:
      kind: youden: the largest sum of sensitivity and specificity (Youden, Cancer 3, 1950);
        sensitivity, specificity: at least so much of it, with the best of the other; cost: the
        lowest cost of errors.
      values: the least wanted; or the cost of a missed positive and of a false alarm.
      prevalence: share of positives for which costs are added up; 0: that of validation.
    """

    kind: str
    values: tuple[float, ...] = ()
    prevalence: float = 0.0

    def __str__(self) -> str:
        """Returns the rule as `parse` reads it, and the prevalence for costs."""
        values = ":".join(text.plain(value) for value in self.values)
        where = f" at a prevalence of {text.plain(self.prevalence)}" if self.prevalence else ""
        return f"{self.kind}={values}{where}" if values else self.kind


def parse(written: str) -> Rule:
    """Reads a rule.

    Raises:
      ValueError: a clause that says what is wrong with it.
    """
    if written == YOUDEN:
        return Rule(YOUDEN)
    found = _RULE.fullmatch(written)
    if not found:
        plain = "".join(written.lower().split())
        if plain != written and (plain == YOUDEN or _RULE.fullmatch(plain)):
            raise ValueError(f"must be written {plain}")
        raise ValueError(f"is none of {FORMS}")
    kind, least, percent, *costs = found.groups()
    try:
        values = tuple(float(number) for number in ([least] if kind else costs))
    except ValueError as error:
        raise ValueError(f"has a number that can't be read; give {FORMS}") from error
    if kind:
        _require_share(kind, values[0], is_percentage=bool(percent) or 10 <= values[0] <= 100)
    elif not all(0 < value < math.inf for value in values):
        raise ValueError("needs two costs above 0, such as cost=10:1")
    return Rule(kind or COST, values)


def _require_share(kind: str, value: float, *, is_percentage: bool) -> None:
    if is_percentage and 0 < value <= 100:
        raise ValueError(f"must be a share; write {kind}={text.plain(value / 100)}")
    if not 0 < value <= 1:
        raise ValueError(f"must be above 0 and at most 1, such as {kind}=0.95")


@dataclasses.dataclass(frozen=True)
class EvaluationOptions(option_groups.Group):
    """How a trained model is assessed on the test split."""

    operating_point: str = option(
        YOUDEN,
        "rule for the threshold of the positive class, chosen on validation; youden: most "
        "sensitivity + specificity; sensitivity=0.95 or specificity=0.9: at least that; "
        "cost=FN:FP: lowest cost of errors, a missed positive costing FN, a false alarm FP, in "
        "validation's class shares or at the prevalence",
        of_result=False,
    )
    judge_by: str = option(
        "etiology",
        "column of the records by which examples are grouped: figures for each of its values, or "
        "for quarters of its numbers",
        of_result=False,
    )
    prevalence: float = option(
        0.0,
        "share of positives where the model will be used, for which PPV and NPV are restated; 0: "
        "not restated",
        minimum=0,
        below=1,
        of_result=False,
    )
    prior_correction: str = option(
        "none",
        "em: also report the figures with probabilities corrected for the class shares of the "
        "test split, estimated without its labels (Saerens et al. 2002)",
        choices=("none", "em"),
        of_result=False,
    )

    def __post_init__(self) -> None:
        """Checks the options."""
        super().__post_init__()
        try:
            parse(self.operating_point)
        except ValueError as error:
            shown = text.shown(self.operating_point)[1:-1]
            raise ConfigError(f"operating_point ({shown}) {error}.") from error
        if not self.judge_by:
            raise ConfigError('judge_by ("") is empty; name a column, such as etiology.')

    def changes_from(self, other: EvaluationOptions) -> dict[str, tuple[Any, Any]]:
        """Returns the changed options: name -> (other's value, ours)."""
        ours, theirs = dataclasses.asdict(self), dataclasses.asdict(other)
        return {name: (theirs[name], of) for name, of in ours.items() if of != theirs[name]}

    @property
    def rule(self) -> Rule:
        """The rule for the operating point; costs are those at the prevalence, if one is given."""
        found = parse(self.operating_point)
        if found.kind != COST:
            return found
        return dataclasses.replace(found, prevalence=self.prevalence)
