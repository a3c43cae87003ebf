"""Which folders a run takes: an empty or absent one, its own, and not another's."""

from __future__ import annotations

import dataclasses
import errno
import os
import re
import tempfile
import zipfile

import pytest

from tests.support import runs
from trainer import preflight
from trainer.errors import ConfigError, RunError
from trainer.runs import claims, resuming, trained
from trainer.storage import contents, mirror

OTHERS = {
    "sources": ["pyproject.toml", "src/main.py"],
    "a home": [".bashrc", "Documents/letter.txt"],
    "images": ["IM-0001.jpeg"],
    "runs": ["a/config.json", "b/config.json"],
    "a data set": ["cxr_tfds/grouped/2.0.0/features.json"],
    "a name with a line break": ["a\nb"],
    "a trial": ["trial.json", "result.json"],
}
HARMLESS = {
    "nothing": [],
    "hidden files": [".gitkeep", ".cache/x"],
    "a disk's own folder": ["lost+found/x"],
    "logs": ["train.log", "slurm-17.out", "logs/a/b"],
    "options and notes": ["options.json", "README.md", "submit.sh"],
    "a cluster's": ["job.o17", "job.e17", "job.pe17", "run.sbatch", "run.pbs"],
    "a notebook's folder on a drive": ["Train.ipynb", "desktop.ini", "Icon\r", "Thumbs.db"],
    "a tracker's": ["wandb/x", "mlruns/0/meta.yaml", "events.out.tfevents.17.host"],
    "in capitals, or without an ending": ["README", "NOTES.TXT"],
    "an earlier start's": ["tensorboard/x", "changes.jsonl"],
    "what options name": ["data/x", "cache/x", "zip.zip", "weights.h5"],
}


def _fill(folder, names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("")
    return sorted(folder.rglob("*"))


def _config(folder, **options):
    named = {"cache_dir": str(folder / "cache"), "manual_dir": str(folder / "zip.zip")}
    return runs.small_config(folder / "data", folder, **{
        **named, "model_dir": str(folder), "weights": str(folder / "weights.h5"), **options
    })  # fmt: skip


def _take(config):
    resuming.take(config, is_chief=True)[0].release()


@pytest.mark.parametrize("kind", OTHERS)
def test_a_folder_of_other_files_is_refused_and_left_as_it_is(tmp_path, kind):
    before = _fill(tmp_path, OTHERS[kind])
    for check in (_take, preflight._check_new_run):
        with pytest.raises(ConfigError, match="holds other files") as raised:
            check(_config(tmp_path))
        assert str(raised.value).endswith(f"such as --model_dir={tmp_path}/run.")
        assert "\n" not in str(raised.value)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("kind", HARMLESS)
def test_what_is_harmless_is_passed_by(tmp_path, kind):
    _fill(tmp_path, HARMLESS[kind])
    preflight._check_new_run(_config(tmp_path))
    _take(_config(tmp_path))


def test_a_link_that_an_option_names_is_passed_by(tmp_path):
    folder = tmp_path / "run"
    (folder / "data").parent.mkdir()
    (tmp_path / "elsewhere").mkdir()
    (folder / "data").symlink_to(tmp_path / "elsewhere")
    _take(_config(folder))
    with pytest.raises(ConfigError, match=r"holds other files \(data/\)"):
        _take(_config(folder, data_dir=str(tmp_path / "elsewhere" / "x")))


def test_a_run_resumes_whatever_is_beside_it(tmp_path):
    directory, config = resuming.take(_config(tmp_path), is_chief=True)
    with directory:
        directory.save_config(config)
    _fill(tmp_path, OTHERS["sources"])
    preflight._check_new_run(_config(tmp_path))
    _take(_config(tmp_path))


RESULTS = (
    "best.keras", "report.json", "predictions_test.csv", "metrics.jsonl", "trained_on.json",
    "checkpoints/00001-000000/state.json", "on_paper_0a1b2c3d/report.json",
)  # fmt: skip


@pytest.mark.parametrize("resume", ["auto", "never", "must"])
@pytest.mark.parametrize("name", RESULTS)
def test_results_without_their_options_are_never_overwritten(tmp_path, name, resume):
    before = _fill(tmp_path, [name])
    for check in (_take, preflight._check_new_run):
        with pytest.raises(RunError, match=r"config.json is missing beside .*; restore it from a"):
            check(_config(tmp_path, resume=resume))
    with pytest.raises(RunError, match=r"config\.json is missing beside"):
        trained.open_run(tmp_path)
    assert sorted(tmp_path.rglob("*")) == before


def test_what_a_killed_first_start_leaves_is_taken(tmp_path):
    for folder in ("checkpoints", "tensorboard", "on_paper_0a1b2c3d"):
        (tmp_path / folder).mkdir()
    _fill(tmp_path, [".lock", ".owner.json"])
    preflight._check_new_run(_config(tmp_path))
    _take(_config(tmp_path))


@pytest.mark.parametrize("name", [name for name in RESULTS if "checkpoints" not in name])
def test_results_without_checkpoints_are_never_overwritten(tmp_path, name):
    directory, config = resuming.take(_config(tmp_path), is_chief=True)
    with directory:
        directory.save_config(config)
    _fill(tmp_path, [name])
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(ConfigError, match="checkpoints is missing, so the run can't") as raised:
        _take(config)
    assert (f"--weights={tmp_path}" in str(raised.value)) == (name == "best.keras")


@pytest.fixture
def mounted(tmp_path, monkeypatch):
    """A folder on a disk that is mounted for reading; root may mount, and others not."""

    def refuse(**_: object):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "access", lambda *_: False)
    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    return tmp_path


def test_a_disk_for_reading_is_told_in_the_systems_words(mounted):
    with pytest.raises(RunError, match="can't be written: Read-only file system; mount its disk"):
        preflight._check_new_run(_config(mounted))
    with zipfile.ZipFile(mounted / "best.keras", "w"):
        pass
    with pytest.raises(RunError, match="Read-only file system; copy the run to a folder that can"):
        preflight._check_finished(_config(mounted))


def test_only_some_of_many_files_are_named(tmp_path):
    _fill(tmp_path, [f"{number:03}.jpeg" for number in range(90)])
    with pytest.raises(ConfigError, match=re.escape("(000.jpeg, 001.jpeg, 002.jpeg and 87 more)")):
        _take(_config(tmp_path))


def test_the_way_out_is_quoted_for_a_shell(tmp_path):
    _fill(tmp_path / "a b's", ["x.py"])
    with pytest.raises(ConfigError, match=re.escape("""/a b'"'"'s/run'.""")):
        _take(_config(tmp_path, model_dir=str(tmp_path / "a b's")))


def _folder_of(folder, names):
    _fill(folder, names)
    return folder


class _Listing:
    """A bucket that is only listed."""

    def __init__(self, *names: str) -> None:
        self._names = names

    def list(self, url: object) -> dict[str, object]:
        del url
        return {name: _Object(f"runs/a/{name}") for name in self._names}


@dataclasses.dataclass(frozen=True)
class _Object:
    name: str
    size: int = 1


def test_a_prefix_of_other_objects_is_refused_as_a_folder_is(tmp_path):
    url = mirror.locations.parse("gs://hospital/runs/a")
    names = [".keep", "x/1.dcm", "x/2.dcm", "cache/y", "config.json"]
    found = mirror.Mirror(url, tmp_path, files=_Listing(*names)).entries()
    assert found == [".keep", "cache/", "config.json", "x/"]
    assert contents.entries(_folder_of(tmp_path / "same", names)) == found
    config = _config(tmp_path, model_dir=f"{url}/", cache_dir="gs://hospital/runs/a/cache")
    with pytest.raises(ConfigError, match=r"gs://hospital/runs/a/\) holds other files \(x/\);"):
        claims.require_free_for_run(config, found)
