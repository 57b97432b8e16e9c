"""A batch that does not fit into memory in one pass, with the same gradient: change one line.

Each run is a process of its own that may take 640 MiB more than it starts with (on Linux), as a
small GPU would have it. 512 images fit either way, and both gradients agree to rounding; 2,048 fit
by chunks alone. On Linux or macOS:

    python examples/large_batch.py
"""

import multiprocessing
import resource
import sys
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from pml_extras.losses import BinomialDevianceLoss
from pml_extras.training import cached_embeddings

LIMIT_MIB, CHUNK_SIZE = 640, 64
MEMORY = Path("/proc/self/statm")  # its first number is what the process has reserved, in pages


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1),
        nn.GroupNorm(4, 32),  # batch norm in training mode would see chunks
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 48, 3, padding=1),
        nn.GroupNorm(4, 48),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(192, 128),
    )


def gradient(rows: int, by_chunks: bool) -> Tensor:
    """Of all parameters, in one row."""
    trunk = network()
    loss_func = BinomialDevianceLoss()
    images, labels = torch.randn(rows, 1, 28, 28), torch.arange(rows) // 4
    chunks = images.split(CHUNK_SIZE)
    embeddings = cached_embeddings(trunk, chunks) if by_chunks else trunk(images)
    loss_func(embeddings, labels).backward()
    return torch.cat([p.grad.flatten() for p in trunk.parameters() if p.grad is not None])


def measure(rows: int, by_chunks: bool) -> tuple[list[float], float, float] | None:
    """Gradient, MiB above a warm-up and seconds; None where memory does not suffice."""
    torch.set_num_threads(1)
    gradient(8, by_chunks)
    if MEMORY.exists():
        reserved = int(MEMORY.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (reserved + LIMIT_MIB * 2**20,) * 2)
    before, start = peak(), time.perf_counter()
    try:
        grad = gradient(rows, by_chunks)
    except RuntimeError as error:
        if "memory" not in str(error):
            raise
        return None
    return grad.tolist(), peak() - before, time.perf_counter() - start


def peak() -> float:
    """Largest memory of this process so far, in MiB."""
    unit = 2**20 if sys.platform == "darwin" else 2**10  # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def main() -> None:
    processes = multiprocessing.get_context("spawn")
    for rows in (512, 2048):
        found = []
        for by_chunks in (False, True):
            with processes.Pool(1) as pool:
                result = pool.apply(measure, (rows, by_chunks))
            name = f"chunks of {CHUNK_SIZE}" if by_chunks else "one pass"
            if result is None:
                print(f"{rows:5d} images, {name:12s}: {LIMIT_MIB} MiB are too little")
                continue
            grad, mib, seconds = result
            found.append(torch.tensor(grad))
            print(f"{rows:5d} images, {name:12s}: {mib:4.0f} MiB, {seconds:4.1f} s")
        if len(found) == 2:
            apart = (found[0] - found[1]).norm() / found[0].norm()
            print(f"{'':14s}gradients {apart:.0e} apart")


if __name__ == "__main__":
    main()
