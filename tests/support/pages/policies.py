"""What a page lets a browser load and run."""

from __future__ import annotations

import base64
import hashlib
import html
import re


def assert_only_own_parts_run(page: str) -> None:
    """Holds if nothing is loaded, and nothing runs but the page's own style and script."""
    policy = html.unescape(re.search(r'Content-Security-Policy" content="([^"]*)"', page)[1])
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    for tag in ("style", "script"):
        source = re.search(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL)[1]
        digest = base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
