"""What lies in a folder from earlier exports is told, with the model that it is of."""

from __future__ import annotations

import json

import pytest

from trainer.inference.exporting import earlier, exports, formats, results


@pytest.fixture
def folder(tmp_path):
    """Two formats of the model `a`, and one that no table knows."""
    for name in ("onnx", "litert", "litert_int8"):
        (tmp_path / formats.REGISTRY[name].file).write_bytes(name.encode())
    rows = [results.ExportedFormat(formats.REGISTRY[name], size_mb=size(name)) for name in ROWS]
    (tmp_path / earlier.TABLE).write_text(
        json.dumps(results.Exports(tuple(rows), model="a").to_json())
    )
    return tmp_path


ROWS = ("onnx", "litert")


def size(name):
    return len(name) / 1e6


def said(found):
    return " ".join(found.notes)


def test_rows_of_the_same_model_are_carried_over(folder):
    found = earlier.Ledger.open(folder, "a").beside(["savedmodel"], ["savedmodel"])
    assert [row["format"] for row in found.same] == ["litert", "onnx"]
    assert [row["format"] for row in found.others] == ["litert_int8"]
    assert "beside: model.tflite, model.onnx of an earlier export, of the same model." in said(
        found
    )
    assert "model_int8.tflite of an earlier export, it is not known of which model" in said(found)
    table = results.Exports((), model="a", earlier=found).to_json()
    (folder / earlier.TABLE).write_text(json.dumps(table))
    assert earlier.Ledger.open(folder, "a").beside([], []) == found


def test_those_of_another_model_are_marked(folder):
    found = earlier.Ledger.open(folder, "b").beside(["savedmodel"], ["savedmodel"])
    assert found.same == ()
    assert {row["format"]: row["model"] for row in found.others} == {
        "litert": "a", "onnx": "a", "litert_int8": None,
    }  # fmt: skip
    assert "model.tflite, model.onnx of an earlier export, of another model" in said(found)


def test_what_was_written_is_no_earlier_export(folder):
    found = earlier.Ledger.open(folder, "b").beside(ROWS, ROWS)
    assert [row["format"] for row in found.others] == ["litert_int8"]


def test_the_earlier_file_of_a_format_that_failed_is_told(folder):
    found = earlier.Ledger.open(folder, "a").beside(ROWS, ["litert"])
    assert found.same == ()
    assert [row["format"] for row in found.others] == ["litert_int8", "onnx"]
    assert "model.onnx of an earlier export, of the same model" in said(found)


def test_a_file_that_was_replaced_or_removed_since_has_no_row(folder):
    (folder / "model.onnx").write_bytes(b"of somebody else")
    (folder / "model.tflite").unlink()
    found = earlier.Ledger.open(folder, "a").beside([], [])
    assert found.same == ()
    assert [(row["format"], row["model"]) for row in found.others] == [
        ("litert_int8", None),
        ("onnx", None),
    ]


def test_a_kill_leaves_no_row_of_a_replaced_file(folder):
    earlier.Ledger.open(folder, "b").forget("onnx")
    found = earlier.Ledger.open(folder, "a").beside([], [])
    assert [row["format"] for row in found.same] == ["litert"]
    assert "onnx" in {row["format"] for row in found.others}


def test_a_damaged_table_is_told_and_nothing_is_known(folder, capsys):
    (folder / earlier.TABLE).write_text("{")
    found = earlier.Ledger.open(folder, "a").beside([], [])
    assert found.same == ()
    assert "it is written anew" in capsys.readouterr().out


def test_an_empty_folder_has_nothing_to_say(tmp_path, capsys):
    assert earlier.Ledger.open(tmp_path, "a").beside([], []) == earlier.EarlierExports()
    assert capsys.readouterr().out == ""


def test_an_export_says_what_lies_beside(model, images, tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"earlier")
    table = exports.export(model, {}, images[:4], None, ["savedmodel"], tmp_path, "a")
    assert "beside: model.onnx of an earlier export, it is not known of which model" in str(table)
    stored = json.loads((tmp_path / earlier.TABLE).read_text("utf-8"))
    assert [row["model"] for row in stored["formats"]] == ["a"]
    assert [row["format"] for row in stored["others"]] == ["onnx"]
    again = earlier.Ledger.open(tmp_path, "a").beside([], [])
    assert [row["format"] for row in again.same] == ["savedmodel"]
