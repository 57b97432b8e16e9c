"""Which code, which libraries and which device made a result."""

import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

_FOLDER = Path(__file__).parent
_WRITTEN_BY_RUNS = tuple(
    f":(exclude){path}" for path in ("results", "figures", "README.md", "../README.md", "../docs")
)
_PACKAGES = (
    "torch",
    "torchvision",
    "pytorch-metric-learning",
    "faiss-cpu",
    "numpy",
    "pillow",
    "pml-extras",
)


def provenance(device: torch.device) -> dict[str, Any]:
    """Part of a record; null for what is not known."""
    commit = _git("rev-parse", "HEAD")
    changed = _git("status", "--porcelain", "--", "..", *_WRITTEN_BY_RUNS)
    return {
        "commit": commit,
        "dirty": None if commit is None or changed is None else bool(changed),
        "versions": {"python": platform.python_version(), **{p: version(p) for p in _PACKAGES}},
        "device": _described(device),
    }


def _described(device: torch.device) -> str:
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    return f"{device.type}, {torch.get_num_threads()} threads"


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=_FOLDER, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
