"""Which options change nothing: because another one isn't set, or the mode doesn't use them.

`NEEDS` and `_USED` are the only places that say so. The command line refuses a value that the user
gave for nothing, or says it in a line where scripts of a whole site may give it to every run.

    effects.refuse({"tpu": "my-tpu"}, values)       # ConfigError: tpu (my-tpu) needs --strategy=tpu
    effects.idle(values)                            # the names of options that change nothing

A file of options holds the values of all of them; so nothing in one is refused.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from trainer.errors import ConfigError
from trainer.system import text

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

    Values = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Need:
    """What an option needs for a value to change anything.

    Attributes:
      what: the end of "tpu (my-tpu) needs …".
      is_met: of the values of all options, and of `mode`.
      others: the options that `is_met` looks at.
      idle: values that ask for nothing, and are never in vain.
      is_refused: whether a value in vain is refused, instead of said.
    """

    what: str
    is_met: Callable[[Values], bool]
    others: tuple[str, ...]
    idle: tuple[Any, ...] = ()
    is_refused: bool = True


def _is_remote(values: Values) -> bool:
    return any("://" in values[name] for name in ("data_dir", "model_dir", "cache_dir"))


_FINE_TUNED = Need(
    "--layers_to_unfreeze of 1 or more, and --weights other than none",
    lambda v: v["layers_to_unfreeze"] != "0" and v["weights"] != "none",
    ("layers_to_unfreeze", "weights"),
)
_COMPARED = Need("--mode=compare", lambda v: v["mode"].startswith("compare"), ("mode",))
_DENSE = Need("--dense_layers of 1 or more", lambda v: v["dense_layers"] > 0, ("dense_layers",))
_OF_FILES = ("predict", "explain")
_OF_IMAGES = (*_OF_FILES, "evaluate", "export")
_PLACES = ("data_dir", "model_dir", "cache_dir")
NEEDS = {
    "fixed_step_size": Need(
        "--nouse_all_samples, as an epoch takes all samples otherwise",
        lambda v: not v["use_all_samples"],
        ("use_all_samples",),
    ),
    "tail": Need(
        "--use_all_samples, as a fixed number of steps has no incomplete batch",
        lambda v: v["use_all_samples"],
        ("use_all_samples",),
        idle=("wrap",),
    ),
    "backbone_learning_rate": dataclasses.replace(_FINE_TUNED, idle=(0.0,)),
    "head_epochs": dataclasses.replace(_FINE_TUNED, idle=(0, 2)),
    "schedule_epochs": Need(
        "--schedule=cosine", lambda v: v["schedule"] != "constant", ("schedule",), idle=(0,)
    ),
    "neurons": _DENSE,
    "dropout": dataclasses.replace(_DENSE, idle=(0.0,)),
    "tpu": Need("--strategy=tpu", lambda v: v["strategy"] == "tpu", ("strategy",), idle=("local",)),
    "num_logical_devices": Need(
        "--strategy=mirrored", lambda v: v["strategy"] == "mirrored", ("strategy",), idle=(0,)
    ),
    "tpu_topology": Need("--mode=tpu_check", lambda v: v["mode"] == "tpu_check", ("mode",)),
    "benchmark_images": Need(
        "--mode=benchmark", lambda v: v["mode"] == "benchmark", ("mode",),
        is_refused=False,  # The benchmark of searches gives a search the same options.
    ),
    "backbones": dataclasses.replace(_COMPARED, idle=("",)),
    "seeds": Need(
        "--mode=compare with --backbones", lambda v: v["mode"] == "compare", ("mode",), idle=(3,)
    ),
    "runs": dataclasses.replace(_COMPARED, idle=("",)),
    "images": Need(
        "--mode=predict, explain, evaluate or export", lambda v: v["mode"].split()[0] in _OF_IMAGES,
        ("mode",), ("",),
    ),
    "output_dir": Need(
        "--mode=predict, explain or export; a run is written to --model_dir",
        lambda v: v["mode"] in (*_OF_FILES, "export"), ("mode",), ("",),
    ),
    "heatmap": Need("--mode=explain", lambda v: v["mode"] == "explain", ("mode",), ("gradcam",)),
    "save_maps": Need("--mode=explain", lambda v: v["mode"] == "explain", ("mode",), (False,)),
    "format": Need("--mode=export", lambda v: v["mode"] == "export", ("mode",), ("savedmodel",)),
    "stage_data": Need(
        "a --data_dir in gs://", lambda v: "://" in v["data_dir"], ("data_dir",), (True,),
        is_refused=False,
    ),
    "staging_dir": Need("a folder in gs://", _is_remote, _PLACES, ("",), is_refused=False),
    "cache_budget_gb": Need(
        "--feature_cache=auto", lambda v: v["feature_cache"] != "off", ("feature_cache",),
        is_refused=False,
    ),
    "worker_timeout_s": Need(
        "several hosts, or a --data_service",
        lambda v: v["strategy"] in ("auto", "multi_worker") or bool(v["data_service"]),
        ("strategy", "data_service"), is_refused=False,
    ),
}  # fmt: skip
"""By option. Those that `Config` itself refuses, such as `views`, are not among them."""

_DEVICES = ("strategy", "tpu", "num_logical_devices", "cpu_threads", "deterministic")
_HOSTS = ("local_workers", "worker_timeout_s")
_LAYERS = ("backbone", "image_size", "layers_to_unfreeze", "neurons", "dense_layers", "pooling")
_UPDATES = (
    "weight_decay", "global_clipnorm", "gradient_accumulation_steps", "label_smoothing",
    "class_weights", "seed", "precision",
)  # fmt: skip
_EVALUATION = ("operating_point", "judge_by", "prevalence", "prior_correction")
COMPARED_RUNS = "compare --runs"
"""--mode=compare as a mode of its own where it compares finished runs: it trains nothing."""
EVALUATED_IMAGES = "evaluate --images"
"""--mode=evaluate as a mode of its own where it evaluates no data set."""
_USED = {
    "evaluate": {
        *_DEVICES, *_HOSTS, "dataset", "manual_dir", "data_dir", "stage_data", "staging_dir",
        "batch_size", "data_service", "model_dir", *_EVALUATION,
    },
    "predict": {*_DEVICES, "batch_size", "staging_dir", "model_dir", "images", "output_dir"},
    "explain": {
        *_DEVICES, "batch_size", "staging_dir", "model_dir", "images", "output_dir", "heatmap",
        "save_maps",
    },
    "export": {
        "cpu_threads", "staging_dir", "model_dir", "images", "output_dir", "format", "dataset",
        "data_dir", "manual_dir", "stage_data",
    },
    EVALUATED_IMAGES: {
        *_DEVICES, "batch_size", "staging_dir", "model_dir", "images", *_EVALUATION,
    },
    COMPARED_RUNS: {"runs", "model_dir", "staging_dir"},
    "selfcheck": {*_DEVICES, *_HOSTS, *_LAYERS, *_UPDATES},
    "tpu_check": {
        *_LAYERS, *_UPDATES, "dropout", "optimizer", "learning_rate", "backbone_learning_rate",
        "schedule", "schedule_epochs", "warmup_epochs", "max_epochs", "tpu_topology", "dataset",
        "data_dir", "staging_dir", "stage_data", "batch_size",
    },
}  # fmt: skip
"""By mode: the options that it uses. The other modes train, with all of them."""
_REPLACED = {
    "compare": {"resume", *_HOSTS},
    "benchmark": {"cache_dir", "patience", "monitor", "head_epochs"},
}
"""By mode: the options that it sets itself."""


def idle(values: Values, mode: str = "train", searched: Collection[str] = ()) -> list[str]:
    """Returns the names of the options whose values change nothing, because of the others.

    Args:
      values: of all options, by name.
      mode: the command's.
      searched: options that take several values in turn; what needs them is never in vain.
    """
    of_all = {**values, "mode": mode}
    return [
        name
        for name, need in NEEDS.items()
        if of_all[name] not in need.idle
        and not set(need.others) & set(searched)
        and not need.is_met(of_all)
    ]


def refused(values: Values, mode: str = "train") -> list[str]:
    """Returns the names of the options that a command line with these values would refuse."""
    return [name for name in idle(values, mode) if NEEDS[name].is_refused]


def refuse(
    given: Values, values: Values, mode: str = "train", searched: Collection[str] = ()
) -> None:
    """Raises ConfigError for a given value that changes nothing, unless it is only said.

    Args:
      given: the options that the user has set for this command.
      values: of all options, those of `given` and of files included.
      mode: the command's.
      searched: options that take several values in turn.
    """
    for name in idle(values, mode, searched):
        if name in given and name in used(mode, given) and NEEDS[name].is_refused:
            raise ConfigError(f"{_needs(name, values)}; add that, or leave {name} out.")


def lines(
    given: Values,
    values: Values,
    defaults: Values,
    mode: str = "train",
    searched: Collection[str] = (),
) -> Iterator[str]:
    """Yields a line for each value that changes nothing and is not refused.

    Args:
      given: the options that the user has set for this command.
      values: of all options. What is not in `given` comes from a file, or is the default.
      defaults: of all options; they are asked for by nobody.
      mode: the command's.
      searched: options that take several values in turn.
    """
    unused = [name for name in given if name not in used(mode, given)]
    if unused:
        listed = ", ".join(f"{name} ({_shown(given[name])})" for name in unused)
        yield f"not used by --mode={mode}: {listed}."
    if mode in _USED:  # The rest of the values is of a run, and was for its training.
        return
    for name in idle(values, mode, searched):
        is_of_mode = "mode" in NEEDS[name].others
        is_from_file = name not in given and values[name] != defaults[name] and not is_of_mode
        if is_from_file or (name in given and not NEEDS[name].is_refused):
            yield f"{_needs(name, values)}: it changes nothing here."


def used(mode: str, names: Collection[str]) -> list[str]:
    """Returns those of the options that a mode uses, if given what they need."""
    kept = _USED.get(mode)
    of_mode = [name for name, need in NEEDS.items() if "mode" in need.others]
    return [
        name
        for name in names
        if (kept is None or name in kept or name in of_mode) and name not in _REPLACED.get(mode, ())
    ]


def _needs(name: str, values: Values) -> str:
    return f"{name} ({_shown(values[name])}) needs {NEEDS[name].what}"


def _shown(value: Any) -> str:
    """Returns a value as on the command line."""
    if isinstance(value, bool):
        return str(value).lower()
    return text.plain(value) if isinstance(value, int | float) else f"{text.one_line(value):.200}"
