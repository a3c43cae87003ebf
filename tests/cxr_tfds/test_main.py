"""Phantoms as files."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from cxr_tfds import __main__ as command
from cxr_tfds import phantoms


def test_phantoms_are_drawn_as_the_data_set_draws_them(tmp_path):
    assert command.main(["draw", str(tmp_path / "new" / "inbox"), "--count=5"]) == 0
    files = sorted((tmp_path / "new" / "inbox").iterdir())
    names = {path.stem for path in files}
    assert len(names) == 5
    assert {name[:2] for name in names} == {"IM", "pe"}
    drawn = {record.file_name.removesuffix(".jpeg"): record for record in phantoms.records()}
    for path in files:
        np.testing.assert_array_equal(Image.open(path), phantoms.render(drawn[path.stem]))


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "COMMAND"),
        (["draw", "x", "--count=0"], r"--count (0) must be 1 to 2000"),
        (["draw", "x", "--count=9999"], r"--count (9999) must be 1 to 2000"),
        (["draw", "/proc/none/x"], "/proc/none/x can't be written"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(argv, said, capsys):
    with pytest.raises(SystemExit) as ended:
        command.main(argv)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err
