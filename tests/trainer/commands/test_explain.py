"""`--mode=explain`: the worklist of `predict`, with a heat map of each file that was read."""

from __future__ import annotations

import json
import os

import numpy as np
import PIL.Image
import pytest

import trainer
from tests.support import radiographs
from trainer.commands import explain, predict
from trainer.errors import ConfigError, RunError, Stopped
from trainer.inference import gradcam, heatmaps, prediction, sources
from trainer.models import saved
from trainer.system import signals


@pytest.fixture
def scans(tmp_path):
    """Three images, and a file that is none; one name is an attack on terminals."""
    folder = tmp_path / "scans"
    folder.mkdir()
    for name in ("a.png", "b.png", "\x1b[2J.png"):
        (folder / name).write_bytes(radiographs.draw(len(name) + ord(name[0]), format="PNG"))
    (folder / "c.png").write_bytes(b"")
    return folder


def test_each_file_that_was_read_has_a_heat_map(finished, scans, tmp_path):
    found = trainer.explain(finished, scans, tmp_path / "out")
    assert [bool(row.heatmap) for row in found.rows] == [True, True, True, False]
    for row in found.rows[:3]:
        with PIL.Image.open(found.folder / row.heatmap) as picture:
            assert (picture.format, picture.mode) == ("PNG", "RGB")
    assert len(list((tmp_path / "out" / heatmaps.FOLDER).iterdir())) == 3
    table = (tmp_path / "out" / "worklist.csv").read_text()
    assert all(row.heatmap in table for row in found.rows)
    page = (tmp_path / "out" / "worklist.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 6


def test_all_else_is_as_of_predict(finished, scans, tmp_path):
    plain = predict.predict(finished, scans, tmp_path / "plain")
    found = explain.explain(finished, scans, tmp_path / "out")
    texts = [(of.folder / "worklist.jsonl").read_text() for of in (plain, found)]
    rows = [[json.loads(line) | {"heatmap": ""} for line in of.splitlines()] for of in texts]
    assert rows[0] == rows[1]


def test_what_predict_has_done_is_explained_without_being_scored_again(
    finished, scans, tmp_path, capsys
):
    predict.predict(finished, scans, tmp_path / "out")
    found = explain.explain(finished, scans, tmp_path / "out")
    assert "3 of 4 files were done before.\n" in capsys.readouterr().out
    assert [bool(row.heatmap) for row in found.rows] == [True, True, True, False]


def test_a_map_is_that_of_the_predicted_class(finished, scans, tmp_path):
    found = explain.explain(finished, scans, tmp_path / "out", save_maps=True, heatmap="hirescam")
    explainer = gradcam.of_model(saved.load(finished / "best.keras"), method="hirescam")
    (row,) = [row for row in found.rows if row.file.endswith("a.png")]
    sides = (224, explainer.image_shape[0])  # Of a record, and of the model.
    pixels = prediction.reading.read((scans / "a.png").read_bytes(), *sides).pixels
    label = ["NORMAL", "PNEUMONIA"].index(row.predicted)
    expected = explainer(pixels[None], [label])[0]
    stored = np.load((found.folder / row.heatmap).with_suffix(".npy"))
    np.testing.assert_allclose(stored, expected, atol=1e-3)


@pytest.mark.parametrize("method", ["gradcam", "hirescam"])
def test_predicting_again_shows_the_heat_maps_that_still_hold(
    finished, scans, tmp_path, capsys, method
):
    explained = explain.explain(finished, scans, tmp_path / "out", heatmap=method)
    (scans / "b.png").write_bytes((scans / "a.png").read_bytes())
    found = predict.predict(finished, scans, tmp_path / "out")
    assert "heat maps drawn before: 2; the worklist shows them.\n" in capsys.readouterr().out
    maps = {row.file: row.heatmap for row in found.rows}
    before = {row.file: row.heatmap for row in explained.rows}
    assert maps == before | {str(scans / "b.png"): ""}
    page = (tmp_path / "out" / "worklist.html").read_text("utf-8")
    name = {"gradcam": "Grad-CAM", "hirescam": "HiResCAM"}[method]
    assert f"heat by {name} for its predicted class" in page
    assert page.count('alt="Heat for ') == 2


def test_heat_maps_of_before_are_no_radiographs(finished, scans):
    """The output folder is inside of the folder that is predicted."""
    first = explain.explain(finished, scans, scans / "out")
    second = explain.explain(finished, scans, scans / "out")
    assert [row.file for row in first.rows] == [row.file for row in second.rows]
    (note,) = [note for note in second.notes if "this command writes there" in note]
    assert note.startswith("Not read, as this command writes there: 3 files in ")


def test_a_file_that_vanishes_after_it_was_scored_is_told(
    finished, scans, tmp_path, monkeypatch, capsys
):
    by_urgency = explain.predict.worklist.by_urgency

    def removing(rows):
        (scans / "\x1b[2J.png").unlink()
        return by_urgency(rows)

    monkeypatch.setattr(explain.predict.worklist, "by_urgency", removing)
    found = explain.explain(finished, scans, tmp_path / "out")
    assert [bool(row.heatmap) for row in found.rows].count(True) == 2
    lines = capsys.readouterr().out.splitlines()
    (line,) = [line for line in lines if line.startswith("no heat map: ")]
    assert line.isprintable()
    assert "can't be read" in line


def _stopping_after(monkeypatch, count):
    """Asks to stop once so many heat maps are drawn; returns the names of all that are."""
    drawn, save = [], heatmaps.save

    def counted(*args, **options):
        for name, path in save(*args, **options):
            drawn.append(name)
            yield name, path

    monkeypatch.setattr(heatmaps, "save", counted)
    monkeypatch.setattr(signals, "is_requested", lambda: len(drawn) >= count)
    return drawn


def test_a_stop_while_it_draws_leaves_the_worklist_and_the_same_call_goes_on(
    finished, scans, tmp_path, monkeypatch, capsys
):
    predict.predict(finished, scans, tmp_path / "out")  # Here, only drawing is stopped.
    (tmp_path / "out" / "worklist.csv").unlink()
    with monkeypatch.context() as patch:
        drawn = _stopping_after(patch, 2)
        patch.setattr(signals, "stop", lambda: (_ for _ in ()).throw(Stopped("stopped", 75)))
        with pytest.raises(Stopped):
            explain.explain(finished, scans, tmp_path / "out")
    assert len(drawn) == 2
    assert (tmp_path / "out" / "worklist.csv").read_text().count("\n") == 5
    capsys.readouterr()
    rest = _stopping_after(monkeypatch, 99)
    found = explain.explain(finished, scans, tmp_path / "out")
    assert len(rest) == 1
    assert not set(rest) & set(drawn)
    assert [bool(row.heatmap) for row in found.rows] == [True, True, True, False]
    assert "2 of 3 heat maps were drawn before.\n" in capsys.readouterr().out
    page = (tmp_path / "out" / "worklist.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 6


def _change_file(scans, _):
    (scans / "a.png").write_bytes(radiographs.draw(99, format="PNG"))


def _damage_png(_, folder):
    for path in folder.glob("a-*.png"):
        path.write_bytes(path.read_bytes()[:-200])


def _foreign_png(_, folder):
    for path in folder.glob("a-*.png"):
        PIL.Image.new("RGB", (8, 8)).save(path)


@pytest.mark.parametrize(
    ("change", "options", "count"),
    [
        (lambda *_: None, {}, 0),
        (_change_file, {}, 1),
        (_damage_png, {}, 1),
        (_foreign_png, {}, 1),
        (lambda *_: None, {"heatmap": "hirescam"}, 3),
        (lambda *_: None, {"save_maps": True}, 3),
    ],
    ids=["nothing", "a file", "a damaged map", "a map of others", "the method", "arrays too"],
)
def test_what_has_changed_is_drawn_again_and_nothing_else(
    finished, scans, tmp_path, monkeypatch, change, options, count
):
    explain.explain(finished, scans, tmp_path / "out")
    change(scans, tmp_path / "out" / heatmaps.FOLDER)
    drawn = _stopping_after(monkeypatch, 99)
    found = explain.explain(finished, scans, tmp_path / "out", **options)
    assert len(drawn) == count
    assert [bool(row.heatmap) for row in found.rows] == [True, True, True, False]


def test_another_model_draws_its_own_maps(finished, scans):
    with sources.opened([str(scans)]) as found:
        (name, *_) = found.by_name
    one, other = (
        heatmaps.origin(model=model, method="gradcam", of_class="NORMAL", image="0")
        for model in ("a", "b")
    )
    explainer = gradcam.of_model(saved.load(finished / "best.keras"))
    side = explainer.image_shape[0]
    items = [(name, np.zeros((side, side), np.uint8), 0)]
    ((_, path),) = heatmaps.save(explainer, items, scans / "maps", {name: one})
    assert heatmaps.kept(scans / "maps", {name: one}) == {name: path}
    assert heatmaps.kept(scans / "maps", {name: other}) == {}


def test_no_numbers_of_an_earlier_map_lie_beside_a_new_one(finished, scans, tmp_path):
    explain.explain(finished, scans, tmp_path / "out", save_maps=True)
    maps = tmp_path / "out" / heatmaps.FOLDER
    assert len(list(maps.glob("*.npy"))) == 3
    explain.explain(finished, scans, tmp_path / "out", heatmap="hirescam")
    assert list(maps.glob("*.npy")) == []
    assert len(list(maps.iterdir())) == 3


def test_heat_maps_of_an_earlier_worklist_are_told(finished, scans, tmp_path, capsys):
    explain.explain(finished, scans, tmp_path / "out", save_maps=True)
    (scans / "b.png").unlink()
    capsys.readouterr()
    explain.explain(finished, scans, tmp_path / "out")
    told = f"of an earlier worklist, and of no row of this one: 2 files in {tmp_path / 'out'}"
    assert told in capsys.readouterr().out


def test_the_page_says_of_which_class_and_method_the_heat_is(finished, scans, tmp_path):
    found = explain.explain(finished, scans, tmp_path / "out", heatmap="hirescam")
    page = (tmp_path / "out" / "worklist.html").read_text("utf-8")
    for rank, row in enumerate(found.rows[:3], start=1):
        assert f'alt="Heat for {row.predicted}, rank {rank}"' in page
    assert "heat by HiResCAM for its predicted class" in page


def test_a_link_in_place_of_the_folder_of_heat_maps_is_refused(finished, scans, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out" / heatmaps.FOLDER).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RunError, match="is a link, and nothing is written through it"):
        explain.explain(finished, scans, tmp_path / "out")
    assert os.listdir(tmp_path / "elsewhere") == []  # noqa: PTH208


def test_the_command_says_where_the_heat_maps_are(command, finished, scans, tmp_path):
    done = command(
        "--mode=explain", f"--model_dir={finished}", f"--images={scans}",
        f"--output_dir={tmp_path / 'out'}", "--heatmap=hirescam", "--save_maps",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(f"heat maps:   {tmp_path / 'out' / 'heatmaps'}\n")
    page = (tmp_path / "out" / "worklist.html").read_text("utf-8")
    assert "--mode=explain" in page
    assert "--heatmap=hirescam" in page


def test_another_kind_of_heat_map_is_refused(finished, scans):
    with pytest.raises(ConfigError, match="heatmap"):
        explain.explain(finished, scans, heatmap="lime")
