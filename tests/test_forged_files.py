"""Forged files of every kind that is read end in one clear line, and write nowhere else.

Each kind is a folder of valid files and a function that reads them as the product does. A file is
forged with its structure in mind: any value may become a path, a huge number or a deep nesting, and
any file a folder, a pipe or a link. 2,000 of each kind with `-m long`, some otherwise.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import random
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies

from cxr_tfds import configs, source
from tests import forged_predictions, forgeries, stored_runs
from tests.support import runs, simulated_search
from trainer import flags
from trainer.commands import compare
from trainer.config import Config
from trainer.data import opening
from trainer.data.table import Table
from trainer.distribution import cluster
from trainer.errors import ConfigError, RunError
from trainer.features import shard_files, store
from trainer.models import precision
from trainer.options import DataOptions, EvaluationOptions
from trainer.reports import verdict
from trainer.runs import looks, resuming, run_directory, trained
from trainer.storage import documents, files
from trainer.training import callbacks, checkpoint
from trainer.training.checkpoint import Checkpoints
from trainer.training.driver import Position
from trainer.training.logs import metrics_log
from tuner import identity
from tuner.reports import leaderboard, outcomes, page
from tuner.settings import Settings
from tuner.space import Space

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from trainer.evaluation import assessment

FEW, MANY = 7, 2_000
FORGER_READS = 1 << 20
"""Bytes of a file that the forger reads himself: no device, no sparse file."""
DEADLINE_MS = 10_000


@dataclasses.dataclass(frozen=True)
class Kind:
    """Files that are read together.

    Attributes:
      make: writes the valid files into an empty folder.
      forged: patterns of those that are forged, one at a time.
      reads: returns what reads them, one function for each way; a folder beside must not change.
    """

    make: Callable[[Path], None]
    forged: tuple[str, ...]
    reads: Callable[[Path], Sequence[Callable[[], Any]]]


def _look(folder: Path) -> None:
    look = looks.Look("train", EvaluationOptions(), {"date": "2026-11-30 10:00"})
    rows = looks.record(run_directory.RunDirectory(folder), look, stored_runs.data())
    assert len(verdict.looks("test", rows)) < 1000


def _read_run(folder: Path) -> Sequence[Callable[[], Any]]:
    return (
        lambda: trained.open_run(folder).config,
        lambda: _take(runs.small_config(folder / "data", folder, model_dir=str(folder))),
        lambda: flags.load_options(folder / "config.json"),
    )


def _read_facts(folder: Path) -> Sequence[Callable[[], Any]]:
    return (
        lambda: trained.open_run(folder).history,
        lambda: (trained.open_run(folder).training_patients, trained.open_run(folder).config),
        lambda: trained.open_run(folder).validation_patients,
        lambda: trained.open_run(folder).data_fingerprint,
        lambda: (trained.open_run(folder).training_priors, _sharing(folder)),
    )


def _sharing(folder: Path) -> assessment.Sharing:
    empty = np.array([], str)
    found = Table(empty, empty, empty, np.array([], int), np.array([], np.int64))
    return trained.sharing_of(trained.open_run(folder), found)


def _make_longer_run(folder: Path) -> None:
    stored_runs.make(folder)
    (folder / "changes.jsonl").write_text('{"epochs": 1, "changes": {"max_epochs": [2, 3]}}\n')


def _lengthen(folder: Path) -> None:
    config = runs.small_config(folder / "data", folder, model_dir=str(folder), max_epochs=9)
    run_directory.RunDirectory(folder).save_lengths(config)


def _read_evaluation(folder: Path) -> None:
    trained.last_evaluation(run_directory.RunDirectory(folder))
    run = trained.open_run(folder)
    assert all((str(run.evaluation), repr(run), run.metrics, run.evaluation.report.to_json()))


def _make_comparison(folder: Path) -> None:
    for name in ("a", "b"):
        stored_runs.make(folder / name)
    ended = {"max_epochs": 3, "patience": 5, "schedule_epochs": 0}
    settings = {"evaluation": {"operating_point": "youden"}}
    files.save_json(folder / compare.FINISHED, {"a": {**ended, **settings}, "b": ended})


def _read_comparison(folder: Path) -> Sequence[Callable[[], Any]]:
    return (
        lambda: str(compare.compare([folder / "a", folder / "b"])),
        lambda: compare._finished(folder),
    )


def _take(config: Config) -> None:
    directory, _ = resuming.take(config, is_chief=True)
    directory.release()


def _checkpoints(folder: Path) -> tuple[callbacks.Checkpointing, Any]:
    variables = [tf.Variable([0.0, 0.0]), tf.Variable(0.0)]
    log = metrics_log.MetricsLog(folder / "metrics.jsonl")
    recoveries = callbacks.Recoveries(variables[1])
    checkpoints = Checkpoints(folder / "checkpoints", variables, "frozen", keep=2)
    options = Config().checkpoints
    return callbacks.Checkpointing(checkpoints, [], [log, recoveries], options), checkpoints


def _make_checkpoint(folder: Path) -> None:
    states = {
        "MetricsLog": stored_runs.ROWS[:1],
        "Recoveries": 0,
        "EarlyStopping": {"best": 0.5, "wait": 1},
    }
    _checkpoints(folder)[1].save(Position(1, 0), states)


def _is_small(path: Path) -> bool:
    return path.is_file() and path.stat().st_size < FORGER_READS


def _read_checkpoint(folder: Path) -> None:
    """A forger knows the sizes and checksums, too."""
    for manifest in filter(_is_small, folder.rglob("manifest.json")):
        try:
            document = json.loads(manifest.read_bytes())
            for name in document["files"]:
                path = manifest.parent / name
                if _is_small(path):
                    document["files"][name] = hashlib.sha256(path.read_bytes()).hexdigest()
                    document["sizes"][name] = path.stat().st_size
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            continue
        manifest.write_text(json.dumps(document))
    if (found := checkpoint.peek(folder / "checkpoints")) is not None:
        callbacks.is_exhausted(found, patience=1)
    _checkpoints(folder)[0].restore()


SPACE = Space.parse("neurons=64:512:64,learning_rate")


def _search(folder: Path) -> tuple[Settings, dict[str, Any]]:
    settings = Settings(directory=str(folder), project_name="s")
    return settings, identity.of(Config(), settings, SPACE, stored_runs.HASH)


def _make_search(folder: Path) -> None:
    settings, found = _search(folder)
    identity.agree(settings, found)
    search = simulated_search.SimulatedSearch(folder, settings, SPACE)
    for end in (search.end, search.end, lambda _: None):
        search.ask("worker-0")
        end("worker-0")
    (settings.folder / "runs" / "b0-02").mkdir(parents=True)
    rows = "".join(json.dumps(row) + "\n" for row in stored_runs.ROWS)
    (settings.folder / "runs" / "b0-02" / "metrics.jsonl").write_text(rows)


def _read_search(folder: Path) -> None:
    settings, found = _search(folder)
    identity.agree(settings, found)
    search = simulated_search.SimulatedSearch(folder, settings, SPACE)
    plan = simulated_search.PLAN
    read = outcomes.Reader(SPACE, settings, plan, {}, 0.0, {})(search.oracle.trials.values())
    leaderboard.write(read, settings.folder / "leaderboard.csv")
    page.write(read, settings.folder / "report.html")
    search.ask("worker-0")


KEY = shard_files.Key(
    data_fingerprint="d", split="train", backbone="vgg16", weights_hash="w",
    image_shape=(8, 8, 1), backbone_image_shape=(8, 8, 3), cut_at=3, row_shape=(4,),
    precision="float32", device="CPU", dtype="float32", augmentation=None, view=None,
)  # fmt: skip
FEATURES = np.arange(160, dtype=np.float32).reshape(40, 4)
SHARDS = shard_files.Shards(40, (4,), tf.float32)


def _read_cache(folder: Path) -> None:
    """Reads the features; a forger knows how a shard is named, too."""
    entry = shard_files.Entry(folder, KEY, SHARDS)
    for path in entry.folder.glob("*-*.npy"):
        if _is_small(path):
            rows = path.name.split(".")[0]
            digest = hashlib.sha256(f"{KEY.digest} {rows}".encode() + path.read_bytes())
            path.rename(path.with_name(f"{rows}.{digest.hexdigest()[:16]}.npy"))
    cache = store.Cache(folder, 1 << 30)
    found = cache.load_or_compute(KEY, SHARDS, lambda start, stop: [FEATURES[start:stop]])
    assert [shard.shape for shard in found] == [(40, 4)]


def _make_cache(folder: Path) -> None:
    cache = store.Cache(folder, 1 << 30)
    cache.load_or_compute(KEY, SHARDS, lambda start, stop: [FEATURES[start:stop]])


def _make_rates(folder: Path) -> None:
    files.save_json(folder / "rates.json", {"images_per_s": {"float32": 9.5, "mixed_bfloat16": 7}})


def _read_rates(folder: Path) -> None:
    found = precision._load(folder / "rates.json")
    assert found is None or found.keys() >= set(precision.CANDIDATES)


def _make_options(folder: Path) -> None:
    files.save_json(folder / "options.json", Config().to_flat())
    files.save_json(folder / "space.json", {"neurons": "64:512:64", "batch_size": [16, 32]})
    cluster = {"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 0}}
    files.save_json(folder / "cluster.json", cluster)


def _read_options(folder: Path) -> Sequence[Callable[[], Any]]:
    return (
        lambda: Config.from_flat(flags.load_options(folder / "options.json")),
        lambda: Space.load(folder / "space.json").check(Config()),
        lambda: cluster.parse(documents.read_text(folder / "cluster.json", way_out="")),
    )


def _data_kind(built: Path) -> Kind:
    records = built / "cxr_tfds" / "phantom" / configs.VERSION
    names = ("dataset_info.json", "metadata.json", "label.labels.txt", "*.tfrecord-00000-*")

    def make(folder: Path) -> None:
        shutil.copytree(records, folder / records.relative_to(built))

    def read(folder: Path) -> None:
        data = opening.load(DataOptions(dataset="phantom", data_dir=str(folder)), 32)
        run_directory.RunDirectory(folder).folder(f"on_phantom_{data.fingerprint[:8]}")
        assert data.num_examples("train") >= 0
        assert data.class_names
        assert data.card()
        with data.reading():
            for split in ("train", "test"):
                for example in data.read(split).take(2):
                    assert example["image"].shape == ()

    place = records.relative_to(built)
    return Kind(make, tuple(f"{place}/{name}" for name in names), _one(read))


def _one(read: Callable[[Path], Any]) -> Callable[[Path], Sequence[Callable[[], Any]]]:
    return lambda folder: [lambda: read(folder)]


KINDS = {
    "options": Kind(stored_runs.make, ("config.json",), _read_run),
    "changes": Kind(_make_longer_run, ("changes.jsonl", "config.json"), _one(_lengthen)),
    "training data": Kind(stored_runs.make, ("trained_on.json",), _read_facts),
    "history": Kind(stored_runs.make, ("metrics.jsonl",), _read_facts),
    "report": Kind(stored_runs.make, ("report.json",), _one(_read_evaluation)),
    "comparison": Kind(
        _make_comparison,
        ("a/report.json", "b/predictions_test.csv", "finished.json"),
        _read_comparison,
    ),
    "predictions": Kind(stored_runs.make, ("predictions_*.csv",), _one(_read_evaluation)),
    "validation sample": Kind(
        forged_predictions.make_sample,
        ("validation_sample.npz",),
        forged_predictions.read_sample,
    ),
    "worklist": Kind(
        forged_predictions.make_journal, ("journal.jsonl",), _one(forged_predictions.read_journal)
    ),
    "list of files": Kind(
        forged_predictions.make_list, ("list.csv",), _one(forged_predictions.read_list)
    ),
    "exports": Kind(
        forged_predictions.make_exports, ("export.json",), _one(forged_predictions.read_exports)
    ),
    "looks": Kind(stored_runs.make, ("looks.jsonl",), _one(_look)),
    "manifest": Kind(_make_checkpoint, ("checkpoints/*/manifest.json",), _one(_read_checkpoint)),
    "states": Kind(_make_checkpoint, ("checkpoints/*/state.json",), _one(_read_checkpoint)),
    "variables": Kind(_make_checkpoint, ("checkpoints/*/variables.*",), _one(_read_checkpoint)),
    "search": Kind(_make_search, ("s/search.json",), _one(_read_search)),
    "oracle": Kind(_make_search, ("s/oracle.json",), _one(_read_search)),
    "trials": Kind(_make_search, ("s/trial_*/trial.json",), _one(_read_search)),
    "records": Kind(
        _make_search, ("s/trial_*/result.json", "s/runs/*/*.jsonl"), _one(_read_search)
    ),
    "features": Kind(_make_cache, ("*/*.npy", "*/key.json"), _one(_read_cache)),
    "rates": Kind(_make_rates, ("rates.json",), _one(_read_rates)),
    "given": Kind(_make_options, ("options.json", "space.json", "cluster.json"), _read_options),
}
ERRORS = (ConfigError, RunError, source.SourceError)


def _attempt(read: Callable[[], Any]) -> None:
    """Reads; what it may say is one short line of printable characters."""
    try:
        read()
    except ERRORS as error:
        message = str(error)
        assert message.isprintable(), repr(message)
        assert len(message) < 1500, message


def _snapshot(folder: Path) -> dict[str, Any]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def _try(kind: Kind, count: int) -> None:
    valid = Path(tempfile.mkdtemp())
    (valid / "target").mkdir()
    kind.make(valid / "target")
    for read in kind.reads(shutil.copytree(valid / "target", valid / "copy")):
        read()  # A valid file is read without an error.

    @hypothesis.settings(max_examples=count, deadline=DEADLINE_MS, derandomize=True, database=None)
    @hypothesis.given(strategies.integers(0, 2**32))
    def forged(seed: int) -> None:
        generator = random.Random(seed)
        with tempfile.TemporaryDirectory() as place:
            target, outside = Path(place) / "target", Path(place) / "outside"
            shutil.copytree(valid / "target", target)
            outside.mkdir()
            (outside / "kept").write_text("kept")
            matches = [sorted(target.glob(pattern)) for pattern in kind.forged]
            forgeries.forge(generator.choice(list(itertools.chain(*matches))), generator, outside)
            for read in kind.reads(target):
                _attempt(read)
            assert {path.name for path in Path(place).iterdir()} == {"target", "outside"}
            assert _snapshot(outside) == {str(outside / "kept"): b"kept"}

    try:
        forged()
    finally:
        shutil.rmtree(valid)


@pytest.fixture
def kind(request: pytest.FixtureRequest, phantom_dir: Path) -> Kind:
    return KINDS.get(request.param) or _data_kind(phantom_dir)


ALL = pytest.mark.parametrize("kind", [*KINDS, "data set"], indirect=True)


@ALL
def test_some_forged_files_of_each_kind_are_told_in_a_line(kind):
    _try(kind, FEW)


@ALL
@pytest.mark.long
def test_2000_forged_files_are_told_in_a_line(kind):
    _try(kind, MANY)
