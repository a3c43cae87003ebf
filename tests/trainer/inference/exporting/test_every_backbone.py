"""Every backbone of the registry converts to every format and runs there."""

from __future__ import annotations

import pytest

from tests.support import radiographs
from trainer import backbones
from trainer.inference.exporting import exports, formats

SIZE = 96
SAMPLE = ("convnext_tiny",)
"""It has what small networks lack: layer norm, GELU, grouped convolutions. The rest
takes minutes each on two busy cores, and is marked `long`."""


def _case(name):
    return pytest.param(name, marks=pytest.mark.slow if name in SAMPLE else pytest.mark.long)


@pytest.mark.parametrize("backbone", [_case(name) for name in backbones.REGISTRY])
def test_a_backbone_computes_the_same_in_every_format(build, backbone, tmp_path, capfd):
    """Of random weights. All images are positive, so that 8 bits change no label."""
    model = build(backbone=backbone, image_size=SIZE)
    images = radiographs.noise(4, SIZE)
    facts = {"class_names": ["a", "b"], "threshold": 0.0}
    table = exports.export(model, facts, images, None, list(formats.REGISTRY), tmp_path)
    assert not table.failed, table.to_text()
    assert capfd.readouterr().err == ""
