"""Rules for the code base as a whole: imports, flags, recipes, locks."""

from __future__ import annotations

import ast
import importlib
import itertools
import json
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import cxr_tfds
import trainer
import tuner
from trainer import backbones, config
from tuner import settings

ROOT = Path(__file__).parent.parent
PACKAGES = (cxr_tfds, trainer, tuner)
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("cxr_tfds/*.md")]
MODULES = [
    module.name
    for package in PACKAGES
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    if not module.name.endswith(("__main__", "tpu.aot"))  # Needs an extra; has tests of its own.
]
LIGHT = [
    "trainer.config", "trainer.flags", "trainer.storage.option_files", "trainer.backbones",
    "trainer.__main__", "trainer.preflight", "trainer.commands.compare",
    "trainer.usage", "trainer.system.environment", "trainer.storage.contents",
    "trainer.distribution.peers", "trainer.distribution.local_workers", "trainer.system.sockets",
    "trainer.topologies", "cxr_tfds.source", "cxr_tfds.protocols", "cxr_tfds.phantoms",
    "cxr_tfds.images", "cxr_tfds.audit",
    "cxr_tfds.configs", "cxr_tfds.file_formats", "cxr_tfds.radiographs.reading", "cxr_tfds.origin",
    "cxr_tfds.report_file",
    "tuner.__main__", "tuner.flags", "tuner.settings", "tuner.space", "tuner.plan",
]  # fmt: skip


@pytest.mark.parametrize("name", MODULES)
def test_every_module_imports_and_tells_what_it_owns(name):
    assert importlib.import_module(name).__doc__


@pytest.mark.parametrize("name", LIGHT)
def test_light_modules_do_not_load_tensorflow(name):
    code = f"import sys, {name}; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_flag_in_the_documentation_exists():
    known = {field.name for _, field in config.fields()}
    known |= {field.name for field in settings.fields()} | {"timed_only"}
    known |= {"model_dir", "mode", "recipe", "config_file", "help", "helpfull", "flagfile"}
    known |= {"config", "imports", "overwrite", "beam_pipeline_options"}  # Of `tfds build`.
    known |= {"max_examples_per_split"}
    known |= {"json", "protocol"}  # Of `python -m cxr_tfds.audit`.
    # Of gcloud and kubectl.
    known |= {"zone", "accelerator-type", "version", "spot", "quiet", "follow", "selector"}
    # Of pip and uv.
    known |= {"require-hashes", "requirement", "no-deps", "no-build-isolation", "editable"}
    for path in PAGES:
        named = set(re.findall(r"(?<![\w-])--([a-z][\w-]*)", path.read_text("utf-8")))
        assert named <= known, path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_path_in_the_documentation_exists(page):
    paths = re.findall(
        r"`((?:cxr_tfds|trainer|tuner|tests|docs)/[\w./-]+)`", page.read_text("utf-8")
    )
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_the_map_names_every_folder():
    page = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    inits = [init for p in PACKAGES for init in Path(p.__path__[0]).rglob("__init__.py")]
    folders = [init.parent.relative_to(ROOT).as_posix() for init in inits]
    assert [folder for folder in folders if f"| `{folder}/` |" not in page] == []


def test_jax_is_imported_by_one_module_alone():
    imports = re.compile(r"^\s*(import|from) (jax|libtpu)\b", re.MULTILINE)
    sources = [path for package in PACKAGES for path in Path(package.__path__[0]).rglob("*.py")]
    assert [p.stem for p in sources if imports.search(p.read_text("utf-8"))] == ["aot"]


def test_the_lock_for_tpu_adds_to_the_other_and_changes_nothing():
    pins, more = (
        set(re.findall(r"^\S+==\S+(?: ;.*)?", (ROOT / name).read_text("utf-8"), re.MULTILINE))
        for name in ("requirements.lock", "requirements-tpu-aot.lock")
    )
    assert pins < more
    assert {pin.partition("==")[0] for pin in more - pins} >= {"jax", "jaxlib", "libtpu"}


def test_every_recipe_is_a_difference_from_the_defaults():
    for path in (ROOT / "trainer" / "recipes").glob("*.json"):
        options = json.loads(path.read_text("utf-8"))
        defaults = config.Config().to_flat()
        changed = config.Config.from_flat(options).to_flat()
        assert {name for name in changed if changed[name] != defaults[name]} == set(options)


def test_every_backbone_of_the_registry_exists():
    for row in backbones.REGISTRY.values():
        assert callable(row.load_constructor())
        assert callable(row.load_preprocessing())


OF_PATHS = re.compile(
    r"--(\w*_dir|weights|config_file|directory|project_name|search_file)=$|rsync -r $"
)


def _unquoted(source: str) -> list[int]:
    """Returns the lines of sentences that suggest a flag with a value as no shell would take it."""
    lines = []
    for node in ast.walk(ast.parse(source)):
        parts = node.values if isinstance(node, ast.JoinedStr) else []
        for before, value in itertools.pairwise(parts):
            text = before.value if isinstance(before, ast.Constant) else ""
            is_argument = before is parts[0] and text.startswith("--")  # Of a list, for no shell.
            is_suggested = not is_argument and OF_PATHS.search(text)
            if is_suggested and not ast.unparse(value.value).startswith("text.quoted("):
                lines.append(node.lineno)
    return lines


def test_a_suggestion_that_is_not_quoted_is_found():
    assert _unquoted('f"give --model_dir={path}."') == [1]
    assert _unquoted('f"x"\nf"give `gcloud rsync -r {path}`"') == [2]
    assert _unquoted('f"give --{name}={path}."') == []
    assert _unquoted('f"--model_dir={path}"\nf"give --data_dir={text.quoted(path)}."') == []


def test_paths_in_suggested_commands_are_quoted():
    places = [path for package in PACKAGES for path in Path(package.__path__[0]).rglob("*.py")]
    assert [(path.name, line) for path in places for line in _unquoted(path.read_text())] == []
