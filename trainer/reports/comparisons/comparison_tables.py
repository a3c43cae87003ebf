"""The tables of a comparison: the paper's, every figure, the pairs and their tests; a tidy one.

for table in comparison_tables.tables(content):
    print(table.to_text())
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from trainer.evaluation import metrics, resampling
from trainer.evaluation.pairs import comparison
from trainer.evaluation.pairs.compared_models import AT_POINT
from trainer.reports import paper
from trainer.reports.comparisons.table_formats import ReportTable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from trainer.evaluation.pairs.comparison import Pair, Summary
    from trainer.reports.comparisons.table_formats import Cell

_PAPER_NOTE = (
    "Rows of the paper: Lee and Abuan, Detection of Pneumonia from Digital X-ray Images Through "
    f"Transfer Learning, Table 1; one run each, on {paper.TEST_IMAGES:,} test images, split by "
    "image (--dataset=paper)."
)
_INTERVAL_NOTE = (
    "95 % intervals: of {mean}, by {resamples:,} resamples of the {patients:,} test patients, the "
    "same for all models. They tell how far it depends on which patients were tested."
)
_SPREAD_NOTE = "How far it depends on the seed, std (n - 1) and the lowest and highest value tell."
_PAIRS_NOTE = (
    "Differences: the first less the second, of means over the seeds that both have, with the 95 % "
    "interval of the same resamples."
)
_SEEDS_NOTE = (
    "p and intervals cover which patients were tested, not other seeds: compare {difference}."
)
_OF_SEEDS = "each difference with the standard deviation over the seeds"
_OF_ONE_SEED = "each difference with the standard deviation over several seeds"
_CHOICE_NOTE = (
    "To choose the best row is to choose on the test split: its figures are optimistic then."
)
_MARK_NOTE = "!: a run of it must not be used, or has failed; the reason is at the end."
_AREA_NOTE = (
    "p of ROC-AUC: for clustered data (Obuchowski 1997), the images of a patient being a cluster; "
    "this one decides. DeLong's takes all images for independent."
)
_HOLM_NOTE = "p (Holm): adjusted for the {count} pairs (Holm)."
_MCNEMAR_NOTE = (
    "p of accuracy: McNemar's exact test, by seed. It takes images for independent: where patients "
    "have several, rely on the interval, which is of patients."
)
_MACRO_NOTE = (
    "ROC-AUC: the mean over the classes, each against the rest; there is no test of it, only the "
    "interval."
)

_FIRST = ("macro_recall", "accuracy", "roc_auc", "sensitivity", "specificity")
"""The columns of the first table: what the paper's has, then what readers look for next."""
_OF_PAPER = _FIRST[:2]


@dataclasses.dataclass(frozen=True)
class ModelRow:
    """A model, or a backbone with several seeds.

    Attributes:
      name: what it is called.
      summaries: each figure; empty where no run has finished.
      runs: by seed: the run directory.
      backbone: the registry's name.
      remark: what else must be known of it, such as random weights; may be empty.
      warnings: by seed: why a run must not be used.
      failures: by seed: why a run has not finished.
    """

    name: str
    summaries: Mapping[str, Summary]
    runs: Mapping[int, str]
    backbone: str
    remark: str = ""
    warnings: Mapping[int, Sequence[str]] = dataclasses.field(default_factory=dict)
    failures: Mapping[int, str] = dataclasses.field(default_factory=dict)

    @property
    def label(self) -> str:
        """The name, with a mark where a run must not be used, or has failed."""
        return f"{self.name} !" if self.is_marked else self.name

    @property
    def is_marked(self) -> bool:
        """Whether a run must not be used, or has failed."""
        return bool(self.warnings or self.failures)

    def to_json(self) -> dict[str, Any]:
        """Returns everything as dictionaries, lists and numbers."""
        return {
            "name": self.name,
            "backbone": self.backbone,
            "remark": self.remark,
            "runs": {str(seed): path for seed, path in self.runs.items()},
            "figures": {name: found.to_json() for name, found in self.summaries.items()},
            "warnings": {str(seed): list(reasons) for seed, reasons in self.warnings.items()},
            "failures": {str(seed): reason for seed, reason in self.failures.items()},
        }


@dataclasses.dataclass(frozen=True)
class Examined:
    """The test examples of all models, and how the intervals were made.

    Attributes:
      dataset: the data set that the models were trained on.
      class_names: the K classes.
      examples: number of test examples.
      patients: number of test patients.
      resamples: of the patients, for the intervals.
    """

    dataset: str
    class_names: tuple[str, ...]
    examples: int
    patients: int
    resamples: int = resampling.RESAMPLES


@dataclasses.dataclass(frozen=True)
class Content:
    """What is compared.

    Attributes:
      rows: a row for each model, or for each backbone with its seeds.
      pairs: models compared in pairs.
      tested: the test examples; None where no run has finished.
      command: that repeats it; empty from Python.
      with_paper: whether the paper's results stand beside.
      points: a sentence about the operating points, such as their rule; may be empty.
    """

    rows: tuple[ModelRow, ...]
    pairs: tuple[Pair, ...]
    tested: Examined | None
    command: str = ""
    with_paper: bool = False
    points: str = ""

    @property
    def holm_p_values(self) -> list[float | None]:
        """By pair: the p-value of ROC-AUC that holds for all pairs together."""
        return comparison.holm(
            [None if pair.area is None else pair.area.p_value for pair in self.pairs]
        )

    @property
    def figure_names(self) -> list[str]:
        """The names of all figures: first those of the first table, last those at the point."""
        found = {name for row in self.rows for name in row.summaries}
        ordered = dict.fromkeys((*_FIRST, *metrics.NAMES))
        return [n for end in ("", AT_POINT) for base in ordered if (n := f"{base}{end}") in found]


def tables(of: Content) -> tuple[ReportTable, ...]:
    """Returns the paper's table, every figure and the pairs, if there is anything in them."""
    return tuple(table for table in (_main(of), _figures(of), _pairs(of)) if table.rows)


def short_tables(of: Content) -> tuple[ReportTable, ...]:
    """Returns the paper's table, and of the pairs its figures and the ROC-AUC."""
    pairs = _pairs(of)
    shown = {_label(name) for name in (*_OF_PAPER, "roc_auc")}
    rows = tuple(row for row in pairs.rows if row[1] in shown)
    brief = dataclasses.replace(pairs, rows=rows)
    return tuple(table for table in (_main(of), brief) if table.rows)


def _has_seeds(of: Content) -> bool:
    return any(len(row.runs) > 1 for row in of.rows)


def _shown(name: str, value: float | None) -> str:
    if value is None:
        return "undefined"
    base = name.removesuffix(AT_POINT)
    return f"{100 * value:.2f}" if base in metrics.SHARES else f"{value:.4f}"


def _label(name: str) -> str:
    base = name.removesuffix(AT_POINT)
    unit = " (%)" if base in metrics.SHARES else ""
    return f"{metrics.NAMES[base]}{' at the operating point' if base != name else ''}{unit}"


def _main(of: Content) -> ReportTable:
    """The paper's table: a row for each model, its mean and standard deviation over the seeds."""
    names = [name for name in _FIRST if name in of.figure_names]
    rows: list[tuple[Cell, ...]] = []
    for row in of.rows:
        cells = [_mean(name, row.summaries[name]) for name in names if row.summaries]
        rows.append((row.label, len(row.runs), *(cells or ["failed"] * len(names))))
        if of.with_paper and (published := paper.OF_BACKBONE.get(row.backbone)):
            shown = map(published.percentages.get, names)
            rows.append((f"  {row.name}, the paper's", 1, *shown))
    head = ("Model", "Runs", *map(_label, names))
    return ReportTable(_title(of), head, tuple(rows), tuple(_notes_on_models(of)))


def _notes_on_models(of: Content) -> Iterator[str]:
    spread = "Means ± standard deviations over the seeds, and in" if _has_seeds(of) else "In"
    yield f"{spread} parentheses 95 % intervals over patients."
    if len(of.rows) > 1:
        yield _CHOICE_NOTE
    for remark in dict.fromkeys(row.remark for row in of.rows if row.remark):
        names = ", ".join(row.name for row in of.rows if row.remark == remark)
        yield f"{names}: {remark}."
    if any(row.is_marked for row in of.rows):
        yield _MARK_NOTE
    yield from _notes_on_paper(of)


def _mean(name: str, found: Summary) -> str:
    spread = "" if found.spread is None else f" ± {_shown(name, found.spread)}"
    interval = _span(name, found.interval) if name in _OF_PAPER else None
    ends = f" ({interval})" if interval else ""
    return f"{_shown(name, found.mean)}{spread}{ends}"


def _title(of: Content) -> str:
    if of.tested is None:
        return "No run has finished"
    tested = of.tested
    return f"{tested.examples:,} test images of {tested.patients:,} patients, {tested.dataset}"


def _notes_on_paper(of: Content) -> Iterator[str]:
    if of.with_paper and any(row.backbone in paper.OF_BACKBONE for row in of.rows):
        yield _PAPER_NOTE
        tested = of.tested
        if tested and (
            tested.dataset.partition("_")[0] != "paper" or tested.examples != paper.TEST_IMAGES
        ):
            yield (
                f"The protocol differs here: {tested.dataset}, {tested.examples:,} test images. "
                "The paper's figures are of other images than these."
            )


def _figures(of: Content) -> ReportTable:
    """Every figure of every model, with its interval; with its spread where there are seeds."""
    rows: list[tuple[Cell, ...]] = []
    for row in of.rows:
        for name in of.figure_names if row.summaries else ():
            found = row.summaries.get(name)
            if found is None:
                continue
            spread = None if found.spread is None else _shown(name, found.spread)
            span = _span(name, found.span) if len(found.values) > 1 else None
            seeds = (spread, span) if _has_seeds(of) else ()
            interval = _span(name, found.interval)
            rows.append((row.name, _label(name), _shown(name, found.mean), *seeds, interval))
    columns = ("Mean", "Std", "Lowest to highest") if _has_seeds(of) else ("Value",)
    head = ("Model", "Figure", *columns, "95 % interval")
    return ReportTable(
        "All figures", head, tuple(rows), tuple(_notes_on_intervals(of)), num_names=2
    )


def _notes_on_intervals(of: Content) -> Iterator[str]:
    if of.tested is None:
        return
    mean = "the mean over the seeds" if _has_seeds(of) else "each figure"
    yield _INTERVAL_NOTE.format(
        mean=mean, resamples=of.tested.resamples, patients=of.tested.patients
    )
    if _has_seeds(of):
        yield _SPREAD_NOTE
    if of.points:
        yield of.points


def _span(name: str, ends: tuple[float, float] | None) -> str | None:
    return None if ends is None else f"{_shown(name, ends[0])} to {_shown(name, ends[1])}"


def _pairs(of: Content) -> ReportTable:
    """The differences of each pair, with their tests."""
    head = (
        "Pair",
        "Figure",
        "Difference",
        "95 % interval",
        "p",
        "p (Holm)",
        "p, images independent",
    )
    rows: list[tuple[Cell, ...]] = []
    for pair, adjusted in zip(of.pairs, of.holm_p_values, strict=True):
        for name in of.figure_names:
            if found := pair.differences.get(name):
                apart = (_signed(name, found.value), _signed_span(name, found.interval))
                p_values = _p_values(name, pair, adjusted)
                rows.append((f"{pair.a} − {pair.b}", _label(name), *apart, *p_values))
    areas = [_AREA_NOTE] if any(pair.area for pair in of.pairs) else []
    if areas and len(of.pairs) > 1:
        areas.append(_HOLM_NOTE.format(count=len(of.pairs)))
    if of.tested and len(of.tested.class_names) > 2:
        areas = [_MACRO_NOTE]
    seeds = _SEEDS_NOTE.format(difference=_OF_SEEDS if _has_seeds(of) else _OF_ONE_SEED)
    notes = (_PAIRS_NOTE, seeds, *areas, _MCNEMAR_NOTE)
    return ReportTable("Pairs", head, tuple(rows), notes, num_names=2)


def _p_values(name: str, pair: Pair, adjusted: float | None) -> tuple[Cell, Cell, Cell]:
    """Returns the p-value that decides, the same for all pairs together, and what stands beside."""
    if name == "roc_auc" and pair.area:
        independent = None if pair.delong is None else pair.delong.p_value
        return _p(pair.area.p_value), _p(adjusted), f"DeLong {_p(independent)}"
    tests = {"accuracy": pair.mcnemar, f"accuracy{AT_POINT}": pair.mcnemar_at_point}.get(name, {})
    shown = ", ".join(_p(test.p_value) for test in tests.values())
    return None, None, f"McNemar {shown}" if shown else None


def _p(value: float | None) -> str:
    if value is None:
        return "undefined"
    return "<0.0001" if value < 1e-4 else f"{value:.4f}"


def _signed(name: str, value: float | None) -> str:
    shown = _shown(name, value)
    return f"+{shown}" if value is not None and value > 0 else shown.replace("-", "−")


def _signed_span(name: str, ends: tuple[float, float] | None) -> str | None:
    return None if ends is None else f"{_signed(name, ends[0])} to {_signed(name, ends[1])}"


def tidy(of: Content) -> ReportTable:
    """A line for each figure of each model and pair, with numbers at full precision."""
    head = (
        "model", "minus", "figure", "seeds", "value", "standard_deviation", "lowest", "highest",
        "interval_low", "interval_high", "p_value", "p_value_holm",
    )  # fmt: skip
    rows: list[tuple[Cell, ...]] = []
    for row in of.rows:
        for name, found in row.summaries.items():
            ends = (*(found.span or (None, None)), *(found.interval or (None, None)))
            rows.append(
                (
                    row.name,
                    None,
                    name,
                    len(found.values),
                    found.mean,
                    found.spread,
                    *ends,
                    None,
                    None,
                )
            )
        published = paper.OF_BACKBONE.get(row.backbone) if of.with_paper else None
        for name, value in published.shares.items() if published else ():
            rows.append((f"{row.name} (paper)", None, name, 1, value, *[None] * 7))
    for pair, adjusted in zip(of.pairs, of.holm_p_values, strict=True):
        for name, apart in pair.differences.items():
            is_tested = name == "roc_auc" and pair.area
            p = (pair.area.p_value, adjusted) if is_tested and pair.area else (None, None)
            ends = (None, None, None, *(apart.interval or (None, None)))
            rows.append((pair.a, pair.b, name, len(pair.seeds), apart.value, *ends, *p))
    return ReportTable("Comparison", head, tuple(rows))
