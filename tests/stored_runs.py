"""The files of a run of two test images, as training and evaluation write them."""

from __future__ import annotations

import hashlib
import json
import types
from typing import TYPE_CHECKING

import numpy as np

from tests.support import runs
from trainer.data.pipeline import Data
from trainer.evaluation import assessment, predictions
from trainer.options import DataOptions, EvaluationOptions
from trainer.reports import report
from trainer.runs import evaluated, looks, run_directory

if TYPE_CHECKING:
    from pathlib import Path

ROWS = [{"epoch": n, "loss": 0.5, "val_loss": 0.5 / n, "val_auc": 0.75} for n in (1, 2, 3)]
HASH = hashlib.sha256(b"data").hexdigest()


def make(folder: Path) -> None:
    """Writes the files of a finished run, its model excepted, into an empty folder."""
    config = runs.small_config(folder / "data", folder, model_dir=str(folder))
    directory = run_directory.RunDirectory(folder)
    directory.save_config(config)
    directory.save_trained_on(
        {
            "fingerprint": HASH,
            "patients": ["person1", "IM-0001"],
            "validation_patients": ["person2"],
            "image_digests": [f"{number:016x}" for number in (1, 2)],
            "class_counts": {"NORMAL": 1, "PNEUMONIA": 1},
        }
    )
    directory.metrics.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    directory.best_model.write_bytes(b"")
    (directory.checkpoints / "00002-000000").mkdir(parents=True)
    table = predictions.Predictions(
        ("NORMAL", "PNEUMONIA"), np.array(["a.jpeg", "b.jpeg"]), np.array(["IM-1", "person1"]),
        np.array(["normal", "virus"]), np.array([0, 1]), np.array([[0.75, 0.25], [0.125, 0.875]]),
    )  # fmt: skip
    table.save_csv(folder / "predictions_test.csv")
    options = EvaluationOptions(prior_correction="em")
    evaluated.save_validation(folder, table, assessment.choice(table, options.rule))
    history = {name: [row[name] for row in ROWS] for name in ROWS[0] if name != "epoch"}
    card, facts = {"name": "cxr_tfds/paper", "fingerprint": HASH}, {"config": config.to_flat()}
    look = looks.Look("train", options, {"date": "2026-11-30 10:00"})
    rows = looks.record(directory, look, data())
    sharing = assessment.Sharing(0, 0)
    priors = {"NORMAL": 0.5, "PNEUMONIA": 0.5}
    assessed = assessment.Assessment(table, table, options, sharing=sharing, training_priors=priors)
    pair = {"a": "validation", "b": "test", "domain_auc": 0.75, "score_psi": 0.5}
    shift = {"pairs": [pair], "warning": "Validation can't stand for test.", "note": ""}
    found = report.Report("test", history, assessed, card, facts, looks=rows, shift=shift)
    found.save(folder)


def data() -> Data:
    """Data of which TFDS knows no more than the fingerprint."""
    info = types.SimpleNamespace(metadata={"fingerprint": HASH}, splits={}, config_name="grouped")
    return Data(types.SimpleNamespace(info=info), DataOptions(), resize_to=None)
