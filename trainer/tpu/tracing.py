"""The driver's steps as graphs, made without data and without computing anything.

What a device would have to run can be read from its graph, on a machine that has no such device.
The steps are those of `driver.Driver`; this is the only module that knows where it keeps them.

    loops = tracing.loops(driver, strategy, batch_spec)      # {"train": …, "test": …, "predict": …}
    step = tracing.train_step(model, batch_spec)             # what one replica does with its batch
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import tensorflow as tf

from trainer.training.driver import Driver

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import keras


def batch_spec(image_shape: Sequence[int], batch_size: int) -> tuple[tf.TensorSpec, ...]:
    """Returns what a batch is: images [B, H, W, 1] uint8, labels [B] int32, weights [B] float32."""
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
      driver: a driver under `strategy`.
      strategy: where its steps would run.
      spec: a global batch, see `batch_spec`.

    Returns:
      A concrete function each for `train`, `test` and `predict`.
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
    """Returns what the driver has a replica do with one batch in training, (x, y, weight) -> None.

    Args:
      model: built and compiled under the default strategy.
      spec: a batch to trace with, see `batch_spec`; the step takes others as well.
    """
    recorder = _Recorder()
    loop: Any = Driver(model, recorder)._train_steps  # noqa: SLF001
    loop.get_concrete_function(iter(_endless(spec)), tf.TensorSpec((), tf.int32))
    return lambda *batch: recorder.step(batch)


class _Recorder:
    """The default strategy, and a memory of the function that it was last asked to run."""

    def __init__(self) -> None:
        self._strategy = tf.distribute.get_strategy()
        self.step: Callable[..., Any]

    def run(self, step: Callable[..., Any], args: tuple[Any, ...] = (), **options: Any) -> Any:
        """Runs a step as the default strategy does."""
        self.step = step
        return self._strategy.run(step, args=args, **options)

    def __getattr__(self, name: str) -> Any:
        """Whatever else the driver asks of a strategy."""
        return getattr(self._strategy, name)


def _endless(spec: tuple[tf.TensorSpec, ...]) -> tf.data.Dataset:
    """Returns batches of zeros of a static shape; nothing reads one, and none takes memory yet."""

    def batch(_: tf.Tensor) -> tuple[tf.Tensor, ...]:
        return tuple(tf.zeros(part.shape, part.dtype) for part in spec)

    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    return tf.data.Dataset.range(1).repeat().map(batch).with_options(options)
