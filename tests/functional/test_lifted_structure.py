import pytest
import torch

from pml_extras.functional import generalized_lifted_structure, lifted_structure

INF = torch.inf


def test_pair_without_negatives_costs_and_pulls_nothing():
    excess = torch.tensor([0.5, 0.5], requires_grad=True)
    log_i = torch.tensor([-INF, -INF], requires_grad=True)
    log_j = torch.tensor([-INF, 0.0], requires_grad=True)
    losses = lifted_structure(excess, log_i, log_j)
    torch.testing.assert_close(losses, torch.tensor([0.0, 0.125]))
    losses.sum().backward()
    torch.testing.assert_close(excess.grad, torch.tensor([0.0, 0.5]))
    torch.testing.assert_close(log_i.grad, torch.tensor([0.0, 0.0]))
    torch.testing.assert_close(log_j.grad, torch.tensor([0.0, 0.5]))


def test_what_a_pair_pulls_its_negatives_push():
    torch.manual_seed(3)
    excess, log_i, log_j = torch.randn(3, 50, dtype=torch.float64, requires_grad=True).unbind()
    losses = lifted_structure(excess, log_i, log_j)
    pull, push_i, push_j = torch.autograd.grad(losses.sum(), (excess, log_i, log_j))
    torch.testing.assert_close(pull, push_i + push_j)
    assert (losses == 0).any()
    assert (losses > 0).any()


def test_anchor_that_lacks_a_side_costs_and_pulls_nothing():
    pull = torch.tensor([1.0, -INF, -INF, -2.0], requires_grad=True)
    push = torch.tensor([-INF, 1.0, -INF, 0.5], requires_grad=True)
    losses = generalized_lifted_structure(pull, push)
    assert (losses == 0).all()
    losses.sum().backward()
    assert (pull.grad == 0).all()
    assert (push.grad == 0).all()


def test_lengths_that_differ_are_named():
    with pytest.raises(ValueError, match=r"log_negatives_j: expected a tensor of shape \(2,\)"):
        lifted_structure(torch.ones(2), torch.ones(2), torch.ones(3))
    with pytest.raises(ValueError, match="log_negatives: expected"):
        generalized_lifted_structure(torch.ones(2), torch.ones(3))
