"""The HTML page of a run while it trains: `report.html` exists from the first epoch on.

log = MetricsLog(run_dir / "metrics.jsonl")
live = LivePage(run_dir / "report.html", log.state, epochs=30, run={"command": ..., "config": ...})
driver.fit(..., callbacks=[log, live, ...])
live.say("evaluating")
with closed_at_failure(live):
    ...                                  # "stopped" or "failed", if it does not end well
"""

from __future__ import annotations

import contextlib
import datetime
import time
from typing import TYPE_CHECKING, Any

import keras

from trainer.errors import RunError, Stopped
from trainer.evaluation import history
from trainer.reports.pages import page

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Callable, Iterator, Mapping, Sequence

MAX_SHARE = 0.05
"""Of the time that writing may take."""


class LivePage(keras.callbacks.Callback):
    """Writes the page at the end of an epoch, but rests long enough to take at most MAX_SHARE.

    It must stand behind the log, whose rows it shows.
    """

    def __init__(
        self,
        path: pathlib.Path,
        rows: Callable[[], Sequence[Mapping[str, float | None]]],
        *,
        epochs: int,
        run: Mapping[str, Any],
        monitor: str = "val_loss",
        evaluated_epochs: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Starts before the first epoch.

        Args:
          path: the HTML file.
          rows: returns the log's rows, one per epoch: `MetricsLog.state`.
          epochs: upper limit.
          run: `command` and `config`, as in report.json, and other facts to show.
          monitor: the metric that decides the best epoch.
          evaluated_epochs: the page is already that of an evaluation after so many epochs: it stays
            until there are more, or another evaluation replaces it.
          clock: returns seconds.
        """
        super().__init__()
        self._path, self._rows, self._epochs = path, rows, epochs
        self._run, self._monitor, self._clock = run, monitor, clock
        self._evaluated_epochs = evaluated_epochs
        self._not_before = -float("inf")

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        """Writes the page with the epochs before the process was interrupted, if there are any."""
        del logs
        self._write_if_due()

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Writes the page, unless the last one was written just now."""
        del epoch, logs
        self._write_if_due()

    def say(self, status: str) -> None:
        """Writes the page of a run that has more to do: it loads itself again.

        Args:
          status: a word or two for the reader, such as "evaluating".
        """
        self._write(status, refresh_s=page.REFRESH_S)

    def close(self, status: str) -> None:
        """Writes the page a last time: it no longer loads itself again.

        Args:
          status: a word or two for the reader, such as "stopped".
        """
        if self._path.parent.exists():  # Writing would create a folder anew that was deleted.
            self._write(status, refresh_s=None)

    def _write_if_due(self) -> None:
        begun = self._clock()
        if begun < self._not_before:
            return
        self._write("training", refresh_s=page.REFRESH_S)
        ended = self._clock()
        self._not_before = ended + (ended - begun) * (1 / MAX_SHARE - 1)

    def _write(self, status: str, *, refresh_s: int | None) -> None:
        rows = self._rows()
        if len(rows) == self._evaluated_epochs:
            return
        names = [name for name in rows[0] if name != "epoch"] if rows else []
        history = {name: [_number(row.get(name)) for row in rows] for name in names}
        live = page.Live(
            history=history,
            epochs=self._epochs,
            run=self._run,
            left_s=self._left_s(history.get("epoch_s", ())),
            monitor=self._monitor,
            refresh_s=refresh_s,
            status=status,
            written=datetime.datetime.now().astimezone().strftime("%Y-%m-%d at %H:%M:%S"),
        )
        page.write_live(self._path, live)

    def _left_s(self, epoch_s: Sequence[float]) -> float | None:
        """Returns the time until the upper limit; None where no epoch tells.

        The head alone trains much faster than what follows, so the last epochs tell.
        """
        left = self._epochs - len(epoch_s)
        known = list(epoch_s[self._head_epochs() :])
        if not known or left <= 0:
            return None
        return left * sum(known) / len(known)

    def _head_epochs(self) -> int:
        return history.joins_after(self._run.get("config") or {}) or 0


@contextlib.contextmanager
def closed_at_failure(*pages: LivePage) -> Iterator[None]:
    """Says on pages that their run was stopped or has failed; they no longer load again."""
    try:
        yield
    except BaseException as error:
        # What can't be written must not hide what happened: the disk may be full.
        with contextlib.suppress(OSError, RunError):
            for live in pages:
                live.close("stopped" if isinstance(error, Stopped) else "failed")
        raise


def _number(value: float | None) -> float:
    return float("nan") if value is None else value
