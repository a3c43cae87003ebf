"""What a run's page says in words and lists: verdict, data, shift, looks, model, environment.

cards.verdict(document)     # the guard's reasons, or a calm sentence
cards.data(document)        # {"data set": "cxr_tfds/grouped/2.0.0", ...}

A report can be of other data than the model was trained on: see `is_elsewhere`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trainer.evaluation.shifts import shift as shifts
from trainer.evaluation.shifts import stability
from trainer.reports import verdict as words
from trainer.reports.pages.tables import DASH, Grid, count, number, part, percent, rows_of

if TYPE_CHECKING:
    from collections.abc import Mapping

KAGGLE = (
    "Kermany, Zhang and Goldbaum, Labeled Optical Coherence Tomography (OCT) and Chest X-Ray "
    "Images for Classification, Mendeley Data, 2018; Kermany et al., Cell 172 (2018), 1122–1131; "
    "as chest-xray-pneumonia on Kaggle (Paul Mooney)."
)
_PHANTOM = "drawn by this project from a seed; no patient is shown"
PSI_NOTE = (
    "PSI, the population stability index, compares two distributions. In small splits it is large "
    "by chance, which is what it is on average when patients are dealt to the splits at random; a "
    f"warning needs {stability.MAJOR_PSI} above that. The domain AUC is that of a classifier that "
    f"tells the two splits apart: 0.5 means that it can't; a warning needs {shifts.MEDIUM_AUC} or "
    "more. Only validation and test draw one."
)
_PATIENTS = (
    "children of one to five years, from Guangzhou Women and Children's Medical Center (Kermany et "
    "al., Cell 2018)"
)
_LIMITS = (
    "It answers with one of its classes for any image, also for one that is not a chest X-ray.",
    "Its probabilities hold for the share of classes in its data; prevalence changes them.",
    "Labels are those of the data set. They were not read again.",
)


def verdict(document: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the guard's reasons, or a calm sentence without any, and the notices."""
    metrics = part(document, "metrics")
    notices, reasons = list(document.get("notices") or ()), list(metrics.get("warnings") or ())
    if not any("share a patient with" in str(reason) for reason in reasons):
        notices += _shared(document)  # Of earlier versions, whose guard did not count them.
    calm = words.passed(len(notices), "below")
    if isinstance(metrics.get("accuracy"), float) and metrics.get("majority_class") is not None:
        calm += (
            " Its outputs are finite, it predicts every class that occurs, and its accuracy of "
            f"{percent(metrics['accuracy'])} is above the "
            f"{percent(metrics.get('majority_baseline'))} of always predicting "
            f"{metrics['majority_class']}."
        )
    return {"reasons": reasons, "calm": calm, "notices": notices}


def _shared(document: Mapping[str, Any]) -> list[str]:
    shared = document.get("shared_patient_images")
    examples = part(document, "metrics").get("examples")
    if not shared or not examples:
        return []
    others = " or ".join(document.get("shared_with") or ("train",))
    share = f"{count(shared)} of {count(examples)} images ({percent(shared / examples)})"
    return [f"{share} share a patient with {others}: the figures are optimistic."]


def leakage(document: Mapping[str, Any]) -> str:
    """Returns how many test images share a patient with other splits, in a sentence."""
    shared = document.get("shared_patient_images")
    others = " or ".join(document.get("shared_with") or ("train",))
    if shared is None:
        return "not measured"
    if not shared:
        return f"no {document.get('split') or 'test'} image shares a patient with {others}"
    return _shared(document)[0] if _shared(document) else f"{count(shared)} images"


def _identical(document: Mapping[str, Any]) -> str:
    """Returns how many test images are also images of other splits, pixel for pixel."""
    shared, examples = document.get("shared_images"), part(document, "metrics").get("examples")
    others = " or ".join(document.get("shared_with") or ("train",))
    if shared is None:
        return "not measured"
    split = document.get("split") or "test"
    if not shared:
        return f"no {split} image is also an image of {others}"
    share = f" ({percent(shared / examples)})" if examples else ""
    return f"{count(shared)} of {count(examples)} {split} images{share} are also images of {others}"


def is_elsewhere(document: Mapping[str, Any]) -> bool:
    """Whether the report is of other data than the model was trained on; False: not known."""
    of_training = part(document, "trained_on").get("fingerprint")
    of_report = part(document, "data").get("fingerprint")
    return bool(of_training and of_report) and of_training != of_report


def _is_kaggles(document: Mapping[str, Any]) -> bool:
    """Whether the data of the report are Kaggle's images."""
    card = part(document, "data")
    return not card.get("is_phantom") and str(card.get("name") or "").startswith("cxr_tfds")


def limits(document: Mapping[str, Any]) -> list[str]:
    """Returns what the model's figures don't cover."""
    is_kaggles = _is_kaggles(document)
    if is_elsewhere(document):
        is_kaggles = part(document, "trained_on").get("name") != "phantom"
    source = f"one source, {_PATIENTS}" if is_kaggles else "one source"
    first = f"Trained on images of {source}: nothing here covers other machines, hospitals or ages."
    return [first, *_LIMITS]


def data(document: Mapping[str, Any]) -> dict[str, str]:
    """Returns the facts of the data card."""
    card = part(document, "data")
    is_phantom = bool(card.get("is_phantom"))
    elsewhere = is_elsewhere(document)
    facts = {
        "evaluated on" if elsewhere else "data set": str(card.get("name") or DASH),
        **({"trained on": words.trained_on(part(document, "trained_on"))} if elsewhere else {}),
        "protocol": str(card.get("protocol") or DASH),
        "leakage": leakage(document),
        "identical images": _identical(document),
        "stored images": _stored(card),
        "fingerprint": str(card.get("fingerprint") or DASH)[:16],
        **({"patients": _PATIENTS} if _is_kaggles(document) else {}),
        "licence": "Apache-2.0" if is_phantom else "CC BY 4.0",
        "citation": _PHANTOM if is_phantom else KAGGLE,
    }
    if not is_phantom and not _is_kaggles(document):
        del facts["licence"], facts["citation"]
    return facts


def _stored(card: Mapping[str, Any]) -> str:
    size = card.get("image_size")
    return f"{size} × {size} px, grey, 8 bits" if size else "original size, grey, 8 bits"


def splits(document: Mapping[str, Any]) -> Grid | None:
    """Returns the images of each class, and the patients, by split."""
    images, patients = part(document, "data", "images"), part(document, "data", "patients")
    if not images:
        return None
    names = list(dict.fromkeys(name for of in images.values() for name in of))
    rows = [
        [
            split,
            *(count(of.get(name, 0)) for name in names),
            count(sum(of.values())),
            count(patients.get(split)),
        ]
        for split, of in images.items()
    ]
    elsewhere = is_elsewhere(document)
    label = "Images and patients by split" + (" of the data evaluated on" if elsewhere else "")
    first = "evaluated on" if elsewhere else "split"
    return Grid(label, [first, *names, "images", "patients"], rows)


def shift(document: Mapping[str, Any]) -> Grid | None:
    """Returns how the splits differ, a row for each pair."""
    pairs = rows_of(document, "shift", "pairs")
    if not pairs:
        return None
    names = list(dict.fromkeys(name for pair in pairs for name in part(pair, "statistics_psi")))
    rows = []
    for pair in pairs:
        psi, expected = part(pair, "statistics_psi"), part(pair, "expected_statistics_psi")
        rows.append(
            [
                f"{pair.get('a')} and {pair.get('b')}",
                number(pair.get("domain_auc"), 3),
                _index(pair.get("score_psi"), pair.get("expected_score_psi")),
                *(_index(psi.get(name), expected.get(name)) for name in names),
            ]
        )
    heads = ["splits", "domain AUC", "PSI of scores", *(f"PSI of {name}" for name in names)]
    return Grid("Shift between splits", heads, rows)


def _index(value: float | None, expected: float | None) -> str:
    """Formats a stability index, and what it is by chance, if that is known."""
    by_chance = number(expected, 3)
    return number(value, 3) + ("" if by_chance == DASH else f" ({by_chance} by chance)")


def statistics(document: Mapping[str, Any]) -> Grid | None:
    """Returns the mean statistics of the images of each split."""
    found = part(document, "shift", "splits")
    names = list(dict.fromkeys(n for split in found for n in part(found, split, "statistics")))
    if not found or not names:
        return None
    rows = [
        [
            split,
            count(part(found, split).get("examples")),
            count(part(found, split).get("patients")),
        ]
        + [number(part(found, split, "statistics").get(name)) for name in names]
        for split in found
    ]
    return Grid("Image statistics by split", ["split", "examples", "patients", *names], rows)


def looks(document: Mapping[str, Any]) -> dict[str, Any] | None:
    """Returns how often the test split was looked at, in words and as a table."""
    found = part(document, "looks")
    if not isinstance(found.get("count"), int):
        return None
    times = found["count"]
    rows = [
        [
            *(str(row.get(name) or DASH) for name in ("date", "mode", "dataset")),
            str(row.get("fingerprint") or DASH)[:12],
            ", ".join(f"{key}={value}" for key, value in part(row, "settings").items()) or DASH,
        ]
        for row in rows_of(document, "looks", "rows")
    ]
    first = "This run's first look at the test split. Looks by other runs are not counted."
    more = (
        f"This run has looked at the test split {times} times. Whoever chooses among these by "
        "their figures chooses by luck as well: such a figure is optimistic. Looks by other runs "
        "are not counted."
    )
    heads = ["date", "mode", "data set", "fingerprint", "settings"]
    grid = Grid("Looks at the test split", heads, rows, is_text=True) if rows else None
    return {"words": first if times <= 1 else more, "grid": grid}


def model(document: Mapping[str, Any]) -> dict[str, str]:
    """Returns the facts of the model card."""
    config, metrics = part(document, "run", "config"), part(document, "metrics")
    names = metrics.get("class_names") or ()
    unfrozen = str(config.get("layers_to_unfreeze", DASH))
    point = part(document, "operating_point")
    temperature = part(document, "calibration").get("temperature")
    size = config.get("image_size") or part(document, "data").get("image_size")
    plain = "at 0.5" if len(names) == 2 else "the most probable class"
    trained = part(document, "trained_on")
    return {
        "what it is": f"an image classifier: backbone {config.get('backbone') or DASH}, "
        f"{config.get('dense_layers', DASH)} × {config.get('neurons', DASH)} neurons, softmax",
        "input": f"grey image, uint8, {f'{size} × {size} px' if size else 'of any size'}",
        "output": f"probabilities of {', '.join(names)}" if names else "probabilities",
        **({"trained on": words.trained_on(trained)} if trained else {}),
        "initial weights": str(config.get("weights", DASH)),
        "unfrozen layers": "none: the head alone" if unfrozen == "0" else unfrozen,
        "operating point": f"{point.get('rule')}: {number(point.get('threshold'))}, chosen on "
        "validation"
        if point
        else f"none chosen: {plain}",
        "temperature": f"{number(temperature, 3)}, not applied to the output"
        if temperature
        else "none fitted",
        "intended use": "research on methods, with images like those it was trained on",
    }


_ENVIRONMENT = {
    "date": "date",
    "device": "device",
    "replicas": "replicas",
    "strategy": "strategy",
    "precision": "precision",
    "tensorflow": "TensorFlow",
    "keras": "Keras",
    "seconds": "time",
    "epoch_s": "seconds an epoch",
    "examples_per_s": "images a second",
}


def environment(document: Mapping[str, Any]) -> dict[str, str]:
    """Returns what the run ran on."""
    run = part(document, "run")
    found = {
        name: str(run[key])
        for key, name in _ENVIRONMENT.items()
        if isinstance(run.get(key), str | int | float)
    }
    if isinstance(run.get("seconds"), int | float):
        found["time"] = duration(float(run["seconds"]))
    return found


def duration(seconds: float) -> str:
    """Formats a duration in its two largest units."""
    minutes, rest = divmod(max(round(seconds), 0), 60)
    hours, minutes_rest = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes_rest:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
