"""TensorBoard logs of a search: hyperparameters, best score and curves of each configuration.

    hparams.write(found, search_dir / "tensorboard")    # then: tensorboard --logdir=…/tensorboard

The HParams tab shows one row per configuration, the Scalars tab its learning curves.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import tensorflow as tf
from tensorboard.plugins.hparams import api_pb2, summary, summary_v2

from tuner import statuses

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Iterable, Iterator, Mapping

    from tuner.reports.results import SearchResults, TrialResult
    from tuner.space import Dimension

_STATUS = {statuses.COMPLETED: api_pb2.STATUS_SUCCESS, statuses.FAILED: api_pb2.STATUS_FAILURE}


def write(results: SearchResults, folder: pathlib.Path) -> None:
    """Writes event files: the experiment's to the folder, each configuration's to a subfolder.

    They replace the event files of an earlier call. Times count from the start of the search. NaN
    and infinite values are left out.

    Args:
      results: The results so far.
      folder: Folder for the event files.
    """
    for old in folder.rglob("events.out.tfevents.*"):
        old.unlink()
    _write_experiment(results, folder)
    for trial in results.configurations:
        _write_configuration(results, trial, folder / trial.configuration)


def best_tag(results: SearchResults) -> str:
    """Returns the tag of the best score; the curve of the objective may end at a worse one."""
    return f"best_{results.objective}"


def _write_experiment(results: SearchResults, folder: pathlib.Path) -> None:
    config = summary_v2.hparams_config_pb(
        [summary_v2.HParam(d.name, _domain(d)) for d in results.dimensions],
        [summary_v2.Metric(best_tag(results)), summary_v2.Metric("epochs")],
        time_created_secs=0.0,
    )
    with _writer(folder):
        _write_raw(config)


def _domain(dimension: Dimension) -> summary_v2.Domain:
    if dimension.choices:
        return summary_v2.Discrete(list(dimension.choices))
    if dimension.kind == "int":
        return summary_v2.IntInterval(int(dimension.low), int(dimension.high))
    return summary_v2.RealInterval(float(dimension.low), float(dimension.high))


def _write_configuration(results: SearchResults, trial: TrialResult, folder: pathlib.Path) -> None:
    end = trial.ended_at or 0.0
    begin = summary_v2.hparams_pb(
        dict(trial.values), trial.configuration, start_time_secs=max(end - trial.seconds, 0.0)
    )
    with _writer(folder):
        _write_raw(begin)
        for key, epoch, value in _metrics(results, trial.configuration):
            tf.summary.scalar(key, value, step=epoch)
        if trial.has_score:
            tf.summary.scalar(best_tag(results), trial.score, step=trial.epochs)
            tf.summary.scalar("epochs", trial.epochs, step=trial.epochs)
        status = _STATUS.get(trial.status, api_pb2.STATUS_RUNNING)
        _write_raw(summary.session_end_pb(status, end))


def _metrics(results: SearchResults, configuration: str) -> Iterator[tuple[str, int, float]]:
    """Yields (metric, epoch, value) over all rungs of a configuration, each epoch once."""
    trials = [trial for trial in results.trials if trial.configuration == configuration]
    found: dict[tuple[str, int], float] = {}
    for trial in sorted(trials, key=lambda trial: (trial.epochs, trial.trial_id)):
        for key in _keys(trial.curve):
            found |= {(key, epoch): value for epoch, value in trial.points(key)}
    yield from ((key, epoch, found[key, epoch]) for key, epoch in sorted(found))


def _keys(curve: Iterable[Mapping[str, float]]) -> set[str]:
    return {key for row in curve for key in row} - {"epoch"}


@contextlib.contextmanager
def _writer(folder: pathlib.Path) -> Iterator[None]:
    """Creates an event file in the folder and directs summaries to it."""
    writer = tf.summary.create_file_writer(str(folder))
    with writer.as_default():
        yield
    writer.close()


def _write_raw(message: Any) -> None:
    tf.summary.experimental.write_raw_pb(message.SerializeToString(), step=0)
