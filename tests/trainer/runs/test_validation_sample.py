"""What a run keeps of its validation split, and what is refused in its place."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest

from trainer.data import statistics
from trainer.errors import RunError
from trainer.evaluation.shifts import shift
from trainer.evaluation.shifts.novelty import KnownImages
from trainer.runs import validation_sample


@pytest.fixture
def sample():
    rng = np.random.default_rng(0)
    return shift.Sample(
        scores=rng.random(6),
        features=rng.random((6, 4), np.float32),
        statistics={name: rng.random(6) for name in statistics.NAMES},
        patient_id=np.array([f"person{i // 2}" for i in range(6)]),
    )


def test_a_sample_is_read_as_it_was_written(sample, tmp_path):
    validation_sample.save(tmp_path, sample)
    found = validation_sample.load(tmp_path)
    for name in ("scores", "features", "patient_id"):
        assert np.array_equal(getattr(found, name), getattr(sample, name))
    assert found.statistics.keys() == sample.statistics.keys()
    assert np.array_equal(found.statistics["level"], sample.statistics["level"])


def test_a_run_of_an_earlier_version_has_none(tmp_path):
    assert validation_sample.load(tmp_path) is None


def _objects(path):
    with path.open("wb") as file:
        np.savez(file, scores=np.array([{}], object), features=np.zeros((1, 1)), patient_id=["a"])


def _bomb(path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as zipped:
        zipped.writestr("scores.npy", bytes(10_000_000))


def _of_other_shape(path):
    with path.open("wb") as file:
        np.savez(file, scores=np.zeros((2, 2)), features=np.zeros((2, 1)), patient_id=["a", "b"])


def _of_other_length(path):
    with path.open("wb") as file:
        np.savez(file, scores=np.zeros(3), features=np.zeros((2, 1)), patient_id=["a", "b"])


def _with_another_statistic(path):
    columns = {f"statistic_{name}": np.zeros(2) for name in (*statistics.NAMES, "foo")}
    with path.open("wb") as file:
        np.savez(
            file, scores=np.zeros(2), features=np.zeros((2, 1)), patient_id=["a", "b"], **columns
        )


def _with_header(header):
    def write(path):
        prelude = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little")
        with zipfile.ZipFile(path, "w") as zipped:
            zipped.writestr("scores.npy", prelude + header)
            for name in ("features.npy", "patient_id.npy"):
                zipped.writestr(name, b"")

    return write


def _encrypted(path):
    whole = io.BytesIO()
    np.savez(whole, scores=np.zeros(2), features=np.zeros((2, 1)), patient_id=["a", "b"])
    content = bytearray(whole.getvalue())
    for start in (content.find(b"PK\x03\x04") + 6, content.find(b"PK\x01\x02") + 8):
        content[start] |= 1
    path.write_bytes(content)


def _without_features(path):
    with path.open("wb") as file:
        np.savez(file, scores=np.zeros(2), patient_id=["a", "b"])


def _cut_off(path):
    whole = io.BytesIO()
    np.savez(whole, scores=np.zeros(2), features=np.zeros((2, 1)), patient_id=["a", "b"])
    path.write_bytes(whole.getvalue()[:-40])


FORGERIES = {
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("scores"),
    "a folder": lambda path: path.mkdir(),
    "objects": _objects,
    "a bomb": _bomb,
    "another shape": _of_other_shape,
    "another length": _of_other_length,
    "no features": _without_features,
    "cut off": _cut_off,
    "another statistic": _with_another_statistic,
    "encrypted": _encrypted,
    "an open brace": _with_header(b"{"),
    "a huge shape": _with_header(
        b"{'descr': '<f8', 'fortran_order': False, 'shape': (%d,)}\n" % 2**70
    ),
    "keys of two types": _with_header(b"{1: 2, 'descr': '<f8'}\n"),
}


@pytest.mark.parametrize("kind", FORGERIES)
def test_another_file_is_refused_in_one_line_with_the_way_out(kind, tmp_path):
    FORGERIES[kind](tmp_path / validation_sample.FILE)
    with pytest.raises(RunError) as caught:
        validation_sample.load(tmp_path)
    message = str(caught.value)
    assert validation_sample.FILE in message
    assert "restore it from a copy" in message
    assert "\n" not in message


def test_a_sample_of_another_model_than_the_one_beside_it_is_refused(sample, tmp_path):
    (tmp_path / "best.keras").write_bytes(b"the model")
    validation_sample.save(tmp_path, sample)
    assert validation_sample.load(tmp_path) is not None
    (tmp_path / "best.keras").write_bytes(b"the model of more epochs")
    with pytest.raises(RunError, match=r"it is of another model than the best\.keras beside it"):
        validation_sample.load(tmp_path)


def _large(count: int) -> shift.Sample:
    rng = np.random.default_rng(0)
    return shift.Sample(
        scores=rng.random(count),
        features=rng.random((count, 4), np.float32),
        statistics={name: rng.random(count) for name in statistics.NAMES},
        patient_id=np.arange(count).astype(str),
        layouts=rng.integers(0, 256, (count, 256)).astype(np.uint8),
    )


def test_the_thresholds_of_unlike_images_are_kept(tmp_path):
    validation_sample.save(tmp_path, _large(80))
    known, measured = validation_sample.load_known_images(tmp_path), KnownImages.of(_large(80))
    assert known.feature_threshold == measured.feature_threshold
    assert known.layout_threshold == measured.layout_threshold
    np.testing.assert_array_equal(known.layouts, measured.layouts)


@pytest.mark.parametrize("count", [0, 40])
def test_too_few_images_have_no_thresholds(tmp_path, count):
    if count:
        validation_sample.save(tmp_path, _large(count))
    assert validation_sample.load_known_images(tmp_path) is None
