"""Labels of images from elsewhere: by lists, by folders, in zips; and what is refused."""

from __future__ import annotations

import dataclasses
import shutil
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from cxr_tfds import images
from tests.cxr_tfds.radiographs import test_deep_pixels
from tests.support import radiographs
from tests.support.scans import dicom_files
from trainer.data import opening
from trainer.errors import RunError
from trainer.inference import labelled, sources
from trainer.options import DataOptions

if TYPE_CHECKING:
    from trainer.inference.labelled import LabelledFile

CLASSES, SIDE = ("NORMAL", "PNEUMONIA"), 32


def labels_of(path: Path | str, classes=CLASSES) -> list[LabelledFile]:
    with sources.opened([str(path)]) as found:
        return labelled.label(found.candidates, classes)


def write(folder: Path, *names: str) -> None:
    for seed, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(radiographs.draw(seed, format="PNG"))


@pytest.fixture
def options(tmp_path) -> DataOptions:
    return DataOptions(dataset="paper", staging_dir=str(tmp_path / "staging"), batch_size=4)


def test_folders_are_named_like_the_classes_in_any_case(tmp_path, capsys):
    write(tmp_path, "normal/a.png", "PNEUMONIA/sub/b.png", "x/Normal/c.png")
    found = labels_of(tmp_path)
    assert [Path(of.candidate.name).name for of in found] == ["a.png", "b.png", "c.png"]
    assert [of.label for of in found] == [0, 1, 0]
    assert "labels: 2 NORMAL, 1 PNEUMONIA.\n" in capsys.readouterr().out


def test_the_innermost_folder_decides(tmp_path):
    write(tmp_path, "NORMAL/PNEUMONIA/a.png", "PNEUMONIA/normal/b.png")
    assert [of.label for of in labels_of(tmp_path)] == [1, 0]


def test_what_the_users_folders_above_are_called_is_no_label(tmp_path):
    """All images of /data/pneumonia/scans would be ill, without a word."""
    write(tmp_path / "pneumonia" / "scans", "a.png", "b.png")
    with pytest.raises(RunError, match=r"a.png has no label: give a CSV list with columns `file`"):
        labels_of(tmp_path / "pneumonia" / "scans")
    assert [of.label for of in labels_of(tmp_path / "pneumonia")] == [1, 1]


def test_folders_in_a_zip_and_names_of_zips_are_labels(tmp_path):
    for name, member in (("a.zip", "x/NORMAL/a.png"), ("Pneumonia.zip", "b.png")):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.writestr(member, radiographs.draw(0))
    assert labels_of(tmp_path / "a.zip")[0].label == 0
    assert labels_of(tmp_path / "Pneumonia.zip")[0].label == 1


LISTS = {
    "names": ("file,label\na.png,NORMAL\nb.png,PNEUMONIA\n", [0, 1]),
    "any case": ("FILE;Class\na.png; normal \nb.png;pneumonia\n", [0, 1]),
    "numbers": ("path,target\na.png,1\nb.png,0\n", [1, 0]),
    "against the folder": ("file,label\nPNEUMONIA/a.png,NORMAL\n", [0]),
    "no column": ("file\nNORMAL/a.png\nPNEUMONIA/a.png\n", [0, 1]),
}


@pytest.mark.parametrize("kind", LISTS)
def test_lists_have_labels_by_name_or_number(tmp_path, capsys, kind):
    content, expected = LISTS[kind]
    write(tmp_path, "a.png", "b.png", "NORMAL/a.png", "PNEUMONIA/a.png")
    (tmp_path / "list.csv").write_text(content)
    assert [of.label for of in labels_of(tmp_path / "list.csv")] == expected
    said = "labels are numbers: 0 is NORMAL, 1 is PNEUMONIA.\n" in capsys.readouterr().out
    assert said is (kind == "numbers")


def test_a_class_that_is_a_number_is_that_class(tmp_path):
    write(tmp_path, "a.png", "b.png")
    (tmp_path / "list.csv").write_text("file,label\na.png,1\nb.png,0\n")
    assert [of.label for of in labels_of(tmp_path / "list.csv", ("1", "0"))] == [0, 1]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("", r"a.png has no label: give a CSV list with columns `file` and `label` \(NORMAL, PNE"),
        ("covid", 'a.png is labelled "covid": give a CSV list'),
        ("2", 'is labelled "2"'),
        ("-1", 'is labelled "-1"'),
        ("1.0", r'is labelled "1\.0"'),
        ("\x1b[2J", r'is labelled "'),
    ],
)
def test_a_missing_or_unknown_label_is_refused(tmp_path, value, said):
    write(tmp_path, "a.png")
    (tmp_path / "list.csv").write_text(f'file,label,x\na.png,"{value}",1\n')
    with pytest.raises(RunError, match=said) as raised:
        labels_of(tmp_path / "list.csv")
    assert str(raised.value).isprintable()


KAGGLE = (
    "NORMAL/IM-0001-0001.png", "NORMAL/IM-0001-0002.png", "PNEUMONIA/person7_virus_3.png",
    "normal/NORMAL2-IM-0381-0001.jpeg", "PNEUMONIA/person8_bacteria_4.jpeg",
)  # fmt: skip


def test_names_of_kaggle_tell_patients_in_its_folders(tmp_path, capsys):
    write(tmp_path, *KAGGLE)
    found = {Path(of.candidate.name).stem: of for of in labels_of(tmp_path)}
    patients = [found[Path(name).stem].patient_id for name in KAGGLE]
    assert patients == ["IM-0001", "IM-0001", "person7", "NORMAL2-IM-0381", "person8"]
    etiologies = [found[Path(name).stem].etiology for name in KAGGLE]
    assert etiologies == ["normal", "normal", "virus", "normal", "bacteria"]
    said = capsys.readouterr().out
    assert "patients and etiologies taken from the names of 5 files, as Kaggle's archive" in said
    assert "patient of its own" not in said


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("IM-0001-0001.png", "NORMAL"),  # What viewers call the first image of anybody.
        ("scans/IM-0001-0001.png", "NORMAL"),
        ("PNEUMONIA/IM-0001-0001.png", "PNEUMONIA"),
        ("PNEUMONIA/IM-0001-0001.png", "NORMAL"),
        ("NORMAL/IM-0001-0001.png", "PNEUMONIA"),
        ("NORMAL/IM-0001-0001.dcm", "NORMAL"),
        ("NORMAL/IM-0001-0001", "NORMAL"),
        ("NORMAL/person7_virus_3.png", "NORMAL"),
        ("person7_virus_3.png", "PNEUMONIA"),
        ("PNEUMONIA/NORMAL-1008087-0001.jpeg", "PNEUMONIA"),
    ],
)
def test_names_of_kaggle_tell_nothing_elsewhere(tmp_path, capsys, name, label):
    """Two patients would be one, and the guard would take them for those of training."""
    write(tmp_path, f"a/{name}", f"b/{name}")
    (tmp_path / "list.csv").write_text(f"file,label\na/{name},{label}\nb/{name},{label}\n")
    found = labels_of(tmp_path / "list.csv")
    assert [of.patient_id for of in found] == [of.candidate.name for of in found]
    assert {of.etiology for of in found} == {"unknown"}
    said = capsys.readouterr().out
    assert "taken from the names" not in said
    assert "patients: no column patient_id, so each image counts as a" in said


def test_patients_of_the_list_always_count(tmp_path, capsys):
    write(tmp_path, *KAGGLE[:3])
    rows = zip(KAGGLE[:3], ("0", "0", "1"), ("p1", "", "p2"), strict=True)
    lines = ["file,label,Patient_ID", *map(",".join, rows)]
    (tmp_path / "list.csv").write_text("\n".join(lines))
    found = labels_of(tmp_path / "list.csv")
    assert [of.patient_id for of in found] == ["p1", str(tmp_path / KAGGLE[1]), "p2"]
    said = capsys.readouterr().out
    assert "patients: 1 of 3 files have no patient_id, so each of them counts as a patient" in said


CONTRADICTIONS = {
    "labels": ("file,label\na.png,0\nb.png,0\na.png,1\n", 'label "NORMAL" and with label "PNE'),
    "another path": ("file,label\na.png,0\nx/../a.png,1\n", 'label "NORMAL" and with label "PNE'),
    "patients": (
        "file,label,patient\na.png,0,p\na.png,0,q\n", 'patient_id "p" and with patient_id "q"'
    ),
    "one patient": ("file,label,patient\na.png,0,\na.png,0,q\n", 'no patient_id and with patient_'),
}  # fmt: skip


@pytest.mark.parametrize("kind", CONTRADICTIONS)
def test_a_file_with_several_labels_or_patients_is_refused(tmp_path, options, kind):
    content, said = CONTRADICTIONS[kind]
    write(tmp_path, "a.png", "b.png")
    (tmp_path / "x").mkdir()
    (tmp_path / "list.csv").write_text(content)
    with (
        pytest.raises(RunError, match=rf"a.png is named twice, with {said}.*correct the list"),
        packed(tmp_path / "list.csv", options),
    ):
        pass


def test_a_file_that_is_named_twice_alike_is_read_once(tmp_path, options, capsys):
    write(tmp_path, "a.png", "b.png")
    rows = ("a.png,1,5", "b.png,0,6", "a.png,PNEUMONIA,7")
    (tmp_path / "list.csv").write_text("\n".join(["file,label,age", *rows]))
    with packed(tmp_path / "list.csv", options) as data:
        assert data.column("test", "age").tolist() == ["5", "6"]
    assert "Named again with other columns, of which the first count: 1 time.\n" in (
        capsys.readouterr().out
    )


def test_what_reading_takes_for_granted_is_counted(tmp_path, options, capsys):
    """No figure shows that a file is lateral, or counted twice."""
    levels = dicom_files.levels(12)
    files = {
        "a.dcm": dicom_files.file(levels, 12, ViewPosition="LL"),
        "b.dcm": dicom_files.file(levels, 12, ViewPosition="LL", BodyPartExamined="HAND"),
        "c.png": test_deep_pixels.png(levels),
        "d.png": test_deep_pixels.png(dicom_files.levels(12, seed=1)),
        "e.png": radiographs.draw(0, format="PNG"),
    }
    (tmp_path / "scans" / "NORMAL").mkdir(parents=True)
    for name, data in files.items():
        (tmp_path / "scans" / "NORMAL" / name).write_bytes(data)
    with packed(tmp_path / "scans", options) as data:
        assert data.metadata["flagged"] == {"lateral": 2, "not_chest": 1}
        assert data.metadata["notes"]["16 bits, read as 12"] == 2
        assert data.metadata["same_image"] == 2
    said = capsys.readouterr().out
    assert "flagged, and evaluated like the others: 2 lateral, 1 not_chest.\n" in said
    assert "16 bits, read as 12 (2)" in said
    assert "the same image as a file before it: 2 files, and each counts.\n" in said


def test_without_patients_a_line_says_what_that_means(tmp_path, capsys):
    write(tmp_path, "NORMAL/a.png")
    labels_of(tmp_path)
    assert "patients: no column patient_id, so each image counts as a" in capsys.readouterr().out


def test_other_columns_are_kept_to_group_by(tmp_path):
    write(tmp_path, "a.png")
    head = ",file,label,patient_id,Patient Age,a/b,image,etiology,file_name,sex"
    (tmp_path / "list.csv").write_text(f"{head}\n0,a.png,1,p,60,x,y,z,w,F\n")
    (found,) = labels_of(tmp_path / "list.csv")
    assert found.columns == {"Patient Age": "60", "a/b": "x", "sex": "F"}
    assert found.etiology == "z"


def packed(path: Path, options: DataOptions, side: int = SIDE) -> Any:
    return labelled.packed([str(path)], CLASSES, [side], options, options.dataset)


def test_records_hold_what_predictions_see(tmp_path, options):
    write(tmp_path / "scans", "NORMAL/a.png", "PNEUMONIA/b.png", "NORMAL/c.png")
    with packed(tmp_path / "scans", options) as data:
        table = data.table("test")
        pixels = data.images("test", np.arange(3))
        names = [Path(name).name for name in table.file_name.tolist()]
        assert dict(zip(names, table.label.tolist(), strict=True)) == {
            "a.png": 0, "b.png": 1, "c.png": 0,
        }  # fmt: skip
        for name, found in zip(table.file_name.tolist(), pixels, strict=True):
            wanted = images.decode(Path(name).read_bytes(), SIDE)
            assert np.array_equal(found[..., 0], wanted)
        assert data.name == "images"
        assert data.class_names == CLASSES


def test_the_temporary_records_vanish(tmp_path, options):
    write(tmp_path / "scans", "NORMAL/a.png", "PNEUMONIA/b.png")
    with packed(tmp_path / "scans", options):
        assert list((tmp_path / "staging").iterdir())
    assert list((tmp_path / "staging").iterdir()) == []


def test_the_fingerprint_changes_with_images_labels_and_patients_alone(tmp_path, options):
    def fingerprint(folder: str, content: str) -> str:
        write(tmp_path / folder, "a.png", "b.png")
        (tmp_path / folder / "list.csv").write_text(content)
        with packed(tmp_path / folder / "list.csv", options) as data:
            return str(data.fingerprint)

    base = fingerprint("x", "file,label,patient_id,age\na.png,1,p,5\nb.png,0,q,6\n")
    assert base == fingerprint("y", "file,label,patient_id,age\na.png,1,p,7\nb.png,0,q,8\n")
    assert base != fingerprint("x", "file,label,patient_id\na.png,0,p\nb.png,0,q\n")
    assert base != fingerprint("x", "file,label,patient_id\na.png,1,p\nb.png,0,p\n")
    assert base != fingerprint("x", "file,label,patient_id\nb.png,1,p\na.png,0,q\n")


def test_unreadable_files_are_named_and_not_counted(tmp_path, options, capsys):
    write(tmp_path / "scans", "NORMAL/a.png", "PNEUMONIA/b.png")
    (tmp_path / "scans" / "NORMAL" / "\x1b[2J.png").write_bytes(b"")
    with packed(tmp_path / "scans", options) as data:
        assert len(data.table("test").label) == 2
        assert data.metadata["images"] == {"test": {"NORMAL": 1, "PNEUMONIA": 1}}
    said = capsys.readouterr().out
    assert "not evaluated, as they can't be read: 1 file (" in said
    assert "is empty)" in said
    assert "\x1b" not in said


def test_if_no_file_can_be_read_it_is_told_in_a_line(tmp_path, options):
    (tmp_path / "scans" / "NORMAL").mkdir(parents=True)
    (tmp_path / "scans" / "NORMAL" / "a.png").write_bytes(b"")
    with (
        pytest.raises(RunError, match=r"no file can be read: /.*a.png is empty\.$"),
        packed(tmp_path / "scans", options),
    ):
        pass
    assert list((tmp_path / "staging").iterdir()) == []


@pytest.mark.parametrize("value", ["two\nlines", "", "a" * 5000, "\u202egnp", "é/ü", "{x}", "🫁"])
def test_values_of_every_kind_can_be_grouped_by(tmp_path, options, value):
    write(tmp_path / "scans", "a.png", "b.png")
    cells = f'"{value}","{value}"'
    (tmp_path / "scans" / "list.csv").write_text(
        f"file,label,etiology,odd/col umn\na.png,1,{cells}\nb.png,0,,\n"
    )
    with packed(tmp_path / "scans" / "list.csv", options) as data:
        data.require_column("odd/col umn")
        assert data.column("test", "odd/col umn").tolist() == [value.strip(), ""]
        assert data.table("test").etiology.tolist() == [value or "unknown", "unknown"]


def test_a_fingerprint_is_of_the_pixels_and_not_of_their_encoding(tmp_path, options):
    """By it, looks at the same images are counted."""
    image = Image.fromarray(radiographs.noise(1, 90)[0, ..., 0])
    found = []
    for name, settings in {"one": {"compress_level": 1}, "other": {"compress_level": 9}}.items():
        (tmp_path / name).mkdir()
        image.save(tmp_path / name / "a.png", **settings)
        (tmp_path / name / "list.csv").write_text("file,label,patient_id\na.png,1,p\n")
        with packed(tmp_path / name / "list.csv", options) as data:
            found.append(data.fingerprint)
    assert found[0] == found[1]
    (tmp_path / "one" / "list.csv").write_text("file,label,patient_id\na.png,0,p\n")
    with packed(tmp_path / "one" / "list.csv", options) as data:
        assert data.fingerprint != found[0]


@pytest.mark.parametrize("config", ["paper", "paper_raw"])
def test_images_of_a_data_set_are_recognised(archive, tmp_path, config):
    """By the pixels that its records hold, whatever the files are called."""
    built = DataOptions(
        dataset=config, manual_dir=str(archive), data_dir=str(tmp_path), batch_size=4,
        staging_dir=str(tmp_path / "staging"),
    )  # fmt: skip
    known = set()
    data = opening.load(built, 32)
    for split in ("train", "validation", "test"):
        known |= set(data.table(split).image_digest.tolist())
    own = sorted(Path(archive).rglob("*.jpeg"))[:6]
    for number, path in enumerate(own):
        target = tmp_path / "scans" / ("NORMAL" if number % 2 else "PNEUMONIA")
        target.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target / f"{number}.jpeg")
    write(tmp_path / "scans", "NORMAL/other.png")
    # What is said of data now is not what the run was trained on.
    other = dataclasses.replace(built, dataset="grouped_299")
    with labelled.packed([str(tmp_path / "scans")], CLASSES, [SIDE], other, config) as found:
        table = found.table("test")
        seen = [value in known for value in table.image_digest.tolist()]
        names = [Path(name).name for name in table.file_name.tolist()]
        assert [name for name, is_known in zip(names, seen, strict=True) if not is_known] == [
            "other.png"
        ]
