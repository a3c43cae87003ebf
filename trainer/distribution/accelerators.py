"""Accelerators that are in this machine and that TensorFlow can't use. Imports no TensorFlow.

A run on the CPU of a machine with a GPU is slow, and nothing else tells why.

    accelerators.unused(visible=("CPU",))   # a sentence for each, with the way out

Only device files are looked at: a program such as nvidia-smi may be installed without a GPU.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import platform
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

TPU_DEVICES = (("/dev", "accel[0-9]*"), ("/dev/vfio", "[0-9]*"))
"""Device files of the chips of a TPU VM: up to v4, and from v5e on."""
_GOOGLE = "0x1ae0"
"""PCI vendor of TPU chips; other devices are in /dev/vfio where a machine lends them to guests."""
_HIDDEN = ("", "-1", "none", "NoDevFiles")
"""Values with which a user hides all GPUs from programs."""
_ROOT = pathlib.Path("/")


@dataclasses.dataclass(frozen=True)
class Accelerator:
    """A kind of accelerator.

    Attributes:
      name: what it is called.
      device: TensorFlow's name for its kind.
      files: device files of it, as folders and patterns.
      hiding: variables that hide it from programs.
      way_out: what makes TensorFlow use it, a clause.
    """

    name: str
    device: str
    files: tuple[tuple[str, str], ...]
    hiding: tuple[str, ...]
    way_out: str


KINDS = (
    Accelerator(
        "an NVIDIA GPU",
        "GPU",
        (
            ("/dev", "nvidia[0-9]*"),
            ("/proc/driver/nvidia/gpus", "*"),
            ("/usr/lib/wsl/lib", "libcuda.so*"),  # Under Windows' subsystem for Linux.
        ),
        ("CUDA_VISIBLE_DEVICES",),
        'install the extra `gpu` in an environment of its own (pip install ".[gpu]"), and a driver '
        "that is new enough for its CUDA",
    ),
    Accelerator(
        "a TPU",
        "TPU",
        TPU_DEVICES,
        (),
        'install the extra `tpu` in an environment of its own (pip install ".[tpu]")',
    ),
    Accelerator(
        "an AMD GPU",
        "GPU",
        (("/dev", "kfd"),),
        ("HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"),
        "TensorFlow needs AMD's build for it, tensorflow-rocm, with which this package is not "
        "tested",
    ),
)


def unused(
    visible: Collection[str],
    *,
    root: pathlib.Path = _ROOT,
    environ: Mapping[str, str] = os.environ,
    system: tuple[str, str] | None = None,
) -> Iterator[str]:
    """Yields a sentence for each accelerator that is there and that TensorFlow can't use.

    Args:
      visible: kinds of devices that TensorFlow sees: CPU, GPU, TPU.
      root: folder that stands for `/`.
      environ: variables of the environment.
      system: name and machine of the operating system; None: this one's.
    """
    for kind in KINDS:
        is_hidden = any(environ.get(name, "all") in _HIDDEN for name in kind.hiding)
        found = None if kind.device in visible or is_hidden else _device_file(kind, root)
        if found:
            yield _sentence(f"{kind.name} ({found})", kind.way_out)
    is_apple = (system or (platform.system(), platform.machine())) == ("Darwin", "arm64")
    if is_apple and "GPU" not in visible:
        yield _sentence(
            "an Apple GPU",
            "TensorFlow needs a tensorflow-metal of the same release for it, with which this "
            "package is not tested",
        )


def gpu_ids(count: int, *, environ: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """Returns what CUDA_VISIBLE_DEVICES calls the GPUs that this process sees.

    Args:
      count: how many there are.
      environ: variables of the environment; a choice of GPUs there is narrowed, and never widened.
    """
    named = [name.strip() for name in environ.get("CUDA_VISIBLE_DEVICES", "").split(",")]
    return tuple(named[:count]) if any(named) else tuple(map(str, range(count)))


def nvidia_gpus(
    *, root: pathlib.Path = _ROOT, environ: Mapping[str, str] = os.environ
) -> tuple[str, ...]:
    """Returns what CUDA_VISIBLE_DEVICES calls the GPUs of this machine, without TensorFlow."""
    if environ.get("CUDA_VISIBLE_DEVICES", "all") in _HIDDEN:
        return ()
    return gpu_ids(len(list((root / "dev").glob("nvidia[0-9]*"))), environ=environ)


def share_of_gpus(index: int, count: int, gpus: Sequence[str]) -> dict[str, str]:
    """Returns the variables with which one of `count` workers has its share of the GPUs.

    Without them each worker would take all GPUs, and NCCL joins no two processes on one. Each has
    as many as the others, as TensorFlow demands; where there are too few, all train on the CPU.
    """
    if not gpus:
        return {}
    each = len(gpus) // count
    own = gpus[index * each : (index + 1) * each]
    return {"CUDA_VISIBLE_DEVICES": ",".join(own) or "-1"}


def note_on_shares(count: int, gpus: Sequence[str]) -> str:
    """Returns a sentence on the GPUs that workers leave unused; empty if there are none."""
    used = len(gpus) // count * count
    if used == len(gpus):
        return ""
    if not used:
        shown = "one GPU" if len(gpus) == 1 else f"{len(gpus)} GPUs"
        return f"{count} workers can't share {shown}: they train on the CPU."
    return (
        f"each of the {count} workers has {used // count} of the {len(gpus)} GPUs; the rest idles."
    )


def _sentence(what: str, way_out: str) -> str:
    return f"{what} is in this machine, and TensorFlow can't use it: {way_out}."


def _device_file(kind: Accelerator, root: pathlib.Path) -> str:
    """Returns the first device file, as if `root` were `/`; empty if there is none."""
    for folder, pattern in kind.files:
        if folder == "/dev/vfio" and not _has_google_chip(root):
            continue
        for path in sorted((root / folder.lstrip("/")).glob(pattern)):
            return f"/{path.relative_to(root)}"
    return ""


def _has_google_chip(root: pathlib.Path) -> bool:
    for path in (root / "sys/bus/pci/devices").glob("*/vendor"):
        try:
            if path.read_text("ascii").strip() == _GOOGLE:
                return True
        except OSError:  # A device may be taken away meanwhile.
            continue
    return False
