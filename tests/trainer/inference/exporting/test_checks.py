"""What can be said of a loss of accuracy, by how many images there are."""

from __future__ import annotations

import dataclasses

import pytest

from trainer.inference.exporting import checks, formats
from trainer.inference.exporting.results import ExportedFormat

ROW = ExportedFormat(
    formats.REGISTRY["litert_int8"], "", 40, 1.0, equal_labels=40, accuracy=(0.9, 0.9), lost=0
)


@pytest.mark.parametrize(
    ("images", "lost", "points"),
    [(40, 0, "7.2"), (40, 1, "11.3"), (199, 0, "1.5"), (1, 0, "95.0"), (1, 1, "100.0")],
)
def test_few_images_do_not_exclude_a_loss(images, lost, points):
    """Of no losses, the bound is 1 - 0.05 ** (1 / images), worked out by hand."""
    row = dataclasses.replace(ROW, images=images, lost=lost)
    said = checks.doubt_note(row)
    assert said.startswith(f"litert_int8: on {images} images, a loss of up to {points} points")


def test_without_labels_only_agreement_is_known():
    row = dataclasses.replace(ROW, images=400, equal_labels=400, accuracy=None, lost=None)
    said = checks.doubt_note(row)
    assert "labels are unknown, and so is the loss of accuracy" in said
    assert "400 of 400 images have the label that Keras gives" in said
    assert "up to 0.7 % of such images" in said


@pytest.mark.parametrize(
    "changed",
    [{"images": 200}, {"problem": "it failed."}, {"format": formats.REGISTRY["onnx"]}],
)
def test_what_needs_no_doubt_has_none(changed):
    assert checks.doubt_note(dataclasses.replace(ROW, **changed)) == ""
