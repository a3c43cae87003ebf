"""The results of the paper that this work began with, and how its split differs from a run's.

Lee and Abuan, "Detection of Pneumonia from Digital X-ray Images Through Transfer Learning".

    paper.caution({"protocol": "grouped"})     # "The paper split by image, ..."
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
    "grouped": "by patient; leak-free",
    "paper": SPLIT,
    "official": "Kaggle's test folder",
}


def split_of(data: Mapping[str, Any]) -> str:
    """Returns how a data set was split, in a few words.

    Args:
      data: the data card of a report.
    """
    if data.get("is_phantom"):
        return "drawn images"
    protocol = str(data.get("protocol") or "")
    return _PROTOCOLS.get(protocol, protocol or "unknown")


def caution(data: Mapping[str, Any]) -> str:
    """Returns what keeps a run's figures from being compared with the paper's."""
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
    return f"{leak} {reason.get(protocol, 'This run has other data or another split.')}"
