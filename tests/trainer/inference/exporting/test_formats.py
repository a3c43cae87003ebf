from __future__ import annotations

import sys

import pytest

from trainer.errors import ConfigError
from trainer.inference.exporting import formats


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("savedmodel", ("savedmodel",)),
        ("onnx, litert", ("onnx", "litert")),
        ("litert,onnx,litert,", ("litert", "onnx")),
    ],
)
def test_a_list_of_formats_is_read(given, expected):
    assert formats.parse(given) == expected


@pytest.mark.parametrize("given", ["", " , ", "h5", "onnx,tflite", "ONNX"])
def test_other_names_are_refused_with_those_there_are(given):
    with pytest.raises(ConfigError, match=r"must be a list.*savedmodel, litert, litert_int8, onnx"):
        formats.parse(given)


def test_every_missing_extra_is_in_one_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "tf2onnx", None)
    monkeypatch.setitem(sys.modules, "ai_edge_litert", None)
    with pytest.raises(ConfigError, match=r'tf2onnx, which are .*pip install "\.\[litert,onnx\]"'):
        formats.require_installed(("savedmodel", "litert_int8", "onnx"))


def test_a_saved_model_needs_no_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    formats.require_installed(("savedmodel",))
