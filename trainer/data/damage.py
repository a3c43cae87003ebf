"""What is wrong with records that TensorFlow can't read, and in which file.

reason = damage.reason_of(error.message)     # "corrupted record at 24845"
path = damage.first_damaged([("a.tfrecord", 8)])     # the file that is not whole, or None
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import tensorflow as tf

from trainer.errors import DiskError
from trainer.system import text

if TYPE_CHECKING:
    from collections.abc import Iterable

PIPELINE = "Iterator::Root"
"""How TensorFlow begins the place of an error in a tf.data pipeline."""
_PLACES = re.compile(r"' failed with .*|\{\{.*?\}\}|\[\[.*|\[Op:.*|\bname: *$", re.MULTILINE)
"""Names of nodes and operations, and of errors: of use to TensorFlow's own developers."""
_TRACE = re.compile(
    r"Graph execution error:|Detected at node|<stack traces|[ \t]+(File )?\S|\d+ root"
)


class RecordError(DiskError):
    """A file of records that can't be read; `pipeline.Data.reading` adds the way out.

    Attributes:
      problem: what is wrong with it.
      path: the file.
    """

    def __init__(self, problem: str, path: str) -> None:
        super().__init__(f"{problem} in {path}")
        self.problem, self.path = problem, path


def quoted(message: str) -> RecordError | None:
    """Returns the RecordError that a message of TensorFlow quotes, raised in a Python function."""
    found = re.search(rf"{RecordError.__name__}: (.*?) in (.*)", message)
    return RecordError(*found.groups()) if found else None


def is_damage(error: tf.errors.OpError, folder: str) -> bool:
    """Whether an error is of records in a folder: unreadable, missing, or not what they should be.

    A file truncated between two records is valid: only TFDS's count of examples shows it. A record
    may have the right checksum, and a content that is not what the features say.
    """
    return (
        isinstance(error, tf.errors.DataLossError | tf.errors.OutOfRangeError)
        or "was expected to contain" in error.message
        or (isinstance(error, tf.errors.InvalidArgumentError) and PIPELINE in error.message)
        or folder in error.message
    )


def reason_of(message: str) -> str:
    """Returns the line of TensorFlow's message that tells the cause, without names of nodes."""
    problem = re.split(rf"{PIPELINE}\S* ", message)[-1]
    lines = (_PLACES.sub("", line) for line in problem.splitlines() if not _TRACE.match(line))
    told = [line.strip() for line in lines if line.strip()]
    return text.first_line(told[0] if told else message)


def first_damaged(files: Iterable[tuple[str, int]]) -> str | None:
    """Returns the first of the files that is not whole; None if all are.

    Args:
      files: path and number of records of each.
    """
    for path, count in files:
        try:
            found = sum(1 for _ in tf.data.TFRecordDataset([path]))
        except tf.errors.OpError:  # It isn't there, or the checksum of a record is wrong.
            return path
        if found != count:
            return path
    return None
