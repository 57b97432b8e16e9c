import copy
import pickle

import pytest
import torch
from pytorch_metric_learning import distances, losses, reducers

from pml_extras.losses.zabihzadeh_ensemble import zabihzadeh_ensemble, zabihzadeh_param_groups
from pml_extras.testing import check_loss, promises
from pml_extras.weighting import FixedWeights

CLASSES, FEATURES, SIZE = 5, 8, 6
NAMES = ["classification", "triplet", "binomial", "proxy_nca"]
PRIOR = {"classification": 0.25, "triplet": 0.125, "binomial": 0.25, "proxy_nca": 0.375}


def ensemble_of(*, seed=3, dtype=torch.float64, **options):
    torch.manual_seed(seed)
    return zabihzadeh_ensemble(CLASSES, FEATURES, SIZE, **options).to(dtype)


def batch_of(num=20, seed=1, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(num, FEATURES, generator=generator, dtype=dtype)
    return x, torch.arange(num) % CLASSES


def mined_of(x, labels):
    """(a, p, n) of the authors' rule, in loops: 0 < D_an - D_ap <= 0.1."""
    unit = torch.nn.functional.normalize(x)
    d = [[(a - b).norm().item() for b in unit] for a in unit]
    rows = range(len(x))
    return {
        (a, p, n)
        for a in rows for p in rows for n in rows
        if a != p and labels[a] == labels[p] and labels[a] != labels[n]
        and 0 < d[a][n] - d[a][p] <= 0.1
    }  # fmt: skip


def test_members_and_constants():
    ensemble = ensemble_of()
    members = ensemble.losses
    assert list(members) == list(ensemble.heads) == NAMES
    assert list(ensemble.miners) == ["triplet"]
    assert members["classification"].label_smoothing == 0.15
    assert members["classification"].hidden_size is None
    assert members["triplet"].margin == 1
    assert members["triplet"].distance.normalize_embeddings
    binomial = members["binomial"]
    assert (binomial.scale_pos, binomial.scale_neg, binomial.threshold) == (2, 25, 0.5)
    assert binomial.per_anchor
    proxy_nca = members["proxy_nca"]
    assert (proxy_nca.softmax_scale, proxy_nca.label_smoothing) == (3, 0.1)
    assert proxy_nca.proxies.shape == members["classification"].classifier.weight.shape
    assert (ensemble.diversity_weight, ensemble.diversity_margin) == (0.01, 2)
    assert ensemble.scale == "cumulative"
    assert ensemble.max_scale is None
    assert zabihzadeh_ensemble(3, 5).losses["proxy_nca"].proxies.shape == (3, 64)


def test_weights_start_at_the_published_prior_with_the_published_floor():
    ensemble = ensemble_of()
    assert ensemble.loss_weights() == pytest.approx(PRIOR)
    roots = dict(zip(NAMES, ensemble.weighting.roots.tolist(), strict=True))
    for name, weight in PRIOR.items():
        assert roots[name] ** 2 == pytest.approx(weight - 1 / 16)
    assert "weight_sum_penalty" in ensemble.sub_loss_names()


def test_the_first_batch_is_the_mean_of_the_four_and_the_diversity_of_heads():
    x, labels = batch_of()
    ensemble = ensemble_of().train()
    outputs = {name: head(x) for name, head in ensemble.heads.items()}
    found = []
    for name, loss in ensemble.losses.items():
        mined = ensemble.miners["triplet"](outputs[name], labels) if name == "triplet" else None
        found.append(loss(outputs[name], labels, mined).item())
    assert min(found) > 0
    apart = [
        (outputs[a] - outputs[b]).norm(dim=1).mean().item()
        for i, a in enumerate(NAMES) for b in NAMES[i + 1 :]
    ]  # fmt: skip
    expected = sum(found) / 4 + 0.01 * (2 - sum(apart) / 6)
    assert ensemble(x, labels).item() == pytest.approx(expected, rel=1e-6)


def test_heads_are_unit_vectors_and_so_is_what_is_retrieved_with():
    x, _ = batch_of()
    ensemble = ensemble_of()
    for head in ensemble.heads.values():
        torch.testing.assert_close(head(x).norm(dim=1), torch.ones(20).double())
        expected = torch.nn.functional.normalize(x @ head[0].weight.T + head[0].bias)
        torch.testing.assert_close(head(x), expected)
    embedded = ensemble.embed(x)
    assert embedded.shape == (20, 4 * SIZE)
    torch.testing.assert_close(embedded.norm(dim=1), torch.ones(20).double(), rtol=1e-6, atol=1e-6)
    squared = sum(
        PRIOR[name] * torch.cdist(head(x), head(x)).square()
        for name, head in ensemble.heads.items()
    )
    torch.testing.assert_close(torch.cdist(embedded, embedded).square(), squared)


def test_each_mined_triplet_costs_between_nine_tenths_and_one():
    x, labels = batch_of(40)
    ensemble = ensemble_of()
    x = ensemble.heads["triplet"](x)
    mined = ensemble.miners["triplet"](x, labels)
    assert {*zip(*(i.tolist() for i in mined), strict=True)} == mined_of(x, labels)
    loss = copy.deepcopy(ensemble.losses["triplet"])
    loss.reducer = reducers.DoNothingReducer()
    costs = loss(x, labels, mined)["loss"]["losses"]
    assert len(costs) == len(mined[0]) > 50
    assert (costs >= 0.9).all()
    assert (costs < 1).all()
    assert ensemble.losses["triplet"](x, labels, mined) == costs.mean()


def test_n_pair_of_pml_is_a_cross_entropy_of_anchors_against_positives():
    """Listed among the authors' losses, not among the four."""
    x, labels = batch_of(10)  # two rows a class: anchors 0 to 4, positives 5 to 9
    value = losses.NPairsLoss(distance=distances.DotProductSimilarity(normalize_embeddings=False))
    logits = x[:5] @ x[5:].T
    apart = logits - logits.diagonal()[:, None]
    expected = apart.exp().sum(dim=1).log().mean()  # j = i supplies the 1
    torch.testing.assert_close(value(x, labels), expected)
    torch.testing.assert_close(expected, torch.nn.functional.cross_entropy(logits, torch.arange(5)))


def test_one_published_step_moves_every_parameter():
    x, labels = batch_of(dtype=torch.float32)
    ensemble = ensemble_of(dtype=torch.float32).train()
    trunk = torch.nn.Linear(FEATURES, FEATURES)
    optimizer = torch.optim.Adam(
        [{"params": trunk.parameters()}, *zabihzadeh_param_groups(ensemble)],
        lr=1e-4, eps=0.01, weight_decay=1e-4,
    )  # fmt: skip
    trained = [*trunk.parameters(), *ensemble.parameters()]
    before = [p.detach().clone() for p in trained]
    for _ in range(3):
        optimizer.zero_grad()
        loss = ensemble(trunk(x), labels)
        loss.backward()
        optimizer.step()
    assert loss.isfinite()
    for a, b in zip(before, trained, strict=True):
        assert not torch.equal(a, b)


def test_param_groups_have_the_published_rates():
    ensemble = ensemble_of()
    groups = zabihzadeh_param_groups(ensemble)
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    assert rates.keys() == {id(p) for p in ensemble.parameters()}
    assert sum(len(group["params"]) for group in groups) == len(rates)
    assert {group["weight_decay"] for group in groups} == {1e-4}
    expected = {
        "losses.classification": 1e-3, "losses.proxy_nca": 0.015, "heads": 1e-3, "weighting": 1e-4
    }  # fmt: skip
    for name, p in ensemble.named_parameters():
        (rate,) = (rate for start, rate in expected.items() if name.startswith(start))
        assert rates[id(p)] == pytest.approx(rate), name
    doubled = zabihzadeh_param_groups(ensemble, lr=2e-4, weight_decay=0.5)
    assert [g["lr"] for g in doubled] == pytest.approx([2 * g["lr"] for g in groups])
    assert {g["weight_decay"] for g in doubled} == {0.5}


def test_options_reach_the_ensemble():
    fixed = FixedWeights()
    ensemble = ensemble_of(
        weighting=fixed,
        scale=None,
        diversity_weight=0.0,
        diversity_margin=1.5,
        reducer=reducers.DoNothingReducer(),
    )
    assert ensemble.weighting is fixed
    assert ensemble.scale is None
    assert ensemble.diversity_margin == 1.5
    x, labels = batch_of()
    assert list(ensemble(x, labels)) == NAMES
    assert ensemble_of(max_scale=10.0).max_scale == 10.0
    groups = zabihzadeh_param_groups(ensemble)
    assert sum(len(g["params"]) for g in groups) == len(list(ensemble.parameters()))


def test_it_pickles_and_copies_in_the_middle_of_training():
    x, labels = batch_of()
    ensemble = ensemble_of().train()
    ensemble(x, labels)
    ensemble.eval()
    for same in (copy.deepcopy(ensemble), pickle.loads(pickle.dumps(ensemble))):
        assert same(x, labels) == ensemble(x, labels)
        assert torch.equal(same.embed(x), ensemble.embed(x))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": 1}, "num_classes: expected an integer >= 2; got 1"),
        ({"feature_size": 0}, "feature_size: expected an integer >= 1; got 0"),
        ({"embedding_size": 0}, "embedding_size: expected an integer >= 1; got 0"),
    ],
)
def test_sizes_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        zabihzadeh_ensemble(**{"num_classes": 5, "feature_size": 8, **arguments})


@pytest.mark.parametrize("seed", [0, 1])
def test_it_keeps_its_promises(seed):
    def factory(**others):
        return zabihzadeh_ensemble(
            **{"num_classes": 5, "feature_size": 8, "embedding_size": 6, **others}
        )

    report = check_loss(
        factory,
        labels_index_classes=True,
        num_classes=5,
        seed=seed,
        promises=promises(without="memory"),  # pml's triplet miner and loss are cubic
        out_of_range={"diversity_weight": -1.0, "scale": 1.0, "max_scale": 0.5},
    )
    report.raise_if_broken()
