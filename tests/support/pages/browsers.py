"""An installed Chromium that opens pages from disk, and notes what they say, ask for and load."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

WIDTHS = (390, 1024, 1920)
"""A phone, a small window, a large screen, in CSS pixels."""
SCHEMES = ("light", "dark")
_PROGRAMS = ("chromium", "chromium-browser", "google-chrome")


@dataclasses.dataclass
class Notes:
    """What happened on a page that must not: errors, dialogs, and requests for other files."""

    path: Path
    said: list[str] = dataclasses.field(default_factory=list)

    def watch(self, page: Any) -> None:
        """Notes everything from now on."""
        page.on("console", lambda message: self.said.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: self.said.append(f"error: {error}"))
        page.on("dialog", lambda dialog: (self.said.append("dialog"), dialog.dismiss()))
        page.on("request", lambda request: self._note(request.url))

    def _note(self, url: str) -> None:
        if url != self.path.as_uri() and not url.startswith("data:"):
            self.said.append(f"request: {url}")


@contextlib.contextmanager
def launched() -> Iterator[Any]:
    """Yields a running browser.

    Raises:
      FileNotFoundError: none is installed.
    """
    # Imported here: environments for other tests have no Playwright.
    from playwright import sync_api  # noqa: PLC0415

    program = next(filter(None, map(shutil.which, _PROGRAMS)), None)
    if program is None:
        raise FileNotFoundError(
            "no Chromium is installed, which the browser tests open pages with: apt-get install "
            "chromium, or its like elsewhere."
        )
    # Chromium's sandbox refuses to run as root.
    options = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=options)
        try:
            yield browser
        finally:
            browser.close()


@contextlib.contextmanager
def opened(browser: Any, path: Path, **options: Any) -> Iterator[tuple[Any, Notes]]:
    """Yields a page from disk, without a network, and the notes of what it did."""
    context = browser.new_context(offline=True, **options)
    notes = Notes(path)
    try:
        page = context.new_page()
        notes.watch(page)
        page.goto(path.as_uri())
        yield page, notes
    finally:
        context.close()


def overflow(page: Any) -> float:
    """Returns by how many CSS pixels the page is wider than its window."""
    return page.evaluate("document.documentElement.scrollWidth - window.innerWidth")


def grave_faults(page: Any) -> list[str]:
    """Returns what axe finds serious or critical: rule, and the elements."""
    from axe_playwright_python import sync_playwright  # noqa: PLC0415

    found = sync_playwright.Axe().run(page).response["violations"]
    return [
        f"{fault['id']}: {node['html'][:120]} {node.get('failureSummary', '')[:200]}"
        for fault in found
        if fault["impact"] in ("serious", "critical")
        for node in fault["nodes"]
    ]


def printed_pages(page: Any) -> int:
    """Returns on how many A4 pages it prints."""
    document = page.pdf(prefer_css_page_size=True, print_background=False)
    return document.count(b"/Type /Page\n") + document.count(b"/Type /Page ")


def overflow_of(browser: Any, path: Path, width: int, scheme: str) -> float:
    """Returns `overflow` of a page from disk in a window of a width."""
    size = {"width": width, "height": 900}
    with opened(browser, path, viewport=size, color_scheme=scheme) as (page, _):
        return overflow(page)


def grave_faults_of(browser: Any, path: Path, scheme: str) -> list[str]:
    """Returns `grave_faults` of a page from disk on a phone."""
    size = {"width": WIDTHS[0], "height": 900}
    with opened(browser, path, viewport=size, color_scheme=scheme) as (page, _):
        return grave_faults(page)
