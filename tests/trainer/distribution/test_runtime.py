from __future__ import annotations

import os
import subprocess
import sys
import time

import keras
import pytest
import tensorflow as tf

from trainer.distribution import accelerators, runtime
from trainer.errors import ConfigError, RunError
from trainer.options import RuntimeOptions


def test_auto_says_what_it_chose():
    context = runtime.build(RuntimeOptions())
    assert context.num_replicas == 1
    assert context.is_chief
    assert context.reasons[0].startswith("strategy one_device")


@pytest.fixture
def gpus(monkeypatch):
    """Makes TensorFlow see two GPUs; returns what it is told of their memory."""
    found = [tf.config.PhysicalDevice(f"/physical_device:GPU:{i}", "GPU") for i in range(2)]
    listed = tf.config.list_physical_devices

    def list_devices(kind=None):
        return found if kind == "GPU" else listed(kind)

    grown = []
    monkeypatch.delenv("TF_FORCE_GPU_ALLOW_GROWTH", raising=False)
    monkeypatch.setattr(tf.config, "list_physical_devices", list_devices)
    monkeypatch.setattr(
        tf.config.experimental, "set_memory_growth", lambda *args: grown.append(args)
    )
    return found, grown


def test_the_memory_of_every_gpu_is_taken_as_needed(gpus):
    found, grown = gpus
    context = runtime.build(RuntimeOptions(strategy="one_device"))
    assert grown == [(gpu, True) for gpu in found]
    assert context.device == "GPU"
    assert context.reasons == context.unused == ()


def test_a_users_own_setting_of_gpu_memory_stays(gpus, monkeypatch):
    monkeypatch.setenv("TF_FORCE_GPU_ALLOW_GROWTH", "false")
    runtime.build(RuntimeOptions(strategy="one_device"))
    assert gpus[1] == []


@pytest.mark.parametrize(
    ("error", "said"),
    [(RuntimeError("initialized"), ("TensorFlow started before",)), (ValueError("virtual"), ())],
)
@pytest.mark.usefixtures("gpus")
def test_gpu_memory_that_is_taken_already_is_said(monkeypatch, error, said):
    def refuse(*_):
        raise error

    monkeypatch.setattr(tf.config.experimental, "set_memory_growth", refuse)
    reasons = runtime.build(RuntimeOptions(strategy="one_device")).reasons
    assert tuple(reason[:25] for reason in reasons) == said


@pytest.mark.parametrize("strategy", ["auto", "one_device"])
def test_an_accelerator_that_is_not_used_is_said(strategy, monkeypatch, tmp_path):
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "nvidia0").touch()
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setitem(accelerators.unused.__kwdefaults__, "root", tmp_path)
    (line,) = runtime.build(RuntimeOptions(strategy=strategy)).unused
    assert line.startswith("an NVIDIA GPU (/dev/nvidia0) is in this machine")
    with pytest.raises(RunError, match=r"found no GPU; give .* an NVIDIA GPU .*nvidia0"):
        runtime.build(RuntimeOptions(strategy="mirrored"))
    mirrored = RuntimeOptions(strategy="mirrored", num_logical_devices=2)
    assert runtime.build(mirrored).unused == ()


def test_mirrored_takes_the_logical_cpus():
    context = runtime.build(RuntimeOptions(strategy="mirrored", num_logical_devices=2))
    assert context.num_replicas == 2
    with pytest.raises(ConfigError, match=r"batch_size \(31\) .* divisible by the 2 replicas"):
        context.check_batch_size(31)
    context.check_batch_size(32)


def test_what_a_notebook_or_a_file_has_set_for_keras_is_undone():
    keras.config.set_floatx("float16")
    keras.config.set_epsilon(0.5)
    keras.config.set_image_data_format("channels_first")
    keras.mixed_precision.set_dtype_policy("float64")
    runtime.build(RuntimeOptions())
    assert keras.config.floatx() == "float32"
    assert keras.config.epsilon() == 1e-7
    assert keras.config.image_data_format() == "channels_last"
    assert keras.mixed_precision.dtype_policy().name == "float32"


def test_keras_on_another_backend_is_an_error(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(ConfigError, match="imported with the backend jax; unset KERAS_BACKEND"):
        runtime.build(RuntimeOptions())


@pytest.mark.parametrize("backend", ["jax", "torch", "none such"])
def test_the_environment_and_the_file_of_keras_change_nothing(backend, tmp_path):
    """A broken choice there would fail at Keras's import, before any check of ours."""
    (tmp_path / "keras.json").write_text(
        '{"backend": "jax", "floatx": "float16", "image_data_format": "channels_first"}'
    )
    program = (
        "from trainer.distribution import runtime; from trainer.options import RuntimeOptions; "
        "print(runtime.build(RuntimeOptions()).reasons); "
        "import keras; print(keras.backend.backend(), keras.config.floatx())"
    )
    env = {"KERAS_BACKEND": backend, "KERAS_HOME": str(tmp_path), "TF_ENABLE_ONEDNN_OPTS": "0"}
    result = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True, text=True, check=True, env=os.environ | env,
    )  # fmt: skip
    assert "TF_ENABLE_ONEDNN_OPTS=0: set in the environment; results may differ" in result.stdout
    assert result.stdout.split()[-2:] == ["tensorflow", "float32"]


def test_the_seed_decides_the_weights():
    def kernel(seed: int):
        runtime.build(RuntimeOptions(seed=seed))
        layer = keras.layers.Dense(3)
        layer.build((None, 4))
        return layer.kernel.numpy().tolist()

    assert kernel(1) == kernel(1)
    assert kernel(1) != kernel(2)


def test_mirrored_without_gpus_is_an_error():
    with pytest.raises(RunError, match="--strategy=mirrored found no GPU; give"):
        runtime.build(RuntimeOptions(strategy="mirrored"))


@pytest.mark.parametrize("tpu", ["local", "grpc://127.0.0.1:9"])
def test_a_missing_tpu_is_an_error_within_a_minute(tpu):
    start = time.monotonic()
    with pytest.raises(RunError, match=f"--strategy=tpu found no TPU named '{tpu}'"):
        runtime.build(RuntimeOptions(strategy="tpu", tpu=tpu))
    assert time.monotonic() - start < 60  # Seconds, on an idle machine; TensorFlow's own: minutes.


@pytest.mark.parametrize("cluster", [None, "", "{}"])
def test_without_a_cluster_auto_is_one_host_and_multi_worker_an_error(monkeypatch, cluster):
    """Some platforms set TF_CONFIG for every process, empty where there is one."""
    monkeypatch.delenv("TF_CONFIG", raising=False)
    if cluster is not None:
        monkeypatch.setenv("TF_CONFIG", cluster)
    assert runtime.resolve_strategy(RuntimeOptions()) in {"one_device", "mirrored", "tpu"}
    with pytest.raises(ConfigError, match="needs the environment variable TF_CONFIG"):
        runtime.build(RuntimeOptions(strategy="multi_worker"))


def test_logical_devices_without_mirrored_are_an_error():
    with pytest.raises(ConfigError, match=r"num_logical_devices \(2\) needs --strategy=mirrored"):
        runtime.build(RuntimeOptions(strategy="one_device", num_logical_devices=2))


def test_logical_devices_after_the_start_are_an_error():
    tf.config.list_logical_devices("CPU")
    with pytest.raises(ConfigError, match="must be set before TensorFlow starts"):
        runtime.build(RuntimeOptions(strategy="mirrored", num_logical_devices=7))


def test_float32_is_not_rounded_to_tf32():
    """TensorFlow's default, on a GPU."""
    tf.config.experimental.enable_tensor_float_32_execution(True)
    runtime.build(RuntimeOptions(strategy="one_device"))
    assert not tf.config.experimental.tensor_float_32_execution_enabled()
