"""The page of a run that trains: when it is written, and what it costs."""

from __future__ import annotations

import datetime
import itertools

import pytest

from trainer.errors import RunError, Stopped
from trainer.training.logs import live_page

RUN = {"command": "python -m trainer", "config": {"head_epochs": 2, "layers_to_unfreeze": "4"}}


def row(epoch, epoch_s=8.0):
    return {"epoch": epoch, "loss": 0.5 / epoch, "val_loss": None, "epoch_s": epoch_s}


class Clock:
    """Seconds that pass with each look, and when the test says so."""

    def __init__(self, step_s):
        self.now_s, self.step_s = 100.0, step_s

    def __call__(self):
        self.now_s += self.step_s
        return self.now_s


@pytest.fixture
def path(tmp_path):
    return tmp_path / "report.html"


def test_the_page_is_there_before_the_first_epoch(path):
    live_page.LivePage(path, list, epochs=3, run=RUN).on_train_begin()
    assert "No epoch has ended yet." in path.read_text("utf-8")


def test_writing_takes_at_most_a_twentieth_of_the_time(path):
    clock = Clock(step_s=0.25)  # A write takes two looks at the clock.
    live = live_page.LivePage(path, list, epochs=900, run=RUN, clock=clock)
    live.on_train_begin()
    begun_s, writes = clock.now_s, 0
    for epoch in range(100):
        path.unlink(missing_ok=True)
        clock.now_s += 0.5
        live.on_epoch_end(epoch)
        writes += path.exists()
    assert writes > 5
    assert writes * 0.25 <= 0.05 * (clock.now_s - begun_s)


def test_a_slow_run_writes_each_epoch(path):
    clock, rows = Clock(step_s=0.25), []
    live = live_page.LivePage(path, lambda: rows, epochs=5, run=RUN, clock=clock)
    for epoch in range(3):
        rows.append(row(epoch + 1))
        clock.now_s += 60
        live.on_epoch_end(epoch)
        assert f"epoch {epoch + 1} of at most 5" in path.read_text("utf-8")


def test_epochs_of_the_head_alone_tell_nothing_of_the_time_left(path):
    rows = [row(1, 0.5), row(2, 0.5)]
    live = live_page.LivePage(path, lambda: rows, epochs=5, run=RUN)
    live.close("training")
    assert "left" not in path.read_text("utf-8").partition("<main>")[2].partition("<svg")[0]
    rows.append(row(3, 60.0))
    live.close("training")
    assert "at most 2 min 00 s left" in path.read_text("utf-8")


def test_a_closed_page_does_not_load_itself_again(path):
    live = live_page.LivePage(path, lambda: [row(1)], epochs=5, run=RUN)
    live.on_train_begin()
    assert 'http-equiv="refresh"' in path.read_text("utf-8")
    live.close("stopped")
    text = path.read_text("utf-8")
    assert 'http-equiv="refresh"' not in text
    assert "<strong>Stopped</strong>" in text


def test_a_run_that_evaluates_keeps_loading_its_page(path):
    live_page.LivePage(path, lambda: [row(1)], epochs=5, run=RUN).say("evaluating")
    text = path.read_text("utf-8")
    assert 'http-equiv="refresh"' in text
    assert "<strong>Evaluating</strong>" in text


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (Stopped("SIGTERM", 143), "Stopped"),
        (RunError("diverged"), "Failed"),
        (ValueError("odd"), "Failed"),
        (KeyboardInterrupt(), "Failed"),
    ],
)
def test_whatever_ends_a_run_ends_its_page(path, error, status):
    live = live_page.LivePage(path, lambda: [row(1)], epochs=5, run=RUN)
    live.say("evaluating")
    with pytest.raises(type(error)), live_page.closed_at_failure(live):
        raise error
    text = path.read_text("utf-8")
    assert 'http-equiv="refresh"' not in text
    assert f"<strong>{status}</strong>" in text


def test_a_page_that_can_not_be_written_hides_no_error(tmp_path):
    (tmp_path / "report.html").mkdir()
    live = live_page.LivePage(tmp_path / "report.html", list, epochs=5, run=RUN)
    with pytest.raises(ValueError, match="odd"), live_page.closed_at_failure(live):
        raise ValueError("odd")


def test_a_run_whose_folder_was_deleted_gets_no_page(tmp_path):
    live = live_page.LivePage(tmp_path / "gone" / "report.html", list, epochs=5, run=RUN)
    live.close("failed")
    assert not (tmp_path / "gone").exists()


def test_a_resumed_run_shows_the_epochs_before(path):
    rows = list(itertools.starmap(row, [(1,), (2,), (3,)]))
    live_page.LivePage(path, lambda: rows, epochs=5, run=RUN).on_train_begin()
    assert "epoch 3 of at most 5" in path.read_text("utf-8")


def test_the_page_says_when_it_was_written(path):
    live_page.LivePage(path, list, epochs=3, run=RUN).say("evaluating")
    assert f"Written on {datetime.datetime.now():%Y-%m-%d at }" in path.read_text("utf-8")


def test_the_page_of_an_evaluation_stays_until_another_epoch_is_trained(path):
    path.write_text("the report")
    rows = [row(1)]
    live = live_page.LivePage(path, lambda: rows, epochs=3, run=RUN, evaluated_epochs=1)
    live.on_train_begin()
    live.say("evaluating")
    live.close("failed")
    assert path.read_text() == "the report"
    rows.append(row(2))
    live.say("evaluating")
    assert "epoch 2 of at most 3" in path.read_text("utf-8")
