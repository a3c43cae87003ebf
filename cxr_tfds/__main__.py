"""Draws phantom radiographs as files, for whoever tries a model and has no images.

python -m cxr_tfds draw inbox --count=24
"""

from __future__ import annotations

import argparse
import pathlib
import sys
from typing import TYPE_CHECKING

from PIL import Image

from cxr_tfds import phantoms

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command, and returns its exit code."""
    count = len(phantoms.records())
    parser = argparse.ArgumentParser(prog="python -m cxr_tfds")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    draw_parser = commands.add_parser("draw", help="draw phantom radiographs as PNG files")
    draw_parser.add_argument("folder", type=pathlib.Path, help="where to; it is made if need be")
    draw_parser.add_argument("--count", type=int, default=24, help=f"1 to {count}; default: 24")
    given = parser.parse_args(argv)
    if not 1 <= given.count <= count:
        parser.error(f"--count ({given.count}) must be 1 to {count}.")
    try:
        draw(given.folder, given.count)
    except OSError as error:
        parser.error(f"{given.folder} can't be written: {error.strerror}.")
    return 0


def draw(folder: pathlib.Path, count: int) -> None:
    """Draws `count` phantoms, evenly spaced among all, named as the data set names them."""
    folder.mkdir(parents=True, exist_ok=True)
    known = phantoms.records()
    for i in range(count):
        record = known[i * len(known) // count]
        path = folder / pathlib.PurePosixPath(record.key).with_suffix(".png").name
        Image.fromarray(phantoms.render(record)).save(path)


if __name__ == "__main__":
    sys.exit(main())
