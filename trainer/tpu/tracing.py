"""Traces the driver's steps into graphs, without data and without running them.

A graph shows the ops that a device would run, on a machine that lacks such a device. The steps are
private methods of `driver.Driver`; only this module accesses them.

    loops = tracing.loops(driver, strategy, batch_spec)      # {"train": …, "test": …, "predict": …}
    step = tracing.train_step(model, batch_spec)             # one replica's step
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import tensorflow as tf

from trainer.training.driver import Driver

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import keras


def batch_spec(image_shape: Sequence[int], batch_size: int) -> tuple[tf.TensorSpec, ...]:
    """Returns the spec of a batch: images [B, H, W, 1] uint8, labels [B], weights [B] float32."""
    return (
        tf.TensorSpec((batch_size, *image_shape), tf.uint8),
        tf.TensorSpec((batch_size,), tf.int32),
        tf.TensorSpec((batch_size,), tf.float32),
    )


def loops(
    driver: Driver, strategy: tf.distribute.Strategy, spec: tuple[tf.TensorSpec, ...]
) -> dict[str, Any]:
    """Traces the compiled loops of a driver.

    Args:
      driver: a driver created with `strategy`.
      strategy: the strategy that would run its steps.
      spec: a global batch, see `batch_spec`.

    Returns:
      One concrete function for each of `train`, `test` and `predict`.
    """
    iterator = iter(strategy.experimental_distribute_dataset(_endless(spec)))
    count = tf.TensorSpec((), tf.int32)
    functions: dict[str, Any] = {
        "train": driver._train_steps,  # noqa: SLF001
        "test": driver._test_steps,  # noqa: SLF001
    }
    predict: Any = driver._predict_step  # noqa: SLF001
    return {
        **{name: loop.get_concrete_function(iterator, count) for name, loop in functions.items()},
        "predict": predict.get_concrete_function(iterator),
    }


def train_step(model: keras.Model, spec: tuple[tf.TensorSpec, ...]) -> Callable[..., None]:
    """Returns the training step of one replica, (x, y, weight) -> None.

    Args:
      model: built and compiled under the default strategy.
      spec: a batch to trace with, see `batch_spec`; the step accepts other batch sizes too.
    """
    recorder = _Recorder()
    loop: Any = Driver(model, recorder)._train_steps  # noqa: SLF001
    loop.get_concrete_function(iter(_endless(spec)), tf.TensorSpec((), tf.int32))
    return lambda *batch: recorder.step(batch)


class _Recorder:
    """The default strategy, which also records the function that it last ran."""

    def __init__(self) -> None:
        self._strategy = tf.distribute.get_strategy()
        self.step: Callable[..., Any]

    def run(self, step: Callable[..., Any], args: tuple[Any, ...] = (), **options: Any) -> Any:
        """Records a step, and runs it as the default strategy does."""
        self.step = step
        return self._strategy.run(step, args=args, **options)

    def __getattr__(self, name: str) -> Any:
        """Returns any other attribute of the default strategy."""
        return getattr(self._strategy, name)


def _endless(spec: tuple[tf.TensorSpec, ...]) -> tf.data.Dataset:
    """Returns an endless data set of zero batches of static shape; tracing never reads one."""

    def batch(_: tf.Tensor) -> tuple[tf.Tensor, ...]:
        return tuple(tf.zeros(part.shape, part.dtype) for part in spec)

    # AUTO would try to shard by file first and warn, because this data set has no files.
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    return tf.data.Dataset.range(1).repeat().map(batch).with_options(options)
