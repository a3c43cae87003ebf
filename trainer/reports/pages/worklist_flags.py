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
        "It looks like another part of the body, or like no radiograph at all.",
        "Ignore its score. Check how the file came to be among the others.",
    ),
    "unlike_training_data": FlagMeaning(
        "Unlike the training data",
        "caution",
        "The model sees in it what it seldom saw in training: its distance is above 1, the "
        "threshold.",
        "Don't rely on its score. Where many files have this flag, the model does not know their "
        "source: evaluate it on labelled images of that source first.",
    ),
    "inverted": FlagMeaning(
        "Inverted",
        "caution",
        "Black and white seem to be swapped.",
        "Ignore its score. Export the image as a viewer displays it, and predict it again.",
    ),
    "lateral": FlagMeaning(
        "Lateral view",
        "caution",
        "It looks like a view from the side. The model is for frontal views.",
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
