"""The trainer as a KerasTuner hypermodel: `build` makes a trial's network, `fit` trains it.

model = FineTuning(workspace, space, "val_auc").build(hp)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras_tuner

from trainer.system import console
from tuner.trials import tasks

if TYPE_CHECKING:
    import pathlib

    import keras

    from trainer.config import Config
    from trainer.training import fitting
    from tuner.space import Space


class FineTuning(keras_tuner.HyperModel):
    """Builds and trains configurations of a space, one at a time."""

    def __init__(self, workspace: tasks.Workspace, space: Space, objective: str) -> None:
        """Takes what all configurations share.

        Args:
          workspace: devices, data, and every option that is not searched.
          space: what is.
          objective: val_auc or val_loss; it chooses the best epoch as well.
        """
        super().__init__()
        self.workspace, self._space, self._objective = workspace, space, objective
        self._setup: fitting.TrainingSetup | None = None

    def config_of(self, hp: keras_tuner.HyperParameters) -> Config:
        """Returns the trainer's config of a configuration."""
        values = self._space.canonical(hp.values)
        return tasks.config_of(self.workspace.base, values, self._objective)

    def build(self, hp: keras_tuner.HyperParameters) -> keras.Model:
        """Returns what trains: the network, or its part above the cached features."""
        self._setup = None  # Before the next is built: two need not fit into memory.
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
    ) -> list[dict[str, Any]]:
        """Trains what `build` has just made, from the checkpoint in `folder` if there is one.

        Args:
          hp: the configuration.
          model: what `build` returned.
          folder: of the configuration.
          epochs: to which it trains, counted from the configuration's start.

        Returns:
          A row of metrics for each epoch from the start.
        """
        if self._setup is None or model is not self._setup.feed.model:
            raise ValueError("fit takes the model that build has just made.")
        task = tasks.Task(self.config_of(hp), folder, epochs)
        with console.muted():
            return tasks.train(task, self.workspace, self._setup)
