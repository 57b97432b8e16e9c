"""Memory is what tensors hold at once."""

import torch

from pml_extras.testing.allocations import Allocations

SIZE = torch.float32.itemsize


def test_memory_that_was_freed_is_not_held_and_its_address_counts_again():
    with Allocations() as allocations:
        for _ in range(50):
            torch.zeros(1000, dtype=torch.float32)
        kept = [torch.zeros(100, dtype=torch.float32) for _ in range(50)]
    assert len(kept) == 50
    assert allocations.peak == 50 * 100 * SIZE


def test_views_hold_nothing_of_their_own():
    with Allocations() as allocations:
        x = torch.zeros(100, dtype=torch.float32)
        views = x[1:], x.view(10, 10), x.view(10, 10).T
        other = x + 1
    assert len(views) + len(other) == 103
    assert allocations.peak == 200 * SIZE
