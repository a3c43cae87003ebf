"""A split without one of the classes: its AUC is undefined, and nothing takes it for a number."""

from __future__ import annotations

import json
import shutil

import pytest
import tensorflow as tf

from trainer.commands import train
from trainer.errors import ConfigError, RunError

POSITIVE = 1


@pytest.fixture
def relabelled(data_dir, tmp_path):
    """Returns a maker of data sets in which all examples of one split are PNEUMONIA."""

    def make(split: str) -> str:
        folder = shutil.copytree(data_dir, tmp_path / "relabelled")
        for path in folder.rglob(f"*-{split}.tfrecord*"):
            records = [
                tf.train.Example.FromString(x.numpy()) for x in tf.data.TFRecordDataset(path)
            ]
            with tf.io.TFRecordWriter(str(path)) as writer:
                for record in records:
                    record.features.feature["label"].int64_list.value[:] = [POSITIVE]
                    writer.write(record.SerializeToString())
        described = next(folder.rglob("paper/*/metadata.json"))
        metadata = json.loads(described.read_text())
        count = sum(metadata["images"][split].values())
        metadata["images"][split] = {"NORMAL": 0, "PNEUMONIA": count}
        described.write_text(json.dumps(metadata))
        return str(folder)

    return make


def test_an_undefined_auc_is_null_and_never_the_best(relabelled, make_config, tmp_path, capsys):
    train.run(make_config(data_dir=relabelled("validation")))
    output = capsys.readouterr().out
    assert (
        "the validation split has no example of NORMAL: its AUC is undefined. The best epoch is "
        "that of val_loss.\n"
    ) in output
    assert output.count("auc undefined  ") == 2
    assert "validation (min: undefined, max: undefined, cur: undefined)" in output
    rows = [json.loads(x) for x in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["val_auc"] for row in rows] == [None, None]
    assert None not in (rows[0]["auc"], rows[0]["val_loss"])
    assert json.loads((tmp_path / "run" / "report.json").read_text())["history"]["val_auc"] == [
        None, None,
    ]  # fmt: skip


def test_an_undefined_metric_cannot_decide_the_best_epoch(relabelled, make_config):
    config = make_config(data_dir=relabelled("validation"), monitor="val_auc")
    with pytest.raises(
        ConfigError,
        match=r"monitor \(val_auc\) is undefined: the validation split has no example of NORMAL; "
        "give --monitor=val_loss",
    ):
        train.run(config)


def test_one_class_cannot_be_learnt(relabelled, make_config):
    with pytest.raises(RunError, match="the train split has no example of NORMAL, so nothing can"):
        train.run(make_config(data_dir=relabelled("train")))


def test_a_test_split_of_one_class_leaves_the_metrics_undefined(relabelled, make_config, capsys):
    evaluation = train.run(make_config(data_dir=relabelled("test"), max_epochs=1))
    assert evaluation.metrics.roc_auc is evaluation.metrics.specificity is None
    assert "ROC-AUC undefined" in evaluation.headline()
    assert "ROC-AUC: undefined" in capsys.readouterr().out
