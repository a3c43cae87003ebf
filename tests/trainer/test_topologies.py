from __future__ import annotations

import pytest

from trainer import topologies
from trainer.errors import ConfigError


@pytest.mark.parametrize(
    ("name", "chips", "host_grid"),
    [
        ("v5e:1x1", 1, (1, 1, 1)),
        ("v5e:2x4", 8, (2, 2, 1)),
        ("v6e:1x1", 1, (1, 1, 1)),
        ("v6e:16x16", 256, (2, 2, 1)),
        ("v5p:2x2x4", 16, (2, 2, 1)),
    ],
)
def test_a_name_determines_chips_and_hosts(name, chips, host_grid):
    topology = topologies.parse(name)
    assert topology.chips == chips
    assert topology.host_grid == host_grid


@pytest.mark.parametrize("name", ["", "v5e", "v5e:", "v5e:8", "v9:2x2", "v5e:2x", "2x2"])
def test_an_unreadable_name_is_refused_with_an_example(name):
    with pytest.raises(ConfigError, match=r"must be a chip \(v5e, v5p, v6e\) and a grid, for ex"):
        topologies.parse(name)


@pytest.mark.parametrize(
    ("name", "dimensions"), [("v5e:3x3", 2), ("v5e:2x2x2", 2), ("v5p:2x2", 3), ("v6e:0x0", 2)]
)
def test_a_grid_that_chips_do_not_form_is_refused(name, dimensions):
    with pytest.raises(ConfigError, match=f"a grid of {dimensions} powers of 2, such as v"):
        topologies.parse(name)
