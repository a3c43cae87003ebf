"""Why a reader refuses a file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cxr_tfds import file_formats

if TYPE_CHECKING:
    from collections.abc import Callable


def reason(read: Callable[[bytes], object], data: bytes) -> str:
    """The problem that the reader names; empty if it reads the file."""
    try:
        read(data)
    except file_formats.ImageError as error:
        return error.problem
    return ""
