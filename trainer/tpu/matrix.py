"""Updates the table in docs/tpu.md: what the paper's backbones need on several TPU slices.

Each row is one check of `tpu.check` and takes minutes, so the file is written after each row. Rows
that are not compiled again stay as they are.

    python -m trainer.tpu.matrix docs/tpu.md                    # every row
    python -m trainer.tpu.matrix docs/tpu.md vgg16 v6e:1x1      # only the rows with all these words
"""

from __future__ import annotations

import pathlib
import sys

if __name__ == "__main__" and not pathlib.Path("".join(sys.argv[1:2])).is_file():
    # Said before TensorFlow is imported.
    raise SystemExit("this module takes the page that has the table: docs/tpu.md, and words")

from typing import TYPE_CHECKING

import keras

from trainer import config as config_lib
from trainer import topologies
from trainer.storage import files
from trainer.system import console
from trainer.tpu import check

if TYPE_CHECKING:
    from collections.abc import Sequence

# The data set config whose images have the size of the backbone's input: no resizing in the step.
BACKBONES = {"vgg16": "grouped", "mobilenet_v2": "grouped", "inception_resnet_v2": "grouped_299"}
TOPOLOGIES = ("v5e:1x1", "v5e:2x4", "v6e:1x1")
REPLICA_BATCH_SIZE = 32
_COLUMNS = (
    "backbone", "px", "topology", "batch", "GiB of HBM a chip", "GFLOP a chip, compiled",
    "counted", "FLOP a byte", "all-reduces", "compile CPU s", "largest batch",
)  # fmt: skip
_HEADER = f"| {' | '.join(_COLUMNS)} |"
_RULE = "|---" * len(_COLUMNS) + "|"


def main(arguments: Sequence[str]) -> None:
    """Compiles rows and writes them into a file; arguments: the file, then words to select rows."""
    path, words = pathlib.Path(arguments[0]), set(arguments[1:])
    if _HEADER not in path.read_text("utf-8"):
        sys.exit(f"{path} has no table of this kind; give a page with it, such as docs/tpu.md.")
    for backbone, dataset in BACKBONES.items():
        for topology in TOPOLOGIES:
            if words <= {backbone, topology}:
                row = _row(backbone, dataset, topology)
                page = insert(path.read_text("utf-8"), row)
                with files.replacing(path) as partial:
                    partial.write_text(page, "utf-8")
                console.say(row)
                keras.backend.clear_session()


def _row(backbone: str, dataset: str, name: str) -> str:
    topology = topologies.parse(name)
    batch_size = REPLICA_BATCH_SIZE * topology.chips
    options = {"backbone": backbone, "dataset": dataset, "tpu_topology": name}
    config = config_lib.Config.from_flat({**options, "batch_size": batch_size})
    found = check.check(config)
    program, hbm_bytes = found.program, topology.chip.hbm_bytes
    cells = (
        backbone,
        config.model.backbone_image_size,
        name,
        f"{batch_size:,}",
        f"{program.memory_bytes / check.GIB:.3f} of {hbm_bytes / check.GIB:.2f}",
        f"{program.flops / 1e9:,.1f}",
        f"{found.analytic_flops / 1e9:,.1f}",
        f"{program.flops / program.moved_bytes:.0f}",
        program.all_reduces,
        f"{program.compile_s:.0f}",
        f"{found.largest_batch_size:,}",
    )
    return f"| {' | '.join(map(str, cells))} |"


def insert(text: str, row: str) -> str:
    """Returns the page with `row` in its table; a row of the same backbone and chips is replaced.

    Args:
      text: a page that contains the table's header.
      row: a line of the table.
    """
    before, _, rest = text.partition(f"{_HEADER}\n{_RULE}\n")
    lines = rest.splitlines()
    rows = {_key(line): line for line in lines if line.startswith("|")} | {_key(row): row}
    after = [line for line in lines if not line.startswith("|")]
    order = [(backbone, topology) for backbone in BACKBONES for topology in TOPOLOGIES]
    table = [_HEADER, _RULE, *(rows[key] for key in order if key in rows)]
    return before + "\n".join([*table, *after]) + "\n"


def _key(row: str) -> tuple[str, str]:
    cells = [cell.strip() for cell in row.split("|")]
    return cells[1], cells[3]


if __name__ == "__main__":
    main(sys.argv[1:])
