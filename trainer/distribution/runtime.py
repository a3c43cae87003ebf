"""Sets up devices, strategy and seeds, before the first variable is created.

Nothing falls back silently: a requested device that is missing ends the run.

    context = runtime.build(config.runtime)
    with context.strategy.scope(): ...
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib
import os
import pathlib
import signal
from typing import TYPE_CHECKING

import keras
import tensorflow as tf

from trainer.distribution import accelerators, batch_sizes, cluster, peers
from trainer.errors import ConfigError, RunError
from trainer.system import console, loopback, sockets, text

if TYPE_CHECKING:
    from collections.abc import Callable

    from trainer.options import RuntimeOptions


TPU_TIMEOUT_S = 5
_ROUNDING = (
    "TF_ENABLE_ONEDNN_OPTS", "TF_XLA_FLAGS", "NVIDIA_TF32_OVERRIDE", "TF_NUM_INTRAOP_THREADS",
    "TF_DETERMINISTIC_OPS", "TF_CUDNN_DETERMINISTIC",
)  # fmt: skip
"""Variables with which TensorFlow chooses other kernels, or other numbers of threads."""


@dataclasses.dataclass(frozen=True)
class Context:
    """The strategy and the kind of device of a run.

    Attributes:
      strategy: the distribution strategy.
      device: CPU, GPU or TPU.
      steps_per_execution: training steps per call of the compiled loop.
      reasons: a sentence for each option that was left to `auto`, and on the environment.
      hosts: those that train together; None for one host.
      unused: a sentence for each accelerator in this machine that TensorFlow can't use.
    """

    strategy: tf.distribute.Strategy
    device: str
    steps_per_execution: int
    reasons: tuple[str, ...]
    hosts: cluster.Cluster | None = None
    unused: tuple[str, ...] = ()

    @property
    def num_replicas(self) -> int:
        """Number of replicas of the model."""
        return self.strategy.num_replicas_in_sync

    @property
    def is_multi_host(self) -> bool:
        """Whether several workers train together."""
        return isinstance(self.strategy, tf.distribute.MultiWorkerMirroredStrategy)

    @property
    def is_chief(self) -> bool:
        """Whether this worker prints and writes the run directory."""
        return self.worker_index == 0

    @property
    def worker_index(self) -> int:
        """Index of this worker in the cluster; 0 without one."""
        return self.hosts.index if self.hosts else 0

    @property
    def num_workers(self) -> int:
        """Number of workers in the cluster; 1 without one."""
        return self.hosts.size if self.hosts else 1

    @functools.cached_property
    def any_host(self) -> Callable[[bool], bool]:
        """Maps a bool of this host to whether it is true on any; hosts must call it together."""
        if not self.is_multi_host:
            return bool
        strategy = self.strategy

        @tf.function
        def count(mine: tf.Tensor) -> tf.Tensor:
            everyones = strategy.run(tf.identity, args=(mine,))
            return strategy.reduce(tf.distribute.ReduceOp.SUM, everyones, axis=None)

        # A float: NCCL sums floats on the device, but TensorFlow keeps 32-bit integers on the host.
        return lambda mine: float(count(tf.constant(float(mine)))) > 0

    def check_batch_size(self, batch_size: int) -> None:
        """Raises ConfigError unless every replica gets an equal share of a batch."""
        batch_sizes.require(batch_size, self.num_replicas, "replicas")

    def batch_size_for(self, batch_size: int) -> int:
        """Returns the given batch size, or for 0 the automatic one.

        Raises:
          ConfigError: when the replicas can't share the given one equally.
        """
        self.check_batch_size(batch_size)
        return batch_size or batch_sizes.automatic(self.num_replicas)


def build(config: RuntimeOptions) -> Context:
    """Configures the devices and seeds of this process, and builds the strategy.

    Call it once, before TensorFlow computes anything.

    Raises:
      ConfigError: when options contradict each other or this machine.
      RunError: when a requested device is missing.
    """
    _set_keras_defaults()
    kept = _grow_gpu_memory()
    # TensorFlow's default rounds what a GPU multiplies to TF32, with 10 bits as float16, where
    # float32 was asked for. Under mixed precision, only the head is in float32.
    tf.config.experimental.enable_tensor_float_32_execution(enabled=False)
    _limit_threads(config.cpu_threads)
    _allow_open_files()
    if config.deterministic:
        tf.config.experimental.enable_op_determinism()
    _split_cpu(config)
    name = resolve_strategy(config)
    strategy = _build_strategy(name, config)
    device = _device_of(name, config)
    keras.utils.set_random_seed(config.seed)
    reasons = (*kept, *_settings_of_environment())
    if config.strategy == "auto":
        reasons = (*reasons, f"strategy {name}: the best for this machine ({device}).")
    # The faster the device, the more a call from Python costs relative to a step.
    steps_per_execution = config.steps_per_execution or {"CPU": 8, "GPU": 16, "TPU": 64}[device]
    hosts = cluster.of_environment() if name == "multi_worker" else None
    unused = _unused_accelerators() if name == "one_device" and device == "CPU" else ()
    context = Context(strategy, device, steps_per_execution, reasons, hosts, unused)
    if not context.is_chief:
        console.mute()
    return context


def _set_keras_defaults() -> None:
    """Undoes what Keras's configuration file or a notebook has set for all models.

    Raises:
      ConfigError: when Keras runs on another backend than TensorFlow.
    """
    backend = keras.backend.backend()
    if backend != "tensorflow":
        raise ConfigError(
            f"Keras was imported with the backend {backend}; unset KERAS_BACKEND, or import "
            "trainer before keras."
        )
    keras.config.set_floatx("float32")
    keras.config.set_epsilon(1e-7)
    keras.config.set_image_data_format("channels_last")
    keras.mixed_precision.set_dtype_policy("float32")


def _settings_of_environment() -> tuple[str, ...]:
    """Returns a sentence if variables of the environment change how TensorFlow rounds."""
    found = [f"{name}={os.environ[name]}" for name in _ROUNDING if os.environ.get(name)]
    if not found:
        return ()
    return (f"{', '.join(found)}: set in the environment; results may differ by rounding.",)


def _grow_gpu_memory() -> tuple[str, ...]:
    """Lets TensorFlow take the memory of GPUs as it needs it, and not all of it at once.

    Otherwise a second run, or worker of a search, would find none on the same GPU. A user's own
    setting of it stays.

    Returns:
      A sentence if it is too late.
    """
    if "TF_FORCE_GPU_ALLOW_GROWTH" in os.environ:
        return ()
    try:
        for gpu in gpus():
            tf.config.experimental.set_memory_growth(gpu, True)  # noqa: FBT003 -- TensorFlow's.
    except RuntimeError:
        return ("TensorFlow started before this run, and keeps all the GPU memory that it took.",)
    except ValueError:  # Virtual devices of a notebook have limits of their own.
        return ()
    return ()


def gpus() -> list[tf.config.PhysicalDevice]:
    """Returns the GPUs that TensorFlow sees."""
    return list(tf.config.list_physical_devices("GPU"))


def _unused_accelerators() -> tuple[str, ...]:
    visible = {device.device_type for device in tf.config.list_physical_devices()}
    return tuple(accelerators.unused(visible))


def _limit_threads(count: int) -> None:
    """Limits TensorFlow's threads, within an operation and across operations."""
    threading = tf.config.threading
    if not count or threading.get_intra_op_parallelism_threads() == count:
        return
    try:
        threading.set_intra_op_parallelism_threads(count)
        threading.set_inter_op_parallelism_threads(count)
    except RuntimeError as error:
        raise ConfigError(_too_late("cpu_threads", count)) from error


def _allow_open_files() -> None:
    """Raises the limit of open files to its maximum: each mapped feature shard keeps one open."""
    try:
        resource = importlib.import_module("resource")
    except ImportError:  # Not on Windows.
        return
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # macOS reports a limit that it doesn't allow.
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _split_cpu(config: RuntimeOptions) -> None:
    count = config.num_logical_devices
    if not count:
        return
    if config.strategy != "mirrored":
        raise ConfigError(f"num_logical_devices ({count}) needs --strategy=mirrored.")
    cpu = tf.config.list_physical_devices("CPU")[0]
    split = [tf.config.LogicalDeviceConfiguration()] * count
    try:
        tf.config.set_logical_device_configuration(cpu, split)
    except RuntimeError as error:  # TensorFlow has started; the same split may be in force.
        if len(tf.config.list_logical_devices("CPU")) != count:
            raise ConfigError(_too_late("num_logical_devices", count)) from error


def _too_late(option: str, count: int) -> str:
    return (
        f"{option} ({count}) must be set before TensorFlow starts, which it has: start a new "
        "process (in a notebook, restart the kernel), and give it in the first call."
    )


def resolve_strategy(config: RuntimeOptions) -> str:
    """Returns the strategy's name, `auto` replaced by what the machine has."""
    if config.strategy != "auto":
        return config.strategy
    found = cluster.of_environment()
    if found and found.others:
        return "multi_worker"
    if tf.config.list_physical_devices("TPU"):
        return "tpu"
    return "mirrored" if len(tf.config.list_physical_devices("GPU")) > 1 else "one_device"


def _build_strategy(name: str, config: RuntimeOptions) -> tf.distribute.Strategy:
    if name == "one_device":
        return tf.distribute.get_strategy()
    if name == "mirrored":
        return _build_mirrored(config)
    if name == "multi_worker":
        return _build_multi_worker()
    return _build_tpu(config.tpu)


def _device_of(strategy: str, config: RuntimeOptions) -> str:
    if strategy == "tpu":
        return "TPU"
    has_gpu = bool(tf.config.list_physical_devices("GPU"))
    return "GPU" if has_gpu and not config.num_logical_devices else "CPU"


def _build_mirrored(config: RuntimeOptions) -> tf.distribute.Strategy:
    kind = "CPU" if config.num_logical_devices else "GPU"
    devices = [device.name for device in tf.config.list_logical_devices(kind)]
    if not devices:
        reasons = _unused_accelerators()
        raise RunError(
            "--strategy=mirrored found no GPU; give --strategy=one_device, or "
            f"--num_logical_devices=2 to try it on logical CPUs.{''.join(f' {x}' for x in reasons)}"
        )
    return mirrored(tuple(devices))


@functools.cache
def mirrored(devices: tuple[str, ...]) -> tf.distribute.Strategy:
    """Returns the one strategy of this process over these devices.

    Each strategy numbers its collectives from the start; those of a second strategy over the same
    devices would collide with the first one's.
    """
    return tf.distribute.MirroredStrategy(devices)


def _build_multi_worker() -> tf.distribute.Strategy:
    found = cluster.require()
    if found.index == 0 and not peers.is_local_worker():
        console.say(
            "TensorFlow's server of each worker listens at its port in TF_CONFIG "
            f"({found.port} here) on all interfaces, without authentication: run it in a private "
            "network."
        )
    peers.meet(found)
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec(found.jobs), task_type=found.job, task_id=found.task, rpc_layer="grpc"
    )
    # The strategy takes SIGTERM as a notice of preemption: its handler does not end the process.
    handler = signal.getsignal(signal.SIGTERM)
    try:
        strategy = tf.distribute.MultiWorkerMirroredStrategy(cluster_resolver=resolver)
    except tf.errors.UnknownError as error:
        if "Could not start gRPC server" not in str(error):
            raise
        raise RunError(peers.port_taken(found)) from error
    signal.signal(signal.SIGTERM, handler)
    if peers.is_local_worker() and loopback.is_possible():  # Where the launcher could not.
        loopback.confine(os.getpid(), found.port)
    return strategy


def _build_tpu(name: str) -> tf.distribute.Strategy:
    try:
        resolver = _find_tpu(name)
        tf.tpu.experimental.initialize_tpu_system(resolver)
    except (ValueError, ImportError, OSError, tf.errors.OpError) as error:
        raise RunError(
            f"--strategy=tpu found no TPU named {name!r} ({text.first_line(error)}). Run on a "
            "TPU VM with the package's `tpu` extra installed, or choose another --strategy."
        ) from error
    return tf.distribute.TPUStrategy(resolver)


def _find_tpu(name: str) -> tf.distribute.cluster_resolver.TPUClusterResolver:
    """Looks for the TPU first: TensorFlow would keep looking for minutes."""
    if name == "local":
        if not any(
            list(pathlib.Path(folder).glob(nodes)) for folder, nodes in accelerators.TPU_DEVICES
        ):
            raise OSError("this machine has no TPU device in /dev")
        return tf.distribute.cluster_resolver.TPUClusterResolver(tpu=name)
    with sockets.default_timeout(TPU_TIMEOUT_S):
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu=name)
        address = resolver.master()
    if not sockets.answers(address, TPU_TIMEOUT_S):
        raise OSError(f"nothing answers at {address}")
    tf.config.experimental_connect_to_cluster(resolver)
    return resolver
