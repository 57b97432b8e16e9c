"""How often a forward pass waits for the device to check what it was given."""

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from tests.conformance.catalogue import LOSSES
from tests.conformance.entry import EMBEDDING_SIZE

IN_TWO = {
    "BinomialDevianceLoss": "a pair that is both is found in the masks",
    "GeneralizedLiftedStructureLoss": "a pair that is both is found in the masks",
}
SEARCHES = ("PotentialFieldLoss", "PotentialFieldLoss without proxies")  # asks tiles if empty
OF_MEMBERS = ("WeightedLossEnsemble", "zabihzadeh_ensemble")  # each checks what it is given
BESIDE = "ZeroShotPredictionLoss beside a proxy loss"


class _Scalars(TorchDispatchMode):
    def __init__(self, seen):
        super().__init__()
        self.seen = seen

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket.__name__ in ("_local_scalar_dense", "equal"):
            self.seen.append(func)
        return func(*args, **(kwargs or {}))


class _Lists(TorchFunctionMode):
    def __init__(self, seen):
        super().__init__()
        self.seen = seen

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is torch.Tensor.tolist:
            self.seen.append(func)
        return func(*args, **(kwargs or {}))


def reads(name, *tuples):
    loss = LOSSES[name].make()
    rows = torch.randn(9, EMBEDDING_SIZE)
    seen = []
    with _Lists(seen), _Scalars(seen):
        loss(rows, torch.tensor([0, 1, 2, 0, 1, 0, 2, 1, 4]), *tuples)
    return len(seen)


@pytest.mark.parametrize("name", [n for n in LOSSES if n not in (*OF_MEMBERS, *SEARCHES)])
def test_labels_are_read_once_at_most(name):
    assert reads(name) <= (2 if name == BESIDE else 1)


@pytest.mark.parametrize(
    "name", [n for n in LOSSES if n not in (*OF_MEMBERS, BESIDE, "ZeroShotPredictionLoss")]
)
def test_a_tuple_is_read_once(name):
    if name.startswith("PNPLoss"):
        pytest.skip("it takes no tuple")
    entries = [0, 3, 3], [3, 5, 5], [0, 0, 2], [1, 4, 3]
    given = tuple(torch.tensor(x) for x in entries)
    of_labels = 0 if name.startswith(("NTXent", "Tuplet")) else reads(name)
    assert reads(name, given) == of_labels + (2 if name in IN_TWO else 1)


def test_buffers_of_another_type_are_written_without_a_comparison():
    loss = LOSSES["IntraBatchConnectionsLoss"].make().to(torch.bfloat16)
    seen = []
    with _Lists(seen), _Scalars(seen):
        loss(torch.randn(6, EMBEDDING_SIZE), torch.arange(6) % 5)
    assert len(seen) == 1  # of the labels
