import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pml_extras.functional import smoothed_cross_entropy
from tests.oracles import intra_batch_connections as oracle
from tests.strategies import rows

temperatures = st.sampled_from((0.05, 0.2, 1.0, 7.0))
smoothings = st.sampled_from((0.0, 0.1, 0.55))


@given(st.data(), temperatures, smoothings)
def test_value_and_gradient_agree_with_the_equation(data, temperature, smoothing):
    num, classes = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 5))
    logits = (5 * data.draw(rows(num, classes))).requires_grad_()
    labels = torch.tensor([data.draw(st.integers(0, classes - 1)) for _ in range(num)])
    options = {"temperature": temperature, "label_smoothing": smoothing}
    losses = smoothed_cross_entropy(logits, labels, **options)
    upstream = torch.arange(1.0, num + 1, dtype=torch.float64)
    (grad,) = torch.autograd.grad(losses, logits, upstream)
    for i, row in enumerate(logits.tolist()):
        expected = oracle.cross_entropy(row, int(labels[i]), temperature, smoothing)
        assert losses[i].item() == pytest.approx(expected.real, rel=1e-10, abs=1e-12)
        for c in range(classes):
            towards = [float(c == k) for k in range(classes)]
            slope = oracle.derivative(
                lambda x, i=i: oracle.cross_entropy(x[0], int(labels[i]), temperature, smoothing),
                [row],
                [towards],
            )
            assert grad[i, c].item() == pytest.approx((i + 1) * slope, rel=1e-10, abs=1e-10)


@pytest.mark.parametrize(
    ("classes", "entropy", "gap"),
    [(98, 0.7756, 6.783), (100, 0.7778, 6.804), (3997, 1.1541, 10.491), (11318, 1.2584, 11.531)],
)
def test_it_is_never_less_than_the_entropy_of_the_smoothed_labels(classes, entropy, gap):
    """Least where a gap of the logits over T is the log of the ratio of the two targets."""
    best = math.log((0.9 + 0.1 / classes) / (0.1 / classes))
    assert best == pytest.approx(gap, abs=1e-3)
    logits = torch.zeros(3, classes, dtype=torch.float64)
    logits[:, 1] = 0.2 * best * torch.tensor([1.0, 0.9, 1.1])
    label = torch.ones(3, dtype=torch.int64)
    losses = smoothed_cross_entropy(logits, label, temperature=0.2, label_smoothing=0.1)
    assert losses[0].item() == pytest.approx(entropy, abs=1e-4)
    assert (losses[1:] > losses[0] + 1e-3).all()


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.tensor([0.0, 1.0]), r"labels: expected int64 \(2,\), .* got torch.float32 \(2,\)"),
        (torch.tensor([0]), r"got torch.int64 \(1,\)"),
        (torch.full((2, 3), 1 / 3), r"got torch.float32 \(2, 3\)"),
    ],
)
def test_other_labels_are_refused(labels, message):
    with pytest.raises(ValueError, match=message):
        smoothed_cross_entropy(torch.zeros(2, 3), labels, temperature=1.0, label_smoothing=0.1)


def test_no_label_is_ignored():
    for label in (-100, -1, 3):
        with pytest.raises(IndexError):
            smoothed_cross_entropy(
                torch.zeros(1, 3), torch.tensor([label]), temperature=1.0, label_smoothing=0.1
            )


def test_half_logits_are_computed_in_float32():
    logits = torch.tensor([[30000.0, 0.0]], dtype=torch.float16)
    loss = smoothed_cross_entropy(logits, torch.tensor([1]), temperature=0.2, label_smoothing=0.0)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(150_000)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"temperature": 0.0}, "temperature: expected a finite number > 0; got 0.0"),
        ({"label_smoothing": 1.0}, r"label_smoothing: expected a number in \[0, 1\); got 1.0"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, message):
    options = {"temperature": 1.0, "label_smoothing": 0.1, **arguments}
    with pytest.raises(ValueError, match=message):
        smoothed_cross_entropy(torch.zeros(2, 3), torch.tensor([0, 1]), **options)
