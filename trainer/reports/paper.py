"""The results of the paper that this work began with, and how its split differs from a run's.

Lee and Abuan, "Detection of Pneumonia from Digital X-ray Images Through Transfer Learning".

    paper.caution({"protocol": "grouped"})     # "The paper split by image, ..."
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

AUTHORS = "Lee & Abuan"
SPLIT = "by image; not leak-free"
ROWS = (
    ("VGG16", 94.40, 92),
    ("InceptionResNetV2", 71.88, 49),
    ("MobileNetV2", 72.76, 50),
)
"""Backbone, accuracy in percent, macro recall in percent."""
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
