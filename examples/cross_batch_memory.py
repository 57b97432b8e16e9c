"""Small batches that are compared with a thousand rows before them.

Real scans of digits, four at a time, two of each of two classes: few negatives, unless there is a
memory. With twelve at a time, of four classes, digits need none: MAP@R is 0.82 either way. The loss
is one of ours, which pml's CrossBatchMemory refuses by its name. In the end a run is broken off and
goes on from its state dicts, memory included. Needs scikit-learn for the scans and faiss for
neighbours: pip install ".[bench]" in a clone. Takes seconds on a CPU:

    python examples/cross_batch_memory.py
"""

import io
from typing import Any

import torch
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
from sklearn.datasets import load_digits
from torch import Tensor, nn

from pml_extras.losses import BinomialDevianceLoss
from pml_extras.wrappers import CrossBatchMemory

STEPS, SEEDS = 400, 3


def trained(
    scans: Tensor, digits: Tensor, seed: int, memory_size: int | None, resume: bool = False
) -> nn.Module:
    """A small network; ``resume`` gives all it holds to new objects half-way."""
    torch.manual_seed(seed)

    def objects() -> tuple[Any, Any, Any]:
        trunk = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 32))
        loss_func: nn.Module = BinomialDevianceLoss()
        if memory_size is not None:
            loss_func = CrossBatchMemory(loss_func, 32, memory_size, start_after=50)
        return trunk, loss_func, torch.optim.Adam(trunk.parameters(), lr=1e-3)

    held = objects()
    generator = torch.Generator().manual_seed(seed)
    for step in range(STEPS):
        classes = torch.randperm(10, generator=generator)[:2].tolist()
        of_class = [(digits == digit).nonzero().flatten() for digit in classes]
        chosen = torch.cat([x[torch.randperm(len(x), generator=generator)[:2]] for x in of_class])
        if resume and step == STEPS // 2:
            file = io.BytesIO()
            torch.save([x.state_dict() for x in held], file)
            file.seek(0)
            held = objects()
            for mine, state in zip(held, torch.load(file), strict=True):
                mine.load_state_dict(state)
        trunk, loss_func, optimizer = held
        optimizer.zero_grad()
        loss_func(trunk(scans[chosen]), digits[chosen]).backward()
        optimizer.step()
    trained_trunk: nn.Module = held[0]
    return trained_trunk


def main() -> None:
    scans, digits = (torch.from_numpy(x) for x in load_digits(return_X_y=True))
    scans = (scans / 16).float()
    seen = torch.arange(len(digits)) % 6 == 0  # 300 for training, 1,497 to be searched
    calculator = AccuracyCalculator(
        include=("precision_at_1", "mean_average_precision_at_r"), k="max_bin_count"
    )
    for name, memory_size in (("batch alone", None), ("with a memory of 1,024 rows", 1024)):
        found = []
        for seed in range(SEEDS):
            trunk = trained(scans[seen], digits[seen], seed, memory_size)
            with torch.no_grad():
                embeddings = nn.functional.normalize(trunk(scans[~seen]))
            measured = calculator.get_accuracy(embeddings, digits[~seen])
            found.append([measured["mean_average_precision_at_r"], measured["precision_at_1"]])
        mean, spread = torch.tensor(found).mean(dim=0), torch.tensor(found).std(dim=0)
        print(
            f"{name:28s} MAP@R {mean[0]:.3f} ± {spread[0]:.3f}, "
            f"precision at 1 {mean[1]:.3f} ± {spread[1]:.3f}"
        )
    runs = [trained(scans[seen], digits[seen], 0, 1024, resume) for resume in (False, True)]
    one, other = (nn.utils.parameters_to_vector(trunk.parameters()) for trunk in runs)
    print(
        f"broken off and continued: {'the same' if torch.equal(one, other) else 'another'} network"
    )


if __name__ == "__main__":
    main()
