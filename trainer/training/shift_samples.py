"""What is compared of the splits of a data set: outputs, features and statistics of their images.

validation = shift_samples.take(reader.predict("validation"), data, "validation")
found = shift.measure(train, validation, test)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from trainer.data import statistics
from trainer.evaluation.shifts import shift
from trainer.training import feeds

if TYPE_CHECKING:
    from trainer.data.pipeline import Data
    from trainer.training.outputs import Outputs

UNCACHED_ROWS = 200
"""Of the training split, where each image costs a pass through the whole network."""


def take(found: Outputs, data: Data, split: str, rows: np.ndarray | None = None) -> shift.Sample:
    """Returns what is compared of a split; of a large one, of evenly spaced examples.

    Args:
      found: outputs and features of the examples.
      data: the data set.
      split: train, validation or test.
      rows: the examples that `found` is of, [M]; None: the whole split.
    """
    if rows is None:
        rows = np.arange(len(found.probabilities))
    kept = statistics.sample(len(rows), shift.MAX_ROWS)
    measured = statistics.compute(data, split, rows[kept])
    return shift.Sample(
        shift.scores_of(found.probabilities)[kept],
        found.features[kept],
        measured.values,
        data.table(split).patient_id[rows[kept]],
        measured.layouts,
    )


def rows_of_training(feed: feeds.Feed, data: Data) -> np.ndarray:
    """Returns the training examples that are compared with the other splits, [M] int64."""
    is_cached = isinstance(feed, feeds.FeatureFeed) and feed.views("train") == (None,)
    limit = statistics.MAX_ROWS if is_cached else UNCACHED_ROWS
    return statistics.sample(data.num_examples("train"), limit)
