from __future__ import annotations

from pathlib import Path

import pytest

from trainer.tpu import matrix

PAGE = (Path(__file__).parents[3] / "docs" / "tpu.md").read_text("utf-8")


def _row(backbone: str, topology: str, largest: str) -> str:
    return f"| {backbone} | 224 | {topology} | 32 | {largest} |"


def test_rows_come_in_the_order_of_the_matrix_whenever_they_are_made():
    page = matrix.insert(PAGE, _row("mobilenet_v2", "v5e:2x4", "1"))
    page = matrix.insert(page, _row("vgg16", "v6e:1x1", "2"))
    page = matrix.insert(page, _row("vgg16", "v5e:1x1", "3"))
    made = [line for line in page.splitlines() if line.endswith(("| 1 |", "| 2 |", "| 3 |"))]
    assert [row[-3] for row in made] == ["3", "2", "1"]


def test_a_row_takes_the_place_of_its_predecessor_and_no_other_line():
    once = matrix.insert(PAGE, _row("vgg16", "v5e:1x1", "1"))
    twice = matrix.insert(once, _row("vgg16", "v5e:1x1", "2"))
    assert twice == once.replace("| 32 | 1 |", "| 32 | 2 |")
    kept = [line for line in PAGE.splitlines() if not line.startswith("| vgg16 | 224 | v5e:1x1")]
    assert [line for line in once.splitlines() if not line.endswith("| 1 |")] == kept


def test_a_file_without_the_table_is_left_alone(tmp_path):
    mine = tmp_path / "notes.md"
    mine.write_text("# mine\n")
    with pytest.raises(
        SystemExit, match=r"notes\.md has no table of this kind; give a page with it"
    ):
        matrix.main([str(mine)])
    assert mine.read_text() == "# mine\n"
