"""Imports point one way: losses -> functional -> torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "pml_extras"
FILES = sorted(PACKAGE.rglob("*.py"))


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_package_imports_neither_tests_nor_benchmarks(path):
    roots = {name.split(".")[0] for name in imported(path)}
    assert not roots & {
        "tests",
        "benchmarks",
        "examples",
        "hypothesis",
        "pytest",
        "faiss",
        "sklearn",
    }


@pytest.mark.parametrize(
    "path", sorted((PACKAGE / "functional").glob("*.py")), ids=lambda p: p.name
)
def test_formulas_know_torch_alone(path):
    for name in imported(path):
        if name.startswith("pml_extras"):
            assert name.startswith(("pml_extras.functional", "pml_extras._checks"))
        assert not name.startswith("pytorch_metric_learning")


def test_oracles_import_nothing_of_ours():
    for path in (Path(__file__).parent / "oracles").glob("*.py"):
        assert not any(name.startswith("pml_extras") for name in imported(path))


EACH_FIRST = """
import importlib, pkgutil, sys
import pml_extras
names = [m.name for m in pkgutil.walk_packages(pml_extras.__path__, "pml_extras.")]
assert "pml_extras.wrappers" in names
for name in names:
    for loaded in [m for m in sys.modules if m.split(".")[0] == "pml_extras"]:
        del sys.modules[loaded]
    importlib.import_module(name)
"""


def test_every_module_can_be_the_first_that_is_imported():
    done = subprocess.run([sys.executable, "-c", EACH_FIRST], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
