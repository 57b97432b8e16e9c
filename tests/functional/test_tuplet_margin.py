import math

import pytest
import torch

from pml_extras.functional.tuplet_margin import slack_cosine


@pytest.mark.parametrize("angle", [1e-5, 0.3, 2.0, math.pi - 1e-5])
def test_the_margin_is_taken_off_the_angle(angle):
    cosine = torch.tensor(math.cos(angle), dtype=torch.float64, requires_grad=True)
    slack = slack_cosine(cosine, margin=0.1)
    assert slack.item() == pytest.approx(math.cos(angle - 0.1), abs=1e-10)
    slack.backward()
    assert cosine.grad.item() == pytest.approx(math.sin(angle - 0.1) / math.sin(angle), rel=1e-5)


@pytest.mark.parametrize("ulps", [1, 2, 3, 17])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_nearest_cosines_to_one_keep_their_angles(dtype, ulps):
    below = ulps * torch.finfo(dtype).eps / 2
    cosine = torch.tensor(1.0, dtype=dtype) - below
    cosine.requires_grad_()
    slack = slack_cosine(cosine, margin=0.1)
    slack.backward()
    angle = 2 * math.asin(math.sqrt(below / 2))
    assert slack.item() == pytest.approx(math.cos(angle - 0.1), abs=torch.finfo(dtype).eps)
    assert cosine.grad.item() == pytest.approx(math.sin(angle - 0.1) / math.sin(angle), rel=1e-6)


@pytest.mark.parametrize("beyond", [1.0, 1.0 + 1e-12, -1.0, -1.0 - 1e-12])
def test_a_cosine_that_rounding_carried_beyond_one_has_a_finite_gradient(beyond):
    cosine = torch.tensor(beyond, dtype=torch.float64, requires_grad=True)
    slack = slack_cosine(cosine, margin=0.1)
    slack.backward()
    assert slack.item() == pytest.approx(math.copysign(math.cos(0.1), beyond), abs=1e-15)
    assert cosine.grad.isfinite()
