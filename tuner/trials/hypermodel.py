"""The trainer as a KerasTuner hypermodel: `build` builds a trial's network, `fit` trains it.

model = FineTuning(workspace, space, "val_auc").build(hp)
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import keras_tuner

from trainer.system import console
from tuner.trials import tasks

if TYPE_CHECKING:
    import pathlib

    import keras

    from trainer.config import Config
    from trainer.training import setups
    from tuner.space import Space


class FineTuning(keras_tuner.HyperModel):
    """Builds and trains configurations of a space, one at a time."""

    def __init__(self, workspace: tasks.Workspace, space: Space, objective: str) -> None:
        """Creates the hypermodel of a search.

        Args:
          workspace: devices, data, and the options that are not searched.
          space: the search space.
          objective: "val_auc" or "val_loss"; it also selects the best epoch.
        """
        super().__init__()
        logging.getLogger("tensorflow").addFilter(_is_no_retracing)
        self.workspace, self._space, self._objective = workspace, space, objective
        self._setup: setups.TrainingSetup | None = None

    def config_of(self, hp: keras_tuner.HyperParameters) -> Config:
        """Returns the trainer's config for hyperparameter values."""
        values = self._space.canonical(hp.values)
        return tasks.config_of(self.workspace.base, values, self._objective)

    def build(self, hp: keras_tuner.HyperParameters) -> keras.Model:
        """Builds the model to train: the whole network, or its suffix after cached features."""
        self._setup = None  # Frees the last model: two may not fit into memory.
        with console.muted():
            self._setup = self.workspace.build(self.config_of(hp))
        return self._setup.feed.model

    def fit(
        self,
        hp: keras_tuner.HyperParameters,
        model: keras.Model,
        *,
        folder: pathlib.Path,
        epochs: int,
    ) -> tasks.TrainedTrial:
        """Trains the model that `build` has just built; resumes from a checkpoint in `folder`.

        Args:
          hp: the configuration.
          model: the return value of `build`.
          folder: of the configuration.
          epochs: last epoch to train, counted from the start of the configuration.

        Returns:
          A row of metrics per epoch, from the first, and what the guard says.
        """
        if self._setup is None or model is not self._setup.feed.model:
            raise ValueError("fit needs the model that the last call of build returned.")
        task = tasks.Task(self.config_of(hp), folder, epochs)
        with console.muted():
            return tasks.train(task, self.workspace, self._setup)


def _is_no_retracing(record: logging.LogRecord) -> bool:
    """Drops TensorFlow's advice against tracing a step again: each trial has a step of its own."""
    return "tf.function retracing" not in record.getMessage()
