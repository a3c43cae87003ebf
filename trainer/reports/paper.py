"""The results of the paper that this work began with, and how its split differs from a run's.

Lee and Abuan, "Detection of Pneumonia from Digital X-ray Images Through Transfer Learning".

    paper.caution(document)     # "The paper split its images at random, ..."

`document` is the content of report.json.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

AUTHORS = "Lee & Abuan"
SPLIT = "by image; not leak-free"
TEST_IMAGES = 1465


@dataclasses.dataclass(frozen=True)
class PublishedRow:
    """A row of the paper's Table 1.

    Attributes:
      backbone: the registry's name.
      name: the paper's.
      accuracy: in percent, with the paper's digits.
      macro_recall: the same.
    """

    backbone: str
    name: str
    accuracy: str
    macro_recall: str

    @property
    def percentages(self) -> dict[str, str]:
        """By figure: in percent, with the paper's digits."""
        return {"macro_recall": self.macro_recall, "accuracy": self.accuracy}

    @property
    def shares(self) -> dict[str, float]:
        """By figure: of 1."""
        return {name: float(f"{digits}e-2") for name, digits in self.percentages.items()}


ROWS = (
    PublishedRow("vgg16", "VGG16", "94.40", "92"),
    PublishedRow("inception_resnet_v2", "InceptionResNetV2", "71.88", "49"),
    PublishedRow("mobilenet_v2", "MobileNetV2", "72.76", "50"),
)
OF_BACKBONE = {row.backbone: row for row in ROWS}
MAJORITY = "Always answering PNEUMONIA scores 72.97 % there, and 50 % macro recall."
_PROTOCOLS = {
    "grouped": "by patient",
    "paper": SPLIT,
    "official": "Kaggle's test folder",
}


def split_of(document: Mapping[str, Any]) -> str:
    """Returns how the data set of a report was split, in a few words.

    Only a split of which no image and no patient was seen in training is leak-free.
    """
    data = document.get("data") or {}
    if data.get("is_phantom"):
        return "drawn images"
    protocol = str(data.get("protocol") or "")
    found = _PROTOCOLS.get(protocol, protocol or "unknown")
    if protocol == "paper":
        return found
    if shared := _shared(document):
        return f"{found}; shares {shared} with training"
    is_known = document.get("shared_patient_images") == 0
    return f"{found}; leak-free" if protocol == "grouped" and is_known else found


def _shared(document: Mapping[str, Any]) -> str:
    """Returns what test images share with training; empty: nothing, as far as it is known."""
    if document.get("shared_patient_images"):
        return "patients"
    return "images" if document.get("shared_images") else ""


def caution(document: Mapping[str, Any]) -> str:
    """Returns what keeps the figures of a report from being compared with the paper's."""
    data = document.get("data") or {}
    leak = (
        "The paper split its images at random, so that patients have images on both sides: its "
        "split is not leak-free, and its figures are optimistic."
    )
    if data.get("is_phantom"):
        return (
            f"{leak} This run's images are drawn by a program: its figures say nothing of people."
        )
    reason = {
        "grouped": "This run splits by patient, which is harder: the figures are not of the same "
        "test images, and not of the same difficulty.",
        "paper": "This run splits by image too, by the same rule: its figures are as optimistic.",
        "official": "This run is tested on Kaggle's test folder, which differs from the rest: the "
        "figures are not of the same images.",
    }
    protocol = str(data.get("protocol") or "")
    trained_on = (document.get("trained_on") or {}).get("fingerprint", data.get("fingerprint"))
    is_of_paper = protocol == "paper" and trained_on == data.get("fingerprint")
    if not is_of_paper and (shared := _shared(document)):
        return (
            f"{leak} This run shares {shared} between training and test: its figures are "
            "optimistic, too."
        )
    return f"{leak} {reason.get(protocol, 'This run has other data or another split.')}"
