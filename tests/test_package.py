"""The wheel: what it holds, and that it works in an empty environment without the extras."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

ONE_STEP = """
import importlib.util
import inspect
import torch
import pml_extras.testing
from pml_extras import losses

for extra in ("faiss", "torchvision", "matplotlib", "pandas", "pytest", "hypothesis"):
    assert importlib.util.find_spec(extra) is None, extra
for name in losses.__all__:
    loss_class = getattr(losses, name)
    if not inspect.isclass(loss_class) or name == "DistancePreservingLoss":
        continue  # functions, and what is called with a teacher
    parameters = inspect.signature(loss_class).parameters
    sizes = {"num_classes": 4, "embedding_size": 8, "num_attributes": 8}
    sizes |= {"memory_size": 64, "start_after": 0}
    arguments = {key: value for key, value in sizes.items() if key in parameters}
    if "losses" in parameters:
        arguments["losses"] = [losses.LiftedStructureLoss(), losses.ClassificationLoss(4, 8)]
    loss = loss_class(**arguments)
    trunk = torch.nn.Linear(5, 8)
    before = [p.clone() for p in (*trunk.parameters(), *loss.parameters())]
    groups = loss.param_groups(1e-3) if hasattr(loss, "param_groups") else []
    optimizer = torch.optim.Adam([{"params": trunk.parameters()}, *groups], lr=1e-3)
    loss(trunk(torch.randn(16, 5)), torch.arange(16) % 4).backward()
    optimizer.step()
    after = (*trunk.parameters(), *loss.parameters())
    moved = [not torch.equal(a, b) for a, b in zip(before, after, strict=True)]
    assert all(moved[:2]), name
    assert any(moved[2:]) or not groups, name
    print(name, "trained")
"""


def run(*command: object, cwd: Path) -> str:
    done = subprocess.run([str(c) for c in command], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_wheel_holds_the_package_alone_and_trains_in_an_empty_environment(tmp_path):
    source = tmp_path / "source"
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(".venv", ".git", "data"))
    run(sys.executable, "-m", "build", "--wheel", "--outdir", tmp_path, cwd=source)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"pml_extras"}
    assert "pml_extras/py.typed" in names

    run(sys.executable, "-m", "venv", tmp_path / "empty", cwd=tmp_path)
    python = tmp_path / "empty" / "bin" / "python"
    if shutil.which("uv"):
        run("uv", "pip", "install", "--python", python, wheel, cwd=tmp_path)
    else:
        run(python, "-m", "pip", "install", wheel, cwd=tmp_path)
    assert "PotentialFieldLoss trained" in run(python, "-c", ONE_STEP, cwd=tmp_path)
