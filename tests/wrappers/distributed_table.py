"""``python -m tests.wrappers.distributed_table > docs/distributed.md`` writes that page."""

import tempfile
from importlib.metadata import version

from tests.wrappers.distributed_ranks import CASES, alone, by_case, factories, spawn, worst

INTRODUCTION = """\
# Several processes

`pml_extras.wrappers.DistributedLossWrapper` gives each process the loss of the joined batch, and
`DistributedDataParallel` the gradient that one process would have: of the trunk, and of the loss's
own parameters.

```python
import torch
from torch.nn.parallel import DistributedDataParallel

from pml_extras.losses import PotentialFieldLoss
from pml_extras.wrappers import DistributedLossWrapper

torch.distributed.init_process_group()  # under torchrun
images, labels = torch.randn(32, 512), torch.randint(100, (32,))  # the part of this process
trunk = DistributedDataParallel(torch.nn.Linear(512, 128))
loss_func = DistributedDataParallel(
    DistributedLossWrapper(PotentialFieldLoss(num_classes=100, embedding_size=128))
)
loss_func(trunk(images), labels).backward()
```

A loss without parameters takes no `DistributedDataParallel`; without a process group the wrapper is
the loss alone. Batches may differ in size. `python
examples/distributed.py` and `torchrun --nproc-per-node 2 examples/distributed.py` print the same.

`efficient=True` compares the own rows with all, and is offered where the parts add up to the loss;
any other loss is refused with a `ValueError`.

## Every loss against one process

Nothing below is written by hand; this page is what `python -m tests.wrappers.distributed_table`
prints. Two steps in float64 on gloo, without dropout; the gradients add up. A number is the largest
difference over the largest entry: of the value, of the gradient of the trunk, and of that of the
loss's own parameters, where it has any; the worst over all ranks of 10 + 10, 13 + 7, 5 + 5 + 10 and
9 + 0 + 11 rows, with `gather_gradient` off and, for the last, on.
"""

EXACT = [case for case in CASES if case[1] != "efficient"]
EFFICIENT = [case for case in CASES if case[1] == "efficient"]


def page():
    """The text of docs/distributed.md."""
    expected = {name: alone(name) for name in factories()}
    with tempfile.TemporaryDirectory() as folder:
        results = worst(spawn(by_case, folder), expected)
    lines = [row(["Loss", "value", "trunk", "own", "`efficient=True`"]), row(["---"] * 5)]
    for name in factories():
        exact = [results[name, case] for case in EXACT]
        parts = [results[name, case] for case in EFFICIENT]
        numbers = [largest(exact, key) for key in ("value", "trunk", "own")]
        efficient = "refused"
        if None not in parts:
            keys = [key for key in ("trunk", "own") if key in exact[0]]
            efficient = ", ".join(f"{key} {largest(parts, key)}" for key in keys)
        lines.append(row([f"`{name}`", *numbers, efficient]))
    return "\n".join([INTRODUCTION, f"Made with {versions()}.\n", *lines, ""])


def largest(results, key):
    if key not in results[0]:
        return ""
    return f"{max(result[key] for result in results):.0e}"


def row(cells):
    return "| " + " | ".join(cells) + " |"


def versions():
    pml, torch = version("pytorch-metric-learning"), version("torch").split("+")[0]
    return f"pytorch-metric-learning {pml}, torch {torch}, CPU"


if __name__ == "__main__":
    print(page(), end="")
