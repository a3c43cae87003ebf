from __future__ import annotations

import pytest

from trainer.distribution import accelerators

LINUX = ("Linux", "x86_64")
FILES = {
    "an NVIDIA GPU": [["dev/nvidia0"], ["proc/driver/nvidia/gpus/0000:01:00.0"]],
    "a TPU": [["dev/accel0"], ["dev/vfio/0", "sys/bus/pci/devices/0000:00:05.0/vendor"]],
    "an AMD GPU": [["dev/kfd"]],
}
"""What each kind of accelerator leaves in a machine."""
WAYS_OUT = {
    "an NVIDIA GPU": 'pip install ".[gpu]"',
    "a TPU": 'pip install ".[tpu]"',
    "an AMD GPU": "tensorflow-rocm",
}
DEVICES = {"an NVIDIA GPU": "GPU", "a TPU": "TPU", "an AMD GPU": "GPU"}
CASES = [(name, files) for name, cases in FILES.items() for files in cases]


@pytest.fixture
def machine(tmp_path):
    """Makes a root folder with these files; vendors of PCI devices are Google."""

    def make(files, vendor="0x1ae0"):
        for file in files:
            path = tmp_path / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{vendor}\n")
        return tmp_path

    return make


def _lines(root, visible=("CPU",), environ=None, system=LINUX):
    return list(accelerators.unused(visible, root=root, environ=environ or {}, system=system))


@pytest.mark.parametrize(("name", "files"), CASES)
def test_an_accelerator_that_tensorflow_does_not_see_is_said_with_the_way_out(machine, name, files):
    (line,) = _lines(machine(files))
    assert line.startswith(f"{name} (/{files[0]}) is in this machine, and TensorFlow can't use it")
    assert WAYS_OUT[name] in line
    assert "\n" not in line


@pytest.mark.parametrize(("name", "files"), CASES)
def test_an_accelerator_that_tensorflow_sees_is_not(machine, name, files):
    assert _lines(machine(files), visible=("CPU", DEVICES[name])) == []


@pytest.mark.parametrize("hidden", ["", "-1"])
def test_gpus_that_are_hidden_on_purpose_are_not(machine, hidden):
    assert _lines(machine(["dev/nvidia0"]), environ={"CUDA_VISIBLE_DEVICES": hidden}) == []
    assert _lines(machine(["dev/nvidia0"]), environ={"CUDA_VISIBLE_DEVICES": "0"})


@pytest.mark.parametrize(
    ("count", "named", "ids"),
    [
        (0, None, ()),
        (3, None, ("0", "1", "2")),
        (2, "", ("0", "1")),
        (2, "2,5", ("2", "5")),
        (2, "GPU-1a, GPU-2b", ("GPU-1a", "GPU-2b")),
        (1, "3,-1,4", ("3",)),  # CUDA ends the list at the first that is none.
    ],
)
def test_gpus_are_named_as_the_environment_names_them(count, named, ids):
    environ = {} if named is None else {"CUDA_VISIBLE_DEVICES": named}
    assert accelerators.gpu_ids(count, environ=environ) == ids


def test_other_devices_of_guests_are_no_tpu(machine):
    files = ["dev/vfio/7", "sys/bus/pci/devices/0000:00:05.0/vendor"]
    assert _lines(machine(files, vendor="0x10de")) == []


@pytest.mark.parametrize(
    "files", [[], ["dev/nvidiactl"], ["dev/vfio/vfio"], ["usr/bin/nvidia-smi"]]
)
def test_a_machine_without_one_says_nothing(machine, files):
    assert _lines(machine(files)) == []


def test_apple_silicon_is_said_unless_its_gpu_is_seen(tmp_path):
    (line,) = _lines(tmp_path, system=("Darwin", "arm64"))
    assert "tensorflow-metal" in line
    assert _lines(tmp_path, ("CPU", "GPU"), system=("Darwin", "arm64")) == []
    assert _lines(tmp_path, system=("Darwin", "x86_64")) == []


def test_the_gpus_of_a_machine_are_counted_without_tensorflow(tmp_path):
    (tmp_path / "dev").mkdir()
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
        (tmp_path / "dev" / name).touch()
    assert accelerators.nvidia_gpus(root=tmp_path, environ={}) == ("0", "1")
    hidden = {"CUDA_VISIBLE_DEVICES": "-1"}
    assert accelerators.nvidia_gpus(root=tmp_path, environ=hidden) == ()


@pytest.mark.parametrize(
    ("count", "gpus", "shares"),
    [
        (2, (), [None, None]),
        (2, ("0", "1"), ["0", "1"]),
        (2, ("0", "1", "2", "3"), ["0,1", "2,3"]),
        (2, ("0", "1", "2"), ["0", "1"]),
        (3, ("0", "1"), ["-1", "-1", "-1"]),
        (2, ("GPU-ab", "GPU-cd"), ["GPU-ab", "GPU-cd"]),
    ],
)
def test_workers_divide_the_gpus_equally(count, gpus, shares):
    found = [accelerators.share_of_gpus(index, count, gpus) for index in range(count)]
    assert [share.get("CUDA_VISIBLE_DEVICES") for share in found] == shares


@pytest.mark.parametrize(
    ("count", "gpus", "said"),
    [
        (2, ("0", "1"), ""),
        (2, (), ""),
        (2, ("0", "1", "2"), "each of the 2 workers has 1 of the 3 GPUs; the rest idles."),
        (2, ("0",), "2 workers can't share one GPU: they train on the CPU."),
        (3, ("0", "1"), "3 workers can't share 2 GPUs: they train on the CPU."),
    ],
)
def test_gpus_that_workers_leave_unused_are_said(count, gpus, said):
    assert accelerators.note_on_shares(count, gpus) == said
