"""Under a protocol: what a record says, which epoch counts, and that no table mixes two."""

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks import watch
from benchmarks.campaign import carry_out, plan
from benchmarks.datasets import Data
from benchmarks.evaluate import evaluate
from benchmarks.protocols import (
    PAPER,
    PROTOCOLS,
    QUICK,
    REALITY_CHECK,
    Protocol,
    protocol_name,
    shared_settings,
)
from benchmarks.recipes import BUDGETS, RECIPES, TABLES, digest
from benchmarks.recipes.claimed import CLAIMED
from benchmarks.records import Record, read
from benchmarks.reporting import tables
from benchmarks.reporting.selection import protocols_of, select
from benchmarks.run import run
from tests.benchmarks.few_features import BUDGET, few_features

CPU = torch.device("cpu")
MadeUp = Callable[..., Record]
FOUND = {"budget.trunk_lr": 1e-3, "budget.epochs": 3, "loss.neg_margin": 0.75}
SETTLED = replace(REALITY_CHECK, trials=3, folds=2).settled(FOUND, max_epochs=5)
LONGER = replace(BUDGET, epochs=3)


def under(record: Record, protocol: Protocol) -> Record:
    """A made-up record of this protocol."""
    said = protocol.settings_of(RECIPES[record["recipe"]], record["dataset"], BUDGETS["digits"])
    return {**record, "settings": said, "settings_hash": digest(said)}


def test_quick_adds_nothing_to_the_settings_and_every_other_protocol_says_what_it_did() -> None:
    recipe, budget = RECIPES["contrastive"], BUDGETS["digits"]
    plain = recipe.settings("digits", budget)
    assert QUICK.settings_of(recipe, "digits", budget) == plain
    hashes = {
        digest(p.settings_of(recipe, "digits", budget)) for p in (*PROTOCOLS.values(), SETTLED)
    }
    assert len(hashes) == 4
    assert PAPER.settings_of(recipe, "digits", budget)["protocol"] == {
        "name": "paper",
        "epoch_selected_on": "test",
        "test_classes_chose_something": True,
        "trials": 0,
        "folds": 0,
        "max_epochs": None,
        "found": None,
    }
    assert SETTLED.settings_of(recipe, "digits", budget) == {
        **plain,
        "protocol": {
            "name": "reality-check",
            "epoch_selected_on": "validation",
            "test_classes_chose_something": False,
            "trials": 3,
            "folds": 2,
            "max_epochs": 5,
            "found": FOUND,
        },
    }


def test_the_reality_check_has_the_trials_folds_and_repeats_of_its_paper() -> None:
    assert (REALITY_CHECK.trials, REALITY_CHECK.folds, len(set(REALITY_CHECK.seeds))) == (50, 4, 10)


def test_paper_reports_the_epoch_with_the_best_recall_of_the_test_classes() -> None:
    result = run(RECIPES["contrastive"], few_features(), 0, LONGER, device=CPU, protocol=PAPER)
    recalls = [point["recall_at_1"] for point in result.curve[1:]]
    assert result.selected_on == "test"
    assert result.selected_epoch == 1 + recalls.index(max(recalls))
    assert result.metrics["recall_at_1"] == max(recalls)
    assert result.settings_hash == digest(result.settings)
    assert protocol_name(result.settings) == "paper"


def test_after_a_search_the_test_classes_are_evaluated_once_with_the_same_outcome(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = few_features()
    seen: list[int] = []

    def counted(*given: Any, **named: Any) -> Any:
        seen.append(1)
        return evaluate(*given, **named)

    every = run(RECIPES["contrastive"], data, 0, LONGER, device=CPU)
    monkeypatch.setattr(watch, "evaluate", counted)
    once = run(RECIPES["contrastive"], data, 0, LONGER, device=CPU, protocol=SETTLED)
    assert len(seen) == 1
    assert once.metrics == every.metrics
    assert [set(point) for point in once.curve] == [
        {"epoch"},
        *[{"epoch", "loss", "statistics"}] * 2,
        {"epoch", "loss", "statistics", "recall_at_1", "mean_average_precision_at_r"},
    ]
    assert (once.selected_epoch, once.selected_on) == (3, None)
    floor = run(RECIPES["untrained"], data, 0, LONGER, device=CPU, protocol=SETTLED)
    assert floor.metrics == run(RECIPES["untrained"], data, 0, LONGER, device=CPU).metrics


class BrokenOffError(Exception):
    """Instead of a power cut."""


def test_a_final_run_that_was_broken_off_ends_like_an_unbroken_one(tmp_path: Path) -> None:
    left = [5]

    def step() -> None:
        left[0] -= 1
        if left[0] == 0:
            raise BrokenOffError

    def final(on_step: Callable[[], None] = lambda: None, file: Path | None = None) -> Any:
        result = run(
            RECIPES["proxy_anchor"],
            few_features(),
            0,
            LONGER,
            device=CPU,
            on_step=on_step,
            unfinished=file,
            protocol=SETTLED,
        )
        found = asdict(result)
        return {name: found[name] for name in ("settings", "metrics", "curve", "neighbours")}

    file = tmp_path / "run.pt"
    with pytest.raises(BrokenOffError):
        final(step, file)
    assert file.is_file()
    assert final(file=file) == final()


def test_runs_of_one_protocol_are_no_runs_of_another(tmp_path: Path) -> None:
    data, recipe = few_features(), RECIPES["untrained"]

    def do(protocol: Protocol) -> int:
        planned = plan([recipe], data.name, [0], BUDGET, tmp_path, protocol=protocol)
        carry_out(planned, data, BUDGET, tmp_path, device=CPU, protocol=protocol)
        return len(planned)

    assert [do(protocol) for protocol in (QUICK, PAPER, SETTLED, QUICK, PAPER, SETTLED)] == [
        *[1] * 3,
        *[0] * 3,
    ]
    assert protocols_of(read(tmp_path, data.name)) == ["quick", "paper", "reality-check"]


RUNS = st.lists(
    st.tuples(
        st.sampled_from(["contrastive", "proxy_anchor", "untrained"]),
        st.integers(0, 2),
        st.sampled_from(
            [QUICK, PAPER, SETTLED, replace(SETTLED, trials=9), replace(SETTLED, found={})]
        ),
    ),
    min_size=1,
    max_size=12,
)


@given(RUNS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_table_holds_two_protocols_or_two_numbers_of_trials(
    made_up: MadeUp, runs: list[tuple[str, int, Protocol]]
) -> None:
    records = [under(made_up(name, seed, 0.5), protocol) for name, seed, protocol in runs]
    names = protocols_of(records)
    assert sorted(names) == sorted({protocol.name for _, _, protocol in runs})
    for name in names:
        selection = select("digits", records, name)
        held = [record for method in selection.methods for record in method.runs.values()]
        assert {protocol_name(record["settings"]) for record in held} == {name}
        rules = [record["settings"].get("protocol", {}) for record in held]
        assert len({(found.get("trials"), found.get("folds")) for found in rules}) == 1
        assert selection.name == ("digits" if name == "quick" else f"digits_{name}")


def test_what_was_searched_keeps_no_two_methods_apart(made_up: MadeUp) -> None:
    budget = BUDGETS["digits"]
    one = SETTLED.settings_of(RECIPES["contrastive"], "digits", replace(budget, trunk_lr=0.5))
    other = replace(SETTLED, found={}).settings_of(
        RECIPES["untrained"], "digits", replace(budget, epochs=9, proxy_base_lr=0.1)
    )
    assert shared_settings(one) == shared_settings(other)
    wider = SETTLED.settings_of(RECIPES["contrastive"], "digits", replace(budget, embedding_size=2))
    assert shared_settings(one) != shared_settings(wider)
    quick = QUICK.settings_of(RECIPES["contrastive"], "digits", replace(budget, trunk_lr=0.5))
    assert shared_settings(quick)["trunk_lr"] == 0.5


def test_the_table_of_a_search_says_how_and_compares_with_the_best_baseline(
    made_up: MadeUp,
) -> None:
    recalls = {"potential_field": 0.9, "proxy_anchor": 0.8, "contrastive": 0.7, "untrained": 0.95}
    records = [
        under(made_up(name, seed, recall + seed / 100), SETTLED)
        for name, recall in recalls.items()
        for seed in (0, 1)
    ]
    text = tables.table(select("digits", records, "reality-check"))
    assert text.startswith("Protocol reality-check. Embedding size 128")
    assert "up to 250 iterations" in text  # 5 epochs of 50, before the search
    assert "in 3 trials on 2 folds" in text
    assert "Difference to Proxy Anchor, of 2 the best by mean Recall@1" in text
    assert "claimed" not in text
    paper = tables.table(select("digits", [under(r, PAPER) for r in records], "paper"))
    assert "at the epoch with their best Recall@1, which flatters every row" in paper


def test_claimed_numbers_stand_beside_the_measured_ones(made_up: MadeUp) -> None:
    records = [
        {**made_up(name, 0, 0.5), "dataset": "flowers"} for name in ("ensemble_heads", "untrained")
    ]
    text = tables.table(select("flowers", records))
    first = text.split("Difference to")[0].splitlines()
    rows = {line.split("|")[1].strip(): line.split("|") for line in first if line.startswith("| ")}
    column = [cell.strip() for cell in rows["method"]].index("claimed Recall@1")
    assert rows["Ensemble, a head a loss"][column].strip() == "94.7"
    assert rows["Untrained trunk"][column].strip() == ""
    (source,) = [
        line for line in text.splitlines() if line.startswith("- Ensemble, a head a loss: ")
    ]
    assert source.endswith(f"{CLAIMED['flowers']['ensemble_heads'][1]}.")


def test_claims_are_of_known_recipes() -> None:
    assert {name for claimed in CLAIMED.values() for name in claimed} <= set(RECIPES)


@pytest.mark.parametrize("dataset", [name for name in CLAIMED if name != "in_shop"])
def test_the_table_of_a_published_data_set_has_rows_with_a_claimed_number(
    made_up: MadeUp, dataset: str
) -> None:
    claimed = CLAIMED[dataset]
    rows = [name for name in TABLES[dataset].recipes if name in claimed]
    paper = [name for name in rows if name.startswith(("pfml", "ensemble"))]
    assert paper  # the method that the numbers are there for
    text = tables.table(select(dataset, [made_up(name, 0, 0.5, dataset) for name in rows]))
    for name in rows:
        number, source = claimed[name]
        (line,) = [x for x in text.splitlines() if x.startswith(f"| {RECIPES[name].title} ")][:1]
        assert line.split("|")[2].strip() == number
        assert f"- {RECIPES[name].title}: {source}." in text


@pytest.mark.parametrize(
    "changed",
    [
        {"selects_on": "validation"},
        {"selects_on": "validation", "trials": 5, "folds": 1},
        {"selects_on": "test", "trials": 5},
        {"folds": 4},
    ],
)
def test_a_protocol_that_cannot_be_is_refused(changed: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"trials, folds: expected"):
        Protocol("made up", **changed)


def test_validation_is_no_part_of_the_final_runs(parted: Data) -> None:
    result = run(RECIPES["untrained"], parted, 0, BUDGET, device=CPU, protocol=SETTLED)
    assert result.selected_on is None
