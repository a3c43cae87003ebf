"""A tiny run with every option: each choice, both booleans, another number or text.

The table comes from the fields of the options. `VALUES` has what can't be derived from a field;
`GIVEN` what else a value needs; `REFUSALS` and `EFFECTS` what is special about an outcome.
Otherwise an option that affects results must change them, and another must leave them as they are.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import json
import shutil
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import pytest

from tests.support import commands, radiographs, runs
from trainer import config as config_lib
from trainer.commands import train
from trainer.errors import ConfigError, RunError
from trainer.models import classifier

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from trainer.config import Config

pytestmark = pytest.mark.slow

VALUES: dict[str, tuple[Any, ...]] = {
    "manual_dir": ("{built_from}",), "data_dir": ("{data}",), "staging_dir": ("{new}/staging",),
    "batch_size": (8,), "fixed_step_size": (2,), "data_service": ("grpc://127.0.0.1:1",),
    "weights": ("imagenet", "none", "{weights}"), "image_size": (48,),
    "layers_to_unfreeze": ("2", "all"), "neurons": (9,), "dense_layers": (0, 2), "dropout": (0.1,),
    "learning_rate": (0.1,), "backbone_learning_rate": (0.1,), "head_epochs": (1,),
    "schedule_epochs": (9,), "warmup_epochs": (1,), "weight_decay": (0.5,),
    "global_clipnorm": (1e-3,), "gradient_accumulation_steps": (2,), "label_smoothing": (0.5,),
    "max_epochs": (2,), "patience": (1,), "views": (2,), "cache_dir": ("{new}/cache",),
    "cache_budget_gb": (0.0,), "tpu": ("no-such-tpu",), "tpu_topology": ("v5e:2x4",),
    "num_logical_devices": (2,), "local_workers": (2,), "worker_timeout_s": (20.0,),
    "cpu_threads": (1,), "seed": (1,), "steps_per_execution": (3,), "checkpoint_every_s": (1e-3,),
    "checkpoint_every_steps": (2,), "keep_checkpoints": (1,), "max_recoveries": (0,),
    "benchmark_images": (10,), "backbones": ("small_cnn,vgg16",), "seeds": (2,), "runs": ("a,b",),
    "operating_point": ("sensitivity=0.9",), "judge_by": ("folder",), "prevalence": (0.05,),
    "images": ("scans",), "output_dir": ("{new}/out",), "format": ("litert,onnx",),
}  # fmt: skip
"""Values of the options that are neither choices nor booleans."""

GIVEN: dict[str, dict[str, Any]] = {
    "dataset": {"manual_dir": "{archive}", "data_dir": "{new}/data"},
    "dataset=phantom": {"data_dir": "{phantom}"},
    "fixed_step_size": {"use_all_samples": False},
    "backbone": {"image_size": 75},
    "optimizer=adamw": {"weight_decay": 0.5},
    "backbone_learning_rate": {
        "weights": "{weights}",
        "layers_to_unfreeze": "2",
        "head_epochs": 0,
    },
    "head_epochs": {"weights": "{weights}", "layers_to_unfreeze": "2", "max_epochs": 3},
    "schedule": {"max_epochs": 2},
    "schedule_epochs": {"schedule": "cosine"},
    "patience": {"learning_rate": 0.0, "max_epochs": 3},
    "views": {"augmentation": "light"},
    "num_logical_devices": {"strategy": "mirrored"},
    "strategy=mirrored": {"num_logical_devices": 2},
    "tpu": {"strategy": "tpu"},
    "local_workers": {"strategy": "multi_worker"},
    "keep_checkpoints": {"max_epochs": 2},
    "checkpoint_every_s": {"steps_per_execution": 2, "keep_checkpoints": 9},
    "checkpoint_every_steps": {"steps_per_execution": 2, "keep_checkpoints": 9},
    "max_recoveries": {"learning_rate": 1e38, "optimizer": "sgd"},
    "runs": {},  # Not together with backbones.
}
"""What else an option, or one of its values, needs."""

REFUSALS = {
    "data_service": "no tf.data service dispatcher answers at grpc://127.0.0.1:1",
    "weights=imagenet": "small_cnn",
    "strategy=multi_worker": "multi_worker needs the environment variable TF_CONFIG",
    "strategy=tpu": "strategy=tpu found no TPU named 'local'",
    "tpu": "strategy=tpu found no TPU named 'no-such-tpu'",
    "local_workers": r"local_workers \(2\) starts other processes",
    "resume=must": "holds no run for --resume=must to resume",
    "max_recoveries": "after 0 recoveries",
}
"""What ends in one line here: the services, machines and runs are not there."""

OF_A_PROCESS = ("cpu_threads", "deterministic")
"""Options that must be set before TensorFlow starts, or that can't be unset in a process."""

UNRECORDED = ("staging_dir", "precision=auto")
"""The next machine may stage elsewhere; the policy that was chosen is recorded instead."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a run left, and what it printed."""

    output: str
    config: dict[str, Any]
    history: list[dict[str, Any]]
    predictions: bytes
    checkpoints: list[str]


def _changes(run: Outcome, reference: Outcome) -> bool:
    return (run.history, run.predictions) != (reference.history, reference.predictions)


def _keeps(run: Outcome, reference: Outcome) -> bool:
    return (run.history, run.predictions) == (reference.history, reference.predictions)


def _prints(text: str) -> Callable[[Outcome, Outcome], bool]:
    return lambda run, _: text in run.output


def _has_checkpoints(names: list[str]) -> Callable[[Outcome, Outcome], bool]:
    return lambda run, _: run.checkpoints == names


def _has_epochs(count: int) -> Callable[[Outcome, Outcome], bool]:
    return lambda run, _: len(run.history) == count


EFFECTS: dict[str, Callable[[Outcome, Outcome], bool]] = {
    "dataset=phantom": _prints("data: cxr_tfds/phantom/"),
    "weights": _changes,  # Not an option of the result by name: the hash of the weights is.
    "optimizer=adamw": _keeps,  # Adam by its other name.
    "feature_cache=off": _prints(
        "training on images, not on cached features: --feature_cache=off."
    ),
    "max_epochs": _has_epochs(2),
    "patience": _has_epochs(2),
    "monitor=val_auc": _prints("Best epoch (highest validation ROC-AUC): 1 of 1"),
    "cache_budget_gb": _prints("more than --cache_budget_gb=0.\n"),
    "strategy=mirrored": _prints("2 replicas, float32"),
    "num_logical_devices": _prints("2 replicas, float32"),
    "precision=auto": _prints("img/s in float32 and at"),
    "operating_point": _prints("chosen by sensitivity=0.9 on "),
    "judge_by": _prints("\nAccuracy by folder\n  train  "),
    "prevalence": _prints("\nAt a prevalence of 5.00 %\n"),
    "keep_checkpoints": _has_checkpoints(["00002-000000"]),
    "checkpoint_every_s": _has_checkpoints(
        ["00000-000000", "00000-000002", "00000-000004", "00000-000005", "00001-000000"]
    ),
    "checkpoint_every_steps": _has_checkpoints(
        ["00000-000000", "00000-000002", "00000-000004", "00001-000000"]
    ),
}

FIELDS = {field.name: field for _, field in config_lib.fields()}
BASE = {"weights": "none", "strategy": "one_device", "precision": "float32", "dataset": "paper",
        "backbone": "small_cnn"}  # fmt: skip
"""Choices of `runs.small_config` that are not the default."""


def _values(name: str) -> tuple[Any, ...]:
    choices = FIELDS[name].metadata["option"].choices
    return choices or ((False, True) if isinstance(FIELDS[name].default, bool) else VALUES[name])


def _rows() -> Iterator[Any]:
    for name in FIELDS:
        for value in _values(name) if _is_derived(name) or name in VALUES else ():
            yield pytest.param(name, value, id=f"{name}={value}")


def _is_derived(name: str) -> bool:
    return bool(FIELDS[name].metadata["option"].choices) or isinstance(FIELDS[name].default, bool)


def _is_base(name: str, value: Any) -> bool:
    return value == BASE.get(name, FIELDS[name].default)


def _for(table: dict[str, Any], name: str, value: Any) -> Any:
    """The entry of a value, else that of its option."""
    return table.get(f"{name}={value}", table.get(name))


def _effect(name: str, value: Any) -> Callable[[Outcome, Outcome], bool]:
    if _is_base(name, value):
        return lambda *_: True
    of_result = FIELDS[name].metadata["option"].of_result
    return _for(EFFECTS, name, value) or (_changes if of_result else _keeps)


def _all_that_keep() -> dict[str, Any]:
    """The values that leave results as they are and need nothing else: one run takes them all."""
    return {
        name: value
        for name in FIELDS
        for value in _values(name)
        if _effect(name, value) is _keeps
        and name not in (*GIVEN, *OF_A_PROCESS)
        and f"{name}={value}" not in GIVEN
        and not _for(REFUSALS, name, value)
    }


def _options(name: str, value: Any) -> dict[str, Any]:
    if _is_base(name, value):
        return {}
    together = _all_that_keep()
    if together.get(name) == value:
        return together
    return {**(_for(GIVEN, name, value) or {}), name: value}


@pytest.fixture(scope="module")
def places(archive, data_dir, phantom_dir, tmp_path_factory) -> dict[str, Path]:
    """The folders and files that values name."""
    folder = tmp_path_factory.mktemp("every_option")
    config = runs.small_config(data_dir, folder, seed=9)
    weights = folder / "small_cnn.weights.h5"
    keras.utils.set_random_seed(9)
    classifier.build(config.model, (32, 32, 1), 2).trunk.save_weights(weights)
    kaggle = radiographs.kaggle_files().zip(folder / "archive")
    copy = shutil.copytree(data_dir, folder / "copy")
    names = {"data": copy, "phantom": phantom_dir, "weights": weights, "new": folder / "new"}
    return {**names, "archive": kaggle, "built_from": archive, "base": folder}


@pytest.fixture(scope="module")
def trained(data_dir, places) -> Callable[..., Outcome]:
    """Returns options -> the outcome of a tiny run with them; trains equal ones once."""

    @functools.cache
    def run(flat: str) -> Outcome:
        folder = places["base"] / f"run{len(list(places['base'].glob('run*')))}"
        config = _config(data_dir, places, json.loads(flat) | {"model_dir": str(folder)})
        with contextlib.redirect_stdout(io.StringIO()) as output:
            train.run(config)
        return _outcome(folder, output.getvalue())

    return lambda options: run(json.dumps(options, sort_keys=True))


def _config(data_dir: Path, places: dict[str, Path], options: dict[str, Any]) -> Config:
    filled = {
        name: value.format(**places) if isinstance(value, str) else value
        for name, value in options.items()
    }
    return runs.small_config(data_dir, places["base"], **{"max_epochs": 1, **filled})


def _outcome(folder: Path, output: str) -> Outcome:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return Outcome(
        output,
        json.loads((folder / "config.json").read_text()),
        [{k: v for k, v in row.items() if k not in commands.WALL_CLOCK} for row in rows],
        (folder / "predictions_test.csv").read_bytes(),
        sorted(path.name for path in (folder / "checkpoints").iterdir()),
    )


TABLE = list(_rows())
TRAINED = [
    row for row in TABLE
    if not _for(REFUSALS, *row.values) and row.values[0] not in OF_A_PROCESS
]  # fmt: skip
REFUSED = [row for row in TABLE if _for(REFUSALS, *row.values)]


def test_every_option_has_a_row():
    needed = {name for name in FIELDS if not _is_derived(name)}
    assert set(VALUES) == needed
    special = {key.partition("=")[0] for table in (GIVEN, REFUSALS, EFFECTS) for key in table}
    assert special <= set(FIELDS)


@pytest.mark.parametrize(("name", "value"), TRAINED)
def test_a_run_with_the_option_does_what_the_option_says(trained, places, name, value):
    run = trained(_options(name, value))
    reference = trained(_reference(name, value))
    assert _effect(name, value)(run, reference)
    recorded = {name: _filled(value, places)} if _is_recorded(name, value) else {}
    assert recorded.items() <= run.config.items()


def _reference(name: str, value: Any) -> dict[str, Any]:
    """The run to compare with: what the value needs, without the value."""
    is_alone = _all_that_keep().get(name) != value
    is_compared = _effect(name, value) in (_changes, _keeps)
    return (_for(GIVEN, name, value) or {}) if is_alone and is_compared else {}


def _is_recorded(name: str, value: Any) -> bool:
    return not {name, f"{name}={value}"} & set(UNRECORDED)


def _filled(value: Any, places: dict[str, Path]) -> Any:
    return value.format(**places) if isinstance(value, str) else value


@pytest.mark.parametrize(("name", "value"), REFUSED)
def test_an_option_that_needs_what_is_not_here_is_refused(data_dir, places, tmp_path, name, value):
    options = {**_options(name, value), "model_dir": str(tmp_path / "run")}
    with pytest.raises((ConfigError, RunError), match=_for(REFUSALS, name, value)):
        train.train(_config(data_dir, places, options))


PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")
DEVICES = {"one_device": 0, "mirrored": 2}
REPLICAS = {0: "1 replica", 2: "2 replicas"}


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("strategy", DEVICES)
def test_each_strategy_trains_in_each_precision(trained, strategy, precision):
    count = DEVICES[strategy]
    run = trained({"strategy": strategy, "num_logical_devices": count, "precision": precision})
    assert f"{REPLICAS[count]}, {precision}\n" in run.output
    assert (run.config["strategy"], run.config["precision"]) == (strategy, precision)
    assert np.isfinite([run.history[0][name] for name in ("loss", "val_loss")]).all()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_tpu_that_is_not_there_is_refused_in_each_precision(make_config, precision):
    with pytest.raises(RunError, match=REFUSALS["strategy=tpu"]):
        train.train(make_config(strategy="tpu", precision=precision))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_two_workers_train_in_each_precision(make_config, tmp_path, precision):
    config = make_config(
        local_workers=2, strategy="multi_worker", precision=precision, max_epochs=1
    )
    output = commands.Command(config, tmp_path, "run").finish()
    assert f"2 replicas, {precision}\n" in output


def test_the_options_of_a_process_leave_results_as_they_are(make_config, tmp_path, trained):
    """Up to rounding: threads and deterministic operations add in another order."""
    config = make_config(cpu_threads=1, deterministic=True, max_epochs=1)
    command = commands.Command(config, tmp_path, "run")
    run = _outcome(tmp_path / "run", command.finish())
    assert (run.config["cpu_threads"], run.config["deterministic"]) == (1, True)
    np.testing.assert_allclose(
        list(run.history[0].values()), list(trained({}).history[0].values()), rtol=1e-4
    )
