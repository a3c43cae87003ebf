"""Compiles the model: optimizer, learning-rate schedule, loss and training metrics.

optimization.compile_model(model, config.optimization, class_counts, steps_per_epoch)
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from trainer.errors import ConfigError
from trainer.models import inference_mode
from trainer.training import gradients

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trainer.options import OptimizationOptions


POSITIVE_CLASS = 1
SGD_MOMENTUM = 0.9


def compile_model(
    model: keras.Model,
    config: OptimizationOptions,
    class_counts: Sequence[int],
    steps_per_epoch: int,
    backbone: keras.Model | None = None,
) -> list[Any]:
    """Compiles `model` ([…] -> [B, K] probabilities); call it inside the strategy's scope.

    Also creates every variable of the optimizer and the metrics: a tf.function may create variables
    only in its first trace, and a resumed run restores them before that.

    Args:
      model: the model that trains.
      config: the optimization options.
      class_counts: number of training examples of each class, for balanced class weights.
      steps_per_epoch: number of steps in an epoch, for warm-up and decay.
      backbone: the part of the model that trains at `backbone_learning_rate`; None: no part.

    Returns:
      The variables that a step changes: weights, states of dropout, optimizer and metrics.

    Raises:
      ConfigError: when the run has fewer steps than one update takes, or a class has no examples
        but needs a weight.
    """
    slow = [] if backbone is None else backbone.trainable_variables
    optimizer = build_optimizer(config, steps_per_epoch, is_divided=bool(slow))
    weights = class_weights_for(config.class_weights, class_counts)
    model.compile(
        optimizer=optimizer,
        # Keras would wrap the optimizer in a LossScaleOptimizer, which tests for overflow on one
        # replica only. GlobalUpdate scales the loss itself.
        auto_scale_loss=False,
        loss=Crossentropy(weights, config.label_smoothing),
        # Unlike `metrics`, weighted metrics don't count padding, whose weight is 0.
        weighted_metrics=_logged_metrics(),
        # "auto" may choose XLA on a machine with a GPU or TPU, depending on whether the model was
        # compiled inside a strategy's scope. A TPU compiles the step in any case.
        jit_compile=False,
    )
    if config.weight_decay:
        # Keras decays every variable. Biases, and scales and shifts of normalisation, are exempt by
        # convention: shrinking them makes the function no simpler.
        vectors = [v for v in model.trainable_variables if len(v.shape) <= 1]
        for inner in filter(None, (optimizer.inner_optimizer, optimizer.backbone_optimizer)):
            inner.exclude_from_weight_decay(var_list=vectors)
    optimizer.build(model.trainable_variables, slow)
    _build_metrics(model, len(class_counts))
    return _changing_variables(model)


def compile_head(head: keras.Model, model: keras.Model, num_classes: int) -> list[Any]:
    """Compiles the model with which the head trains before the backbone joins.

    Call it inside the strategy's scope.

    Args:
      head: the model; only the head's variables train in it.
      model: the compiled model that trains afterwards, whose optimizer and loss it shares: when the
        backbone joins, the head's moments and schedule continue.
      num_classes: K, the number of outputs.

    Returns:
      The variables that a step changes besides those of `model`.
    """
    head.compile(
        optimizer=model.optimizer,
        auto_scale_loss=False,
        loss=model.loss,
        weighted_metrics=_logged_metrics(),
        jit_compile=False,
    )
    _build_metrics(head, num_classes)
    return [variable for metric in head.metrics for variable in metric.variables]


def _logged_metrics() -> list[keras.metrics.Metric]:
    """Returns what is logged by epoch.

    The metric named `loss` replaces Keras's own in the logs, which counts padding and depends on
    class weights and label smoothing: the logged loss is the plain log loss, in training too.
    """
    return [
        keras.metrics.SparseCategoricalCrossentropy(name="loss"),
        keras.metrics.SparseCategoricalAccuracy(name="accuracy"),
        PositiveAUC(),
    ]


def _build_metrics(model: keras.Model, num_classes: int) -> None:
    """Creates the metrics' variables: Keras does so in the first step, after a run has resumed."""
    outputs = np.full((1, num_classes), 1 / num_classes, np.float32)
    model._compile_metrics.build(np.zeros(1, np.int32), outputs)  # noqa: SLF001 -- No other way.


def _changing_variables(model: keras.Model) -> list[Any]:
    """Returns the variables that a step changes: weights, dropout seeds, optimizer and metrics."""
    weights = {id(weight) for weight in model.weights}
    return [
        *model.trainable_variables,
        *inference_mode.moving_statistics(model),
        *(variable for variable in model.variables if id(variable) not in weights),
        *model.optimizer.variables,
        *(variable for metric in model.metrics for variable in metric.variables),
    ]


def class_weights_for(choice: str, class_counts: Sequence[int]) -> list[float]:
    """Returns the weight of each class; `balanced` is n / (K n_k), as in scikit-learn.

    Raises:
      ConfigError: when `choice` is balanced and a class has no examples.
    """
    if choice == "none":
        return [1.0] * len(class_counts)
    if 0 in class_counts:
        raise ConfigError(
            f"class_weights (balanced) needs training examples of every class, not {class_counts}."
        )
    return [sum(class_counts) / (len(class_counts) * count) for count in class_counts]


class Crossentropy(keras.losses.Loss):
    """Class-weighted cross-entropy of integer labels [B] and probabilities [B, K], in nats.

    Class weights are part of the loss because the driver's batches carry only padding weights, and
    Keras's `class_weight` is an argument of `fit`. Keras's sparse loss has no label smoothing.
    """

    def __init__(self, class_weights: Sequence[float], label_smoothing: float) -> None:
        super().__init__(name="crossentropy")
        self._class_weights = np.asarray(class_weights, np.float32)
        self._label_smoothing = label_smoothing

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Returns the loss of each example, [B]."""
        target = keras.ops.one_hot(y_true, len(self._class_weights), dtype=y_pred.dtype)
        target = target * (1 - self._label_smoothing) + self._label_smoothing / len(
            self._class_weights
        )
        weight = keras.ops.take(self._class_weights, keras.ops.cast(y_true, "int32"))
        return weight * keras.ops.categorical_crossentropy(target, y_pred)


class PositiveAUC(keras.metrics.AUC):
    """Area under the ROC curve of the positive class in training, from probabilities [B, K].

    Approximate: it sums while the weights change, and has 400 thresholds. They are spaced in
    log-odds, over all that float32 tells apart, and put it up to 0.002 off; Keras's, spaced in
    probabilities, 0.2 where most outputs lie near 0 and 1. The area of validation is exact; see
    `driver.Driver.evaluate`.
    """

    def __init__(self, name: str = "auc") -> None:
        # Denser around 0. float32 has probabilities down to e^-80, and up to 1 - e^-16.6.
        below, above = np.linspace(-1, 0, 220, endpoint=False), np.linspace(0, 1, 178)
        log_odds = np.concatenate([-80 * (-below) ** 2.5, 16.6 * above**2.5])
        thresholds = 1 / (1 + np.exp(-log_odds))
        super().__init__(thresholds=thresholds.tolist(), name=name)  # Keras adds both ends.

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Accumulates one batch."""
        super().update_state(y_true, y_pred[:, POSITIVE_CLASS], sample_weight)

    def result(self) -> Any:
        """Returns the area; NaN where an example of a class is missing: Keras would return 0."""
        positives = self.true_positives[0] + self.false_negatives[0]
        negatives = self.true_negatives[0] + self.false_positives[0]
        is_defined = keras.ops.logical_and(positives > 0, negatives > 0)
        return keras.ops.where(is_defined, super().result(), np.nan)


def build_optimizer(
    config: OptimizationOptions, steps_per_epoch: int, *, is_divided: bool = False
) -> gradients.GlobalUpdate:
    """Builds the optimizer with its learning-rate schedule, wrapped in a GlobalUpdate.

    Args:
      config: the optimization options.
      steps_per_epoch: number of steps in an epoch, for warm-up and decay.
      is_divided: whether a part of the variables trains at `backbone_learning_rate`.

    Raises:
      ConfigError: when the run has fewer steps than one update takes.
    """
    constructor = {
        "adam": keras.optimizers.Adam,
        "adamw": keras.optimizers.AdamW,
        "sgd": keras.optimizers.SGD,
    }[config.optimizer]
    options: dict[str, Any] = {"momentum": SGD_MOMENTUM} if config.optimizer == "sgd" else {}
    if config.weight_decay or config.optimizer == "adamw":  # AdamW's default is 0.004, not 0.
        options["weight_decay"] = config.weight_decay
    # A variable, so that a lower factor needs no new trace and is saved in checkpoints.
    factor = keras.Variable(1.0, trainable=False, name="learning_rate_factor")

    def build(peak: float, head: int = 0) -> keras.optimizers.Optimizer:
        rates = dataclasses.replace(config, learning_rate=peak)
        schedule = Scaled(build_learning_rate(rates, steps_per_epoch, head), factor)
        return gradients.taking_sums(constructor)(learning_rate=schedule, **options)

    return gradients.GlobalUpdate(
        build(config.learning_rate),
        backbone_optimizer=(
            build(config.backbone_rate, config.head_epochs) if is_divided else None
        ),
        learning_rate_factor=factor,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        global_clipnorm=config.global_clipnorm,
        scales_loss=keras.mixed_precision.dtype_policy().name == "mixed_float16",
    )


def build_learning_rate(
    config: OptimizationOptions, steps_per_epoch: int, first_epoch: int = 0
) -> float | keras.optimizers.schedules.LearningRateSchedule:
    """Returns a number, or a schedule of the updates in `config.horizon` epochs.

    Args:
      config: the optimization options.
      steps_per_epoch: number of steps in an epoch.
      first_epoch: of the variables' training; warm-up starts there, and decay ends at the same
        epoch as without it.

    Raises:
      ConfigError: when the run has fewer steps than one update takes.
    """
    warmup_updates = config.warmup_epochs * steps_per_epoch // config.gradient_accumulation_steps
    total_updates = config.horizon * steps_per_epoch // config.gradient_accumulation_steps
    if not total_updates:
        raise ConfigError(
            f"gradient_accumulation_steps ({config.gradient_accumulation_steps}) exceeds the "
            f"{config.horizon * steps_per_epoch} steps of the run, so no weight would ever "
            "change; give a smaller value, or a larger --max_epochs."
        )
    total_updates -= first_epoch * steps_per_epoch // config.gradient_accumulation_steps
    after: Any = config.learning_rate
    if config.schedule == "cosine" and total_updates > warmup_updates:
        after = keras.optimizers.schedules.CosineDecay(after, total_updates - warmup_updates)
    return LinearWarmup(after, config.learning_rate, warmup_updates) if warmup_updates else after


class Scaled(keras.optimizers.schedules.LearningRateSchedule):
    """A learning rate or schedule times a variable, which a run lowers after a divergence."""

    def __init__(self, of: Any, factor: Any) -> None:
        self._of, self._factor = of, factor

    def __call__(self, step: Any) -> Any:
        """Returns the learning rate of the update `step`, counted from 0."""
        return (self._of(step) if callable(self._of) else self._of) * self._factor

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {"of": self._of, "factor": self._factor}


class LinearWarmup(keras.optimizers.schedules.LearningRateSchedule):
    """Rises linearly from 0 to `peak` over `warmup_updates`, then follows `after` from its start.

    `after` is a number or any schedule; only CosineDecay has a warm-up of its own in Keras.
    """

    def __init__(self, after: Any, peak: float, warmup_updates: int) -> None:
        self._after, self._peak, self._warmup_updates = after, peak, warmup_updates

    def __call__(self, step: Any) -> Any:
        """Returns the learning rate of the update `step`, counted from 0."""
        step = keras.ops.cast(step, "float32")
        past = step - self._warmup_updates
        after = self._after(keras.ops.maximum(past, 0.0)) if callable(self._after) else self._after
        return keras.ops.where(past < 0, self._peak * step / self._warmup_updates, after)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {"after": self._after, "peak": self._peak, "warmup_updates": self._warmup_updates}
