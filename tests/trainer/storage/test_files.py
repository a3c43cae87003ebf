from __future__ import annotations

import json

import pytest

from trainer.storage import files


def test_a_file_appears_whole(tmp_path):
    with files.replacing(tmp_path / "new" / "x.txt") as partial:
        partial.write_text("whole")
        assert partial.suffix == ".txt"
        assert not (tmp_path / "new" / "x.txt").exists()
    assert (tmp_path / "new" / "x.txt").read_text() == "whole"
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["x.txt"]


def _fail_while_writing(path):
    with files.replacing(path) as partial:
        partial.write_text("half")
        raise OSError("disk full")


def test_a_failure_leaves_the_old_file_and_no_rubbish(tmp_path):
    path = tmp_path / "x.txt"
    path.write_text("old")
    with pytest.raises(OSError, match="disk full"):
        _fail_while_writing(path)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["x.txt"]


def test_json_is_indented_and_refuses_what_json_lacks(tmp_path):
    files.save_json(tmp_path / "x.json", {"a": 1})
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": 1}
    with pytest.raises(ValueError, match="Out of range float"):
        files.save_json(tmp_path / "x.json", {"a": float("nan")})
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": 1}
