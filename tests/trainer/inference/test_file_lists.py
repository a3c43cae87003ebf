"""CSV lists of files: how spreadsheets write them, and what is no list."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.support.scans.folders import write
from trainer.errors import RunError
from trainer.inference import file_lists, sources

if TYPE_CHECKING:
    from pathlib import Path

    from trainer.inference.sources import ImageFile


def listed_in(path: Path) -> tuple[ImageFile, ...]:
    with sources.opened([str(path)]) as found:
        return found.candidates


LISTS = {
    "comma": "file,label\na.png,1\nsub/b.png,0\n",
    "semicolon": "file;label\r\na.png;1\r\nsub/b.png;0\r\n",
    "tab": "label\tPath\n1\ta.png\n0\tsub/b.png\n",
    "mark of Windows": "\ufefffile,label\na.png,1\nsub/b.png,0\n",
    "index of pandas": ",file,label\n0,a.png,1\n1,sub/b.png,0\n",
    "empty lines": "file,label\n\na.png,1\n , \nsub/b.png,0,\n\n",
    "quotes": '"file" , "label"\n"a.png","1"\n"sub/b.png","0"\n'.replace(" , ", ","),
}


@pytest.mark.parametrize("kind", LISTS)
def test_lists_are_read_as_spreadsheets_write_them(tmp_path, kind):
    write(tmp_path, "a.png", "sub/b.png", "not listed.png")
    (tmp_path / "list.csv").write_text(LISTS[kind], "utf-8", newline="")
    found = listed_in(tmp_path / "list.csv")
    assert [of.name for of in found] == [str(tmp_path / "a.png"), str(tmp_path / "sub" / "b.png")]
    assert [of.columns for of in found] == [{"label": "1"}, {"label": "0"}]
    assert [of.problem for of in found] == [None, None]


def test_a_list_names_files_anywhere_and_a_name_with_a_comma_in_quotes(tmp_path):
    write(tmp_path, "here/Doe, Jane.png", "there/b.png")
    content = f'file\n"Doe, Jane.png"\n{tmp_path / "there" / "b.png"}\n../there/b.png\n'
    (tmp_path / "here" / "list.csv").write_text(content)
    found = listed_in(tmp_path / "here" / "list.csv")
    names = ("here/Doe, Jane.png", "there/b.png", "here/../there/b.png")
    assert [of.name for of in found] == [f"{tmp_path}/{name}" for name in names]
    assert [of.problem for of in found] == [None, None, None]


def test_a_list_names_files_and_nothing_else(tmp_path):
    write(tmp_path, "folder/a.png", "b.zip", "c.csv")
    names = ("folder", "b.zip", "c.csv", "absent.png", "x\0.png", "~nobody-here/a.png", "y" * 300)
    (tmp_path / "list.csv").write_text("\n".join(["file", *names]))
    found = [of.problem for of in listed_in(tmp_path / "list.csv")]
    assert found[:3] == ["is a folder: a list names files", None, None]
    assert all(problem.startswith("can't be read (") for problem in found[3:])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", r"it has no column `file`, but nothing"),
        (b"name,label\na.png,1\n", r"it has no column `file`, but name, label"),
        (b"file,file\na.png,b.png\n", 'it has the column "file" twice'),
        (b"file,label\n,1\n", "line 2 has no file"),
        (b"file\nDoe, Jane.png\n", "line 2 has 2 cells, the first line 1: a name with a separ"),
        (b'file\n"a.png\n', "unexpected end of data"),
        ("file\nä.png\n".encode("latin-1"), "it is not UTF-8 text"),
        ("file\na.png\n".encode("utf-16"), "it is not UTF-8 text"),
        (b"file\n" + b"x" * 200_000, "field larger than field limit"),
        (b"\x89PNG\r\n\x1a\n", "it is not UTF-8 text"),
        (b"\x1b[2J\n", r"but \\x1b\[2J"),
    ],
)
def test_a_list_that_is_none_is_told_in_a_line(tmp_path, content, said):
    write(tmp_path, "list.csv", data=content)
    with pytest.raises(
        RunError, match=rf"list.csv can't be read \(.*{said}.*\); a list is CSV"
    ) as raised:
        listed_in(tmp_path / "list.csv")
    assert str(raised.value).isprintable()


def test_a_list_larger_than_any_is_not_read(tmp_path):
    write(tmp_path, "list.csv", data=b"file\n")
    os.truncate(tmp_path / "list.csv", 1 << 40)
    with pytest.raises(RunError, match="over the limit of"):
        listed_in(tmp_path / "list.csv")


def test_columns_get_names_that_nothing_beside_them_has():
    lists = ({"Score": "1", "accession": "a"}, {"list_Score": "2"}, {}, {"rank": "3", "sex": "F"})
    assert file_lists.renamed(lists, ("rank", "score")) == {
        "Score": "list_list_Score", "accession": "accession", "list_Score": "list_Score",
        "rank": "list_rank", "sex": "sex",
    }  # fmt: skip
    assert file_lists.renamed([{}, {}], ("rank",)) == {}
