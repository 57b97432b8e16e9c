"""Wrong labels: how many, which ones, and whose."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.datasets import Data
from benchmarks.label_noise import noisy, with_label_noise
from benchmarks.recipes import BUDGETS, RECIPES, Budget, digest
from benchmarks.run import run

CPU = torch.device("cpu")


@given(
    labels=st.lists(st.integers(0, 4), min_size=1, max_size=60),
    share=st.floats(0, 0.99),
    seed=st.integers(0, 2**31),
)
def test_exactly_the_share_is_wrong_and_within_the_classes(
    labels: list[int], share: float, seed: int
) -> None:
    given_labels = torch.tensor(labels)
    found = noisy(given_labels, share, 5, seed)
    assert int((found != given_labels).sum()) == round(share * len(labels))
    assert found.min() >= 0
    assert found.max() < 5
    assert given_labels.tolist() == labels


def test_every_other_class_and_every_label_is_as_likely() -> None:
    labels = torch.arange(4).repeat_interleave(3000)
    found = noisy(labels, 0.6, 4, seed=5)
    counts = torch.zeros(4, 4)
    counts.index_put_((labels, found), torch.ones(len(labels)), accumulate=True)
    # binomial, 3000 draws: standard deviations 27 at 0.4 and 22 at 0.2; four of them
    expected = torch.full((4, 4), 600.0).fill_diagonal_(1200.0)
    assert (counts - expected).abs().max() < 110


def test_noise_is_fixed_by_the_seed_of_the_run() -> None:
    labels = torch.arange(5).repeat(40)
    assert torch.equal(noisy(labels, 0.3, 5, 1), noisy(labels, 0.3, 5, 1))
    assert not torch.equal(noisy(labels, 0.3, 5, 1), noisy(labels, 0.3, 5, 2))


def test_labels_of_validation_and_test_classes_stay(parted: Data) -> None:
    found = with_label_noise(parted, 0.5, 0)
    assert found.test is parted.test
    assert found.validation is parted.validation
    assert found.train.images is parted.train.images
    assert not torch.equal(found.train.labels, parted.train.labels)
    assert with_label_noise(parted, 0.0, 0) is parted


def test_a_run_trains_on_wrong_labels_and_says_so(few: Data, budget: Budget) -> None:
    clean, wrong = (
        run(RECIPES["proxy_anchor"], few, 0, replace(budget, label_noise=share), device=CPU)
        for share in (0.0, 0.4)
    )
    assert clean.curve[0] == wrong.curve[0]
    assert clean.curve[1] != wrong.curve[1]
    assert wrong.settings["budget"]["label_noise"] == 0.4
    assert "label_noise" not in clean.settings["budget"]
    assert clean.settings_hash != wrong.settings_hash


def test_recipes_of_a_seed_share_their_wrong_labels(
    few: Data, budget: Budget, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[torch.Tensor] = []

    def watched(data: Data, share: float, seed: int) -> Data:
        found = with_label_noise(data, share, seed)
        seen.append(found.train.labels)
        return found

    monkeypatch.setattr("benchmarks.run.with_label_noise", watched)
    for name in ("contrastive", "proxy_anchor"):
        run(RECIPES[name], few, 4, replace(budget, label_noise=0.2), device=CPU)
    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[0], few.train.labels)


def test_without_noise_the_settings_are_those_of_before() -> None:
    settings = RECIPES["contrastive"].settings("digits", BUDGETS["digits"])
    noise = RECIPES["contrastive"].settings("digits", replace(BUDGETS["digits"], label_noise=0.1))
    assert digest(settings) != digest(noise)
    assert "label_noise" not in settings["budget"]


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_a_share_that_is_none_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="label_noise: expected a share, 0 or more and less than"):
        replace(BUDGETS["digits"], label_noise=share)
