"""Retired words: no code, help text, message, test or page uses one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
GAP = r"[\s_#\"]+"
"""Between two words: also a new line of a comment or a string, and in names an underscore."""
RETIRED = {
    r"(?<!gradient_)accumulate_steps": "gradient_accumulation_steps",
    r"clip_norm": "global_clipnorm",
    r"steps_per_call": "steps_per_execution",
    r"num_virtual_devices": "num_logical_devices",
    r"max_consecutive_failures": "max_consecutive_failed_trials, KerasTuner's name",
    r"[Tt]rainee": "what is trained: a model, a network",
    r"Remembering": "what the class does",
    r"(?<![A-Za-z])[Jj]udg(?:e|ement|ing)(?!_by)": "evaluate, assess",
    r"belongs_to": "fingerprint",
    rf"(?<![A-Za-z])[Gg]o(?:es|ing)?{GAP}on{GAP}with": "resume, continue",
    rf"(?<![A-Za-z])[Gg]oing{GAP}on{GAP}after": "resume, continue",
    r"\blot=": "what the number is: an epoch, a seed",
}
"""Each pattern of a retired word or phrase, and what to write in its place."""
PLACES = ("cxr_tfds", "trainer", "tuner", "tests", "docs")
PAGES = ("README.md", "CONTRIBUTING.md", "BUILD_NOTES.md")
SUFFIXES = {".py", ".md", ".json", ".yaml", ".txt", ".css", ".j2", ".js", ".bib", ".ipynb"}


def _texts() -> dict[Path, str]:
    paths = [ROOT / page for page in PAGES]
    paths += [path for place in PLACES for path in sorted((ROOT / place).rglob("*"))]
    return {
        path.relative_to(ROOT): path.read_text("utf-8")
        for path in paths
        if path.suffix in SUFFIXES and path != Path(__file__).resolve()
    }


TEXTS = _texts()


def test_the_places_are_there():
    roots = {path.parts[0] for path in TEXTS}
    assert roots == {*PLACES, *PAGES}


@pytest.mark.parametrize("pattern", RETIRED)
def test_no_retired_word_is_left(pattern):
    found = [
        f"{path}:{text.count(chr(10), 0, match.start()) + 1}:{' '.join(match[0].split())}"
        for path, text in TEXTS.items()
        for match in re.finditer(pattern, text)
    ]
    assert not found, "\n".join([f"Write {RETIRED[pattern]}, instead of:", *found])
