"""`--mode=predict`: odd files, one row each; and what is told before TensorFlow is loaded."""

from __future__ import annotations

import concurrent.futures
import csv
import json
import math
import os
import re
import shutil
import sys
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import trainer
from cxr_tfds.radiographs import reading
from tests import forged_predictions
from tests.support import radiographs
from tests.support.scans import folders, odd_files
from trainer.commands import evaluate, predict, train
from trainer.errors import ConfigError, RunError
from trainer.inference import worklist
from trainer.models import saved
from trainer.runs import trained, validation_sample
from trainer.system import text

if TYPE_CHECKING:
    from collections.abc import Callable

SIDE = 32


@pytest.fixture
def scans(tmp_path):
    """Three images."""
    return folders.drawn(tmp_path / "scans", 3)


def rows_in(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "worklist.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def odd(finished, tmp_path_factory):
    """The odd files, what is expected of each, and the worklist that the Python API returns."""
    folder = tmp_path_factory.mktemp("odd")
    expected = odd_files.write(folder / "scans")
    found = predict.predict(finished, folder / "scans", folder / "out")
    return folder, expected, found


def test_each_odd_file_is_one_row(odd):
    folder, expected, found = odd
    names = [row.file.removeprefix(f"{folder}/scans/") for row in found.rows]
    assert sorted(names) == sorted(expected)
    assert [row["file"] for row in rows_in(folder / "out")] == [row.file for row in found.rows]


@pytest.mark.parametrize("name", [*odd_files.FILES, *odd_files.SPECIAL, "folder.png/inside.jpeg"])
def test_an_odd_file_is_read_rightly_or_named(odd, model, name):
    folder, expected, found = odd
    path = folder / "scans" / name
    (row,) = [row for row in found.rows if row.file == str(path)]
    assert row.is_read is (expected[name] == odd_files.READ)
    assert re.search(expected[name], " ".join(row.notes))
    assert ("unreadable" in row.flags) is not row.is_read
    flag = odd_files.FLAGGED.get(name)
    assert flag is None or flag in row.flags
    for score in [row.score] if row.is_read else []:
        pixels = reading.read(path.read_bytes(), 224, SIDE).pixels
        wanted = model.predict(pixels[None, ..., None].astype(np.float32), verbose=0)[0, 1]
        assert math.isclose(score, wanted, abs_tol=1e-6)


@pytest.fixture(scope="module")
def model(finished):
    return saved.load(finished / "best.keras")


def test_the_table_is_in_the_order_of_urgency(odd):
    folder, _, found = odd
    scores = [row.score for row in found.rows if row.is_read]
    assert scores == sorted(scores, reverse=True)
    assert [row.is_read for row in found.rows] == sorted(
        (row.is_read for row in found.rows), reverse=True
    )
    table = list(csv.DictReader((folder / "out" / "worklist.csv").read_text().splitlines()))
    assert [text.from_cell(line["file"]) for line in table] == [row.file for row in found.rows]
    assert [line["rank"] for line in table] == [str(i + 1) for i in range(len(found.rows))]


def test_the_page_names_all_files(odd):
    folder, _, found = odd
    page = (folder / "out" / "worklist.html").read_text("utf-8")
    plain = page.replace("<wbr>", "")
    assert all(os.path.basename(row.file) in plain for row in found.rows)  # noqa: PTH119
    assert f"predict --images={folder}/scans" in plain or "--mode=predict" in plain


def test_the_command_prints_a_summary_and_ends_well(command, finished, scans, tmp_path):
    out = tmp_path / "out"
    done = command(
        "--mode=predict", f"--model_dir={finished}", f"--images={scans}", f"--output_dir={out}"
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == f"predict: {scans} with {finished}; loading TensorFlow ..."
    assert any(line.startswith("3 files: 3 read (") for line in lines)
    assert f"worklist:    {out / 'worklist.csv'}" in lines
    warned = [line for line in lines if line.startswith("DO NOT USE THIS MODEL")]
    assert len(warned) == len(trained.open_run(finished).evaluation.warnings)
    assert {path.name for path in out.iterdir()} == {
        ".lock", "journal.jsonl", "worklist.csv", "worklist.html", "worklist.jsonl",
    }  # fmt: skip


def test_the_same_command_resumes_and_writes_the_same(command, finished, scans, tmp_path):
    arguments = (
        "--mode=predict", f"--model_dir={finished}", f"--images={scans}",
        f"--output_dir={tmp_path / 'out'}",
    )  # fmt: skip
    assert command(*arguments).returncode == 0
    before = (tmp_path / "out" / "worklist.csv").read_bytes()
    again = command(*arguments)
    assert "3 of 3 files were done before.\n" in again.stdout
    assert f"replaces the worklist in {tmp_path / 'out'}.\n" in again.stdout
    assert (tmp_path / "out" / "worklist.csv").read_bytes() == before


def test_without_an_output_dir_the_worklist_is_in_the_run(finished_copy, scans):
    found = trainer.predict(finished_copy, scans)
    assert found.folder == finished_copy / "predictions"
    assert (found.folder / "worklist.csv").exists()
    assert trained.open_run(finished_copy).metrics  # It is a run as before.
    (finished_copy / "linked").mkdir()
    shutil.rmtree(found.folder)
    found.folder.symlink_to(finished_copy / "linked", target_is_directory=True)
    with pytest.raises(RunError, match="predictions is a link, and nothing is written through"):
        trainer.predict(finished_copy, scans)


def test_if_nothing_can_be_read_the_command_fails_and_the_list_is_written(
    command, finished, tmp_path
):
    (tmp_path / "scans").mkdir()
    for number in range(3):
        (tmp_path / "scans" / f"{number}.png").write_bytes(b"" if number else b"no image")
    done = command(
        "--mode=predict", f"--model_dir={finished}", f"--images={tmp_path / 'scans'}",
        f"--output_dir={tmp_path / 'out'}",
    )  # fmt: skip
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("trainer: none of 3 files could be read; ")
    assert line.endswith("/out/worklist.csv says why of each, most often: The file is empty.")
    assert [row["status"] for row in rows_in(tmp_path / "out")] == ["unreadable"] * 3


def test_what_was_unreadable_is_tried_again_when_it_may_be_read(finished, tmp_path):
    """A stamp tells neither permissions nor whether pydicom was installed meanwhile."""
    (tmp_path / "scans").mkdir()
    path = tmp_path / "scans" / "a.png"
    path.write_bytes(b"")
    good = radiographs.draw(1, format="PNG")
    (tmp_path / "scans" / "b.png").write_bytes(good)
    status = path.stat()
    first = predict.predict(finished, tmp_path / "scans", tmp_path / "out")
    assert [row.is_read for row in first.rows] == [True, False]
    path.write_bytes(good)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    second = predict.predict(finished, tmp_path / "scans", tmp_path / "out")
    assert [row.is_read for row in second.rows] == [True, True]
    assert second.flagged()["duplicate"] == 1


def test_dicom_is_read_once_its_extra_is_installed(finished, scans, tmp_path, monkeypatch):
    (scans / "IM1").write_bytes(odd_files.FILES["black is zero.dcm"][0])
    version = predict.usage.importlib.metadata.version

    def without_extra(name: str) -> str:
        if name in ("pydicom", "python-gdcm"):
            raise predict.usage.importlib.metadata.PackageNotFoundError(name)
        return version(name)

    with monkeypatch.context() as patch:
        patch.setattr(predict.usage.importlib.metadata, "version", without_extra)
        patch.setitem(sys.modules, "pydicom", None)
        first = predict.predict(finished, scans, tmp_path / "out")
    (unread,) = [row for row in first.rows if not row.is_read]
    assert unread.notes == ('The file is DICOM; to read it, pip install ".[dicom]".',)
    second = predict.predict(finished, scans, tmp_path / "out")
    assert second.num_read == 4


def test_zips_and_lists_are_predicted_as_the_files_are(finished, scans, tmp_path):
    names = sorted(path.name for path in scans.iterdir())
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in names:
            archive.write(scans / name, f"sub/{name}")
    (scans / "list.csv").write_text("file\n" + "\n".join(names))
    named = [scans, tmp_path / "a.zip", scans / "list.csv", f"{scans}/*.png"]
    lists = [predict.predict(finished, of, tmp_path / f"{i}") for i, of in enumerate(named)]
    scores = [{Path(row.file).name: row.score for row in found.rows} for found in lists]
    assert sorted(scores[0]) == names
    assert all(other == scores[0] for other in scores[1:])


def test_the_worklist_has_the_columns_of_a_list(finished, scans, tmp_path):
    """A hospital joins by accession numbers, also those of files that were scored before."""
    names = sorted(path.name for path in scans.iterdir())[:2]
    (scans / "list.csv").write_text(
        f"accession,file,score\nA1,{names[0]},low\nA2,{names[1]},high\n"
    )
    for _ in range(2):
        found = predict.predict(finished, [scans / "list.csv", scans], tmp_path / "out")
        with (tmp_path / "out" / "worklist.csv").open(newline="") as file:
            table = {Path(line["file"]).name: line for line in csv.DictReader(file)}
        assert [table[name]["accession"] for name in names] == ["A1", "A2"]
        assert [table[name]["list_score"] for name in names] == ["low", "high"]
        assert {line["accession"] for line in table.values()} == {"A1", "A2", ""}
        assert found.columns[str(scans / names[0])] == {"accession": "A1", "list_score": "low"}
        (note,) = (of for of in found.notes if "Columns" in of)
        assert note.endswith("stand there too: score as list_score.")


def test_more_files_join_those_that_are_done(finished, scans, tmp_path, capsys):
    first = predict.predict(finished, scans / "1.png", tmp_path / "out")
    both = predict.predict(finished, [scans / "1.png", scans], tmp_path / "out")
    assert "1 of 3 files were done before." in capsys.readouterr().out
    assert len(first.rows) == 1
    assert len(both.rows) == 3


def test_a_name_that_is_not_utf8_reaches_all_outputs(finished, tmp_path):
    (tmp_path / "scans").mkdir()
    path = os.fsencode(tmp_path / "scans") + b"/\xff\x1b[2J=.png"
    Path(os.fsdecode(path)).write_bytes(radiographs.draw(1))
    found = predict.predict(finished, tmp_path / "scans", tmp_path / "out")
    assert os.fsencode(found.rows[0].file) == path
    assert b"\x1b" not in (tmp_path / "out" / "worklist.csv").read_bytes()
    assert b"\x1b" not in (tmp_path / "out" / "worklist.html").read_bytes()
    again = predict.predict(finished, tmp_path / "scans", tmp_path / "out")
    assert again.rows == found.rows


def test_options_of_devices_change_no_score(finished, scans, tmp_path):
    one = predict.predict(finished, scans, tmp_path / "one")
    options = {"strategy": "mirrored", "num_logical_devices": 2, "batch_size": 6}
    two = predict.predict(finished, scans, tmp_path / "two", **options)
    for a, b in zip(one.rows, two.rows, strict=True):
        assert math.isclose(a.score, b.score, abs_tol=1e-6)
    odd_size = {"strategy": "mirrored", "num_logical_devices": 2, "batch_size": 5}
    with pytest.raises(ConfigError, match=r"batch_size \(5\)"):
        predict.predict(finished, scans, tmp_path / "three", **odd_size)


def test_the_second_process_on_one_folder_is_refused(finished, scans, tmp_path):
    with (
        worklist.claimed(tmp_path / "out"),
        concurrent.futures.ThreadPoolExecutor(1) as pool,
        pytest.raises(RunError, match="another process writes into"),
    ):
        pool.submit(predict.predict, finished, scans, tmp_path / "out").result()


@pytest.mark.parametrize("images_given", [[], "", [""], ["a", ""]])
def test_the_api_needs_paths(finished, images_given):
    with pytest.raises(ConfigError, match=r"is empty|has an empty name"):
        predict.predict(finished, images_given)


@pytest.mark.parametrize("images_given", [3, [3], [None]])
def test_the_api_says_what_images_are(finished, images_given):
    with pytest.raises(ConfigError, match=r"images .* a path, or a list of paths"):
        predict.predict(finished, images_given)


def test_the_api_takes_names_with_commas_and_refuses_buckets(finished, scans, tmp_path):
    (scans / "a,b.png").write_bytes(radiographs.draw(7))
    found = predict.predict(finished, [scans / "a,b.png", str(scans / "1.png")], tmp_path / "out")
    assert len(found.rows) == 2
    with pytest.raises(ConfigError, match="must be local"):
        predict.predict(finished, "gs://b/x")


def test_unused_options_are_said(command, finished, scans, tmp_path):
    done = command(
        "--mode=predict", f"--model_dir={finished}", f"--images={scans}", "--dataset=official",
        f"--output_dir={tmp_path / 'out'}", "--judge_by=age",
    )  # fmt: skip
    assert "not used by --mode=predict: dataset (official), judge_by (age).\n" in done.stdout


@pytest.mark.slow
def test_a_run_in_a_bucket_needs_an_output_dir(server, make_config, scans, tmp_path):
    """Nothing is uploaded."""
    train.train(make_config(model_dir="gs://hospital/runs/a", max_epochs=1))
    before = server.names("hospital")
    with pytest.raises(ConfigError, match=r"the run is in a bucket .*: name a local folder"):
        predict.predict("gs://hospital/runs/a", scans)
    found = predict.predict("gs://hospital/runs/a", scans, tmp_path / "out")
    assert found.num_read == 3
    assert server.names("hospital") == before


def _rewrite_facts(run: Path, change: Callable[[Any], Any]) -> None:
    """Changes what the model says of itself."""
    path = run / "best.keras"
    with zipfile.ZipFile(path) as zipped:
        members = {name: zipped.read(name) for name in zipped.namelist()}
    metadata = json.loads(members["metadata.json"])
    metadata["trainer"] = change(metadata["trainer"])
    members["metadata.json"] = json.dumps(metadata).encode()
    with zipfile.ZipFile(path, "w") as zipped:
        for name, content in members.items():
            zipped.writestr(name, content)


def test_a_model_of_an_earlier_version_is_told_in_a_line(finished_copy, scans):
    _rewrite_facts(finished_copy, lambda _: None)
    with pytest.raises(RunError, match="does not say what its classes are, as it was saved by an"):
        predict.predict(finished_copy, scans)


def test_a_run_that_kept_too_little_of_validation_says_so(finished_copy, scans, capsys):
    (finished_copy / "validation_sample.npz").unlink()
    found = predict.predict(finished_copy, scans)
    assert "unlike_training_data: not told, as the run kept too litt" in capsys.readouterr().out
    assert {row.novelty for row in found.rows} == {None}


@pytest.mark.parametrize("mode", [predict.predict, evaluate.evaluate])
def test_a_damaged_model_is_told_in_a_line(finished_copy, scans, mode):
    with zipfile.ZipFile(finished_copy / "best.keras", "a") as zipped:
        zipped.writestr("note.txt", "what Keras never writes")
    with pytest.raises(RunError, match=r"is not a readable model: it holds 'note.txt'.*; restore"):
        mode(finished_copy, images=str(scans))


def test_facts_of_other_classes_than_the_outputs_are_refused(finished_copy, scans):
    _rewrite_facts(finished_copy, lambda facts: facts | {"class_names": ["A", "B", "C"]})
    with pytest.raises(RunError, match="names 3 classes and has 2 outputs; restore it from a copy"):
        predict.predict(finished_copy, scans)


def test_a_sample_of_another_model_is_refused(finished_copy, scans):
    forged_predictions.make_sample(finished_copy)
    with pytest.raises(RunError, match=r"validation_sample.npz of .* is of another model; restore"):
        predict.predict(finished_copy, scans)


def test_predictions_of_a_model_that_was_trained_further_are_not_mixed(finished_copy, scans):
    predict.predict(finished_copy, scans)
    sample = validation_sample.load(finished_copy)
    with (finished_copy / "best.keras").open("ab") as file:
        file.write(b"x")  # After the archive, where nobody looks.
    validation_sample.save(finished_copy, sample)
    with pytest.raises(RunError, match="holds the predictions of another model"):
        predict.predict(finished_copy, scans)
