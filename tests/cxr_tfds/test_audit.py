from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import json
import pathlib
import resource
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from cxr_tfds import audit, protocols, source
from tests.support import radiographs

if TYPE_CHECKING:
    from tests.support.radiographs import Files


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error::RuntimeWarning", "-m", "cxr_tfds.audit", *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True)


def findings_for(files: Files, folder: pathlib.Path) -> audit.Findings:
    return audit.audit(source.open_archive(files.zip(folder)), protocols.PROTOCOLS)


def test_counts_are_by_folder_and_class(files: Files, tmp_path: pathlib.Path) -> None:
    assert findings_for(files, tmp_path).images == {
        "train": {"NORMAL": 40, "PNEUMONIA": 60},
        "val": {"NORMAL": 2, "PNEUMONIA": 2},
        "test": {"NORMAL": 6, "PNEUMONIA": 6},
    }


def test_sizes_are_smallest_median_and_largest(files: Files, tmp_path: pathlib.Path) -> None:
    files.content["chest_xray/train/NORMAL/IM-0000-0000.jpeg"] = radiographs.draw(0, size=(90, 70))
    sizes = findings_for(files, tmp_path).sizes
    assert sizes["NORMAL"] == {"height": [40, 40, 70], "width": [48, 48, 90]}


def test_a_clean_archive_is_sound_though_paper_leaks(files: Files, tmp_path: pathlib.Path) -> None:
    findings = findings_for(files, tmp_path)
    assert findings.is_sound
    paper = findings.leaks["paper"]
    assert isinstance(paper, audit.Leak)
    assert paper.test_patients > 0
    assert findings.leaks["grouped"] == audit.Leak(0, 0, 0, is_failure=False)


def test_rgb_coded_and_ignored_files_are_named(files: Files, tmp_path: pathlib.Path) -> None:
    files.content["chest_xray/train/NORMAL/notes.txt"] = b""
    findings = findings_for(files, tmp_path)
    assert findings.rgb_coded == ["train/NORMAL/IM-0003-0006.jpeg"]
    assert findings.ignored == ["chest_xray/train/NORMAL/notes.txt"]


def test_exact_and_near_duplicates_are_told_apart(files: Files, tmp_path: pathlib.Path) -> None:
    names = [f"train/NORMAL/IM-000{i}-000{2 * i}.jpeg" for i in (0, 1, 2)]
    data = files.content[f"chest_xray/{names[0]}"]
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(data)) as image:
        image.save(buffer, format="JPEG", quality=97)
    files.content |= {f"chest_xray/{names[1]}": data, f"chest_xray/{names[2]}": buffer.getvalue()}
    findings = findings_for(files, tmp_path)
    assert findings.duplicates == [names[:2]]
    assert [names[0], names[2]] in findings.near_duplicates
    assert names[:2] not in findings.near_duplicates


def test_an_identical_image_in_kaggles_test_folder_is_a_leak(
    files: Files, tmp_path: pathlib.Path
) -> None:
    copied = files.content["chest_xray/train/NORMAL/IM-0001-0002.jpeg"]
    files.content["chest_xray/test/NORMAL/IM-0021-0042.jpeg"] = copied
    findings = audit.audit(source.open_archive(files.zip(tmp_path)), ["official"])
    official = findings.leaks["official"]
    assert isinstance(official, audit.Leak)
    assert (official.identical, official.is_failure) == (1, True)
    assert not findings.is_sound
    assert "LEAK" in audit.format_table(findings)


def test_a_protocol_that_cannot_be_built_says_why(files: Files, tmp_path: pathlib.Path) -> None:
    kept = {path: data for path, data in files.content.items() if "/test/" not in path}
    findings = findings_for(dataclasses.replace(files, content=kept), tmp_path)
    assert "needs Kaggle's test folder" in str(findings.leaks["official"])
    assert findings.is_sound


def test_command_prints_a_table_and_writes_json(
    manual_dir: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    path = tmp_path / "report.json"
    result = run(f"--manual_dir={manual_dir}", f"--json={path}", "--protocol=grouped")
    assert (result.returncode, result.stderr) == (0, "")
    assert (
        "grouped   0 test images share a patient with train or validation, and 0 validation images "
        "with train; 0 are identical to an image there\n"
    ) in result.stdout
    report = json.loads(path.read_text())
    assert report["is_sound"]
    assert list(report["leaks"]) == ["grouped"]


def test_command_fails_on_a_bad_file_and_names_it(files: Files, tmp_path: pathlib.Path) -> None:
    files.content["chest_xray/train/NORMAL/IM-0000-0000.jpeg"] = b""
    result = run(f"--manual_dir={files.zip(tmp_path)}")
    assert result.returncode == 1
    assert "train/NORMAL/IM-0000-0000.jpeg: is empty" in result.stdout


def test_command_fails_without_an_archive_in_one_message(tmp_path: pathlib.Path) -> None:
    result = run(f"--manual_dir={tmp_path}")
    assert result.returncode == 1
    assert "contains no chest X-rays" in result.stderr
    assert "Traceback" not in result.stderr


def test_command_says_what_is_missing_and_counts_own_names_in_one_line(
    files: Files, tmp_path: pathlib.Path
) -> None:
    files.content = {path.replace("person", "mine"): data for path, data in files.content.items()}
    result = run(f"--manual_dir={files.zip(tmp_path)}", "--protocol=grouped")
    assert result.returncode == 1
    assert "bad files                     68\n  each of 68 files has a name that" in result.stdout
    assert "Protocol grouped leaves train without PNEUMONIA, validation" in result.stdout
    assert "5,808 of the 5,856 images of Kaggle's archive are missing: " in result.stdout


def examine(
    capsys: pytest.CaptureFixture[str], manual_dir: pathlib.Path, report: str
) -> tuple[int, str, str]:
    """Runs the command in this process; returns its exit code, output and errors."""
    arguments = [f"--manual_dir={manual_dir}", "--protocol=grouped", f"--json={report}"]
    code = audit.main(audit._parse_flags(["audit", *arguments]))
    return code, *capsys.readouterr()


@pytest.mark.parametrize(
    ("report", "reason"),
    [
        ("tree/chest_xray/train/NORMAL/IM-0000-0000.jpeg", "is in manual_dir, where only the "),
        ("tree/new.json", "is in manual_dir, where only the archive belongs; give a file elsewh"),
        ("link/new.json", "is in manual_dir, where only the archive belongs; give a file elsewh"),
        ("archive.zip", "is a file that is no audit report, and would be overwritten; give "),
        ("notes.md", "is a file that is no audit report, and would be overwritten; give "),
        ("other.json", "is a file that is no audit report, and would be overwritten; give "),
        ("folder", "is a folder; give a file, such as "),
        ("no/report.json", "can't be written: create the folder "),
    ],
)
def test_a_report_never_takes_the_place_of_another_file(
    report: str,
    reason: str,
    files: Files,
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    files.zip(tmp_path)
    files.extract(tmp_path / "tree")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("tree")
    (tmp_path / "notes.md").write_text("# mine")
    (tmp_path / "other.json").write_text('{"images": 3}')
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    monkeypatch.setattr(audit, "audit", None)  # It doesn't come to that.
    code, output, errors = examine(capsys, tmp_path / "tree", str(tmp_path / report))
    assert (code, output) == (2, "")
    assert errors.startswith(f"audit: json ({tmp_path / report}) {reason}")
    assert len(errors.splitlines()) == 1
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_a_report_never_takes_the_place_of_the_zip(
    manual_dir: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, errors = examine(capsys, manual_dir / "archive.zip", str(manual_dir / "archive.zip"))
    assert code == 2
    assert "is the archive, and would be overwritten" in errors


def test_an_earlier_report_an_empty_file_and_a_pipe_are_written(
    manual_dir: pathlib.Path,
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    report = tmp_path / "report.json"
    report.touch()
    for name in ("~/report.json", str(report)):
        assert examine(capsys, manual_dir, name)[::2] == (0, "")
        assert json.loads(report.read_text())["is_sound"]
    assert examine(capsys, manual_dir, "/dev/null")[::2] == (0, "")
    piped = run(f"--manual_dir={manual_dir}", "--json=/dev/stdout", "--protocol=grouped")
    assert piped.stdout.startswith('{\n  "images"')
    assert not (tmp_path / "~").exists()


def test_a_full_disk_leaves_the_earlier_report_and_prints_the_table(
    manual_dir: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "report.json"
    examine(capsys, manual_dir, str(report))
    before = report.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        arguments = argparse.Namespace(
            manual_dir=str(manual_dir), protocol="grouped", json=str(report)
        )
        with contextlib.redirect_stdout(io.TextIOWrapper(io.BytesIO())) as output:
            code = audit.main(arguments)
        table = output.buffer.getvalue().decode()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    reason = "can't be written: File too large; free some space."
    assert (code, capsys.readouterr().err) == (1, f"audit: json ({report}) {reason}\n")
    assert "bad files" in table
    assert report.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["manual", "report.json"]


def test_a_full_disk_below_the_output_is_one_line(manual_dir: pathlib.Path) -> None:
    command = [sys.executable, "-m", "cxr_tfds.audit", f"--manual_dir={manual_dir}"]
    with pathlib.Path("/dev/full").open("w") as full:
        ended = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert ended.returncode == 1
    assert ended.stderr == "audit: standard output can't be written: No space left on device.\n"


def test_names_reach_the_terminal_without_control_characters(
    files: Files, tmp_path: pathlib.Path
) -> None:
    files.content |= {
        "chest_xray/train/NORMAL/\x1b[2Ja.jpeg": radiographs.draw(0),
        "chest_xray/\u202egpj.exe": b"",
    }
    result = run(f"--manual_dir={files.zip(tmp_path)}", "--protocol=grouped")
    assert r"train/NORMAL/\x1b[2Ja.jpeg: has a name" in result.stdout
    assert r"chest_xray/\u202egpj.exe" in result.stdout
    assert not {"\x1b", "\u202e"} & set(result.stdout + result.stderr)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([], "give --manual_dir, the folder with archive.zip; --help lists the options."),
        (["--manual_dir="], "give --manual_dir, the folder with archive.zip; --help lists the "),
        (["--manualdir=x"], "unknown option --manualdir; did you mean --manual_dir?"),
        (["--config=paper"], "unknown option --config; did you mean --protocol?"),
        (["--lr=3"], "unknown option --lr; --help lists them all."),
        (["x"], "unexpected argument 'x'; did you mean --manual_dir=x?"),
        (["--manual_dir"], "--manual_dir: expected one argument."),
        (["--manual_dir=x", "--protocol=groupd"], "protocol (groupd) must be one of grouped, "),
        (["--manual_dir=gs://a/b"], "manual_dir (gs://a/b) must be a local path; copy the "),
        (["--manual_dir=x", "--verbosity=x"], "flag --verbosity=x: "),
        (["--manual_dir=x", "--flagfile=/nowhere"], "ERROR:: Unable to open flagfile: "),
    ],
)
def test_a_wrong_turn_is_one_line(
    arguments: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        audit._parse_flags(["audit", *arguments])
    written = capsys.readouterr().err
    assert end.value.code == 2
    assert written.startswith(f"audit: {line}")
    assert len(written.splitlines()) == 1


def test_command_tells_its_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        audit._parse_flags(["audit", "--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out.startswith("cxr_tfds 2.0.0 (python 3.")


def open_clean(folder: pathlib.Path) -> None:
    archive = source.open_archive(folder)
    source.require_clean(archive.issues, archive.root)


@pytest.mark.parametrize("name", ["empty", "nowhere", "own_classes", "own_names"])
def test_an_unusable_archive_is_one_line_with_a_way_out(
    name: str, files: Files, tmp_path: pathlib.Path
) -> None:
    (tmp_path / "empty").mkdir()
    moved = {path.replace("NORMAL/", "well/"): data for path, data in files.content.items()}
    moved = {path.replace("PNEUMONIA/", "ill/"): data for path, data in moved.items()}
    dataclasses.replace(files, content=moved).extract(tmp_path / "own_classes")
    renamed = {path.replace("person", "mine"): data for path, data in files.content.items()}
    dataclasses.replace(files, content=renamed).extract(tmp_path / "own_names")
    with pytest.raises(source.SourceError) as caught:
        open_clean(tmp_path / name)
    assert len(caught.value.line.splitlines()) == 1
    wanted = {
        "own_classes": "images in ill, well; rename the folders of the two classes to NORMAL and",
        "own_names": "rename them in the scheme of IM-0115-0001.jpeg or person1_virus_6.jpeg",
    }
    assert wanted.get(name, "give --manual_dir, the folder with archive.zip") in caught.value.line


@pytest.mark.parametrize("protocol", protocols.PROTOCOLS)
def test_every_protocol_can_be_audited(protocol: str, files: Files, tmp_path: pathlib.Path) -> None:
    findings = audit.audit(source.open_archive(files.zip(tmp_path)), [protocol])
    assert isinstance(findings.leaks[protocol], audit.Leak)
