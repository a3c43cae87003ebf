"""Reports of runs as report.json has them, with plausible numbers, and predictions behind them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from trainer.evaluation import metrics
from trainer.evaluation.predictions import Predictions

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

HOSTILE = "</script></style><script>document.title='run'</script>\"'`&<img src=x onerror=alert(1)>"
NAMES = ("=cmd()|'/c calc'!A0", "gnp.\u202eexe", "bell\x07\x1b[2Jname", HOSTILE)
"""Names of files, patients and classes that must stay text."""


def table(
    size: int = 400, classes: Sequence[str] = ("NORMAL", "PNEUMONIA"), seed: int = 0
) -> Predictions:
    """Returns predictions of a good model: most are right, some are wrong, and some surely so."""
    rng = np.random.default_rng(seed)
    count = len(classes)
    label = rng.choice(count, size, p=np.arange(1, count + 1) / math.comb(count + 1, 2))
    logits = rng.normal(0, 1.6, (size, count))
    logits[np.arange(size), label] += 3.5
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities = (odds / odds.sum(axis=1, keepdims=True)).astype(np.float32)
    groups = np.array(["normal", *["bacteria", "virus"] * count][: count + 1])
    return Predictions(
        class_names=tuple(classes),
        file_name=np.array([f"person{i}_virus_{i}.jpeg" for i in range(size)], str),
        patient_id=np.array([f"person{i // 2}" for i in range(size)], str),
        etiology=groups[np.where(label, 1 + rng.integers(0, 2, size) % count, 0)],
        label=label,
        probabilities=probabilities,
    )


def hostile_table(size: int = 60) -> Predictions:
    """Returns predictions in which every name tries to become something else."""
    good = table(size)
    names = np.array([NAMES[i % len(NAMES)] + str(i) for i in range(size)], str)
    classes = (f"healthy {HOSTILE}", f"ill \u202e{HOSTILE}\x07")
    return Predictions(classes, names, names, names, good.label, good.probabilities)


def history(epochs: int = 8) -> dict[str, list[float]]:
    """Returns the history of a run that overfits a little."""
    steps = np.arange(1, epochs + 1)
    found = {
        "loss": 0.6 / steps,
        "val_loss": 0.45 / steps + 0.012 * steps,
        "accuracy": 1 - 0.2 / steps,
        "val_accuracy": 1 - 0.16 / steps - 0.002 * steps,
        "auc": 1 - 0.08 / steps,
        "val_auc": 1 - 0.06 / steps - 0.001 * steps,
        "learning_rate": np.where(steps > 4, 1e-4, 1e-3),
        "examples_per_s": 900.0 + steps,
    }
    return {name: [float(value) for value in values] for name, values in found.items()}


def document(predictions: Predictions, **changes: Any) -> dict[str, Any]:
    """Returns the report of schema 4 for these predictions; `changes` replace its parts."""
    is_binary = len(predictions.class_names) == 2
    scores = metrics.compute(predictions).to_json() if is_binary else _scores(predictions)
    whole = {
        "schema_version": 3,
        "split": "test",
        "metrics": scores,
        "shared_patient_images": 0,
        "shared_with": ["train", "validation"],
        "monitor": "val_loss",
        "best_epoch": 6,
        "history": history(),
        "data": _data(predictions),
        "run": _run(),
    }
    return with_schema_4(whole, predictions) | changes


def with_schema_4(found: Mapping[str, Any], predictions: Predictions) -> dict[str, Any]:
    """Adds to a report of schema 3 what schema 4 has besides, with plausible numbers."""
    whole = {**found, "schema_version": 4}
    scores = {**found["metrics"], "ece": 0.0173}
    scores.pop("by_etiology", None)
    scores["by_class"] = {
        name: {"examples": int((predictions.label == k).sum()), "sensitivity": 0.93,
               "specificity": 0.97, "ppv": 0.92, "npv": 0.98, "f1": 0.925, "roc_auc": 0.991,
               "pr_auc": None}
        for k, name in enumerate(predictions.class_names)
    }  # fmt: skip
    whole["metrics"] = scores
    whole["notices"] = []
    whole["intervals"] = {
        "confidence": 0.95,
        "resamples": 2000,
        "patients": 719,
        "patients_by_class": dict.fromkeys(predictions.class_names, 412),
        "metrics": _around(scores),
    }
    whole["groups"] = {"column": "etiology", "rows": _groups(predictions)}
    whole["looks"] = _LOOKS
    whole["shift"] = _SHIFT
    binary = len(predictions.class_names) == 2
    whole["operating_point"] = _point(predictions) if binary else None
    whole["prevalence"] = _PREVALENCE if binary else None
    whole["calibration"] = _calibration(predictions) if binary else None
    whole["prior_correction"] = None
    return whole


def _around(scores: Mapping[str, Any], width: float = 0.011) -> dict[str, Any]:
    """Returns an interval around each figure; None for one that is undefined."""
    figures = {
        name: value
        for name, value in scores.items()
        if name != "majority_baseline" and (value is None or isinstance(value, float))
    }
    return {
        name: None if value is None else [value - width, min(value + 0.8 * width, 1.0)]
        for name, value in figures.items()
    }


def _scores(predictions: Predictions) -> dict[str, Any]:
    names = predictions.class_names
    true = np.bincount(predictions.label, minlength=len(names))
    predicted = np.bincount(predictions.predicted, minlength=len(names))
    matrix = np.zeros((len(names), len(names)), int)
    np.add.at(matrix, (predictions.label, predictions.predicted), 1)
    return {
        "class_names": list(names),
        "examples": len(predictions),
        "accuracy": float(np.mean(predictions.predicted == predictions.label)),
        "majority_class": names[int(true.argmax())],
        "majority_baseline": float(true.max() / len(predictions)),
        "macro_recall": float(np.mean(np.diag(matrix) / np.maximum(true, 1))),
        "roc_auc": None,
        "log_loss": 0.31,
        "confusion_matrix": matrix.tolist(),
        "output_distribution": {
            "true_counts": dict(zip(names, true.tolist(), strict=True)),
            "predicted_counts": dict(zip(names, predicted.tolist(), strict=True)),
            "mean_probability": dict(zip(names, predictions.probabilities.mean(0), strict=True)),
            "histogram": [0] * 10,
        },
        "warnings": [],
    }


def _groups(predictions: Predictions) -> list[dict[str, Any]]:
    rows = []
    right = predictions.predicted == predictions.label
    for name in np.unique(predictions.etiology).tolist():
        chosen = predictions.etiology == name
        accuracy = float(right[chosen].mean())
        is_ill = bool(predictions.label[chosen].any())
        row = {
            "name": name,
            "examples": int(chosen.sum()),
            "patients": len(set(predictions.patient_id[chosen])),
            "accuracy": accuracy,
            "sensitivity": accuracy if is_ill else None,
            "specificity": None if is_ill else accuracy,
            "roc_auc": None,
        }
        rows.append({**row, "intervals": _around(row, 0.02)})
    return rows


def _point(predictions: Predictions) -> dict[str, Any]:
    threshold = 0.43127
    positive = predictions.probabilities[:, 1] >= threshold
    matrix = [[0, 0], [0, 0]]
    for true, answer in zip(predictions.label, positive, strict=True):
        matrix[true][int(answer)] += 1
    (tn, fp), (fn, tp) = matrix
    figures = {
        "accuracy": (tp + tn) / len(predictions),
        "macro_recall": (tp / (tp + fn) + tn / (tn + fp)) / 2,
        "sensitivity": tp / (tp + fn),
        "specificity": tn / (tn + fp),
        "ppv": tp / (tp + fp),
        "npv": tn / (tn + fn),
        "f1": 2 * tp / (2 * tp + fp + fn),
        "mcc": 0.91,
    }
    return {
        "rule": "youden",
        "threshold": threshold,
        "positive_class": predictions.class_names[1],
        "validation": {"examples": 394, "sensitivity": 0.979, "specificity": 0.961},
        "figures": figures,
        "confusion_matrix": matrix,
        "intervals": _around(figures),
    }


def _calibration(predictions: Predictions) -> dict[str, Any]:
    score, label = predictions.probabilities[:, 1], predictions.label
    softer = 1 / (1 + np.exp(-np.log(np.maximum(score, 1e-9) / np.maximum(1 - score, 1e-9)) / 1.31))
    sides = {"before": (score, 0.0173), "after": (softer, 0.0091)}
    return {"temperature": 1.31} | {
        side: {
            "brier": float(np.mean((values - label) ** 2)),
            "ece": ece,
            "log_loss": 0.0756,
            "reliability": _bins(values, label),
        }
        for side, (values, ece) in sides.items()
    }


def _bins(score: Any, label: Any) -> list[dict[str, Any]]:
    places = np.minimum((score * 15).astype(int), 14)
    return [
        {
            "low": place / 15,
            "high": (place + 1) / 15,
            "examples": int((places == place).sum()),
            "mean_probability": float(score[places == place].mean()),
            "share": float(label[places == place].mean()),
        }
        for place in np.unique(places).tolist()
    ]


def _data(predictions: Predictions) -> dict[str, Any]:
    names = predictions.class_names
    return {
        "name": "cxr_tfds/grouped/2.0.0",
        "fingerprint": "2234b422eecd253e84a5b60ae0bdccf4b3b39d698f2a055829498a530dc33ff0",
        "protocol": "grouped",
        "image_size": 224,
        "is_phantom": False,
        "images": {
            "train": dict.fromkeys(names, 909),
            "validation": dict.fromkeys(names, 102),
            "test": dict(zip(names, np.bincount(predictions.label).tolist(), strict=False)),
        },
        "patients": {"train": 1936, "validation": 206, "test": 719},
    }


def _run() -> dict[str, Any]:
    return {
        "command": "python -m trainer --backbone=vgg16 --layers_to_unfreeze=4 --model_dir=runs/a",
        "date": "2026-11-30 08:18",
        "config": {
            "dataset": "grouped", "backbone": "vgg16", "weights": "imagenet",
            "layers_to_unfreeze": "4", "head_epochs": 2, "neurons": 256, "dense_layers": 1,
            "model_dir": "runs/a", "image_size": 224,
        },
        "device": "CPU", "replicas": 1, "precision": "mixed_bfloat16", "tensorflow": "2.21.0",
        "keras": "3.15.1", "seconds": 347.5,
    }  # fmt: skip


_PREVALENCE = {
    "prevalence": 0.05,
    "at_half": {"ppv": 0.51, "npv": 0.9995, "intervals": {"ppv": [0.41, 0.64], "npv": [0.999, 1]}},
    "at_operating_point": None,
}
_LOOKS = {
    "count": 3,
    "rows": [
        {"date": f"2026-11-{day} 08:18", "mode": mode, "dataset": "grouped",
         "fingerprint": "2234b422eecd253e84a5b60a", "settings": settings}
        for day, mode, settings in ((28, "train", {}), (29, "evaluate", {"batch_size": 64}),
                                    (30, "evaluate", {"operating_point": "youden"}))
    ],
}  # fmt: skip
_STATISTICS = ("mean intensity", "contrast", "sharpness", "aspect ratio")
_SHIFT = {
    "splits": {
        split: {"examples": size, "patients": size // 2,
                "statistics": {name: 0.48 + 0.01 * k for k, name in enumerate(_STATISTICS)}}
        for split, size in (("train", 3529), ("validation", 394), ("test", 1309))
    },
    "pairs": [
        {"a": a, "b": b, "score_psi": psi,
         "statistics_psi": {name: psi / (k + 2) for k, name in enumerate(_STATISTICS)},
         "expected_score_psi": 0.034,
         "expected_statistics_psi": dict.fromkeys(_STATISTICS, 0.041),
         "domain_auc": 0.5 + psi, "domain_interval": [0.47 + psi, 0.54 + psi]}
        for a, b, psi in (("train", "validation", 0.014), ("train", "test", 0.023),
                          ("validation", "test", 0.031))
    ],
    "warning": "",
}  # fmt: skip


def hostile_document(predictions: Predictions) -> dict[str, Any]:
    """Returns a report in which every text tries to become something else."""

    def spoilt(value: Any) -> Any:
        if isinstance(value, str):
            return f"{value} {HOSTILE}\u202e\x07"
        if isinstance(value, dict):
            return {key: spoilt(item) for key, item in value.items()}
        return [spoilt(item) for item in value] if isinstance(value, list) else value

    whole = document(predictions)
    names = list(predictions.class_names)
    metrics = {**spoilt(whole["metrics"]), "class_names": names, "warnings": list(NAMES)}
    kept = ("history", "monitor", "shared_with", "operating_point", "calibration")
    found = {key: value if key in kept else spoilt(value) for key, value in whole.items()}
    found["data"] = {**spoilt(whole["data"]), "images": {"test": dict.fromkeys(NAMES, 3)}}
    return found | {"metrics": metrics, "notices": list(NAMES)}
