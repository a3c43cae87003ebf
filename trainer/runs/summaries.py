"""An evaluation as TensorBoard events: figures, PR curve, confusion matrix.

    summaries.write(evaluation, run_dir / "tensorboard" / "test")

Keras's callback has written the curves of training beside them.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf
from tensorboard.plugins.pr_curve import metadata

from trainer.evaluation import metrics
from trainer.reports import plots

if TYPE_CHECKING:
    import pathlib

    from trainer.evaluation.predictions import Predictions
    from trainer.runs.evaluated import Evaluation

_THRESHOLDS = 201


def write(evaluation: Evaluation, folder: pathlib.Path) -> None:
    """Writes event files into a folder, in place of those of an earlier call.

    NaN and undefined figures are left out.

    Args:
      evaluation: what to write.
      folder: for the event files; TensorBoard shows its name as the name of the run.
    """
    for old in folder.glob("events.out.tfevents.*"):
        old.unlink()
    table, found = evaluation.predictions, evaluation.report
    step = max(map(len, found.history.values()), default=0)
    writer = tf.summary.create_file_writer(str(folder))
    with writer.as_default(step=step):
        _write_figures(evaluation)
        if len(table.class_names) == 2 and np.isfinite(table.probabilities).all():
            _write_pr_curve(table)
        _write_picture("confusion_matrix", plots.to_png(plots.draw_confusion_matrix(found.scores)))
    writer.close()


def _write_figures(evaluation: Evaluation) -> None:
    scores, point = vars(evaluation.metrics), evaluation.assessment.point
    values = {name: scores[name] for name in metrics.NAMES}
    if point is not None:
        values |= {f"operating_point/{name}": of for name, of in point.figures.items()}
        values["operating_point/threshold"] = point.chosen.threshold
    for name, value in values.items():
        if value is not None and math.isfinite(value):
            tf.summary.scalar(name, value)


def _write_pr_curve(table: Predictions) -> None:
    """Writes the data of TensorBoard's PR curve tab: a row for each count and rate."""
    thresholds = np.linspace(0, 1, _THRESHOLDS)
    score = table.probabilities[:, 1]
    positives, negatives = (np.sort(score[table.label == side]) for side in (1, 0))
    hits = len(positives) - np.searchsorted(positives, thresholds)
    alarms = len(negatives) - np.searchsorted(negatives, thresholds)
    called = np.maximum(hits + alarms, 1)
    rows = [
        hits,
        alarms,
        len(negatives) - alarms,
        len(positives) - hits,
        np.where(hits + alarms > 0, hits / called, 1.0),
        hits / max(len(positives), 1),
    ]
    about = metadata.create_summary_metadata("PR curve", "", _THRESHOLDS)
    tf.summary.write("pr_curve", np.array(rows, np.float32), metadata=about)


def _write_picture(name: str, png: bytes) -> None:
    tf.summary.image(name, tf.io.decode_png(png, channels=3)[tf.newaxis])
