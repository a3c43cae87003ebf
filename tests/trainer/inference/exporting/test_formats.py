from __future__ import annotations

import sys

import pytest

from trainer import options
from trainer.errors import ConfigError
from trainer.inference.exporting import formats


def test_the_option_names_every_format():
    assert tuple(formats.REGISTRY) == options.EXPORT_FORMATS


def test_a_list_of_formats_is_read():
    assert options.InferenceOptions(format="onnx, litert").formats == ("onnx", "litert")


@pytest.mark.parametrize("given", ["", " , ", "h5", "onnx,tflite", "ONNX"])
def test_other_names_are_refused_with_those_there_are(given):
    with pytest.raises(ConfigError, match="must be one of savedmodel, litert, litert_int8, onnx"):
        options.InferenceOptions(format=given)


def test_a_format_that_is_named_twice_is_refused():
    with pytest.raises(ConfigError, match=r"format names onnx twice\."):
        options.InferenceOptions(format="onnx,litert,onnx")


def test_every_missing_extra_is_in_one_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "tf2onnx", None)
    monkeypatch.setitem(sys.modules, "ai_edge_litert", None)
    with pytest.raises(ConfigError, match=r'tf2onnx, which are .*pip install "\.\[litert,onnx\]"'):
        formats.require_installed(("savedmodel", "litert_int8", "onnx"))


def test_a_saved_model_needs_no_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    formats.require_installed(("savedmodel",))
