"""Several sub-losses, each by a reducer of its own."""

import pytest
import torch
from pytorch_metric_learning import reducers

from pml_extras._pml import already_reduced_parts
from pml_extras._reduction import StackedReducers

VALUES = (2.0, 5.0)


class Doubling(reducers.MeanReducer):
    def already_reduced_reduction(self, losses, loss_indices, embeddings, labels):
        return 2 * losses


def reduce(loss_reducer, *values):
    parts = already_reduced_parts(dict(zip("ab", values, strict=True)))
    return StackedReducers({"b": loss_reducer})(parts, torch.zeros(4, 3), None)


@pytest.mark.parametrize("shapes", [((), (1,)), ((1,), ()), ((1,), (1,))])
@pytest.mark.parametrize("collect_stats", [False, True])
def test_a_reduced_loss_may_be_a_number_or_one_element(shapes, collect_stats):
    values = [torch.full(s, v, requires_grad=True) for s, v in zip(shapes, VALUES, strict=True)]
    total = reduce(reducers.MeanReducer(collect_stats=collect_stats), *values)
    assert total.shape == ()
    assert total == sum(VALUES)
    total.backward()
    assert [value.grad.item() for value in values] == [1, 1]


def test_a_reducer_s_own_way_with_reduced_losses_is_kept():
    assert reduce(Doubling(), *map(torch.tensor, VALUES)) == 2.0 + 2 * 5.0


def test_a_reducer_that_collects_sees_each_reduced_loss():
    counting = reducers.MeanReducer(collect_stats=True)
    both = StackedReducers({"a": counting})
    pairs = {
        "losses": torch.ones(3),
        "indices": (torch.arange(3), torch.arange(3)),
        "reduction_type": "pos_pair",
    }
    both({"a": pairs}, torch.zeros(4, 3), None)
    assert counting.losses_size == 3
    both(already_reduced_parts({"a": torch.tensor(1.0)}), torch.zeros(4, 3), None)
    assert counting.losses_size == 1
