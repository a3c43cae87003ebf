"""Errors of the system: what each means for a command, and for which of its options."""

from __future__ import annotations

import errno
import os
import pathlib
import resource

import h5py
import pytest
import tensorflow as tf

from tests.support import runs
from trainer import preflight
from trainer.system import exits, faults

FOLDERS = {
    "model_dir": "runs/a", "data_dir": "~/data", "manual_dir": "/zip", "cache_dir": "/home/c",
    "staging_dir": "/home/c/staging",
}  # fmt: skip
RESUMES = "the same command resumes from what is saved."


@pytest.fixture(autouse=True)
def begun(tmp_path, monkeypatch):
    """A run that has saved something."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "a" / "checkpoints" / "00001-000000").mkdir(parents=True)


def _error(number, path="/zip/x"):
    return OSError(number, os.strerror(number), path)


@pytest.mark.parametrize(
    ("number", "way_out"),
    [
        (errno.EACCES, "change its permissions, or name another --manual_dir."),
        (errno.EPERM, "change its owner or attributes, or name another --manual_dir."),
        (errno.EROFS, "mount its disk for writing, or name another --manual_dir."),
        (
            errno.ENOENT,
            f"put it back, or mount its disk again, or name another --manual_dir; {RESUMES}",
        ),
        (errno.ENOTDIR, "a file is where a folder belongs: move it away, or name another --manua"),
        (errno.EISDIR, "a folder is where a file belongs: move it away, or name another --manua"),
        (errno.ENAMETOOLONG, "give shorter paths, or name another --manual_dir."),
        (errno.ENOSPC, f"free some space, or name another --manual_dir; {RESUMES}"),
        (errno.EDQUOT, f"free some of your quota, or name another --manual_dir; {RESUMES}"),
        (errno.EMFILE, f"raise the limit of open files (ulimit -n 4096); {RESUMES}"),
        (errno.ESTALE, f"mount its network file system again; {RESUMES}"),
        (errno.EIO, "check its disk and the system's log, or name another --manual_dir; "),
    ],
)
def test_an_error_has_its_path_its_option_and_its_way_out(number, way_out):
    line = exits.explain(_error(number), FOLDERS)
    assert line.startswith(f"/zip/x: {os.strerror(number)} (in --manual_dir); {way_out}")
    assert line.endswith(".")
    without = exits.explain(OSError(number, os.strerror(number)))
    assert without.startswith(f"{os.strerror(number)}; {way_out.partition(', or name')[0]}"[:50])
    assert "--" not in without


@pytest.mark.parametrize(
    ("path", "option"),
    [
        ("runs/a/metrics.jsonl", "model_dir"),
        (pathlib.Path("runs/a"), "model_dir"),
        (b"runs/a/x", "model_dir"),
        ("runs", "model_dir"),  # Where the folder could not be made.
        (str(pathlib.Path("~/data/x").expanduser()), "data_dir"),
        ("/home/c/features/x", "cache_dir"),
        ("/home/c/staging/x", "staging_dir"),
        ("/elsewhere", ""),
        ("/zipped", ""),
        (7, ""),  # A file's number.
    ],
)
def test_the_innermost_option_is_named(path, option):
    line = faults.explain(_error(errno.EACCES, path), FOLDERS)
    assert line.count(f"(in --{option})") == bool(option)
    assert line.count("--") == 2 * bool(option)


@pytest.mark.parametrize("model_dir", ["", "runs", "runs/new"])
def test_nothing_saved_is_not_promised_to_be_resumed(model_dir):
    line = faults.explain(_error(errno.ENOENT), FOLDERS | {"model_dir": model_dir})
    assert line.endswith("put it back, or mount its disk again, or name another --manual_dir.")


def test_a_run_that_is_gone_may_have_saved_something():
    line = faults.explain(_error(errno.ENOENT, "gone/x"), {"model_dir": "gone"})
    assert line.endswith(f"or name another --model_dir; {RESUMES}")


def test_a_folder_that_a_variable_names_is_told_by_it(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", "/elsewhere/data")
    known = preflight.folders(runs.small_config(tmp_path, tmp_path, data_dir=""))
    line = faults.explain(_error(errno.EACCES, "/elsewhere/data/x"), known)
    assert line.endswith(
        "(in TFDS_DATA_DIR); change its permissions, or name another TFDS_DATA_DIR."
    )


def test_an_evaluation_is_of_no_other_run(tmp_path):
    config = runs.small_config(tmp_path / "data", tmp_path / "x", model_dir="runs/a")
    line = faults.explain(_error(errno.EROFS, "runs/a/x"), preflight.folders(config, "evaluate"))
    assert line == "runs/a/x: Read-only file system; mount its disk for writing."


def test_an_error_without_a_number_is_its_own_words():
    assert faults.explain(OSError("no usable folder."), FOLDERS) == "no usable folder."


def test_tensorflows_errors_of_the_system_are_the_systems(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(tf.errors.OpError) as raised:
        tf.io.write_file(str(tmp_path / "file" / "x"), b"")
    line = exits.explain(raised.value, {"model_dir": str(tmp_path)})
    assert line.startswith(f"{tmp_path}/file")
    assert "Not a directory (in --model_dir); a file is where a folder belongs" in line


def test_tensorflows_error_without_a_path_keeps_its_words():
    error = tf.errors.NotFoundError(None, None, "libx.so: can't open: No such file or directory")
    line = exits.explain(error, FOLDERS)
    assert line.startswith("libx.so: can't open: No such file or directory; put it back")


def test_a_full_disk_is_no_lack_of_memory():
    error = tf.errors.ResourceExhaustedError(None, None, "/zip/x; No space left on device")
    assert exits.explain(error, FOLDERS).startswith("/zip/x: No space left on device (in --manual")
    error = tf.errors.ResourceExhaustedError(None, None, "OOM when allocating")
    assert exits.explain(error, FOLDERS).startswith("out of memory")


def test_hdf5s_errors_of_the_system_are_the_systems(tmp_path):
    with pytest.raises(OSError) as raised:  # noqa: PT011 -- The text is what is tested.
        h5py.File(tmp_path / "absent" / "x.h5", "w")
    line = faults.explain(raised.value, {"cache_dir": str(tmp_path)})
    assert "No such file or directory" in line
    assert "; put it back, or mount its disk again" in line


def test_too_many_open_files_are_said_to_be(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
    try:
        code = exits.code_of("trainer", lambda: (tmp_path / "x").write_text(""))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert code == exits.FAILED


def test_every_option_that_names_a_folder_is_known(tmp_path):
    config = runs.small_config(tmp_path, tmp_path, manual_dir="/zip", output_dir="/out")
    known = preflight.folders(config)
    assert sorted(known) == sorted(name for name in config.to_flat() if name.endswith("_dir"))
    in_bucket = runs.small_config(tmp_path, tmp_path, model_dir="gs://hospital/x")
    assert sorted(preflight.folders(in_bucket)) == ["cache_dir", "data_dir", "staging_dir"]
