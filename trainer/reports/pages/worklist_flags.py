"""The flags of a worklist: what each means for a reader, and what to do about it.

worklist_flags.FLAGS["lateral"].label        # "Lateral view"
"""

from __future__ import annotations

import dataclasses

GRAVITIES = ("grave", "caution", "plain")
"""From the score that means nothing to the one that is as good as any."""


@dataclasses.dataclass(frozen=True)
class FlagMeaning:
    """What a flag tells.

    Attributes:
      label: a word or a few.
      gravity: one of `GRAVITIES`.
      meaning: a sentence or two.
      advice: what to do.
    """

    label: str
    gravity: str
    meaning: str
    advice: str


UNREADABLE = "unreadable"
FLAGS = {
    UNREADABLE: FlagMeaning(
        "Unreadable",
        "grave",
        "The file holds no image that can be decoded. It has no score.",
        "Read the reason beside it, export the image again, and predict it again. Don't count it "
        "as negative.",
    ),
    "not_chest": FlagMeaning(
        "Not a chest X-ray",
        "grave",
        "Its DICOM tags name another part of the body, or another kind of examination.",
        "Ignore its score. Check how the file came to be among the others.",
    ),
    "unlike_training_data": FlagMeaning(
        "Unlike the training data",
        "caution",
        "It is farther from the images that the model was validated on than nearly all of these "
        "are from one another: its distance is 1 or more. A few in a hundred ordinary images have "
        "this flag too.",
        "Don't rely on its score. Where many files have this flag, the model does not know their "
        "source: evaluate it on labelled images of that source first.",
    ),
    "inverted": FlagMeaning(
        "Inverted",
        "caution",
        "Black and white seem to be swapped: its negative is like the training data.",
        "Ignore its score. Export the image as a viewer displays it, and predict it again.",
    ),
    "lateral": FlagMeaning(
        "Lateral view",
        "caution",
        "Its DICOM tags say that it is a view from the side. The model is for frontal views.",
        "Ignore its score. Predict the frontal image of the same examination.",
    ),
    "duplicate": FlagMeaning(
        "Duplicate",
        "plain",
        "It is the same image as an earlier file, which its note names.",
        "Read it once.",
    ),
}
"""Each flag by its key, in the order of the page."""
