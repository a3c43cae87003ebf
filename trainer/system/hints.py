"""What was meant by a word that is no option or no value: the nearest by meaning, then by letters.

hints.option("lr", names)                    # "; did you mean learning_rate?"
hints.values("strategy", "gpu", choices)     # ["auto", "mirrored"]
"""

from __future__ import annotations

import contextlib
import difflib
import re
from typing import TYPE_CHECKING

from trainer.system import text

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

_SIMILAR, _VERY_SIMILAR = 0.65, 0.85
"""Least similarity (difflib's ratio) of a name that is suggested, and of one that is sure."""
_MOST = 2
"""How many names are suggested at most."""

_OPTIONS = {
    "amp": "precision",
    "arch": "backbone",
    "architecture": "backbone",
    "archive": "manual_dir",
    "batch": "batch_size",
    "bs": "batch_size",
    "budget": "budget_minutes cache_budget_gb",
    "cache": "cache_dir",
    "checkpoint": "model_dir weights",
    "checkpoint_dir": "model_dir",
    "config": "config_file",
    "data": "dataset data_dir",
    "device": "strategy",
    "devices": "strategy",
    "dir": "model_dir directory",
    "dtype": "precision",
    "early_stopping": "patience",
    "epoch": "max_epochs",
    "epochs": "max_epochs",
    "file": "images",
    "files": "images",
    "folder": "model_dir directory",
    "formats": "format",
    "fp16": "precision",
    "freeze": "layers_to_unfreeze",
    "gpu": "strategy",
    "gpus": "strategy",
    "h": "help",
    "hidden": "neurons",
    "hidden_units": "neurons",
    "image": "images",
    "image_dir": "images",
    "img_size": "image_size",
    "input": "images",
    "input_dir": "images",
    "layers": "dense_layers",
    "log_dir": "model_dir directory",
    "logdir": "model_dir directory",
    "lr": "learning_rate",
    "mixed_precision": "precision",
    "model": "backbone",
    "model_dir": "directory",
    "n_trials": "max_trials",
    "name": "project_name model_dir",
    "num_epochs": "max_epochs",
    "num_gpus": "strategy",
    "num_workers": "workers local_workers",
    "out_dir": "output_dir model_dir directory",
    "output": "output_dir model_dir directory",
    "pretrained": "weights",
    "rate": "learning_rate",
    "restore": "resume",
    "run_dir": "model_dir directory",
    "search_dir": "directory",
    "steps": "fixed_step_size",
    "steps_per_epoch": "fixed_step_size",
    "trials": "max_trials",
    "unfreeze": "layers_to_unfreeze",
    "units": "neurons",
    "v": "version verbosity",
    "verbose": "verbosity",
    "wd": "weight_decay",
}
"""Names of the same option elsewhere; a command has one of those listed, or several."""
_ABSENT = dict.fromkeys(
    ("split", "eval_split", "subset"),
    "an evaluation is of the test split; what validation measured is in the run's metrics.jsonl",
)
"""Options of other programs for what can't be chosen here, and why."""
_WITH_UNIT = re.compile(r"(?P<number>[\d.,e+-]+?)\s*(?P<unit>%|[a-z]+)", re.IGNORECASE)
_TIME = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_UNITS: dict[str, dict[str, float]] = {
    "minutes": {unit: seconds / 60 for unit, seconds in _TIME.items()},
    "s": dict(_TIME),
    "gb": {"m": 1e-3, "g": 1, "t": 1e3},
    "size": {"p": 1},
}
"""By the last part of an option's name: what each unit is worth, by its first letter."""

_ON, _OFF = "on true yes 1", "off false no 0"
_VALUES = {
    "strategy": {
        "auto": "default none best",
        "auto mirrored": "gpu gpus cuda",
        "one_device": "cpu single single_device default_strategy",
        "mirrored": "multi_gpu dp data_parallel all",
        "multi_worker": "multi_node multi_host cluster horovod ps parameter_server",
        "mirrored multi_worker": "multi ddp distributed distribute parallel nccl",
    },
    "precision": {
        "mixed_float16": "fp16 float16 f16 half amp mixed_fp16",
        "mixed_bfloat16": "bf16 bfloat16 mixed_bf16",
        "mixed_bfloat16 mixed_float16": "mixed 16 mixed16 mixed_precision low",
        "float32": "fp32 f32 32 full single tf32 float fp64 float64 f64 64 double",
    },
    "mode": {
        "train": "fit run resume retrain start",
        "evaluate": "eval test validate validation report assess",
        "predict": "prediction infer inference score classify worklist triage",
        "explain": "gradcam grad_cam hirescam heatmap heatmaps saliency cam",
        "export": "convert tflite litert onnx savedmodel saved_model serve deploy save",
        "benchmark": "bench time timing speed profile race",
        "selfcheck": "check verify doctor",
        "tpu_check": "tpu compile",
    },
    "format": {
        "savedmodel": "saved_model tf tensorflow tfserving",
        "litert": "tflite lite",
        "litert_int8": "int8 tflite_int8 quantized quantised",
    },
    "heatmap": {"gradcam": "grad_cam cam", "hirescam": "hires_cam"},
    "backbone": {
        "vgg16": "vgg vgg19",
        "inception_resnet_v2": "inception inception_v3 resnet resnet18 resnet34 resnet50 "
        "resnet101 resnet152",
        "small_cnn": "cnn simple tiny custom scratch",
    },
    "optimizer": {"adam": "rmsprop adagrad nadam", "sgd": "momentum nesterov"},
    "algorithm": {
        "hyperband": "asha bohb halving successive_halving",
        "bayesian": "bo gp gaussian tpe optuna bayes",
        "grid": "exhaustive all",
    },
    "objective": {"val_auc": "auc auroc roc_auc accuracy acc val_accuracy", "val_loss": "loss"},
    "monitor": {"val_auc": "auc auroc roc_auc accuracy acc val_accuracy", "val_loss": "loss"},
    "schedule": {"cosine": "decay", "constant": f"none fixed flat {_OFF}"},
    "augmentation": {"none": _OFF, "light": f"basic weak simple {_ON}", "strong": "heavy full"},
    "class_weights": {"balanced": f"auto {_ON}", "none": _OFF},
    "pooling": {"avg": "mean average gap global", "flatten": "none off", "avgmax": "max both"},
    "tail": {"wrap": "pad fill keep", "drop": "skip drop_remainder remainder"},
    "resume": {"auto": _ON, "never": f"overwrite {_OFF}", "must": "force"},
    "feature_cache": {"auto": _ON, "off": "none false no 0"},
    "dataset": {"phantom": "demo synthetic fake toy", "official": "kaggle original"},
    "recipe": {"quickstart": "demo test quick example"},
}
"""By option: words that users know for a value, by the values of ours."""


def option(name: str, known: Collection[str], dashes: str = "") -> str:
    """Returns a clause that names the option that was meant; empty if none is near.

    Args:
      name: as the user wrote it.
      known: the options of the command.
      dashes: what stands before a suggested name.
    """
    if why := _ABSENT.get(name):
        return f": {why}."
    return _clause([f"{dashes}{other}" for other in options(name, known)])


def options(name: str, known: Collection[str]) -> list[str]:
    """Returns the options that may have been meant."""
    meant = _OPTIONS.get(name.lower().replace("-", "_"), "").split()
    return [other for other in meant if other in known] or near(name, known)


def choice(name: str, given: str, choices: Sequence[str]) -> str:
    """Returns the end of a sentence that lists an option's values, and names what was meant.

    Values of `search` are the names of options.
    """
    return f"must be one of {', '.join(choices)}{_clause(values(name, given, choices)) or '.'}"


def values(name: str, given: str, choices: Sequence[str]) -> list[str]:
    """Returns the values of an option that may have been meant."""
    if name == "search":
        return options(given, choices)
    word = _letters(given)
    for meant, words in _VALUES.get(name, {}).items():
        if word in map(_letters, words.split()) and set(meant.split()) <= set(choices):
            return meant.split()
    return near(given, choices)


def near(word: str, known: Iterable[str]) -> list[str]:
    """Returns the known names that a word is near to by its letters: misspelt, or a part of them.

    A part counts before a vague likeness: `inception` is in inception_resnet_v2, and only looks
    like xception.
    """
    by_letters = {_letters(name): name for name in known}
    close = difflib.get_close_matches(_letters(word), by_letters, n=1, cutoff=_SIMILAR)
    found = [by_letters[letters] for letters in close]
    if close and _ratio(word, close[0]) >= _VERY_SIMILAR:
        return found
    stem = re.sub(r"\d+$", "", _letters(word)) or word
    parts = [name for name in by_letters.values() if stem in name.casefold().split("_")]
    return parts if 0 < len(parts) <= _MOST else found


def clause(word: str, known: Iterable[str]) -> str:
    """Returns a clause that names what a word is near to by its letters; empty if nothing is."""
    return _clause(near(word, known))


def _clause(found: Iterable[str]) -> str:
    named = " or ".join(found)
    return f"; did you mean {named}?" if named else ""


def _ratio(word: str, letters: str) -> float:
    return difflib.SequenceMatcher(None, letters, _letters(word)).ratio()


def _letters(word: str) -> str:
    """Returns what a misspelling keeps: vgg-16, VGG_16 and vgg16 are one name."""
    return re.sub(r"[\s_-]", "", word.casefold())


def number(name: str, value: str, *, is_whole: bool) -> str:
    """Returns the end of a sentence: how a value is written, if it is a number in other form.

    Args:
      name: of the option.
      value: as the user wrote it.
      is_whole: whether the option takes whole numbers.
    """
    if name == "seeds" and "," in value:
        return ": how many there are; --seed is the first."
    with contextlib.suppress(ValueError, OverflowError):
        bare = None if is_whole and "%" in value else _without_unit(name, value)
        if bare is not None and (bare.is_integer() or not is_whole):
            return f", without a unit; did you mean {text.plain(bare)}?"
        found = float(value.replace(",", ".", 1) if value.count(",") == 1 else value)
        written = text.plain(found)
        if "," in value and not is_whole:
            return f", with a point; did you mean {written}?"
        if is_whole and "," not in value and found.is_integer():
            return f", in digits; did you mean {written}?"
    return "."


def _without_unit(name: str, value: str) -> float | None:
    """Returns the number that a percentage, or a number with a unit, stands for."""
    found = _WITH_UNIT.fullmatch(value)
    if found is None:
        return None
    units = _UNITS.get(name.rpartition("_")[2], {}) | {"%": 0.01}
    worth = units.get(found["unit"][0].lower())
    return None if worth is None else float(found["number"].replace(",", ".")) * worth
