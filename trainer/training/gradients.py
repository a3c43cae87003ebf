"""Turns the replicas' gradients into one update of the weights, the same under every strategy.

Keras clips and accumulates gradients before it sums them over the replicas, and tests only one
replica's gradients for overflow: the effect of an option would depend on the number of replicas.
Here every stage sees the gradient of the whole batch:

    sum over replicas -> test for overflow -> accumulate -> clip -> update rule

    adam = gradients.taking_sums(keras.optimizers.Adam)(1e-3)
    optimizer = gradients.GlobalUpdate(adam, gradient_accumulation_steps=4, global_clipnorm=1.0)
    model.compile(optimizer, loss, auto_scale_loss=False)

In Keras, a replica's loss is the sum over its examples, divided by the size of the global batch.
Therefore the sum of the replicas' gradients is the gradient of the global batch's mean loss. Class
weights multiply the terms of that sum, but do not change its divisor.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import tensorflow as tf

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

INITIAL_LOSS_SCALE = 2.0**15
GROWTH_STEPS = 2000
"""Consecutive finite steps after which the loss scale doubles; both values are Keras's."""
LEAST_LOSS_SCALE, MOST_LOSS_SCALE = 1.0, 2.0**24
"""Keras has no limits. Beyond 2^24, float16 would represent gradients below 2^-48, too small to
change a float32 weight; and without a limit the scale ends at infinity, or at 0."""


class GlobalUpdate(keras.optimizers.Optimizer):
    """Passes gradients of global batches, accumulated and clipped, to an inner optimizer.

    An update uses the mean gradient of exactly `gradient_accumulation_steps` batches. Accumulation
    continues across epochs, and the last few steps of a run may not lead to an update. Where a
    backbone joins the head, its first update lacks the batches that were pending. Under loss
    scaling, a batch whose gradient overflows on any replica is skipped, and the update waits for
    one more batch. At the least scale, which changes nothing, an overflow is the gradient's own:
    all weights become NaN, and the next loss tells of the divergence. A run that skipped all its
    batches would end as if it had trained.

    `iterations` counts updates, not steps, and schedules depend on it. All state is in `variables`,
    the same on every replica, so that a checkpoint between two steps of one update loses nothing.
    """

    def __init__(
        self,
        inner_optimizer: keras.optimizers.Optimizer,
        *,
        backbone_optimizer: keras.optimizers.Optimizer | None = None,
        learning_rate_factor: Any = None,
        gradient_accumulation_steps: int = 1,
        global_clipnorm: float = 0.0,
        scales_loss: bool = False,
    ) -> None:
        """Wraps an optimizer.

        Args:
          inner_optimizer: the update rule; its class must come from `taking_sums`.
          backbone_optimizer: likewise, of the variables that `build` is given as the backbone's;
            None: the same.
          learning_rate_factor: the variable by which the schedules of both multiply the learning
            rate, if there is one.
          gradient_accumulation_steps: number of batches in an update.
          global_clipnorm: upper limit of the norm of an update's whole gradient; 0: no limit.
          scales_loss: whether to scale the loss, so that small gradients don't vanish in float16.
        """
        # The learning rate of this wrapper is not used: the property below is the inner one's.
        super().__init__(learning_rate=0.0, name="global_update")
        self.inner_optimizer = inner_optimizer
        self.backbone_optimizer = backbone_optimizer
        self.learning_rate_factor = learning_rate_factor
        self._gradient_accumulation_steps = gradient_accumulation_steps
        self._global_clipnorm = global_clipnorm
        self._scales_loss = scales_loss

    def build(self, variables: Sequence[Any], backbone: Sequence[Any] = ()) -> None:
        """Creates every variable; must be called inside the strategy's scope.

        Args:
          variables: all that train.
          backbone: those of them that `backbone_optimizer` updates, if there is one.
        """
        slow = {id(variable) for variable in backbone} if self.backbone_optimizer else set()
        self._is_slow = [id(variable) in slow for variable in variables]
        for optimizer, taken in self._divide(variables, range(len(variables))):
            optimizer.build(taken)
        super().build(variables)
        if self._gradient_accumulation_steps > 1:
            self._pending = self.add_variable((), dtype="int32", name="pending_batches")
            self._sums = self.add_optimizer_variables(variables, "gradient_sum")
        if self._scales_loss:
            self._scale = self.add_variable(
                (), keras.initializers.Constant(INITIAL_LOSS_SCALE), "float32", name="loss_scale"
            )
            self._finite_steps = self.add_variable((), dtype="int32", name="finite_steps")

    @property
    def variables(self) -> list[Any]:
        """The variables of this optimizer, of the inner ones, and the factor of their rates."""
        factor = [] if self.learning_rate_factor is None else [self.learning_rate_factor]
        return [*self._variables, *factor, *self._inner_variables]

    @property
    def _inner_variables(self) -> list[Any]:
        optimizers = filter(None, (self.inner_optimizer, self.backbone_optimizer))
        return [variable for optimizer in optimizers for variable in optimizer.variables]

    @property
    def iterations(self) -> Any:
        """Number of updates of the head so far."""
        return self.inner_optimizer.iterations

    @property
    def learning_rate(self) -> Any:
        """Learning rate of the next update."""
        return self.inner_optimizer.learning_rate

    @learning_rate.setter
    def learning_rate(self, value: Any) -> None:
        self.inner_optimizer.learning_rate = value

    def scale_loss(self, loss: Any) -> Any:
        """Returns the loss to differentiate; Keras's `train_step` calls this."""
        return loss * self._scale if self._scales_loss else loss

    def apply(self, grads: Sequence[Any], trainable_variables: Sequence[Any] | None = None) -> None:
        """Takes one step.

        Args:
          grads: this replica's gradients of the scaled loss.
          trainable_variables: the variables that they belong to: all that `build` was given, or
            those of them that are not the backbone's; None: all.
        """
        built = {id(variable): place for place, variable in enumerate(self._trainable_variables)}
        taken = self._trainable_variables if trainable_variables is None else trainable_variables
        places = [built[id(variable)] for variable in taken]
        gradients, is_due = _sum_over_replicas(grads), None
        if self._scales_loss:
            gradients, is_due = self._unscale(gradients)
        if self._gradient_accumulation_steps > 1:
            gradients, is_due = self._accumulate(gradients, places, is_due)
        if self._global_clipnorm:
            gradients, _ = tf.clip_by_global_norm(gradients, self._global_clipnorm)
        with _undone_unless(is_due, [*self._trainable_variables, *self._inner_variables]):
            for optimizer, part in self._divide(gradients, places):
                optimizer.apply(part)

    def _divide(
        self, values: Sequence[Any], places: Sequence[int]
    ) -> list[tuple[keras.optimizers.Optimizer, list[Any]]]:
        """Divides the values of variables, by place, between the optimizers that update them."""
        pairs = list(zip(values, places, strict=True))
        of_head = [value for value, place in pairs if not self._is_slow[place]]
        of_backbone = [value for value, place in pairs if self._is_slow[place]]
        parts = [(self.inner_optimizer, of_head)]
        return [*parts, (self.backbone_optimizer, of_backbone)] if of_backbone else parts

    def _unscale(self, gradients: Sequence[Any]) -> tuple[list[Any], Any]:
        """Returns the gradients of the loss itself, and whether the batch is taken."""
        is_finite = _all_finite(gradients)
        is_divergence = tf.logical_and(~is_finite, self._scale <= LEAST_LOSS_SCALE)
        # NaN, as a weight of -inf may pass a ReLU as 0, and the loss would stay finite.
        divisor = tf.where(is_divergence, np.nan, self._scale)
        gradients = [gradient / divisor for gradient in gradients]
        self._adapt_scale(is_finite)
        return gradients, tf.logical_or(is_finite, is_divergence)

    def _accumulate(
        self, gradients: Sequence[Any], places: Sequence[int], is_taken: Any
    ) -> tuple[list[Any], Any]:
        """Adds a batch unless it is skipped; returns the mean and whether an update is due."""
        taken = 1 if is_taken is None else tf.cast(is_taken, tf.int32)
        pending = self._pending + taken
        is_due = pending == self._gradient_accumulation_steps
        self._pending.assign(tf.where(is_due, 0, pending))
        means = []
        for place, gradient in zip(places, gradients, strict=True):
            total = self._sums[place]
            added = total + (gradient if is_taken is None else tf.where(is_taken, gradient, 0.0))
            total.assign(tf.where(is_due, 0.0, added))
            means.append(added / self._gradient_accumulation_steps)
        return means, is_due

    def _adapt_scale(self, is_finite: Any) -> None:
        """Halves the loss scale after an overflow; doubles it after GROWTH_STEPS finite steps."""
        steps = tf.where(is_finite, self._finite_steps + 1, 0)
        grows = steps == GROWTH_STEPS
        self._finite_steps.assign(tf.where(grows, 0, steps))
        scale = self._scale * tf.where(is_finite, tf.where(grows, 2.0, 1.0), 0.5)
        self._scale.assign(tf.clip_by_value(scale, LEAST_LOSS_SCALE, MOST_LOSS_SCALE))


def taking_sums(
    constructor: type[keras.optimizers.Optimizer],
) -> type[keras.optimizers.Optimizer]:
    """Returns a subclass of an optimizer whose gradients are already summed over the replicas."""

    class TakingSums(constructor):
        def _all_reduce_sum_gradients(self, grads_and_vars: Any) -> Any:
            return grads_and_vars  # `GlobalUpdate` has summed them; Keras would sum them again.

    TakingSums.__name__ = constructor.__name__  # Keras names the optimizer's variables by it.
    return TakingSums


def _sum_over_replicas(gradients: Sequence[Any]) -> list[Any]:
    replica = tf.distribute.get_replica_context()
    return list(replica.all_reduce(tf.distribute.ReduceOp.SUM, list(gradients)))


def _all_finite(gradients: Sequence[Any]) -> Any:
    return tf.reduce_all([tf.reduce_all(tf.math.is_finite(gradient)) for gradient in gradients])


@contextlib.contextmanager
def _undone_unless(condition: Any, variables: Sequence[Any]) -> Iterator[None]:
    """Restores `variables` after the block, bit for bit, unless `condition`; None: never restores.

    Not a `tf.cond` around the update: MirroredStrategy synchronises its replicas inside the update,
    which it can't do within a branch, and a TPU would compile both branches anyway.
    """
    before = [] if condition is None else [tf.identity(variable.value) for variable in variables]
    yield
    for variable, old in zip(variables, before, strict=False):
        variable.assign(tf.where(condition, variable.value, old))
