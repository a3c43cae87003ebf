"""The layout of folders, and the size of files, read from the sources and pyproject.toml.

A module is a `.py` file other than `__init__.py` and `__main__.py`.
"""

from __future__ import annotations

import ast
import collections
import functools
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterable

ROOT = Path(__file__).parent.parent
PACKAGES = ("cxr_tfds", "trainer", "tuner")
TREES = (*PACKAGES, "tests")
MAX_MODULES_AT_THE_TOP = 10
MAX_MODULES = 12
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 50
MAX_LAYERS = 14
WITHOUT_SOURCES = ("whole_runs", "conformance")
"""Test folders for what no single source folder owns."""
FILES = {tree: sorted((ROOT / tree).rglob("*.py")) for tree in TREES}


def _is_module(path: Path) -> bool:
    return path.stem not in ("__init__", "__main__")


def _place(path: Path, line: int | None = None) -> str:
    return f"{path.relative_to(ROOT)}{f':{line}' if line else ''}"


@functools.cache
def _nodes(tree: str) -> list[tuple[Path, ast.AST]]:
    """Returns the syntax nodes of all files of a tree, each with its file."""
    parsed = ((path, ast.parse(path.read_text("utf-8"))) for path in FILES[tree])
    return [(path, node) for path, syntax in parsed for node in ast.walk(syntax)]


def _assert_none(offenders: Iterable[str], claim: str) -> None:
    found = list(offenders)
    assert not found, "\n".join([claim, *found])


@pytest.mark.parametrize("tree", TREES)
def test_a_tree_has_files(tree):
    assert any(map(_is_module, FILES[tree]))


def test_the_trainer_has_few_modules_at_the_top():
    modules = [path for path in FILES["trainer"] if path.parent.name == "trainer"]
    modules = [path for path in modules if _is_module(path)]
    assert 0 < len(modules) <= MAX_MODULES_AT_THE_TOP, [path.name for path in modules]


@pytest.mark.parametrize("tree", TREES)
def test_no_folder_has_many_modules(tree):
    counts = collections.Counter(path.parent for path in FILES[tree] if _is_module(path))
    _assert_none(
        (f"{_place(folder)}: {count}" for folder, count in counts.items() if count > MAX_MODULES),
        f"Folders with over {MAX_MODULES} modules:",
    )


@pytest.mark.parametrize("tree", TREES)
def test_no_file_is_long(tree):
    lines = {path: len(path.read_text("utf-8").splitlines()) for path in FILES[tree]}
    _assert_none(
        (f"{_place(path)}: {count}" for path, count in lines.items() if count > MAX_FILE_LINES),
        f"Files of over {MAX_FILE_LINES} lines:",
    )


@pytest.mark.parametrize("tree", TREES)
def test_no_function_is_long(tree):
    """Docstrings count, decorators do not."""
    functions = (
        (path, node, (node.end_lineno or 0) - node.lineno + 1)
        for path, node in _nodes(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )
    _assert_none(
        (
            f"{_place(path, node.lineno)} {node.name}: {lines}"
            for path, node, lines in functions
            if lines > MAX_FUNCTION_LINES
        ),
        f"Functions of over {MAX_FUNCTION_LINES} lines:",
    )


def test_the_trainer_has_few_layers():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    (contract,) = (
        contract
        for contract in project["tool"]["importlinter"]["contracts"]
        if contract["type"] == "layers" and contract.get("containers") == ["trainer"]
    )
    assert 0 < len(contract["layers"]) <= MAX_LAYERS, contract["layers"]


def test_no_two_classes_share_a_name():
    places = collections.defaultdict(list)
    for package in PACKAGES:
        for path, node in _nodes(package):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(_place(path, node.lineno))
    _assert_none(
        (f"{name}: {', '.join(where)}" for name, where in places.items() if len(where) > 1),
        "Classes that share a name:",
    )


@pytest.mark.parametrize("package", PACKAGES)
def test_test_folders_are_source_folders(package):
    folders = {path.parent.relative_to(ROOT / "tests") for path in _test_modules(package)}
    _assert_none(
        (
            f"tests/{folder}"
            for folder in sorted(folders)
            if not set(folder.parts) & set(WITHOUT_SOURCES) and not _is_source(folder)
        ),
        "Test folders without a source folder or module of the same path:",
    )


@pytest.mark.parametrize("package", PACKAGES)
def test_tests_of_a_module_lie_where_the_module_lies(package):
    """Its tests are `test_MODULE.py` in the folder's mirror, or a folder named MODULE there."""
    sources = collections.defaultdict(set)
    for path in filter(_is_module, FILES[package]):
        sources[path.stem].add(path.relative_to(ROOT).parent)
    misplaced = []
    for path in _test_modules(package):
        folder = path.relative_to(ROOT / "tests").parent
        wanted = sources[path.stem.removeprefix("test_")]
        if wanted and folder not in wanted and not set(folder.parts) & set(WITHOUT_SOURCES):
            misplaced.append(f"{_place(path)}: belongs to {', '.join(map(str, wanted))}")
    _assert_none(misplaced, "Test modules in another folder than the module of that name:")


def test_nothing_imports_from_a_conftest():
    imports = (
        (path, node.lineno, [node.module or "", *(alias.name for alias in node.names)])
        for path, node in _nodes("tests")
        if isinstance(node, ast.ImportFrom)
    )
    _assert_none(
        (
            _place(path, line)
            for path, line, names in imports
            if any(name.split(".")[-1] == "conftest" for name in names)
        ),
        "What tests call belongs to tests/support; these import it from a conftest:",
    )


def _test_modules(package: str) -> list[Path]:
    folder = ROOT / "tests" / package
    return [
        path
        for path in FILES["tests"]
        if path.is_relative_to(folder) and path.name.startswith("test_")
    ]


def _is_source(folder: Path) -> bool:
    return (ROOT / folder).is_dir() or (ROOT / folder).with_suffix(".py").is_file()
