"""Decodes in a child process what a library in C++ may crash on, or complain of on stderr.

GDCM ends the process (`terminate called`) on some damaged files of lossless JPEG: a folder of
thousands would go with one of them. A child starts with the first such image, and serves the next.

    array, kind = isolated.decode(data, {"syntax": "1.2.840.10008.1.2.4.70", "rows": 512, ...})
"""

from __future__ import annotations

import atexit
import contextlib
import json
import pathlib
import queue
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

TIMEOUT_S: Final = 60.0
"""For one image. 4 megapixels take half a second."""
_SCRIPT: Final = pathlib.Path(__file__).with_name("isolated_child.py")


class DecodingError(RuntimeError):
    """The child could not decode the image, or did not survive it."""


class _Child:
    """A process that decodes."""

    def __init__(self) -> None:
        # -P: the folder of the script is no place to import from.
        command = [sys.executable, "-P", str(_SCRIPT)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )

    def decode(self, data: bytes, options: Mapping[str, Any]) -> tuple[NDArray[np.integer], str]:
        requests, answers = self._process.stdin, self._process.stdout
        assert requests is not None
        assert answers is not None
        watch = threading.Timer(TIMEOUT_S, self._process.kill)
        watch.daemon = True
        watch.start()
        try:
            requests.write(json.dumps({"size": len(data), **options}).encode() + b"\n" + data)
            requests.flush()
            answer = json.loads(answers.readline() or b"null")
            body = answers.read(answer["size"]) if answer else b""
        except OSError:
            answer = None
        finally:
            watch.cancel()
        if answer is None or len(body) < answer["size"]:
            self.close()
            raise DecodingError("the decoder did not survive it")
        if "error" in answer:
            raise DecodingError(answer["error"])
        array = np.frombuffer(body, answer["dtype"]).reshape(answer["shape"])
        return array, str(answer["kind"])

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def close(self) -> None:
        """Ends the process; it may have ended by itself."""
        with contextlib.suppress(OSError):
            self._process.kill()
        with contextlib.suppress(OSError):
            self._process.communicate()


_idle: queue.SimpleQueue[_Child] = queue.SimpleQueue()


def decode(data: bytes, options: Mapping[str, Any]) -> tuple[NDArray[np.integer], str]:
    """Decodes one image of encapsulated pixel data.

    Args:
      data: the value of the element PixelData.
      options: of pydicom's `Decoder.as_array`, and "syntax".

    Returns:
      The pixels, and their photometric interpretation.

    Raises:
      DecodingError: it can't be decoded.
    """
    with _child() as child:
        return child.decode(data, options)


@contextlib.contextmanager
def _child() -> Iterator[_Child]:
    """Gives a child to one thread at a time: there are as many as threads that decode at once."""
    child = _idle_or_new()
    try:
        yield child
    except DecodingError:
        raise
    except BaseException:
        # Interrupted halfway, its answer would be taken for that of the next image.
        child.close()
        raise
    finally:
        if child.is_alive:
            _idle.put(child)


def _idle_or_new() -> _Child:
    with contextlib.suppress(queue.Empty):
        while True:
            child = _idle.get_nowait()
            if child.is_alive:
                return child
            child.close()
    return _Child()


@atexit.register
def _close_all() -> None:
    while not _idle.empty():
        _idle.get_nowait().close()
