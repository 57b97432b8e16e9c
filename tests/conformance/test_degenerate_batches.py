"""Degenerate batches in training mode; in eval mode and all types they are the checker's."""

import pytest
import torch

from pml_extras.testing.batches import Batches
from tests.conformance.catalogue import LOSSES
from tests.conformance.entry import EMBEDDING_SIZE, NUM_CLASSES

BATCHES = Batches(EMBEDDING_SIZE, NUM_CLASSES, with_labels=True, seed=0)
CASES = {"no rows": BATCHES.of([]), "one row": BATCHES.of([1]), **dict(BATCHES.degenerate())}


@pytest.mark.parametrize("name", LOSSES)
def test_values_and_gradients_are_finite_in_training_mode(name):
    for case, batch in CASES.items():
        loss = LOSSES[name].make()
        assert loss.training
        x = batch.embeddings.to(torch.float32, copy=True).requires_grad_()
        try:
            value = loss(x, batch.labels)
        except ValueError as refusal:
            if case != "one row" or "at least 2 rows in training mode" not in str(refusal):
                raise
            continue
        value.backward()
        for given in (value, x.grad, *(p.grad for p in loss.parameters())):
            assert given.isfinite().all(), case
