"""What a module writes into buffers that are held in another type than it is computed in."""

import pytest
import torch
from torch import nn

from pml_extras.functional.precision import call_in


class Counting(nn.Module):
    """Adds 1 to the first entry of its buffer, in one of three ways; the second stays 1/3."""

    def __init__(self, way, dtype):
        super().__init__()
        self.way = way
        self.register_buffer("seen", torch.tensor([1 / 3, 1 / 3], dtype=dtype))

    def forward(self, x):
        if self.way == "in place":
            self.seen[0] += 1
        elif self.way == "anew":
            self.seen = self.seen + self.seen.new_tensor([1, 0])
        return x + self.seen.sum()


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("way", ["in place", "anew", "not at all"])
@pytest.mark.parametrize(
    ("held", "computed"), [(torch.bfloat16, torch.float32), (torch.float64, torch.float32)]
)
def test_buffers_are_written_and_what_is_not_written_keeps_its_digits(
    held, computed, way, training
):
    module = Counting(way, held).train(training)
    before, buffer = module.seen.clone(), module.seen
    assert call_in(computed, module, torch.zeros(1)).dtype == computed
    assert module.seen is buffer
    added = 0 if way == "not at all" else 1
    torch.testing.assert_close(buffer[0], before[0] + added, rtol=1e-2, atol=0)
    assert buffer[1] == before[1]


@pytest.mark.parametrize("training", [True, False])
def test_nothing_keeps_a_narrower_module_from_inference_mode(training):
    module = torch.nn.BatchNorm1d(3).half().train(training)
    rows = torch.randn(5, 3)
    expected = call_in(torch.float32, module, rows)
    with torch.inference_mode():
        torch.testing.assert_close(call_in(torch.float32, module, rows), expected)
