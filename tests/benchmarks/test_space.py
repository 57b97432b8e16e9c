"""Where searches look: around what recipes declare."""

from dataclasses import replace

import pytest

from benchmarks.recipes import BUDGETS, RECIPES
from benchmarks.recipes.space import Range


def test_every_space_holds_the_declared_settings_and_the_rates_that_matter() -> None:
    budgets = [BUDGETS["digits"], replace(BUDGETS["digits"], proxy_base_lr=7e-3)]
    for recipe in RECIPES.values():
        settings = recipe.settings("digits", budgets[0])
        for name, limits in recipe.space.items():
            part, setting = name.split(".")
            assert limits.low <= settings[part][setting] <= limits.high, (recipe.name, name)
        loss = recipe.make_loss(5, 8)
        assert ("budget.trunk_lr" in recipe.space) == (loss is not None)
        if loss is not None:
            rates = [[g["lr"] for g in recipe.groups(loss, budget)] for budget in budgets]
            assert ("budget.proxy_base_lr" in recipe.space) == (rates[0] != rates[1]), recipe.name


@pytest.mark.parametrize(
    ("low", "high", "log", "message"),
    [
        (1.0, 1.0, False, "low, high: expected two finite numbers in this order; got 1.0 and 1.0"),
        (0.0, float("inf"), False, "low, high: expected two finite"),
        (0.0, 1.0, True, "low: expected more than 0 for a logarithm; got 0.0"),
    ],
)
def test_a_range_that_is_none_is_refused(low: float, high: float, log: bool, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Range(low, high, "ours", log=log)
