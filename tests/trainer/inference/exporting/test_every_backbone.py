"""Every backbone of the registry converts to every format and runs there."""

from __future__ import annotations

import numpy as np
import pytest

from tests.support import radiographs
from trainer import backbones
from trainer.inference.exporting import exports, formats

SIZE = 96
SLOWEST = "inception_resnet_v2"
"""It takes as long as all others together; `-m long` has it."""


def _case(name):
    return pytest.param(name, marks=pytest.mark.long if name == SLOWEST else pytest.mark.slow)


@pytest.mark.parametrize("backbone", [_case(name) for name in backbones.REGISTRY])
def test_a_backbone_computes_the_same_in_every_format(build, backbone, tmp_path):
    """Random weights: in 8 bits, labels may differ, and that is the only thing that may."""
    model = build(backbone=backbone, image_size=SIZE)
    images = radiographs.noise(4, SIZE)
    probabilities = model(images.astype(np.float32)).numpy()[:, 1]
    facts = {"class_names": ["a", "b"], "threshold": float(probabilities.min()) - 0.1}
    table = exports.export(model, facts, images, None, list(formats.REGISTRY), tmp_path)
    assert not table.failed, table.to_text()
