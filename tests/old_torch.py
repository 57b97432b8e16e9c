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

one_graph = pytest.mark.skipif(
    tuple(int(part) for part in torch.__version__.split(".")[:2]) < (2, 7),
    reason="one graph of a loss is promised from torch 2.7 on",
)
