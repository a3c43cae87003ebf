"""Forges a file: with its structure in mind, or by its bytes, or as another kind of file.

forgeries.forge(folder / "config.json", random.Random(7), outside)
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import random
    from pathlib import Path


def _nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def _values(outside: Path) -> list[Any]:
    return [
        None, True, 0, -1, 0.5, -1e300, 2**40, 2**63, 10**18, 10**200, float("nan"), float("inf"),
        "", "x", "\0", "a\0b", "\x1b[2J\x1b]0;x\a", "\ud800", "\udcff", "two\nlines", "\u202egnp.",
        "..", "../outside/new", str(outside / "new"), "/dev/zero", "~nobody-here/x", "gs://x",
        "C:\\x", "a/b", "x" * 300, "x" * 200_000, "{DATASET}/../../outside/{SPLIT}", "1e999", "2",
        [], {}, [1], {"x": 1}, [[]], [None], {"": ""}, _nested(40), ["../outside/new"], [0] * 40,
    ]  # fmt: skip


def _forge_json(document: Any, generator: random.Random, outside: Path) -> Any:
    """Replaces, removes or adds a value, anywhere in the document."""
    places = [((), document)]
    for path, value in places:
        items = value.items() if isinstance(value, dict) else enumerate(value[:20]) if isinstance(value, list) else ()  # fmt: skip # noqa: E501
        places += [((*path, name), item) for name, item in items]
    path, _ = generator.choice(places)
    new = generator.choice(_values(outside))
    if not path:
        return new
    parent = document
    for name in path[:-1]:
        parent = parent[name]
    way = generator.randrange(4)
    if way == 0 and isinstance(parent, dict):
        del parent[path[-1]]
    elif way == 1 and isinstance(parent, dict):
        parent[str(new)[:400]] = parent.pop(path[-1])
    else:
        parent[path[-1]] = new
    return document


def _forge_bytes(data: bytes, generator: random.Random, outside: Path) -> bytes:
    ways = [
        lambda: b"",
        lambda: data[: generator.randrange(len(data) + 1)],
        lambda: bytes(b ^ (generator.random() < 0.02) * 0x55 for b in data[:100_000]),
        lambda: data.decode("latin-1").encode("utf-16"),
        lambda: b"\xef\xbb\xbf" + data,
        lambda: b"\xff\xfe" + data,
        lambda: b"[" * 200_000,
        lambda: b'{"a":' * 100_000,
        lambda: b"[" * 200 + data + b"]" * 200,
        lambda: data.replace(b"{", b'{"seed": 1, "seed": 2,', 1),
        lambda: data.replace(b"1", b"9" * 5000, 1),
        lambda: data + data,
        lambda: b"\0" * 1000,
        lambda: b'"' + b'\\"' * 100_000,
        lambda: generator.randbytes(500),
        lambda: data.replace(b",", b"\x1b[31m,", 1),
        lambda: data.replace(b"\n", b"\r"),
    ]
    if generator.random() < 0.6:
        try:
            first, *rest = data.split(b"\n") if data.count(b"}\n{") else [data]
            text = json.dumps(_forge_json(json.loads(first), generator, outside))
            return b"\n".join([text.encode(), *rest])
        except ValueError:
            pass
    return generator.choice(ways)()


def forge(path: Path, generator: random.Random, outside: Path) -> None:
    """Puts something else in the place of a file.

    Args:
      path: the file.
      generator: chooses what.
      outside: a folder that forged paths lead to.
    """
    data = path.read_bytes()
    path.unlink()
    way = generator.randrange(40)
    if way == 0:
        path.mkdir()
    elif way == 1:
        os.mkfifo(path)
    elif way == 2:
        path.symlink_to("/dev/zero")
    elif way == 3:
        path.symlink_to(outside / "absent")
    elif way == 4:
        path.symlink_to(path)
    elif way == 5:
        path.touch()
        os.truncate(path, 1 << 31)  # Of zeros, which take no space.
    elif way > 6:  # 6: it is missing.
        path.write_bytes(_forge_bytes(data, generator, outside))
