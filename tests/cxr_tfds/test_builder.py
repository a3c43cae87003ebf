"""The records that the builder writes, and what describes them."""

from __future__ import annotations

import io
import json
import pathlib
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from PIL import ExifTags, Image

import cxr_tfds
from cxr_tfds import configs, cxr_tfds_dataset_builder, images, origin, phantoms, protocols, source
from tests.cxr_tfds.builds import build, read
from tests.support import radiographs
from tests.support.radiographs import Files

pytestmark = [
    # TFDS's test case imports Beam, whose Google client misses an optional package of its own.
    pytest.mark.filterwarnings("ignore:Please install grpcio-status:ImportWarning"),
    # TFDS reads its info files by a method that protobuf 6 deprecates.
    pytest.mark.filterwarnings(r"ignore:label\(\) is deprecated:DeprecationWarning"),
]

ROOT = pathlib.Path(cxr_tfds.__file__).parents[1]


@pytest.fixture(scope="module")
def grouped(
    example_dir: pathlib.Path, tmp_path_factory: pytest.TempPathFactory
) -> tfds.core.DatasetBuilder:
    return build("grouped", example_dir, tmp_path_factory.mktemp("data"))


class TestCxrTfds(tfds.testing.DatasetBuilderTestCase):
    """TFDS's own contract for builders."""

    DATASET_CLASS = cxr_tfds.Builder
    BUILDER_CONFIG_NAMES_TO_TEST = ("grouped", "grouped_299", "grouped_raw")
    SPLITS = {"train": 78, "validation": 10, "test": 28}  # noqa: RUF012 - TFDS's signature.

    @pytest.fixture(autouse=True)
    def _use_archive(self, example_dir: pathlib.Path) -> None:
        type(self).EXAMPLE_DIR = str(example_dir)


def test_configs_are_protocols_at_resolutions() -> None:
    assert [config.name for config in cxr_tfds.Builder.BUILDER_CONFIGS] == [
        *("grouped", "paper", "official"),
        *("grouped_299", "paper_299", "official_299"),
        *("grouped_raw", "paper_raw", "official_raw"),
        "phantom",
    ]


def test_no_module_has_the_name_of_a_config() -> None:
    """For `tfds build cxr_tfds/NAME` TFDS would import the module, and find no builder in it."""
    files = pathlib.Path(cxr_tfds.__file__).parent.iterdir()
    assert not {path.stem for path in files} & {row.name for row in configs.ROWS}


def test_every_config_has_a_protocol() -> None:
    assert {row.protocol for row in configs.ROWS} == set(protocols.PROTOCOLS)


def test_grouped_is_the_default(tmp_path: pathlib.Path) -> None:
    assert tfds.builder("cxr_tfds", data_dir=tmp_path).builder_config.name == "grouped"


@pytest.mark.parametrize(
    ("config", "shape"),
    [
        ("grouped", (224, 224, 1)),
        ("paper_299", (299, 299, 1)),
        ("official_raw", (None, None, 1)),
        ("phantom", (128, 128, 1)),
    ],
)
def test_image_shape_follows_the_config(
    config: str, shape: tuple[int | None, ...], tmp_path: pathlib.Path
) -> None:
    features = tfds.builder(f"cxr_tfds/{config}", data_dir=tmp_path).info.features
    assert features["image"].shape == shape
    assert features["image"].dtype == np.uint8


def test_supervised_examples_are_image_and_label(grouped: tfds.core.DatasetBuilder) -> None:
    image, label = next(iter(grouped.as_dataset(split="train", as_supervised=True)))
    assert image.shape == (224, 224, 1)
    assert label.shape == ()


def test_loaded_images_are_the_pixels_that_pillow_decodes(phantom_dir: pathlib.Path) -> None:
    """TFDS's own image takes the fast DCT, up to 18 grey levels off."""
    builder = tfds.builder("cxr_tfds/phantom", data_dir=phantom_dir)
    loaded, stored = read(builder, "test"), read(builder, "test", tfds.decode.SkipDecoding())
    assert len(loaded) == len(stored) > 400
    for name, example in loaded.items():
        np.testing.assert_array_equal(
            example["image"][..., 0], images.decode(stored[name]["image"])
        )


def test_records_say_that_their_images_are_tfds_own(grouped: tfds.core.DatasetBuilder) -> None:
    """So that they can be read without this package."""
    image = tfds.builder_from_directory(grouped.data_dir).info.features["image"]
    assert type(image) is tfds.features.Image


def test_phantoms_alone_have_masks_of_findings(
    phantom_dir: pathlib.Path, grouped: tfds.core.DatasetBuilder
) -> None:
    builder = tfds.builder("cxr_tfds/phantom", data_dir=phantom_dir)
    drawn = {record.file_name: phantoms.draw(record) for record in phantoms.records()[::40]}
    found = read(builder, "test")
    assert len(drawn.keys() & found) > 5
    for name in drawn.keys() & found:
        mask = found[name][configs.MASK]
        assert set(np.unique(mask)) <= {0, 255}
        np.testing.assert_array_equal(mask[..., 0] > 0, drawn[name].finding)
    assert configs.MASK not in grouped.info.features


def test_a_fingerprint_is_the_same_on_every_machine(phantom_dir: pathlib.Path) -> None:
    builder = tfds.builder("cxr_tfds/phantom", data_dir=phantom_dir)
    assert str(builder.version) == configs.VERSION == "2.0.0"
    assert builder.info.metadata["fingerprint"] == (
        "ea23e5b2ff6133728101ee122f2cf34dd233477620ee7703764f77f489a4dedd"
    )


def test_record_says_all_that_is_known_of_an_image(grouped: tfds.core.DatasetBuilder) -> None:
    features = grouped.info.features
    example = read(grouped)["person21_bacteria_43.jpeg"]
    assert features["label"].int2str(example["label"]) == "PNEUMONIA"
    assert features["etiology"].int2str(example["etiology"]) == "bacteria"
    assert features["folder"].int2str(example["folder"]) == "train"
    assert example["patient_id"] == b"person21"
    assert (example["original_height"], example["original_width"]) == (40, 48)
    assert not example["rgb_coded"]


def test_colour_coding_is_recorded(grouped: tfds.core.DatasetBuilder) -> None:
    coded = [name for name, example in read(grouped).items() if example["rgb_coded"]]
    assert coded == ["IM-0003-0006.jpeg"]


def test_no_patient_is_on_two_sides_of_grouped(grouped: tfds.core.DatasetBuilder) -> None:
    patients = [
        {example["patient_id"] for example in read(grouped, split).values()}
        for split in protocols.SPLITS
    ]
    assert sum(map(len, patients)) == len(set.union(*patients))


def test_raw_keeps_the_bytes_of_grey_jpegs(files: Files, tmp_path: pathlib.Path) -> None:
    builder = build("official_raw", files.zip(tmp_path / "manual"), tmp_path / "data")
    decoders = {"image": tfds.decode.SkipDecoding()}
    stored = {
        example["file_name"].decode(): example["image"]
        for example in tfds.as_numpy(builder.as_dataset(split="test", decoders=decoders))
    }
    assert len(stored) == 12
    originals = {pathlib.PurePosixPath(path).name: data for path, data in files.content.items()}
    assert all(originals[name] == data for name, data in stored.items())


def test_splits_are_sharded_for_many_readers(grouped: tfds.core.DatasetBuilder) -> None:
    shards = {name: grouped.info.splits[name].num_shards for name in protocols.SPLITS}
    assert shards == {"train": 16, "validation": 10, "test": 16}


def test_the_callers_shard_count_wins(
    grouped: tfds.core.DatasetBuilder, example_dir: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    builder = build("grouped", example_dir, tmp_path, num_shards=2)
    assert builder.info.splits["train"].num_shards == 2
    for split in protocols.SPLITS:  # Cached features belong to the fingerprint and the order.
        assert _in_order(builder, split) == _in_order(grouped, split)


def _in_order(builder: tfds.core.DatasetBuilder, split: str) -> list[bytes]:
    """The file names of a split in the order of its records, file after file."""
    config = tfds.ReadConfig(interleave_cycle_length=1)
    examples = tfds.as_numpy(builder.as_dataset(split=split, read_config=config))
    return [example["file_name"] for example in examples]


def test_metadata_survives_a_reload(grouped: tfds.core.DatasetBuilder) -> None:
    by_name = tfds.builder("cxr_tfds/grouped", data_dir=grouped.data_dir_root)
    by_path = tfds.builder_from_directory(grouped.data_dir)
    assert dict(by_name.info.metadata) == dict(by_path.info.metadata) == dict(grouped.info.metadata)


def test_metadata_describes_the_data(grouped: tfds.core.DatasetBuilder) -> None:
    metadata = grouped.info.metadata
    assert metadata["protocol"] == "grouped"
    assert metadata["image_size"] == 224
    assert metadata["test_images_sharing_a_patient_with_train"] == 0
    assert metadata["test_images_sharing_a_patient_with_train_or_validation"] == 0
    assert metadata["images"]["test"] == {"NORMAL": 12, "PNEUMONIA": 16}
    assert metadata["rgb_coded_images"] == 1


def test_paper_reports_its_shared_patients(
    example_dir: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    metadata = build("paper", example_dir, tmp_path).info.metadata
    of_train = metadata["test_images_sharing_a_patient_with_train"]
    assert metadata["test_images_sharing_a_patient_with_train_or_validation"] >= of_train > 0


def test_fingerprint_is_the_same_for_zip_and_folder_in_any_order(
    grouped: tfds.core.DatasetBuilder, files: Files, tmp_path: pathlib.Path
) -> None:
    backwards = Files(dict(reversed(files.content.items())))
    other = build("grouped", backwards.extract(tmp_path / "tree"), tmp_path / "data")
    assert other.info.metadata["fingerprint"] == grouped.info.metadata["fingerprint"]


def test_fingerprint_differs_between_configs(
    grouped: tfds.core.DatasetBuilder, example_dir: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    other = build("grouped_299", example_dir, tmp_path)
    assert other.info.metadata["fingerprint"] != grouped.info.metadata["fingerprint"]


def test_building_asks_no_bucket(
    example_dir: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: object) -> bool:
        raise AssertionError(f"TFDS asked the network for {path}.")

    monkeypatch.setattr(tfds.core.utils.gcs_utils, "exists", refuse)
    build("official", example_dir, tmp_path)


@pytest.mark.parametrize(
    "imports",
    [
        "import cxr_tfds, tensorflow_datasets as tfds",
        "from cxr_tfds import cxr_tfds_dataset_builder; import tensorflow_datasets as tfds",
        pytest.param("import tensorflow_datasets as tfds, cxr_tfds", marks=pytest.mark.slow),
    ],
)
def test_importing_registers_in_either_order(
    imports: str, grouped: tfds.core.DatasetBuilder
) -> None:
    code = (
        f"{imports}; assert len(tfds.load('cxr_tfds/grouped', split='test', "
        f"data_dir={str(grouped.data_dir_root)!r}, download=False)) == 28"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        (".", ["cxr_tfds", "--config=paper"]),
        (".", ["cxr_tfds/paper", "--imports=cxr_tfds"]),
        pytest.param("cxr_tfds", ["--config=paper"], marks=pytest.mark.slow),
    ],
)
def test_tfds_build_builds_from_the_root_and_from_the_package(
    folder: str,
    name: list[str],
    tfds_command: str,
    example_dir: pathlib.Path,
    tmp_path: pathlib.Path,
) -> None:
    arguments = [f"--manual_dir={example_dir}", f"--data_dir={tmp_path}"]
    subprocess.run([tfds_command, "build", *name, *arguments], check=True, cwd=ROOT / folder)
    metadata = json.loads((tmp_path / "cxr_tfds/paper/2.0.0/metadata.json").read_text())
    assert metadata["images"]["test"] == {"NORMAL": 12, "PNEUMONIA": 17}


@pytest.mark.slow
def test_beam_builds_the_same_examples(
    grouped: tfds.core.DatasetBuilder,
    tfds_command: str,
    example_dir: pathlib.Path,
    tmp_path: pathlib.Path,
) -> None:
    arguments = ["--config=grouped", f"--manual_dir={example_dir}", f"--data_dir={tmp_path}"]
    beam = "--beam_pipeline_options=runner=DirectRunner"
    subprocess.run([tfds_command, "build", "cxr_tfds", *arguments, beam], check=True, cwd=ROOT)
    built = tfds.builder("cxr_tfds/grouped", data_dir=tmp_path)
    assert built.info.metadata["fingerprint"] == grouped.info.metadata["fingerprint"]
    for split in protocols.SPLITS:
        expected, actual = read(grouped, split), read(built, split)
        # In the same order, too: cached features belong to the fingerprint and the order.
        assert list(expected) == list(actual)
        assert all(
            np.array_equal(expected[name]["image"], actual[name]["image"]) for name in expected
        )


def test_archives_are_told_apart_by_names_and_sizes(
    grouped: tfds.core.DatasetBuilder, files: Files, tmp_path: pathlib.Path
) -> None:
    recorded = grouped.info.metadata["archive_digest"]
    same = source.open_archive(files.extract(tmp_path / "same"))
    assert origin.digest(origin.sizes(same)) == recorded
    files.content["chest_xray/train/NORMAL/IM-0000-0000.jpeg"] += b"\0"
    other = source.open_archive(files.zip(tmp_path / "other"))
    assert origin.digest(origin.sizes(other)) != recorded


ORIENTED = Image.Exif()
ORIENTED[ExifTags.Base.Orientation] = 6


@pytest.mark.parametrize(
    "options",
    [
        {"format": "PNG"},
        {"format": "TIFF"},
        {"format": "BMP"},
        {"format": "WEBP", "lossless": True},
        {"mode": "RGB"},
        {"mode": "CMYK"},
        {"progressive": True},
        {"restart_marker_blocks": 3},
        {"exif": ORIENTED},
        {"exif": ORIENTED, "mode": "RGB"},
    ],
)
def test_every_original_is_stored_as_tensorflow_reads_it(options: dict[str, Any]) -> None:
    data = radiographs.draw(0, size=(96, 64), **options)
    stored = images.encode(data, None).content
    decoded = tf.io.decode_jpeg(stored, channels=1, dct_method="INTEGER_ACCURATE")
    np.testing.assert_array_equal(decoded.numpy()[..., 0], images.decode(data))


def test_bytes_that_tensorflow_decodes_to_other_pixels_are_refused() -> None:
    check = cxr_tfds_dataset_builder._require_equal_decoders
    data, other = (radiographs.draw(seed, size=(96, 64)) for seed in (0, 1))
    check(data, Image.open(io.BytesIO(data)))
    with pytest.raises(ValueError, match="different pixels by Pillow and TensorFlow"):
        check(data, Image.open(io.BytesIO(other)))
    check(radiographs.draw(0, mode="RGB"), Image.open(io.BytesIO(other)))  # Not kept.


def test_a_zip_as_manual_dir_gives_the_same_records(
    grouped: tfds.core.DatasetBuilder, manual_dir: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    other = build("grouped", manual_dir / "archive.zip", tmp_path / "data")
    assert other.info.metadata["fingerprint"] == grouped.info.metadata["fingerprint"]
