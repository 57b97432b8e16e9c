"""README and examples run as printed."""

import inspect
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import pml_extras.evaluation
import pml_extras.inference
import pml_extras.losses
import pml_extras.miners
import pml_extras.nn
import pml_extras.pooling
import pml_extras.reducers
import pml_extras.samplers
import pml_extras.training
import pml_extras.weighting
import pml_extras.wrappers

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_readme_code_runs_as_printed_and_trains_proxies_and_weights():
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    names = {}
    for code in blocks:  # one after the other, as a reader would
        names.pop("loss_func", None)
        exec(compile(code, "README.md", "exec"), names)
        assert all(p.grad is not None for p in names["loss_func"].parameters())
        held = {id(p) for group in names["optimizer"].param_groups for p in group["params"]}
        assert held >= {id(p) for p in names["loss_func"].parameters()}


def test_readme_table_names_everything_public():
    table = README.split("<!-- table:what:start -->")[1].split("<!-- table:what:end -->")[0]
    for name in pml_extras.losses.__all__:
        place = table if inspect.isclass(getattr(pml_extras.losses, name)) else README
        assert f"`{name}`" in place


def test_readme_names_what_is_no_loss():
    for module in (
        pml_extras.evaluation,
        pml_extras.inference,
        pml_extras.miners,
        pml_extras.nn,
        pml_extras.pooling,
        pml_extras.reducers,
        pml_extras.samplers,
        pml_extras.training,
        pml_extras.weighting,
        pml_extras.wrappers,
    ):
        for name in module.__all__:
            assert f"{name}`" in README


def test_readme_commands_are_those_of_the_makefile():
    makefile = (ROOT / "Makefile").read_text()
    for line in (
        "-m benchmarks run --dataset digits --seeds 0 1 2 --results reproduced",
        "-m benchmarks report --dataset digits --results reproduced --output reproduced",
        '-m pytest -n auto --dist worksteal -m "not slow"',
        '".[bench,dev]"',
    ):
        assert line in README
        assert line in makefile


PAGES = ["README.md", "CONTRIBUTING.md", "benchmarks/README.md"]
PAGES += [f"docs/{page.name}" for page in sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES)
def test_links_exist(page):
    text = (ROOT / page).read_text()
    for target in re.findall(r"\]\(([^)#:]+)[)#]", text):
        assert ((ROOT / page).parent / target).exists(), target


@pytest.mark.parametrize("page", ["README.md", "benchmarks/README.md"])
def test_no_table_is_empty(page):
    text = (ROOT / page).read_text()
    places = re.findall(r"<!-- table:([\w-]+):start -->(.*?)<!-- table:\1:end -->", text, re.DOTALL)
    assert places
    for name, table in places:
        shown = table.count("![") > 0 if name.endswith("_pictures") else table.count("|") > 20
        assert shown, name


def test_versions_agree():
    citation = (ROOT / "CITATION.cff").read_text()
    assert f"version: {pml_extras.__version__}" in citation


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.py")), ids=lambda p: p.name)
def test_example_runs(path, tmp_path):
    for name in ("accelerate", "lightning"):
        if f"from {name} import" in path.read_text() and find_spec(name) is None:
            pytest.skip(f"{name} is not installed")
    run = subprocess.run(
        [sys.executable, path],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=tmp_path,  # some write a picture
        env={**os.environ, "OMP_NUM_THREADS": "1"},  # the suite runs in several processes
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout
    assert "another network" not in run.stdout  # where a run is broken off and continued
