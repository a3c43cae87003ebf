"""What the tags of a DICOM file say of its picture: which projection, of which part of the body.

Tags are typed by people and machines in many languages, so what they say is taken as a hint: they
draw a flag, never a refusal. Names, numbers and dates of patients are not among `KEYWORDS`.
"""

from __future__ import annotations

import dataclasses
import re
import unicodedata
from typing import Any, Final

from cxr_tfds import text

KEYWORDS: Final = (
    "SOPClassUID",
    "Modality",
    "PresentationIntentType",
    "BodyPartExamined",
    "AnatomicRegionSequence",
    "ViewPosition",
    "ViewCodeSequence",
)
"""All that is read beside the pixels and what is needed to show them."""

_RADIOGRAPHY: Final = ("CR", "DX", "RG", "DR")
# OT (other) and SC (secondary capture) tell how the file was made, not of what.
_UNTOLD: Final = ("", "OT", "SC")
_NOTHING: Final = ("", "UNKNOWN", "OTHER", "UNSPECIFIED", "NONE", "NA", "N/A")
# LL and RL: left and right lateral. D: decubitus, O: oblique.
_LATERAL_VIEWS: Final = ("LL", "RL", "LLD", "RLD", "LLO", "RLO", "LAT", "LATL", "LATR", "SAGITTAL")
_LATERAL_WORDS: Final = re.compile(
    r"(?<![A-Z])(LAT(?![A-Z])|LATERAL|LINKSLATERAL|RECHTSLATERAL|SEITLICH|SEITE(?![A-Z])|PROFIL|PERFIL|"
    r"SAGITTAL|DECUB)"
)
# SNOMED CT and its older codes: lateral, left lateral, right lateral, lateral oblique.
_LATERAL_CODES: Final = (
    *("399067008", "399173006", "399198007", "260427002"),
    *("R-102CD", "R-10236", "R-10232", "R-40783"),
)
_CHEST_WORDS: Final = re.compile(
    r"CHEST|THORA[XK](?![A-Z])|TORACE|TORAX|LUNG|(?<![A-Z])LONG(?:EN)?(?![A-Z])|PULM|POUMON|POITRINE|"
    r"BRUSTKORB|(?<![A-Z])BRUST(?![A-Z])|(?<![A-Z])PECHO|(?<![A-Z])BORST|(?<![A-Z])CXR(?![A-Z])"
)
_SPINE_WORDS: Final = re.compile(r"SPINE|WIRBEL|RACHIS|COLONN|COLUMN|VERTEBR")


@dataclasses.dataclass(frozen=True)
class Tags:
    """What the tags say; empty text where they say nothing.

    Attributes:
      modality: such as DX.
      view_position: such as PA.
      body_part: such as CHEST.
      is_lateral: whether they say that the view is from the side.
      is_radiograph: whether the modality is projection radiography; None: it does not tell.
      is_chest: whether the body part is the chest; None: it does not tell.
      is_raw: whether the pixels are the detector's, not yet made for showing.
    """

    modality: str
    view_position: str
    body_part: str
    is_lateral: bool
    is_radiograph: bool | None
    is_chest: bool | None
    is_raw: bool

    def notes(self) -> tuple[str, ...]:
        """Returns a clause for each thing that speaks against a frontal radiograph of the chest."""
        modality = f"modality {self.modality}" if self.modality else "no modality"
        said = (
            (self.is_radiograph is None, f"{modality}: taken for a radiograph"),
            (self.is_radiograph is False, f"modality {self.modality}: no radiograph"),
            (self.is_chest is False, f"body part {self.body_part}: not the chest"),
            (self.is_lateral, f"view {self.view_position or 'by its code'}: lateral"),
            (self.is_raw, "raw pixels (FOR PROCESSING): not those that a radiologist sees"),
        )
        return tuple(note for is_said, note in said if is_said)


def parse(dataset: Any) -> Tags:
    """Reads the tags of a pydicom.Dataset."""
    modality = _text(dataset, "Modality")
    view = _text(dataset, "ViewPosition")
    codes = [code for item in dataset.get("ViewCodeSequence") or () for code in _code(item)]
    part = _text(dataset, "BodyPartExamined")
    if _folded(part) in _NOTHING:
        regions = (_code(item)[1] for item in dataset.get("AnatomicRegionSequence") or ())
        part = next((region for region in regions if _folded(region) not in _NOTHING), "")
    kind = _folded(modality)
    return Tags(
        modality=modality,
        view_position=view,
        body_part=part,
        is_lateral=_is_lateral(view) or any(map(_is_lateral, codes)),
        is_radiograph=None if kind in _UNTOLD else kind in _RADIOGRAPHY,
        is_chest=_is_chest(part) if part else None,
        is_raw=_folded(_text(dataset, "PresentationIntentType")) == "FOR PROCESSING",
    )


def _is_lateral(view: str) -> bool:
    folded = _folded(view)
    is_code = folded in _LATERAL_VIEWS or folded in _LATERAL_CODES
    return is_code or bool(_LATERAL_WORDS.search(folded))


def _is_chest(part: str) -> bool:
    folded = _folded(part)
    return bool(_CHEST_WORDS.search(folded)) and not _SPINE_WORDS.search(folded)


def _code(item: Any) -> tuple[str, str]:
    return _text(item, "CodeValue"), _text(item, "CodeMeaning")


def _text(dataset: Any, keyword: str) -> str:
    """Returns a value, the first of several, in one line of at most 64 characters."""
    value = dataset.get(keyword)
    if value is not None and not isinstance(value, str):
        value = next(iter(value), "") if hasattr(value, "append") else str(value)
    return text.visible(str(value or "").strip()[:64])


def _folded(value: str) -> str:
    """Returns it in upper case, without accents, and with spaces for what joins words."""
    decomposed = unicodedata.normalize("NFKD", value.upper().replace("_", " "))
    return "".join(char for char in decomposed if not unicodedata.combining(char)).strip()
