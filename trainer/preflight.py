"""What can be said of a command before TensorFlow is imported, which takes many seconds.

preflight.check("train", config)               # raises what the run would raise later
console.say(preflight.first_line("train", config))
"""

from __future__ import annotations

import errno
import os
import pathlib
import tempfile
import zipfile
from typing import TYPE_CHECKING, Any

from cxr_tfds import source
from trainer import config as config_lib
from trainer.distribution import cluster
from trainer.errors import ConfigError, RunError
from trainer.inference import sources
from trainer.options import initial_weights, planned_runs
from trainer.runs import claims
from trainer.storage import contents, documents, locations
from trainer.system import environment, faults, text

if TYPE_CHECKING:
    from trainer.config import Config
    from trainer.options import DataOptions, ModelOptions

LOADING = "loading TensorFlow ..."
TRAINING = ("train", "benchmark", "search")
"""Commands that train on a data set."""
INFERENCE = ("predict", "explain", "export")
"""Commands that use a finished model without a data set of the trainer."""
_HDF5 = b"\x89HDF\r\n\x1a\n"
NEW_RUNS = "runs"
"""Where a run without a name gets its directory."""


def first_line(mode: str, config: Config) -> str:
    """Returns a line that says what is about to run, and where it writes."""
    if config.comparison.runs and mode == "compare":
        return f"compare: {', '.join(config.comparison.run_dirs)}"
    if mode == "compare":
        names, seeds = config.comparison.backbones, text.counted(config.comparison.seeds, "seed")
        into = config.model_dir or f"a new folder in {NEW_RUNS}/"
        return f"compare: {names} with {seeds} on {config.data.dataset}, into {into}"
    if mode == "train":
        into = config.model_dir or f"a new folder in {NEW_RUNS}/"
        return f"train: {subject(config)}, into {into}; {LOADING}"
    if mode in INFERENCE:
        with_it = f"{_images(config)} with {config.model_dir}"
        what = f"{config.model_dir} as {config.inference.format}" if mode == "export" else with_it
        return f"{mode}: {what}; {LOADING}"
    if mode == "evaluate":
        on = _images(config) or config.data.dataset
        return f"evaluate: {config.model_dir} on {on}; {LOADING}"
    return f"{mode}: {config.model.backbone}; {LOADING}"


def _images(config: Config) -> str:
    return f"{text.one_line(config.inference.images):.200}"


def subject(config: Config) -> str:
    """Returns what is trained on what."""
    return f"{config.model.backbone} on {config.data.dataset}"


def moved_folders(config: Config) -> str:
    """Returns a line if other folders take the place of the default ones; else nothing."""
    cache, data = environment.cache_folder(), pathlib.Path(_default_data_dir()).expanduser()
    moved = []
    if not config.features.cache_dir and environment.is_makeshift(cache):
        moved.append(f"the feature cache is {cache} (--cache_dir names another)")
    if not config.data.data_dir and environment.is_makeshift(data):
        moved.append(f"data sets are in {data} (--data_dir names another)")
    return f"no home directory can be written: {', '.join(moved)}." if moved else ""


def folders(config: Config, mode: str = "train") -> dict[str, str]:
    """Returns the local folder of each option that names one, also where it is the default.

    That of data may be named by a variable. An evaluation resumes from nothing, and is of no other
    run: its `model_dir` is empty.
    """
    named = {
        "model_dir": config.model_dir or NEW_RUNS,
        environment.data_option(config.data.data_dir): config.data.data_dir or _default_data_dir(),
        "manual_dir": config.data.manual_dir,
        "cache_dir": str(config.cache_root),
        "staging_dir": str(config.data.staging_root),
        "output_dir": config.inference.output_dir,
    }
    local = {name: path for name, path in named.items() if path and not locations.is_url(path)}
    return local | ({"model_dir": ""} if mode == "evaluate" else {})


def check(mode: str, config: Config) -> None:
    """Checks what the file system tells about the options.

    Raises:
      ConfigError: when options contradict each other, or a run that is there.
      RunError: when a package, a file or a folder is missing.
    """
    if not environment.has_tensorflow():
        raise RunError(
            "TensorFlow is not installed in this environment; install the extra of your machine: "
            'pip install ".[cpu]" (or gpu, tpu).'
        )
    if config.runtime.strategy == "multi_worker":
        cluster.require()
    trains_several = mode == "compare" and bool(config.comparison.backbones)
    evaluates_images = mode == "evaluate" and bool(config.inference.images)
    if (mode in (*TRAINING, "evaluate") or trains_several) and not evaluates_images:
        _check_data(config.data)
    if mode in TRAINING:
        _check_weights(config.model, config.model_dir)
    if mode in INFERENCE or evaluates_images:
        _check_inference(mode, config)
    if trains_several:
        _check_comparison(config)
    if locations.is_url(config.model_dir):
        return
    if mode == "train":
        _check_new_run(config)
    if mode in ("evaluate", *INFERENCE):
        _check_finished(config, writes=mode == "evaluate" or not config.inference.output_dir)


def _check_data(data: DataOptions) -> None:
    """Checks that the data set is built, or can be: it is drawn, or an archive is there."""
    named = data.data_dir or _default_data_dir()
    if data.dataset == "phantom" or locations.is_url(named):
        return
    root = pathlib.Path(named).expanduser()
    if any((root / "cxr_tfds" / data.dataset).glob("*/dataset_info.json")):
        return
    if data.manual_dir:
        # Of several hosts that share a data_dir, the others find what the first has built.
        if cluster.of_environment() is None:
            _check_archive(data.manual_dir)
    else:
        raise RunError(
            f"cxr_tfds/{data.dataset} is not built in {root}. Give --manual_dir, the folder with "
            "the Kaggle archive, or the --data_dir that `tfds build cxr_tfds "
            f"--config={data.dataset}` wrote to; --recipe=quickstart needs no data."
        )


def _check_archive(manual_dir: str) -> None:
    """Checks all that names and sizes tell of an archive; its images are decoded at the build."""
    try:
        archive = source.open_archive(manual_dir)
        source.require_clean(archive.issues, archive.root)
    except source.SourceError as error:
        raise RunError(error.line) from error


def _default_data_dir() -> str:
    """Returns where TFDS looks: its own module imports too much for this."""
    return os.environ.get(environment.DATA_VARIABLE) or "~/tensorflow_datasets"


def _check_new_run(config: Config) -> None:
    path = pathlib.Path(config.model_dir or NEW_RUNS).expanduser()
    is_writer = cluster.of_environment() is None  # Only one of several hosts writes.
    refusal = _refusal(path) if is_writer else None
    if refusal:
        raise RunError(
            f"run directory {path} can't be written: {refusal.strerror}"
            f"{faults.way_out(refusal, 'model_dir')}."
        )
    has_run = (path / claims.CONFIG).exists()
    if path.exists() and not path.is_dir():
        raise RunError(f"run directory {path} can't be written: it is a file.")
    if config.model_dir and not has_run:
        claims.require_options(path, contents.entries(path))
    if config.checkpoints.resume == "must" and not has_run:
        raise ConfigError(claims.nothing_to_resume(path))
    if config.checkpoints.resume == "never" and has_run:
        raise ConfigError(claims.already_a_run(path))
    if has_run:
        way_out = "restore it from a copy, or name another --model_dir"
        saved: dict[str, Any] = documents.load(
            path / claims.CONFIG, dict[str, Any], way_out=way_out
        )
        config_lib.of_saved(saved, path / claims.CONFIG, way_out)
        claims.require_checkpoints(path, path)
    if config.model_dir and not has_run:
        claims.require_free_for_run(config, contents.entries(path))


def _refusal(path: pathlib.Path) -> OSError | None:
    """Returns why a folder can't be written, or made, in the system's words; None if it can."""
    absolute = path.absolute()
    existing = next(folder for folder in (absolute, *absolute.parents) if folder.exists())
    if existing != absolute and not existing.is_dir():
        return OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    if os.access(existing, os.W_OK):
        return None
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        return error
    return OSError(errno.EACCES, os.strerror(errno.EACCES))


def _check_inference(mode: str, config: Config) -> None:
    """Checks the hosts, and that the files are there which are to be read."""
    if found := cluster.of_environment():
        raise ConfigError(
            f"--mode={mode} runs on one host, and {cluster.VARIABLE} names {found.size}: unset it."
        )
    if mode != "export" or config.inference.images:
        list(sources.expand(sources.split(config.inference.images)))  # It finds them one by one.
    is_named = bool(config.inference.output_dir) or mode == "evaluate"
    if not is_named and locations.is_url(config.model_dir):
        raise ConfigError(
            f"the run is in a bucket ({config.model_dir}): name a local folder as --output_dir."
        )
    if config.inference.output_dir:
        path = pathlib.Path(config.inference.output_dir).expanduser()
        refusal = _refusal(path)
        if refusal or (path.exists() and not path.is_dir()):
            reason = refusal.strerror if refusal else "it is a file"
            raise RunError(f"output_dir {path} can't be written: {reason}; name another.")


def _check_finished(config: Config, *, writes: bool = True) -> None:
    path = pathlib.Path(config.model_dir).expanduser()
    model = path / claims.BEST_MODEL
    if not model.exists():
        raise RunError(claims.no_model_yet(path, path))
    if model.is_file() and not zipfile.is_zipfile(model):
        raise RunError(claims.damaged_model(model))
    is_writer = cluster.of_environment() is None
    if writes and is_writer and (refusal := _refusal(path)):
        raise RunError(
            f"what is found can't be written to {path}: {refusal.strerror}; copy the run to a "
            "folder that can be written, and name that as --model_dir."
        )


def _check_comparison(config: Config) -> None:
    """Checks the hosts and the folder of several runs, and the weights of each."""
    if found := cluster.of_environment():
        raise ConfigError(
            f"--mode=compare trains on one host, and {cluster.VARIABLE} names {found.size}: train "
            "each run with --mode=train on all of them, and compare with --runs=A,B on one; or "
            f"unset {cluster.VARIABLE} to train all runs on this host."
        )
    path = pathlib.Path(config.model_dir or NEW_RUNS).expanduser()
    refusal = _refusal(path)
    if refusal or (path.exists() and not path.is_dir()):
        reason = refusal.strerror if refusal else "it is a file"
        way_out = faults.way_out(refusal, "model_dir") if refusal else ""
        raise RunError(f"model_dir {path} can't be written: {reason}{way_out}.")
    for run in planned_runs.plan(config.comparison, config.model, config.runtime.seed):
        _check_weights(run.model, str(path / run.name))


def _check_weights(model: ModelOptions, model_dir: str) -> None:
    """Checks the first bytes of a file of weights; its content is checked when it is read."""
    named = initial_weights.for_resuming(model, model_dir)
    if named in ("imagenet", "none"):
        return
    path = initial_weights.path_of(named)
    if not path.is_file() or zipfile.is_zipfile(path):
        return
    if path.suffix == ".keras":
        reason = "it is not a .keras archive, which is a zip file, or is cut off"
    elif not _is_hdf5(path):
        reason = "it is not an HDF5 file"
    else:
        return
    raise RunError(
        f"weights file {path} can't be used: {reason}; download it again, or restore it "
        "from a copy."
    )


def _is_hdf5(path: pathlib.Path) -> bool:
    """Whether a file has HDF5's signature: at its start, or at 512 bytes, 1024, and so on."""
    size, offset = path.stat().st_size, 0
    with path.open("rb") as file:
        while offset < size:
            file.seek(offset)
            if file.read(len(_HDF5)) == _HDF5:
                return True
            offset = 2 * offset or 512
    return False
