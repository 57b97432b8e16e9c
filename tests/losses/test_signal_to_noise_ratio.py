import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pytorch_metric_learning import distances, losses, miners, reducers

from pml_extras.losses import SignalToNoiseRatioContrastiveLoss
from tests.oracles import snr as oracle
from tests.strategies import batches, listed

MARGINS = st.sampled_from(((0.0, 1.0), (0.3, 2.5)))
MINERS = {
    "all pairs": None,
    "multi similarity": miners.MultiSimilarityMiner(),
    "all triplets": miners.TripletMarginMiner(type_of_triplets="all"),
}


@given(st.data(), batches(min_rows=2), MARGINS, st.booleans())
def test_pairs_agree_with_the_equation(data, batch, margins, mined):
    x, y = batch
    x = x + torch.arange(x.shape[1]).double().square()  # every anchor has a signal
    x = torch.cat([x, x[:, :1] * 3 - 1], dim=1)
    num = len(x)
    pairs = data.draw(listed(num, num)) if mined else None
    raw = distances.SNRDistance(normalize_embeddings=False)
    loss = SignalToNoiseRatioContrastiveLoss(
        *margins, distance=raw, reducer=reducers.DoNothingReducer()
    )
    result = loss(x, y, pairs)
    if not mined:
        same = y[:, None] == y
        positive = (same & ~torch.eye(num, dtype=torch.bool)).nonzero(as_tuple=True)
        pairs = (*positive, *(~same).nonzero(as_tuple=True))
    if (x.var(dim=1) < 1e-3).any():
        return
    for name, (a, b), sign, margin in (
        ("pos_loss", pairs[:2], 1, margins[0]),
        ("neg_loss", pairs[2:], -1, margins[1]),
    ):
        expected = [
            max(0.0, sign * (oracle.snr(x[i].tolist(), x[j].tolist()) - margin))
            for i, j in zip(a.tolist(), b.tolist(), strict=True)
        ]
        actual = result[name]["losses"]
        assert (actual.tolist() if len(expected) else []) == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("miner", MINERS)
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("with_ref", [True, False])
@pytest.mark.parametrize("reducer", [None, reducers.MeanReducer()], ids=str)
def test_equal_to_pml(miner, normalize, with_ref, reducer):
    y = torch.arange(5).repeat_interleave(torch.tensor([3, 5, 2, 1, 7]))[torch.randperm(18)]
    x = torch.randn(18, 12, dtype=torch.float64, requires_grad=True)
    ref = torch.randn(18, 12, dtype=torch.float64, requires_grad=True) if with_ref else None
    mined = MINERS[miner](x, y) if MINERS[miner] else None
    distance = distances.SNRDistance(normalize_embeddings=normalize)
    options = {"pos_margin": 0.4, "neg_margin": 2.2, "distance": distance, "reducer": reducer}
    args = (x, y, mined, ref, y.clone()) if with_ref else (x, y, mined)
    leaves = [x, ref] if with_ref else [x]
    values = [
        cls(**options)(*args)
        for cls in (
            SignalToNoiseRatioContrastiveLoss,
            losses.SignalToNoiseRatioContrastiveLoss,
        )
    ]
    assert values[1] > 0.1
    torch.testing.assert_close(*values, rtol=1e-10, atol=1e-10)
    for mine, other in zip(*(torch.autograd.grad(v, leaves) for v in values), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-10)


def test_defaults_are_those_of_pml():
    x, y = torch.randn(12, 5, dtype=torch.float64), torch.arange(12) // 3
    ours = SignalToNoiseRatioContrastiveLoss()
    theirs = losses.SignalToNoiseRatioContrastiveLoss()
    torch.testing.assert_close(ours(x, y), theirs(x, y), rtol=1e-10, atol=1e-10)
    assert ours.sub_loss_names() == theirs.sub_loss_names()


def test_another_distance_is_refused():
    with pytest.raises(ValueError, match=r"^distance: expected SNRDistance; got LpDistance"):
        SignalToNoiseRatioContrastiveLoss(distance=distances.LpDistance())
