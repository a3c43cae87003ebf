"""The environments that people start a command in."""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from trainer import config, preflight
from trainer.system import environment

ROOT = Path(__file__).parents[3]
PRINTING = """
import os, sys
from trainer.system import console, environment
environment.prepare()
console.say("at most \\u00bd \\u2026 \\udcff")
file = open(sys.argv[1], "w", encoding="utf-8")
os.write(1, b"of a library")
file.write("\\u2026")
"""


def _run(code: str, *args: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *args], stderr=subprocess.PIPE, text=True, timeout=300,
        check=False, **options,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("variables", "shown"),
    [
        ({"PYTHONIOENCODING": "ascii"}, b"at most ? ? ?\n"),
        ({"PYTHONIOENCODING": "latin-1"}, b"at most \xbd ? ?\n"),
        ({"PYTHONIOENCODING": "utf-8"}, "at most ½ … ?\n".encode()),
        ({"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, b"at most ? ? ?\n"),
    ],
)
def test_a_terminal_that_lacks_a_character_shows_another(tmp_path, variables, shown):
    with (tmp_path / "out").open("wb") as output:
        result = _run(PRINTING, str(tmp_path / "file"), stdout=output, env=os.environ | variables)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "out").read_bytes() == shown + b"of a library"
    assert (tmp_path / "file").read_text("utf-8") == "…"


def test_closed_streams_are_not_given_to_the_next_file(tmp_path):
    command = f'exec "{sys.executable}" -c "$CODE" "{tmp_path}/file" <&- >&- 2>&-'
    code = subprocess.run(
        ["/bin/sh", "-c", command], check=False, timeout=300, env=os.environ | {"CODE": PRINTING}
    ).returncode
    assert code == 0
    assert (tmp_path / "file").read_text("utf-8") == "…"


@pytest.mark.parametrize(
    ("options", "variables"), [([], {"PYTHONWARNINGS": "error"}), (["-W", "error"], {})]
)
def test_warnings_that_are_to_be_errors_are_shown(options, variables):
    code = (
        "from trainer.system import environment; environment.show_warnings();"
        "import os, subprocess, sys, warnings; warnings.warn('of a library');"
        "subprocess.run([sys.executable, '-c', 'import warnings; warnings.warn(str(1 + 1))'])"
    )
    result = subprocess.run(
        [sys.executable, *options, "-c", code], capture_output=True, text=True, timeout=60,
        check=False, env=os.environ | {"PYTHONWARNINGS": ""} | variables,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert result.stderr.startswith("PYTHONWARNINGS or -W makes errors of warnings; they are shown")
    assert "UserWarning: of a library" in result.stderr
    assert "UserWarning: 2" in result.stderr


def test_filters_that_libraries_add_stay_where_no_warning_is_an_error():
    with warnings.catch_warnings():
        warnings.resetwarnings()
        with environment.warnings_shown():
            warnings.filterwarnings("ignore", "of a library")
        assert warnings.filters[0][0] == "ignore"


def test_only_libraries_are_excepted_from_warnings_as_errors():
    code = (
        "import trainer, warnings; trainer.evaluate\n"
        "try:\n warnings.warn('of the user')\nexcept UserWarning: print('raised')"
    )
    result = _run(code, stdout=subprocess.PIPE, env=os.environ | {"PYTHONWARNINGS": "error"})
    assert result.returncode == 0, result.stderr
    assert result.stdout == "raised\n"


def test_plots_need_no_window(monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    code = (
        "from trainer.system import environment; environment.prepare();"
        "from trainer.reports import plots; from tuner.reports import charts"
    )
    result = _run(code)
    assert result.returncode == 0, result.stderr


def _without_home(monkeypatch, tmp_path):
    def unknown() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(pathlib.Path, "home", unknown)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


def test_a_user_without_a_home_directory_gets_a_private_one(monkeypatch, tmp_path):
    _without_home(monkeypatch, tmp_path)
    monkeypatch.delenv("HOME", raising=False)
    environment.prepare_home()
    home = Path(os.environ["HOME"])
    assert home.parent == tmp_path
    assert home.stat().st_mode & 0o077 == 0
    assert environment.cache_folder() == home
    assert environment.is_makeshift(home)


@pytest.fixture
def read_only(monkeypatch, tmp_path):
    """A home directory that can't be written; root may write everywhere, so that access says it."""
    home = tmp_path / "home"
    home.mkdir()
    access = os.access
    monkeypatch.setattr(
        os, "access", lambda path, mode: (mode != os.W_OK or "home" not in Path(path).parts)
        and access(path, mode),
    )  # fmt: skip
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("HOME", str(home))
    for name in environment.OF_LIBRARIES:
        monkeypatch.setenv(name, "")  # Restored at the end, also where the test unsets it.
        monkeypatch.delenv(name)
    return home


def test_libraries_follow_the_private_folder_without_a_writable_home(read_only, tmp_path):
    environment.prepare_home()
    for name in environment.OF_LIBRARIES:
        folder = Path(os.environ[name])
        assert folder.parent.parent == tmp_path
        assert environment.is_makeshift(folder)
    assert os.environ["HOME"] == str(read_only)
    line = preflight.moved_folders(config.Config())
    assert line.count(str(environment.cache_folder())) == 2
    given = config.Config.from_flat({"cache_dir": "a", "data_dir": "b"})
    assert preflight.moved_folders(given) == ""


def test_what_is_set_or_readable_stays_without_a_writable_home(read_only, monkeypatch):
    (read_only / "tensorflow_datasets" / "cxr_tfds").mkdir(parents=True)
    monkeypatch.setenv("MPLCONFIGDIR", "/elsewhere")
    environment.prepare_home()
    assert os.environ["MPLCONFIGDIR"] == "/elsewhere"
    assert "TFDS_DATA_DIR" not in os.environ


def test_folders_that_can_be_written_in_a_home_that_can_not_stay(read_only, monkeypatch):
    mounted = [read_only / "tensorflow_datasets", read_only / ".keras"]
    for folder in mounted:
        folder.mkdir()
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: path in mounted or access(path, mode))
    environment.prepare_home()
    assert os.environ["TFDS_DATA_DIR"] == str(mounted[0])
    assert os.environ["KERAS_HOME"] == str(mounted[1])
    assert environment.is_makeshift(Path(os.environ["MPLCONFIGDIR"]))


@pytest.mark.parametrize("home", ["", "relative", "~"])
def test_a_home_that_is_no_full_path_counts_as_unset(monkeypatch, home):
    """Empty, libraries would read it as /, and a relative one as a folder of each directory."""
    monkeypatch.setenv("HOME", home)
    environment.prepare_home()
    assert Path.home().is_absolute()
    assert Path.home() != Path("/")


@pytest.mark.usefixtures("read_only")
def test_no_place_to_write_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "absent"))
    with pytest.raises(SystemExit, match=r"no home directory can be written, and .* set HOME to"):
        environment.prepare_home()


def test_a_private_folder_of_somebody_else_is_refused(monkeypatch, tmp_path):
    _without_home(monkeypatch, tmp_path)
    folder = environment.cache_folder()
    folder.chmod(0o777)
    with pytest.raises(PermissionError):
        environment.cache_folder()


def test_the_cache_is_in_the_home_directory(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert environment.cache_folder() == tmp_path / "home" / ".cache" / "cxr-trainer"
    assert not environment.is_makeshift(environment.cache_folder())


@pytest.fixture
def bare(tmp_path):
    """A copy of the packages for an interpreter that has no other package: -S."""
    for package in ("trainer", "tuner"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("*.pyc"))
    return tmp_path


@pytest.mark.parametrize("package", ["trainer", "tuner"])
def test_a_python_without_packages_names_the_way_out(bare, package):
    result = subprocess.run(
        [sys.executable, "-S", "-m", package], cwd=bare, capture_output=True, text=True,
        timeout=60, check=False, env={"PATH": os.environ["PATH"]},
    )  # fmt: skip
    assert result.returncode == 1
    assert result.stderr.startswith(f"{package}: {sys.executable} has no package absl; create an")
    assert len(result.stderr.splitlines()) == 1
    (bare / ".venv" / "bin").mkdir(parents=True)
    (bare / ".venv" / "bin" / "activate").touch()
    result = subprocess.run(
        [sys.executable, "-S", "-m", package], cwd=bare, capture_output=True, text=True,
        timeout=60, check=False, env={"PATH": os.environ["PATH"]},
    )  # fmt: skip
    assert f"activate the environment: source {bare}/.venv/bin/activate." in result.stderr


def test_an_older_python_is_named(monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 10, 13))
    with pytest.raises(SystemExit) as end, environment.required("trainer"):
        raise AssertionError("not reached")
    assert end.value.code.startswith("trainer: needs Python 3.11 or newer, not 3.10; ")
