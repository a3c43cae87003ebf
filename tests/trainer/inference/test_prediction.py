"""From files to rows: what is said of each, what is unreadable, and what a stop keeps."""

from __future__ import annotations

import json
import math
import os
import signal
import threading
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import pytest
import threadpoolctl

from cxr_tfds import images as images_lib
from tests.support import devices, radiographs
from tests.support.scans import folders
from trainer.errors import Stopped
from trainer.evaluation import calibration
from trainer.evaluation.shifts import novelty, shift
from trainer.inference import prediction, sources, worklist
from trainer.inference.prediction import RowBuilder
from trainer.inference.scoring import Scorer
from trainer.inference.worklist import Journal, WorklistRow
from trainer.models import classifier
from trainer.options import ModelOptions
from trainer.system import signals
from trainer.training.outputs import Outputs

if TYPE_CHECKING:
    from pathlib import Path

SIDE, BATCH = 32, 4
FACTS: dict[str, Any] = {
    "class_names": ["NORMAL", "PNEUMONIA"],
    "rule": "youden",
    "threshold": 0.5,
    "temperature": 2.0,
}


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(1)
    options = ModelOptions(backbone="small_cnn", weights="none", image_size=SIDE, neurons=8)
    network = classifier.build(options, (SIDE, SIDE, 1), 2)
    return classifier.with_checked_input(network)


@pytest.fixture(scope="module")
def scorer(model):
    return Scorer(model, devices.strategy_of(1), BATCH)


@pytest.fixture
def folder(tmp_path):
    """Ten images, and two files that are none."""
    place = folders.drawn(tmp_path / "scans", 10)
    (place / "3a.png").write_bytes(b"")
    (place / "7a.jpeg").write_bytes(radiographs.draw(1)[:500])
    return place


def journal_in(folder: Path) -> Journal:
    return Journal.open(folder / worklist.JOURNAL, "m", FACTS["class_names"])


def run(
    folder: Path, scorer, out: Path, builder: RowBuilder | None = None, **options: Any
) -> Journal:
    journal = journal_in(out)
    with sources.opened([str(folder)]) as found:
        builder = builder or RowBuilder(FACTS, None)
        prediction.predict(found.candidates, scorer, builder, journal, **options)
    return journal


def test_scores_are_the_models_of_the_decoded_pixels(folder, scorer, model, tmp_path):
    found = run(folder, scorer, tmp_path / "out").rows
    for seed in range(10):
        path = folder / f"{seed}.png"
        pixels = images_lib.decode(path.read_bytes(), SIDE)
        expected = model.predict(pixels[None, ..., None].astype(np.float32), verbose=0)
        row = found[str(path)]
        assert math.isclose(row.score, expected[0, 1], abs_tol=1e-6)
        scaled = calibration.scale(expected, 2.0)[0, 1]
        assert math.isclose(row.calibrated_probability, scaled, abs_tol=1e-6)
        assert row.predicted == FACTS["class_names"][int(row.score >= 0.5)]
        assert (row.height, row.width) == (40, 48)
        assert row.novelty is None
        assert row.flags == row.notes == ()


def test_files_that_cannot_be_read_stop_nothing(folder, scorer, tmp_path):
    found = run(folder, scorer, tmp_path / "out").rows
    assert len(found) == 12
    unread = [row for row in found.values() if not row.is_read]
    assert [os.path.basename(row.file) for row in unread] == ["3a.png", "7a.jpeg"]  # noqa: PTH119
    assert next(row.notes for row in unread) == ("The file is empty.",)
    assert {row.flags for row in unread} == {("unreadable",)}
    assert {(row.score, row.predicted, row.digest) for row in unread} == {(None, None, "")}


def test_only_unreadable_files_need_no_model(tmp_path):
    (tmp_path / "scans").mkdir()
    for number in range(40):
        (tmp_path / "scans" / f"{number}.png").write_bytes(b"no image")

    class Untouched:
        side, batch_size = SIDE, BATCH

    assert len(run(tmp_path / "scans", Untouched(), tmp_path / "out").rows) == 40


def assembled(probabilities, features=None, reference=None, **facts) -> list[WorklistRow]:
    """The rows of images with these outputs."""
    probabilities = np.asarray(probabilities, np.float32)
    radiograph = prediction.reading.Radiograph(np.zeros((SIDE, SIDE), np.uint8), 9, 9)
    candidates = [
        sources.ImageFile(f"{i}", "", None, {}, (), bytes) for i in range(len(probabilities))
    ]
    features = np.zeros((len(probabilities), 3), np.float32) if features is None else features
    builder = RowBuilder({**FACTS, **facts}, reference)
    return builder.rows([(of, radiograph) for of in candidates], Outputs(probabilities, features))


def test_the_positive_class_is_predicted_from_the_operating_point_on():
    table = [[0.7, 0.3], [0.69, 0.31], [0.71, 0.29]]
    found = assembled(table, threshold=float(np.float32(0.3)))
    assert [row.predicted for row in found] == ["PNEUMONIA", "PNEUMONIA", "NORMAL"]
    above = assembled([[0.0, 1.0]], threshold=1.5)
    assert [row.predicted for row in above] == ["NORMAL"]


def test_without_a_threshold_the_most_probable_class_is_predicted():
    found = assembled([[0.6, 0.4], [0.4, 0.6]], threshold=None)
    assert [row.predicted for row in found] == ["NORMAL", "PNEUMONIA"]


def test_without_a_temperature_nothing_is_calibrated():
    assert assembled([[0.6, 0.4]], temperature=None)[0].calibrated_probability is None


def test_of_three_classes_the_score_is_that_of_all_but_the_first():
    names = ["NORMAL", "BACTERIA", "VIRUS"]
    table = [[0.5, 0.2, 0.3], [0.2, 0.5, 0.3], [0.1, 0.2, 0.7]]
    found = assembled(table, class_names=names, threshold=None, temperature=1.0)
    assert [row.predicted for row in found] == names
    np.testing.assert_allclose([row.score for row in found], [0.5, 0.8, 0.9], atol=1e-6)
    np.testing.assert_allclose(
        [row.calibrated_probability for row in found], [0.5, 0.8, 0.9], atol=1e-6
    )


def test_a_softmax_that_exceeds_1_by_its_rounding_is_a_share():
    assert assembled([[0.0, 1.0000001]])[0].score == 1.0


def test_outputs_that_are_no_numbers_are_no_score():
    """A network in 16 bits can overflow. Without a number, a file must not look harmless."""
    good, bad = assembled([[0.6, 0.4], [math.nan, math.nan]])
    assert good.is_read
    assert (bad.status, bad.score, bad.predicted) == ("unreadable", None, None)
    assert bad.notes == ("The file gives no number: the model's outputs are not finite.",)


def test_images_unlike_the_validation_split_have_flags():
    rng = np.random.default_rng(0)
    features = rng.normal(3, 1, (100, 3)).astype(np.float32)
    layouts = rng.integers(0, 256, (100, 256), np.uint8)
    sample = shift.Sample(np.zeros(100), features, {}, np.arange(100).astype(str), layouts)
    reference = novelty.KnownImages.of(sample)
    (row,) = assembled([[0.6, 0.4]], -features[:1], reference)
    assert row.flags == ("unlike_training_data",)
    assert row.novelty == round(row.novelty, 4) > 1


def test_what_is_done_is_not_done_again(folder, scorer, tmp_path):
    first = run(folder, scorer, tmp_path / "out")
    size = (tmp_path / "out" / worklist.JOURNAL).stat().st_size

    class Untouched:
        side, batch_size = SIDE, BATCH

    assert run(folder, Untouched(), tmp_path / "out").rows == first.rows
    assert (tmp_path / "out" / worklist.JOURNAL).stat().st_size == size


def test_a_file_that_changed_is_scored_again(folder, scorer, tmp_path):
    before = run(folder, scorer, tmp_path / "out").rows
    (folder / "3a.png").write_bytes(radiographs.draw(77, format="PNG"))
    (folder / "4.png").write_bytes(radiographs.draw(88, format="PNG"))
    after = run(folder, scorer, tmp_path / "out").rows
    changed = {os.path.basename(name) for name in after if after[name] != before[name]}  # noqa: PTH119
    assert changed == {"3a.png", "4.png"}
    assert after[str(folder / "3a.png")].is_read
    assert journal_in(tmp_path / "out").rows == after


def test_the_batch_size_changes_no_row(folder, model, scorer, tmp_path):
    first = run(folder, scorer, tmp_path / "a").rows
    other = run(folder, Scorer(model, devices.strategy_of(1), 7), tmp_path / "b").rows
    for name, row in first.items():
        assert row.notes == other[name].notes
        assert row.digest == other[name].digest
        assert math.isclose(row.score or 0, other[name].score or 0, abs_tol=1e-6)


def test_what_is_done_is_kept_every_two_seconds(folder, scorer, tmp_path):
    sizes = []
    times = iter([0.0, 1.0, 2.5, 2.6, 9.9, 10.0, 10.1])

    def clock() -> float:
        sizes.append((tmp_path / "out" / worklist.JOURNAL).read_bytes().count(b"\n") - 1)
        return next(times)

    run(folder, scorer, tmp_path / "out", clock=clock)
    assert sizes[:3] == [0, 0, 0]  # At the start, after 1 s, and before what 2.5 s keep.
    assert 0 < sizes[-1] <= 12
    assert len(journal_in(tmp_path / "out").rows) == 12


def test_two_batches_are_in_work_at_a_time_also_on_one_cpu(folder, scorer, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    both = threading.Barrier(2, timeout=60)

    class Meeting:
        side, batch_size = SIDE, BATCH
        calls = 0

        def __call__(self, images):
            self.calls += 1
            if self.calls <= 2:
                both.wait()  # Of one at a time, the first would wait in vain.
            return scorer(images)

    found = run(folder, Meeting(), tmp_path / "out").rows
    assert found == run(folder, scorer, tmp_path / "single").rows


def test_no_threads_of_blas_spin_beside_the_model(folder, scorer, tmp_path):
    def threads() -> set[int]:
        libraries = threadpoolctl.threadpool_info()
        return {of["num_threads"] for of in libraries if of["user_api"] == "blas"}

    seen: set[int] = set()

    class Watching:
        side, batch_size = SIDE, BATCH

        def __call__(self, images):
            seen.update(threads())
            return scorer(images)

    with threadpoolctl.threadpool_limits(2, user_api="blas"):
        run(folder, Watching(), tmp_path / "out")
        assert seen == {1}
        assert threads() == {2}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_request_to_stop_keeps_what_is_done(folder, scorer, tmp_path, number):
    class Stopping:
        side, batch_size = SIDE, BATCH
        calls = 0

        def __call__(self, images):
            self.calls += 1
            if self.calls == 2:
                os.kill(os.getpid(), number)
            return scorer(images)

    with pytest.raises(Stopped), signals.watched():
        run(folder, Stopping(), tmp_path / "out")
    kept = journal_in(tmp_path / "out").rows
    assert BATCH <= len(kept) < 12
    whole = run(folder, scorer, tmp_path / "whole").rows
    assert run(folder, scorer, tmp_path / "out").rows == whole


def test_the_journal_says_nothing_of_pixels_or_patients(folder, scorer, tmp_path):
    run(folder, scorer, tmp_path / "out")
    lines = (tmp_path / "out" / worklist.JOURNAL).read_text().splitlines()
    assert {*json.loads(lines[1])} == {
        "file", "stamp", "status", "score", "calibrated_probability", "predicted", "flags", "notes",
        "novelty", "height", "width", "digest",
    }  # fmt: skip
