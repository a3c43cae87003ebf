"""The child process of `isolated`: decodes one image after the other, until its input ends.

It runs as a script, without this package, whose import would take longer than decoding.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any


def main() -> None:
    """Reads a line of JSON and the bytes that it announces; answers likewise."""
    requests = sys.stdin.buffer
    # What libraries print must not get between the answers.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    while line := requests.readline():
        request = json.loads(line)
        answer, body = _decode(requests.read(request.pop("size")), request)
        answers.write(json.dumps(answer).encode() + b"\n" + body)
        answers.flush()


def _decode(data: bytes, options: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    from pydicom import uid  # noqa: PLC0415
    from pydicom.pixels.decoders import base  # noqa: PLC0415

    try:
        decoder = base.get_decoder(uid.UID(options.pop("syntax")))
        array, made = decoder.as_array(data, index=0, **options)
    except Exception as error:  # noqa: BLE001  A child that ends for one image costs the next.
        return {"size": 0, "error": str(error)}, b""
    body = array.tobytes()
    facts = {"dtype": array.dtype.str, "shape": array.shape}
    return {"size": len(body), "kind": str(made["photometric_interpretation"]), **facts}, body


if __name__ == "__main__":
    main()
