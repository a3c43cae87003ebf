"""Rows of a worklist: their order, their files, and the journal that survives a kill."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import threading

import hypothesis
import pytest
from hypothesis import strategies as st

from trainer.errors import RunError
from trainer.inference import worklist
from trainer.inference.worklist import Journal, Worklist, WorklistRow
from trainer.system import text

CLASSES = ["NORMAL", "PNEUMONIA"]
ROW = WorklistRow(
    "a.png", "9 1", score=0.75, calibrated_probability=0.5, predicted="PNEUMONIA",
    flags=("inverted",), notes=("A note.",), novelty=1.5, height=40, width=50, digest="d",
)  # fmt: skip
UNREAD = WorklistRow(
    "b.png", "0 1", "unreadable", flags=("unreadable",), notes=("The file is empty.",)
)


def row(file: str, score: float | None = 0.5, **others) -> WorklistRow:
    return dataclasses.replace(ROW, file=file, score=score, **others)


def opened(folder, model="m") -> Journal:
    return Journal.open(folder / worklist.JOURNAL, model, CLASSES)


def test_the_most_urgent_is_first_and_the_unreadable_last():
    rows = [UNREAD, row("low", 0.1), row("high", 0.9), row("mid", 0.5)]
    found = [row.file for row in worklist.by_urgency(rows)]
    assert found == ["high", "mid", "low", "b.png"]


@hypothesis.given(
    st.permutations([row("c", 0.5), row("a", 0.5), row("B", 0.5), row("b", 0.0), UNREAD])
)
def test_equal_scores_are_in_the_order_of_names_whatever_came_first(rows):
    assert [row.file for row in worklist.by_urgency(rows)] == ["B", "a", "c", "b", "b.png"]


def test_of_equal_scores_a_duplicate_is_below_its_original():
    rows = [row("b", digest="x"), row("a", digest="x"), row("c", digest="y"), row("0", 0.4)]
    found = worklist.by_urgency(worklist.marked(rows))
    assert [row.file for row in found] == ["b", "c", "a", "0"]


def test_a_copy_of_an_earlier_image_is_a_duplicate():
    rows = [row("1", digest="x"), row("2", digest="y"), row("3", digest="x"), UNREAD, UNREAD]
    found = worklist.marked(rows)
    assert ["duplicate" in row.flags for row in found] == [False, False, True, False, False]
    assert found[2].notes == ("A note.", "The same image as 1.")
    assert found[2].flags == ("inverted", "duplicate")


HOSTILE = (
    "=1+1", "+a", "-a", "@a", "＝a", "'=a", 'q"uote', "com,ma", "semi;colon", "line\nend",
    "\x1b[2J", "back\\slash", "\udcff.png", "\u202egnp", "é", "",
)  # fmt: skip


def test_names_of_every_kind_survive_csv_and_json_lines(tmp_path):
    rows = [row(f"{name}", notes=(name,), heatmap=name) for name in HOSTILE]
    worklist.write(tmp_path, rows)
    data = (tmp_path / worklist.CSV).read_bytes()
    assert b"\x1b" not in data
    assert b"\n\n" not in data.replace(b"\r\n", b"")
    table = list(csv.DictReader(data.decode("utf-8").splitlines()))
    assert [text.from_cell(line["file"]) for line in table] == list(HOSTILE)
    assert not any(line["file"].startswith(tuple("=+-@＝")) for line in table)
    lines = (tmp_path / worklist.JSONL).read_text("ascii").splitlines()
    assert [json.loads(line)["file"] for line in lines] == list(HOSTILE)
    assert [json.loads(line)["notes"] for line in lines] == [[name] for name in HOSTILE]


def test_a_row_is_written_in_full(tmp_path):
    worklist.write(tmp_path, [ROW, UNREAD])
    first, second = csv.DictReader((tmp_path / worklist.CSV).read_text().splitlines())
    assert first == {
        "rank": "1", "file": "a.png", "status": "read", "predicted": "PNEUMONIA", "score": "0.75",
        "calibrated_probability": "0.5", "flags": "inverted", "notes": "A note.", "novelty": "1.5",
        "height": "40", "width": "50", "heatmap": "",
    }  # fmt: skip
    empty = {name for name, value in second.items() if not value}
    assert empty == {*first} - {"rank", "file", "status", "flags", "notes"}
    lines = (tmp_path / worklist.JSONL).read_text().splitlines()
    assert json.loads(lines[0]) == ROW.to_json(1) | {"flags": ["inverted"], "notes": ["A note."]}
    assert json.loads(lines[1])["score"] is None


def test_columns_of_a_list_stand_behind_those_of_the_worklist(tmp_path):
    columns = {
        "a.png": {"accession": "A1", "=note": "=1+1", "line\nend": "x\ny"},
        "b.png": {"accession": "A2", "=note": "", "line\nend": ""},
    }
    worklist.write(tmp_path, [ROW, UNREAD], columns)
    with (tmp_path / worklist.CSV).open(newline="") as file:
        first, second = csv.DictReader(file)
    names = [*worklist.COLUMNS, "accession", "=note", "line\nend"]
    assert [text.from_cell(name) for name in first] == names
    assert (first["accession"], second["accession"]) == ("A1", "A2")
    assert not any(cell.startswith("=") for cell in (*first, *first.values()))
    lines = [json.loads(of) for of in (tmp_path / worklist.JSONL).read_text().splitlines()]
    assert [*lines[0]] == [*lines[1]] == names
    assert lines[0] == ROW.to_json(1) | columns["a.png"] | {
        "flags": ["inverted"], "notes": ["A note."],
    }  # fmt: skip


def test_an_empty_worklist_has_its_header(tmp_path):
    worklist.write(tmp_path, [])
    assert (tmp_path / worklist.CSV).read_text().startswith("rank,file,status,")
    assert (tmp_path / worklist.JSONL).read_text() == ""


def test_a_worklist_tells_what_it_holds(tmp_path):
    found = Worklist(tmp_path, (ROW, UNREAD), ("A note.",), ("Bad.",))
    assert found.num_read == 1
    assert found.flagged() == {"inverted": 1, "unreadable": 1}
    assert found.predicted() == {"PNEUMONIA": 1}
    assert found.headline() == "2 files: 1 read (1 PNEUMONIA)"
    lines = str(found).splitlines()
    assert lines[0] == "DO NOT USE THIS MODEL: Bad."
    assert lines[2] == "flagged:     1 unreadable, 1 inverted"
    assert f"{tmp_path / 'worklist.csv'}" in str(found)
    assert repr(found) == f"<Worklist {tmp_path}: 2 files: 1 read (1 PNEUMONIA)>"


def test_the_journal_gives_back_what_was_added(tmp_path):
    journal = opened(tmp_path / "new")
    assert journal.rows == {}
    journal.append([ROW, UNREAD])
    journal.append([])
    journal.append([row("c", 0.1 + 0.2)])
    for found in (journal, opened(tmp_path / "new")):
        assert found.rows == {"a.png": ROW, "b.png": UNREAD, "c": row("c", 0.1 + 0.2)}


def test_names_of_every_kind_survive_the_journal(tmp_path):
    rows = [row(name, notes=(name,)) for name in HOSTILE]
    opened(tmp_path).append(rows)
    assert list(opened(tmp_path).rows.values()) == rows


def test_a_file_is_done_until_it_changes(tmp_path):
    journal = opened(tmp_path)
    journal.append([ROW, UNREAD])
    assert journal.has("a.png", ROW.stamp)
    assert not journal.has("a.png", "10 2")
    assert not journal.has("c.png", ROW.stamp)
    changed = dataclasses.replace(ROW, stamp="10 2", score=0.25)
    journal.append([changed])
    assert opened(tmp_path).rows["a.png"] == changed


def test_an_unreadable_file_is_tried_again_and_its_row_kept_once(tmp_path):
    """Its permissions may have changed, or pydicom been installed; neither changes the file."""
    journal = opened(tmp_path)
    journal.append([UNREAD])
    assert not journal.has("b.png", UNREAD.stamp)
    size = (tmp_path / worklist.JOURNAL).stat().st_size
    journal.append([UNREAD])
    assert (tmp_path / worklist.JOURNAL).stat().st_size == size


@pytest.mark.parametrize("cut", range(1, 40, 3))
def test_a_line_that_a_kill_cut_off_is_dropped(tmp_path, cut):
    path = tmp_path / worklist.JOURNAL
    journal = opened(tmp_path)
    journal.append([ROW])
    journal.append([row("c")])
    whole = path.read_bytes()
    os.truncate(path, len(whole) - cut)
    again = opened(tmp_path)
    assert again.rows == {"a.png": ROW}
    again.append([row("c")])
    assert path.read_bytes() == whole


def _damaged(tmp_path, change) -> None:
    path = tmp_path / worklist.JOURNAL
    opened(tmp_path).append([ROW, row("c")])
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(change(lines)))


DAMAGES = {
    "noise": (lambda of: [of[0], b"noise\n", of[2]], r"line 2: .*not JSON"),
    "empty line": (lambda of: [of[0], b"\n", of[2]], r"line 2: is empty"),
    "not an object": (lambda of: [of[0], b"[1]\n"], r"line 2: has \[1\], not an object"),
    "lacks a field": (lambda of: [of[0], b"{}\n"], "line 2: "),
    "another field": (lambda of: [of[0], of[1].replace(b'"file"', b'"x": 1, "file"')], "line 2: "),
    "a score of 2": (lambda of: [of[0], of[1].replace(b"0.75", b"2")], "score = 2, which is not"),
    "no score": (lambda of: [of[0], of[1].replace(b"0.75", b"null")], "no score or no size"),
    "NaN": (lambda of: [of[0], of[1].replace(b"0.75", b"NaN")], "has NaN, which is not JSON"),
    "another class": (
        lambda of: [of[0], of[1].replace(b'"PNEUMONIA"', b'"\\u001b[2J"')],
        "no class of the model is",
    ),
    "no class": (lambda of: [of[0], of[1].replace(b'"PNEUMONIA"', b"null")], "no class of the m"),
    "status": (lambda of: [of[0], of[1].replace(b'"read"', b'"fine"')], "status"),
    "height": (lambda of: [of[0], of[1].replace(b"40", b"-40")], "height = -40"),
    "a long line": (lambda of: [of[0], b"x" * (1 << 21) + b"\n"], "line 2 is longer than any row"),
    "one line": (lambda _: [b"x" * (1 << 21)], "line 1 is longer than any row"),
    "no header": (lambda of: [of[1]], "model"),
    "empty": (lambda _: [], "is empty"),
    "binary": (lambda _: [b"\x89PNG\n"], "not UTF-8"),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_journal_is_told_in_a_line_and_left_as_it_is(tmp_path, kind):
    change, said = DAMAGES[kind]
    _damaged(tmp_path, change)
    before = (tmp_path / worklist.JOURNAL).read_bytes()
    with pytest.raises(RunError, match=f"journal.jsonl can't be read .*{said}.*; remove it") as e:
        opened(tmp_path)
    assert str(e.value).isprintable()
    assert (tmp_path / worklist.JOURNAL).read_bytes() == before


def test_predictions_of_another_model_are_not_mixed(tmp_path):
    opened(tmp_path, "one").append([ROW])
    with pytest.raises(RunError, match=r"holds the predictions of another model.* --output_dir"):
        opened(tmp_path, "two")
    assert opened(tmp_path, "one").rows


def test_a_huge_journal_is_not_read(tmp_path):
    opened(tmp_path)
    os.truncate(tmp_path / worklist.JOURNAL, 1 << 40)
    with pytest.raises(RunError, match="it is larger than any journal"):
        opened(tmp_path)


def test_a_pipe_a_link_or_a_folder_is_no_journal(tmp_path):
    path = tmp_path / worklist.JOURNAL
    os.mkfifo(path)
    with pytest.raises(RunError, match="is a link, or not a regular file"):
        opened(tmp_path)
    path.unlink()
    opened(tmp_path / "other").append([ROW])
    path.symlink_to(tmp_path / "other" / worklist.JOURNAL)
    with pytest.raises(RunError, match="is a link, or not a regular file"):
        opened(tmp_path)
    path.unlink()
    path.mkdir()
    with pytest.raises(RunError, match="is a link, or not a regular file"):
        opened(tmp_path)


def test_one_process_at_a_time_writes_into_a_folder(tmp_path):
    said = []

    def other() -> None:
        with pytest.raises(RunError, match=r"another process writes into .*wait until") as raised:
            worklist.claimed(tmp_path / "new").__enter__()
        said.append(raised.value)

    with worklist.claimed(tmp_path / "new"):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert said
    with worklist.claimed(tmp_path / "new"):
        pass


def test_a_lock_that_is_a_link_is_not_followed(tmp_path):
    (tmp_path / "kept").write_text("kept")
    (tmp_path / ".lock").symlink_to(tmp_path / "kept")
    with (
        pytest.raises(RunError, match="is a link, and nothing is written through it"),
        worklist.claimed(tmp_path),
    ):
        pass
    assert (tmp_path / "kept").read_text() == "kept"


def test_rows_of_other_software_are_refused_by_its_name(tmp_path):
    path = tmp_path / worklist.JOURNAL
    Journal.open(path, "m", CLASSES, {"pillow": "12.1", "keras": "3.15"})
    Journal.open(path, "m", CLASSES, {"pillow": "12.1", "keras": "3.15", "pydicom": "3.0"})
    with pytest.raises(RunError, match=r"with pillow 12\.1, and this is 12\.2: name another"):
        Journal.open(path, "m", CLASSES, {"pillow": "12.2", "keras": "3.15"})
