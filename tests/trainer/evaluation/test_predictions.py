"""The table of predictions, its file, and the choice of samples."""

from __future__ import annotations

import csv
import dataclasses
from typing import TYPE_CHECKING

import hypothesis
import numpy as np
import numpy.typing as npt
import pytest
import sklearn.metrics
from hypothesis import strategies as st

from tests.support.tables import (
    LABEL,
    POSITIVE,
    TEXT,
    predictions_of,
    predictions_with_matrix,
    tables,
)
from trainer.evaluation import predictions

if TYPE_CHECKING:
    import pathlib


@pytest.fixture
def table() -> predictions.Predictions:
    return predictions_of(LABEL, POSITIVE)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"class_names": ("A", "A")}, "two or more distinct names"),
        ({"class_names": ("A",)}, "two or more distinct names"),
        ({"file_name": np.array(["a"])}, r"file_name has shape \(1,\), but label has \(8,\)"),
        ({"patient_id": np.array([b"a"] * 8)}, r"patient_id has dtype \|S1, not text"),
        ({"probabilities": np.ones((8, 3)) / 3}, r"they have \(8, 3\) .* there are 2 classes"),
        ({"label": np.zeros(8)}, "label has dtype float64, not an integer type"),
        ({"label": np.array([0] * 7 + [2])}, "label 2 is not an index into"),
        ({"label": np.array([0] * 7 + [-1])}, "label -1 is not an index into"),
        ({"probabilities": np.ones((8, 2))}, r"outputs for 0000 are not prob.*\[1.0, 1.0\]"),
        ({"probabilities": np.tile([-1.0, 2.0], (8, 1))}, r"\[-1.0, 2.0\]"),
    ],
)
def test_an_inconsistent_table_is_refused(
    change: dict[str, object], message: str, table: predictions.Predictions
) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(table, **change)  # type: ignore[arg-type]


def test_equal_probabilities_predict_the_first_class() -> None:
    assert predictions_of([1], [0.5]).predicted.tolist() == [0]


def test_score_is_the_probability_of_the_predicted_class() -> None:
    assert predictions_of([0, 0], [0.25, 0.75]).score.tolist() == [0.75, 0.75]


@pytest.mark.parametrize("times", [0, 1, 500])
def test_a_table_of_any_length_is_shown_as_one_line(
    table: predictions.Predictions, times: int
) -> None:
    shown = repr(table.take(np.zeros(times, int)))
    assert len(shown) < 100
    assert shown.startswith(f"Predictions({times:,} example{'s' * (times != 1)}: ")
    assert "\n" not in shown


def test_take_keeps_rows_together(table: predictions.Predictions) -> None:
    taken = table.take([6, 2, 2])
    assert taken.file_name.tolist() == ["0006", "0002", "0002"]
    assert taken.patient_id.tolist() == ["0006", "0002", "0002"]
    assert taken.etiology.tolist() == ["virus", "normal", "normal"]
    assert taken.label.tolist() == [1, 0, 0]
    assert taken.probabilities[:, 1].tolist() == [0.4, 0.6, 0.6]


# Files


def assert_equal(left: predictions.Predictions, right: predictions.Predictions) -> None:
    assert left.class_names == right.class_names
    for name in ("file_name", "patient_id", "etiology", "label", "predicted", "probabilities"):
        np.testing.assert_array_equal(getattr(left, name), getattr(right, name))
    assert list(left.others) == list(right.others)
    for name, column in left.others.items():
        np.testing.assert_array_equal(column, right.others[name])


def test_the_table_has_classes_by_name(
    tmp_path: pathlib.Path, table: predictions.Predictions
) -> None:
    path = tmp_path / "predictions_test.csv"
    table.save_csv(path)
    assert path.read_text().splitlines()[:4] == [
        "file_name,patient_id,etiology,label,predicted,p_NORMAL,p_PNEUMONIA",
        "0000,0000,normal,NORMAL,NORMAL,0.9,0.1",
        "0001,0001,normal,NORMAL,NORMAL,0.8,0.2",
        "0002,0002,normal,NORMAL,PNEUMONIA,0.4,0.6",
    ]


@hypothesis.given(table=tables())
@hypothesis.settings(deadline=None)
def test_the_table_reads_back_exactly(
    table: predictions.Predictions, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("table") / "predictions.csv"
    table.save_csv(path)
    assert_equal(predictions.Predictions.load_csv(path), table)


def test_a_file_name_reaches_no_spreadsheet_as_a_formula_and_no_terminal_as_a_control_sequence(
    tmp_path: pathlib.Path, table: predictions.Predictions
) -> None:
    names = table.file_name.astype("U40")
    names[:2] = "=HYPERLINK(1)\x1b[2J\u202e", "'@SUM"
    hostile = dataclasses.replace(table, file_name=names)
    path = tmp_path / "predictions.csv"
    hostile.save_csv(path)
    first, second = path.read_text().splitlines()[1:3]
    assert first.startswith(r"'=HYPERLINK(1)\x1b[2J\u202e,0000,")
    assert second.startswith("''@SUM,")
    assert_equal(predictions.Predictions.load_csv(path), hostile)


def is_free(name: str) -> bool:
    return name not in predictions.COLUMNS and not predictions.is_taken(name)


@hypothesis.given(table=tables(), data=st.data())
@hypothesis.settings(deadline=None)
def test_further_columns_read_back_exactly(
    table: predictions.Predictions, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    names = data.draw(st.lists(TEXT.filter(is_free), unique=True, max_size=3))
    column = st.lists(TEXT, min_size=len(table), max_size=len(table))
    others = {name: np.array(data.draw(column), str) for name in names}
    path = tmp_path_factory.mktemp("table") / "predictions.csv"
    wider = dataclasses.replace(table, others=others)
    wider.save_csv(path)
    assert_equal(predictions.Predictions.load_csv(path), wider)


@pytest.mark.parametrize("formula", ["=1+1", "+1", "-1", "@SUM(A1)", "\uff1d1", "'=1", "''-1"])
def test_a_further_column_reaches_no_spreadsheet_as_a_formula(
    tmp_path: pathlib.Path, table: predictions.Predictions, formula: str
) -> None:
    hostile = dataclasses.replace(table, others={f"{formula}x": np.array([formula] * len(table))})
    path = tmp_path / "predictions.csv"
    hostile.save_csv(path)
    with path.open(newline="") as file:
        cells = [row[-1] for row in csv.reader(file)]
    assert cells == [f"'{formula}x", *[f"'{formula}"] * len(table)]
    assert_equal(predictions.Predictions.load_csv(path), hostile)


@pytest.mark.parametrize("name", ["label", "predicted", "file_name", "p_NORMAL", "p_age"])
def test_a_further_column_takes_no_name_that_is_taken(
    table: predictions.Predictions, name: str
) -> None:
    with pytest.raises(ValueError, match=f"a further column can't be named {name}: that name is"):
        dataclasses.replace(table, others={name: np.array(["x"] * len(table))})


def test_a_further_column_has_a_text_for_each_example(table: predictions.Predictions) -> None:
    with pytest.raises(ValueError, match=r"hospital has shape \(1,\), but label has \(8,\)"):
        dataclasses.replace(table, others={"hospital": np.array(["x"])})


def test_taken_rows_keep_their_further_columns(table: predictions.Predictions) -> None:
    wider = dataclasses.replace(table, others={"hospital": np.array(list("abcdefgh"))})
    assert wider.take([6, 2]).column("hospital").tolist() == ["g", "c"]


def test_labels_as_a_column_are_the_names_of_classes(table: predictions.Predictions) -> None:
    assert table.column("label").tolist() == ["NORMAL"] * 3 + ["PNEUMONIA"] * 5


def test_a_threshold_is_reached_by_a_probability_that_equals_it() -> None:
    assert predictions_of([0, 1, 1], [0.2, 0.3, 0.4]).decided(0.3).tolist() == [0, 1, 1]


HEADER = "file_name,patient_id,etiology,label,predicted,p_NORMAL,p_PNEUMONIA\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not a table of predictions: its columns are none, not file_name, patient_id"),
        ("a,b\n1,2\n", "its columns are a, b, not"),
        (HEADER.replace("p_N", "q_N"), "is not a table of predictions"),
        (HEADER + "a,b,normal,NORMAL\n", "row 1 has 4 fields, not 7"),
        (HEADER.replace("\n", ",a,a\n"), "has a column twice, or more than 100 further ones"),
        (HEADER.replace("\n", ",label\n"), "a further column can't be named label"),
        (HEADER.replace("\n", ",a\n") + "a,b,normal,NORMAL,NORMAL,1,0\n", "has 7 fields, not 8"),
        (HEADER + "a,b,normal,COVID,NORMAL,1,0\n", "row 1: label 'COVID' is not one of NORMAL, PN"),
        (HEADER + "a,b,normal,NORMAL,NORMAL,1,x\n", "row 1: 'x' is not a probability"),
        (HEADER + "a,b,normal,NORMAL,NORMAL,0.2,0.8\n", "row 1: predicted is NORMAL, but .* PNEU"),
    ],
)
def test_a_damaged_table_is_refused(tmp_path: pathlib.Path, text: str, message: str) -> None:
    path = tmp_path / "predictions.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        predictions.Predictions.load_csv(path)


# Samples


def cells(table: predictions.Predictions, chosen: npt.NDArray[np.intp]) -> list[list[int]]:
    taken = table.take(chosen)
    matrix = sklearn.metrics.confusion_matrix(taken.label, taken.predicted, labels=[0, 1])
    return [list(row) for row in matrix]


@pytest.mark.parametrize(
    ("matrix", "chosen"),
    [
        (((340, 56), (26, 1043)), [[4, 4], [4, 4]]),
        (((340, 56), (1, 1043)), [[4, 7], [1, 4]]),  # The other kind of error fills the places.
        (((340, 1), (0, 1043)), [[8, 1], [0, 7]]),  # Correct predictions fill the places.
        (((2, 394), (1, 1051)), [[2, 7], [1, 6]]),
        (((3, 50), (50, 0)), [[3, 4], [4, 0]]),  # Errors never take more than half.
    ],
)
def test_samples_are_balanced_over_the_cells(
    matrix: tuple[tuple[int, int], tuple[int, int]], chosen: list[list[int]]
) -> None:
    table = predictions_with_matrix(matrix)
    assert cells(table, predictions.choose_samples(table)) == chosen


def test_samples_come_by_cell_and_are_spread_over_the_names(
    table: predictions.Predictions,
) -> None:
    many = predictions_with_matrix(((100, 0), (0, 100)))
    assert predictions.choose_samples(many, count=4).tolist() == [0, 50, 100, 150]
    assert predictions.choose_samples(table).tolist() == [0, 1, 2, 6, 7, 3, 4, 5]


@hypothesis.given(order=st.permutations(range(len(LABEL))), count=st.integers(0, 9))
@hypothesis.settings(deadline=None)
def test_row_order_does_not_change_the_samples(order: list[int], count: int) -> None:
    table = predictions_of(LABEL, POSITIVE)
    moved = table.take(order)
    chosen = table.take(predictions.choose_samples(table, count=count))
    assert_equal(moved.take(predictions.choose_samples(moved, count=count)), chosen)
    assert len(chosen) <= count
