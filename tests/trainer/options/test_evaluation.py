"""The options of evaluating: rules are read or refused, with the way out."""

from __future__ import annotations

import hypothesis
import pytest
from hypothesis import strategies as st

from trainer.errors import ConfigError
from trainer.options import EvaluationOptions, evaluation
from trainer.options.evaluation import Rule

COST = st.floats(1e-300, 1e300)
RULES = (
    st.just(Rule("youden"))
    | st.builds(
        lambda kind, least: Rule(kind, (least,)),
        st.sampled_from(["sensitivity", "specificity"]),
        st.floats(0, 1, exclude_min=True),
    )
    | st.builds(lambda miss, alarm: Rule("cost", (miss, alarm)), COST, COST)
)


@hypothesis.given(rule=RULES)
def test_a_rule_is_read_as_it_is_written(rule: Rule) -> None:
    assert evaluation.parse(str(rule)) == rule


@pytest.mark.parametrize(
    ("written", "rule"),
    [
        ("sensitivity=0.95", Rule("sensitivity", (0.95,))),
        ("specificity=1.0", Rule("specificity", (1,))),
        ("sensitivity=9.5e-1", Rule("sensitivity", (0.95,))),
        ("cost=10:1", Rule("cost", (10, 1))),
        ("cost=.5:1e3", Rule("cost", (0.5, 1000))),
    ],
)
def test_numbers_are_written_as_users_type_them(written: str, rule: Rule) -> None:
    assert evaluation.parse(written) == rule


FORMS = "is none of youden, sensitivity=0.95, specificity=0.9 or cost=FN:FP, such as cost=10:1"
SHARE = "must be above 0 and at most 1, such as "
COSTS = "needs two costs above 0, such as cost=10:1"
REFUSED = {
    "": FORMS,
    "sensitivity": FORMS,
    "sensitivity=": FORMS,
    "sensitivity=high": FORMS,
    "sensitivity=nan": FORMS,
    "sensitivity=0,95": FORMS,
    "sensitivity=٠.٩": FORMS,
    "Youden": "must be written youden",
    " cost=10:1 ": "must be written cost=10:1",
    "sensitivity=1.5": "must be above 0 and at most 1, such as sensitivity=0.95",
    "cost": FORMS,
    "cost=10": FORMS,
    "cost=10:": FORMS,
    "cost=1:2:3": FORMS,
    "cost=inf:1": FORMS,
    "f1": FORMS,
    "sensitivity=1e": "has a number that can't be read; give youden, ",
    "cost=1.2.3:1": "has a number that can't be read; give youden, ",
    "sensitivity=95": "must be a share; write sensitivity=0.95",
    "sensitivity=95%": "must be a share; write sensitivity=0.95",
    "specificity=90 %": "must be a share; write specificity=0.9",
    "specificity=0.5%": "must be a share; write specificity=0.005",
    "sensitivity=0": f"{SHARE}sensitivity=0.95",
    "sensitivity=-0.5": f"{SHARE}sensitivity=0.95",
    "specificity=101": f"{SHARE}specificity=0.95",
    "sensitivity=1e999": f"{SHARE}sensitivity=0.95",
    "cost=0:1": COSTS,
    "cost=-1:1": COSTS,
    "cost=1:1e999": COSTS,
}


@pytest.mark.parametrize("written", REFUSED)
def test_a_rule_that_cannot_be_followed_is_refused_with_the_way_out(written: str) -> None:
    with pytest.raises(ConfigError) as raised:
        EvaluationOptions(operating_point=written)
    assert str(raised.value).startswith(f"operating_point ({written}) {REFUSED[written]}")
    assert str(raised.value).endswith(".")


@pytest.mark.parametrize(
    "written", ["x" * 4000, "9" * 4000, "sensitivity=" + "9" * 4000, "\x1b[2J"]
)
def test_a_hostile_rule_is_refused_in_a_short_printable_line(written: str) -> None:
    with pytest.raises(ConfigError) as raised:
        EvaluationOptions(operating_point=written)
    assert str(raised.value).isprintable()
    assert len(str(raised.value)) < 300


def test_a_column_needs_a_name() -> None:
    with pytest.raises(ConfigError, match=r'judge_by \(""\) is empty; name a column, such as'):
        EvaluationOptions(judge_by="")


def test_a_prevalence_in_percent_is_refused_with_a_hint() -> None:
    with pytest.raises(ConfigError, match=r"prevalence \(5\) .* 1; did you mean 0.05\?"):
        EvaluationOptions(prevalence=5)


@pytest.mark.parametrize("value", [-0.1, 1, 1.0, 100, float("nan")])
def test_a_prevalence_that_is_no_share_is_refused(value: float) -> None:
    with pytest.raises(ConfigError, match=r"^prevalence \("):
        EvaluationOptions(prevalence=value)


def test_a_correction_that_is_unknown_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"prior_correction \(bbse\)"):
        EvaluationOptions(prior_correction="bbse")


def test_changes_are_told_with_both_values() -> None:
    changed = EvaluationOptions(prevalence=0.05).changes_from(EvaluationOptions())
    assert changed == {"prevalence": (0.0, 0.05)}
