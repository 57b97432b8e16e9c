"""What an older torch cannot do, found by trying."""

import pytest
import torch


def _reads() -> bool:
    try:
        torch.func.grad(lambda x: x * torch.ones(1).cumsum(0).tolist()[0])(torch.ones(()))
    except RuntimeError:
        return False
    return True


reads_under_torch_func = pytest.mark.skipif(
    not _reads(), reason="under torch.func this torch reads no tensor, and losses read class sizes"
)
