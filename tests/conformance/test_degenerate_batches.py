"""Every public loss on every degenerate batch in every floating type: finite, or a ValueError."""

import contextlib

import pytest
import torch

from tests.conformance.catalogue import LOSSES
from tests.conformance.entry import EMBEDDING_SIZE, NUM_CLASSES

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
ROWS = {
    "no rows": torch.randn(0, EMBEDDING_SIZE),
    "one row": torch.randn(1, EMBEDDING_SIZE),
    "random": torch.randn(NUM_CLASSES, EMBEDDING_SIZE),
    "identical": torch.ones(NUM_CLASSES, EMBEDDING_SIZE),
    "zeros": torch.zeros(NUM_CLASSES, EMBEDDING_SIZE),
    "one row of zeros": torch.eye(NUM_CLASSES, EMBEDDING_SIZE) - torch.eye(1, EMBEDDING_SIZE)[0],
}
LABELS = {
    "one class": torch.zeros(NUM_CLASSES, dtype=torch.int64),
    "all unique": torch.arange(NUM_CLASSES),
    "pairs": torch.arange(NUM_CLASSES) // 2,
}


@pytest.mark.parametrize("labels", LABELS)
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("autocast", [None, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", LOSSES)
def test_values_and_gradients_are_finite(name, dtype, autocast, rows, labels):
    loss = LOSSES[name].make()
    x = ROWS[rows].to(dtype).clone().requires_grad_()
    context = contextlib.nullcontext() if autocast is None else torch.autocast("cpu", autocast)
    with context:
        try:
            value = loss(x, LABELS[labels][: len(x)])
        except ValueError as refusal:
            if len(x) != 1 or "at least 2 rows in training mode" not in str(refusal):
                raise
            return
    assert value.isfinite()
    value.backward()
    assert x.grad.dtype == dtype
    for leaf in (x, *loss.parameters()):
        assert leaf.grad.isfinite().all()
