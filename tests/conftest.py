"""Seeds and hypothesis profiles: every run draws the same examples, and prints what it ran on."""

import os
from importlib.metadata import distributions

import pytest
import torch
from hypothesis import HealthCheck, settings

PACKAGES = (
    "torch",
    "pytorch-metric-learning",
    "numpy",
    "faiss-cpu",
    "torchvision",
    "hypothesis",
    "lightning",
    "accelerate",
)

settings.register_profile(
    "default",
    deadline=None,
    derandomize=True,
    max_examples=100,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("thorough", parent=settings.get_profile("default"), max_examples=1000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

torch.set_num_threads(1)  # the suite runs in several processes


def pytest_report_header() -> str:
    """What pytest prints first, besides the version of Python."""
    installed = {package.name: package.version for package in distributions()}
    return "\n".join(f"{name}: {installed.get(name, 'not installed')}" for name in PACKAGES)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
