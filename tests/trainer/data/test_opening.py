from __future__ import annotations

import pytest

from trainer.data import opening
from trainer.errors import RunError
from trainer.options import DataOptions


def test_only_larger_images_are_resized_by_the_pipeline(data_dir):
    options = DataOptions(dataset="paper", data_dir=str(data_dir))
    assert opening.load(options, 64).image_shape == (64, 64, 1)
    assert opening.load(options, 299).image_shape == (224, 224, 1)


def test_the_error_for_a_data_set_that_is_not_built_names_both_remedies(tmp_path):
    with pytest.raises(RunError, match=r"is not built in .*--manual_dir.*tfds build cxr_tfds"):
        opening.load(DataOptions(dataset="grouped", data_dir=str(tmp_path)), 224)


def test_an_empty_archive_folder_is_one_error(tmp_path):
    (tmp_path / "manual").mkdir()
    options = DataOptions(manual_dir=str(tmp_path / "manual"), data_dir=str(tmp_path / "data"))
    with pytest.raises(RunError, match="kaggle"):
        opening.load(options, 224)
