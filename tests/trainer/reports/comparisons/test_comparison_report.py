"""A comparison as people read it: the paper's table, marks of what must not be used, the files."""

from __future__ import annotations

import csv
import json

import pytest

from tests.support.tables import LABEL, POSITIVE, predictions_of
from trainer.evaluation import resampling
from trainer.evaluation.pairs import comparison
from trainer.evaluation.pairs.compared_models import ComparedModel
from trainer.reports.comparisons import comparison_report
from trainer.reports.comparisons.comparison_report import Comparison
from trainer.reports.comparisons.comparison_tables import Examined, ModelRow

OTHER = (0.1, 0.6, 0.7, 0.9, 0.8, 0.4, 0.6, 0.2)
TABLES = {0: predictions_of(LABEL, POSITIVE), 1: predictions_of(LABEL, OTHER)}


def _compared(**changes) -> Comparison:
    """VGG16 with two seeds, and MobileNetV2, whose guard has fired and of which one has failed."""
    a, b = ComparedModel("vgg16", TABLES), ComparedModel("mobilenet_v2", {0: TABLES[1]})
    drawn = resampling.PatientBootstrap(a.patient_id)
    found = [comparison.summarise(side, drawn) for side in (a, b)]
    rows = (
        ModelRow("vgg16", found[0], {0: "c/vgg16-seed0", 1: "c/vgg16-seed1"}, "vgg16"),
        ModelRow("mobilenet_v2", found[1], {0: "c/<b>"}, "mobilenet_v2", "weights=none",
            {0: ["Accuracy is low."]}, {1: "out of memory"}),
    )  # fmt: skip
    values = {
        "rows": rows,
        "pairs": (comparison.pair(a, b, drawn),),
        "tested": Examined("grouped", a.first.class_names, 8, 8),
        "command": "python -m trainer --mode=compare",
        "with_paper": True,
    }
    return Comparison(**values | changes)


@pytest.fixture(scope="module")
def found():
    return _compared()


def test_the_papers_rows_stand_below_ours_with_its_figures(found):
    names = [row[0] for row in found.tables[0].rows]
    assert names == [
        "vgg16", "  vgg16, the paper's", "mobilenet_v2 !",
        "  mobilenet_v2, the paper's",
    ]  # fmt: skip
    assert found.tables[0].rows[1][:4] == ("  vgg16, the paper's", 1, "92", "94.40")
    assert found.tables[0].rows[3][2:4] == ("50", "72.76")


def test_means_have_their_spread(found):
    # Accuracies 5/8 and 4/8; 1/8 apart, so that the standard deviation is 1/8 over the root of 2.
    assert found.tables[0].rows[0][3] == "56.25 ± 8.84 (21.76 to 85.60)"


@pytest.mark.parametrize(
    ("dataset", "examples", "differs"),
    [("grouped", 1465, True), ("paper", 1309, True), ("paper_299", 1465, False)],
)
def test_another_protocol_is_said(dataset, examples, differs):
    tested = Examined(dataset, ("N", "P"), examples, 700)
    said = "The protocol differs here" in str(_compared(tested=tested))
    assert said is differs


def test_runs_that_failed_or_must_not_be_used_are_named_last(found):
    *_, first, second = str(found).strip().splitlines()
    assert first == "DO NOT USE THIS MODEL: mobilenet_v2, seed 0: Accuracy is low."
    assert second == "FAILED: mobilenet_v2, seed 1: out of memory"
    assert found.guard_fired


def test_a_backbone_of_which_every_run_failed_has_no_figures():
    row = ModelRow("xception", {}, {}, "xception", failures={0: "no weights"})
    lost = Comparison((row,), (), None, with_paper=True)
    assert lost.tables[0].rows == (("xception !", 0),)
    assert "FAILED: xception: no weights" in str(lost)


def test_the_pairs_have_their_tests(found):
    rows = {row[1]: row for row in found.tables[2].rows}
    p_value = found.pairs[0].area.p_value
    assert rows["ROC-AUC"][4] == f"{p_value:.4f}"
    assert rows["ROC-AUC"][6].startswith("DeLong ")
    assert rows["Accuracy (%)"][6] == "McNemar 1.0000"
    assert rows["Sensitivity (%)"][4:] == (None, None, None)


def test_each_form_is_written(found, tmp_path):
    found.save(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == set(comparison_report.FILES)
    assert (tmp_path / "comparison.txt").read_text() == str(found)
    document = json.loads((tmp_path / "comparison.json").read_text())
    assert document == json.loads(json.dumps(found.to_json()))
    assert document["rows"][1]["failures"] == {"1": "out of memory"}
    page = (tmp_path / "comparison.html").read_text()
    assert "c/&lt;b&gt;" in page
    assert "<b>" not in page
    assert page.count("<table ") == 3
    assert page.count("<script") == 1  # The page's own: it copies the command.


def test_the_csv_has_a_line_a_figure_with_exact_numbers(found, tmp_path):
    found.save(tmp_path)
    with (tmp_path / "comparison.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    (ours,) = [
        r for r in rows if (r["model"], r["minus"], r["figure"]) == ("vgg16", "", "accuracy")
    ]
    assert (float(ours["value"]), float(ours["lowest"]), ours["seeds"]) == (4.5 / 8, 0.5, "2")
    assert found.to_json()["paper"]["mobilenet_v2"] == {"macro_recall": 0.5, "accuracy": 0.7276}
    (papers,) = [r for r in rows if (r["model"], r["figure"]) == ("vgg16 (paper)", "accuracy")]
    assert float(papers["value"]) == 0.944
    (apart,) = [r for r in rows if (r["minus"], r["figure"]) == ("mobilenet_v2", "roc_auc")]
    assert float(apart["p_value"]) == found.pairs[0].area.p_value


def test_what_a_reader_must_know_of_the_rows_is_in_notes(found):
    notes = found.tables[0].notes
    assert "mobilenet_v2: weights=none." in notes
    assert any(note.startswith("!: a run of it must not be used") for note in notes)
    assert any("choose on the test split" in note for note in notes)
    clean = _compared(rows=found.rows[:1])
    assert not any(note.startswith("!") or "choose" in note for note in clean.tables[0].notes)


@pytest.mark.parametrize("is_short", [False, True])
def test_pairs_say_that_other_seeds_are_not_covered(found, is_short):
    shown = " ".join(found.to_text(colour=False, is_short=is_short).split())
    assert "cover which patients were tested, not other seeds: compare each difference" in shown


def test_several_pairs_are_adjusted_for(found):
    notes = " ".join(_compared(pairs=found.pairs * 3).tables[2].notes)
    assert "adjusted for the 3 pairs (Holm)" in notes
    assert "(Holm)" not in " ".join(found.tables[2].notes)


def test_a_notebook_shows_the_tables(found):
    assert found._repr_html_().count("<table ") == 3
    assert repr(found) == "<Comparison of vgg16, mobilenet_v2 on 8 test examples>"


def test_warnings_are_red_on_a_terminal(found):
    assert found.to_text(colour=True).count("\x1b[1;31m") == 2
    assert "\x1b" not in found.to_text(colour=False)


def test_the_short_form_has_the_figures_of_the_paper_and_their_pairs(found):
    short = found.to_text(colour=False, is_short=True)
    assert "56.25 ± 8.84 (21.76 to 85.60)" in short
    assert "All figures" not in short
    pairs = [line for line in short.splitlines() if line.strip().startswith("vgg16 − ")]
    assert len(pairs) == 3
