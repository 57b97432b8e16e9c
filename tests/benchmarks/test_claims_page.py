"""docs/claims.md is made of the records: every claim with its verdict, or how to measure it."""

import re
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

import pml_extras.losses
import pml_extras.pooling
from benchmarks.command_line import app
from benchmarks.recipes import BUDGETS, RECIPES, TABLES
from benchmarks.recipes.claims import ENSEMBLE, FIELD, LIFTED, PAPERS, POOLING, claims_on
from benchmarks.records import Record
from benchmarks.reporting import claims_page, tables
from benchmarks.reporting.claims_page import Measured, measured, page, verdicts
from benchmarks.reporting.pictures import pictures_of
from benchmarks.reporting.selection import select
from pml_extras.losses import PotentialFieldLoss

MadeUp = Callable[..., Record]
CLAIMS = [claim for paper in PAPERS for claim in paper.claims]
NOISE, CLEAN = "clinc150_tfidf_noise", "clinc150_tfidf"
UNDER_NOISE = "Label noise of 20 % takes less from potential field"


def found(made_up: MadeUp, **recalls: dict[str, list[float]]) -> Measured:
    """Recall@1 by data set, recipe and seed."""
    return measured(
        [
            select(
                dataset,
                [
                    made_up(recipe, seed, recall, dataset)
                    for recipe, values in rows.items()
                    for seed, recall in enumerate(values)
                ],
            )
            for dataset, rows in recalls.items()
        ]
    )


def overview(text: str) -> list[list[str]]:
    """Cells of the rows of the first table: claim, data set, verdict, why."""
    lines = [line for line in text.partition("\n## ")[0].splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def section(text: str, title: str) -> str:
    return text.split(f"### {title}\n")[1].split("\n#")[0]


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.title)
def test_claims_are_about_rows_of_the_tables(claim: claims_page.Claim) -> None:
    rows = {name for dataset in claim.datasets for pair in claim.pairs(dataset) for name in pair}
    assert rows == {*claim.better, *claim.worse} <= set(RECIPES)
    for dataset in claim.datasets:
        assert claim.pairs(dataset), dataset
    assert not set(claim.better) & set(claim.worse)
    assert claim.source
    assert claim.clean is None or claim.clean in TABLES


def test_sweeps_claim_more_of_what_they_sweep_and_noise_is_that_of_the_paper() -> None:
    claims = {claim.title.split(" ")[0]: claim for claim in FIELD.claims}
    for title, argument, others in (
        ("A", "alpha", [0, 0.5, 1, 2]),
        ("15", "proxies_per_class", [0, 1, 4, 5, 10]),
    ):
        claim = claims[title]
        (best,) = (RECIPES[name].loss_args.get(argument, 3.0) for name in claim.better)
        assert sorted(RECIPES[name].loss_args[argument] for name in claim.worse) == others
        assert max(others) < best
    assert claims["A"].better == ("potential_field",)  # whose exponent is the default
    assert PotentialFieldLoss(num_classes=2, embedding_size=2).alpha == 3
    for title in ("Under", "Label"):
        assert claims[title].datasets == (NOISE,)
    assert BUDGETS[NOISE] == replace(BUDGETS[CLEAN], label_noise=0.2)


@pytest.mark.parametrize("paper", [ENSEMBLE, POOLING, LIFTED], ids=lambda paper: paper.title)
def test_the_method_of_a_paper_is_what_is_claimed_to_be_better(paper: claims_page.Paper) -> None:
    for claim in paper.claims:
        assert all(_is_of(name, paper.classes) for name in claim.better)
        if claim.worse != ("gsp",):  # what the zero-shot loss is added to
            assert not any(_is_of(name, paper.classes) for name in claim.worse)


def _is_of(name: str, classes: tuple[str, ...]) -> bool:
    """Whether a recipe has one of a paper's classes, or makes an ensemble of losses."""
    recipe = RECIPES[name]
    made = {getattr(part, "__name__", "") for part in (recipe.loss, recipe.pooling)}
    return bool(made & set(classes)) or name.startswith("ensemble")


def test_titles_are_unique_and_classes_public() -> None:
    titles = [claim.title for claim in CLAIMS]
    assert len(set(titles)) == len(titles)
    for name in (name for paper in PAPERS for name in paper.classes):
        assert hasattr(pml_extras.losses, name) or hasattr(pml_extras.pooling, name)


def test_without_results_every_claim_says_so_and_its_commands_are_accepted() -> None:
    text = page({})
    assert [cells[2] for cells in overview(text)] == ["not measured"] * len(CLAIMS)
    commands = set(re.findall(r"^python -m benchmarks (run .*)$", text, flags=re.MULTILINE))
    for claim in CLAIMS:
        for dataset in filter(None, (*claim.datasets, claim.clean)):
            assert any(f"--dataset {dataset} " in command for command in commands)
            assert f"--dataset {dataset} " in section(text, claim.title)
    for command in sorted(commands):
        done = CliRunner().invoke(app, [*shlex.split(command), "--dry-run"])
        assert done.exit_code == 0, (command, done.output)


def test_a_measured_claim_has_its_verdict_its_differences_and_what_is_missing(
    made_up: MadeUp,
) -> None:
    text = page(
        found(
            made_up,
            omniglot={
                "lifted_structure_raw": [0.60, 0.71, 0.80],
                "contrastive": [0.70, 0.80, 0.91],  # .10, .09, .11 more
                "triplet_semihard": [0.99],
            },
        )
    )
    title = "Lifted structure retrieves better than contrastive and triplet loss"
    assert [cells[1:] for cells in overview(text) if cells[0] == title] == [
        [
            "`omniglot`",
            "contradicted",
            "of 2 comparisons 1 the other way round, 1 not measured",
        ]
    ]
    of_claim = section(text, title)
    assert "**`omniglot`: contradicted.** 3 seeds (0, 1, 2), cpu, 1 threads, from [" in of_claim
    (line,) = [line for line in of_claim.splitlines() if line.startswith("| Lifted")]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    # mean -10, half 4.302653 * 1 / sqrt(3) = 2.48; t = 17.32, p = .0033, of two comparisons
    assert cells == [
        "Lifted structure (ours), raw rows minus Contrastive",
        *("3", "-10.0 ± 2.5", "0.007", "-5.0 ± 1.2"),
    ]
    (command,) = re.findall(r"^python -m .*$", of_claim, flags=re.MULTILINE)
    assert command.endswith("--dataset omniglot --recipes triplet_semihard")


def test_the_fall_under_noise_is_taken_from_the_clean_data_set(made_up: MadeUp) -> None:
    others = ("proxy_anchor", "smoothed_proxy_nca", "multi_similarity", "triplet_semihard")
    noisy = {"potential_field": [0.50, 0.40, 0.31], **{n: [0.30, 0.22, 0.10] for n in others}}
    clean = {"potential_field": [0.60, 0.50, 0.40], **{n: [0.90, 0.80, 0.70] for n in others}}
    both = found(made_up, **{NOISE: noisy, CLEAN: clean})
    of_claim = section(page(both), UNDER_NOISE)
    assert f"**`{NOISE}`: confirmed.**" in of_claim
    assert f"Falls are from `{CLEAN}` on the same seeds" in of_claim
    # falls of .10, .10, .09 and .60, .58, .60: 50, 48 and 51 points, half 4.302653 * 1.528 / 1.732
    assert of_claim.count(" +49.7 ± 3.8 ") == len(others)
    assert "Not measured yet" not in of_claim
    noise_alone = section(page(found(made_up, **{NOISE: noisy})), UNDER_NOISE)
    assert "confirmed" not in noise_alone
    assert re.findall(r"--dataset (\w+)", noise_alone) == [CLEAN]
    other = {key: of for key, of in both.items() if of.dataset == NOISE} | {
        (CLEAN, "quick"): replace(both[CLEAN, "quick"], budget={"epochs": 99})
    }
    of_another_budget = section(page(other), UNDER_NOISE)
    assert re.findall(r"--dataset (\w+)", of_another_budget) == [NOISE, CLEAN]


def test_the_overview_counts_verdicts_by_class_and_links_to_the_section(made_up: MadeUp) -> None:
    collages = {
        "gsp": [0.60, 0.71, 0.80],
        "average_pooling": [0.50, 0.60, 0.71],
        "gsp_zero_shot": [0.61, 0.70, 0.80],
        "max_pooling": [0.90, 0.91, 0.99],
        "gem_pooling": [0.90, 0.91, 0.99],
    }
    counted = verdicts(found(made_up, omniglot_collage=collages))
    verdicts_there = [
        cells[1:3] for cells in overview(page(found(made_up, omniglot_collage=collages)))
    ]
    assert ["`omniglot_collage`", "contradicted"] in verdicts_there
    expected = "[1 confirmed, 1 not decided]"  # of poolings beside it nothing was read
    place = "docs/claims.md#generalized-sum-pooling"
    assert counted["GeneralizedSumPooling"] == f"{expected}({place})"
    assert counted["LiftedStructureLoss"] == "[not measured](docs/claims.md#lifted-structure)"
    headings = re.findall(r"^## (.*)$", page({}), flags=re.MULTILINE)
    for link in counted.values():
        assert link.split("#")[1][:-1] in {title.lower().replace(" ", "-") for title in headings}


def test_a_table_says_in_words_what_it_decides(made_up: MadeUp) -> None:
    rows = {
        "ibc": [0.60, 0.71, 0.80],
        "ibc_auxiliary": [0.50, 0.60, 0.71],
        "ibc_no_attention": [0.60, 0.70, 0.81],
        "ibc_network_only": [0.70, 0.80, 0.91],
        "proxy_anchor": [0.50, 0.60, 0.71],
    }
    (selection,) = found(made_up, omniglot_validation=rows).values()
    lines = tables.claims_in_words(selection).splitlines()
    assert lines[0] == "Claims of the papers, judged by Recall@1 as in `docs/claims.md`:"
    assert [re.sub(r".*: \*\*", "**", line) for line in lines[2:]] == [
        "**confirmed**; of 1 comparison 1 as claimed.",
        "**not decided**; of 1 comparison 1 undecided.",
        "**contradicted**; of 1 comparison 1 the other way round.",
        "**not decided**; of 2 comparisons 1 as claimed, 1 not measured.",
    ]
    assert tables.claims_in_words(selection) in tables.table(selection)
    (alone,) = found(made_up, omniglot_validation={"ibc": [0.6, 0.7]}).values()
    assert tables.claims_in_words(alone) == ""


def test_a_claim_of_a_fall_is_not_judged_below_a_table() -> None:
    assert UNDER_NOISE not in {claim.title for claim in claims_on(NOISE)}
    assert [claim.title for claim in claims_on(NOISE)] == [
        "Under 20 % label noise potential field is ahead"
    ]


def test_protocols_are_judged_apart(made_up: MadeUp, tmp_path: Path) -> None:
    def record(recipe: str, seed: int, recall: float) -> Record:
        made = made_up(recipe, seed, recall, "omniglot")
        made["settings"] = {
            **made["settings"],
            "protocol": {"name": "paper", "epoch_selected_on": "test", "found": None},
        }
        return made

    recalls = {"lifted_structure_raw": 0.9, "contrastive": 0.5, "triplet_semihard": 0.4}
    under = [
        record(recipe, seed, recall + (seed + len(recipe) % 3) % 2 / 100)
        for recipe, recall in recalls.items()
        for seed in (0, 1, 2)
    ]
    both = {
        **found(made_up, omniglot={name: [0.5, 0.6] for name in recalls}),
        **measured([select("omniglot", under, "paper")]),
    }
    text = page(both)
    of_lifted = [cells[1:3] for cells in overview(text) if cells[0].startswith("Lifted")]
    assert of_lifted == [["`omniglot`", "not decided"], ["`omniglot_paper`", "confirmed"]]


def test_a_command_measures_what_is_missing_beside_what_is_there(made_up: MadeUp) -> None:
    def record(recipe: str, seed: int) -> Record:
        made = made_up(recipe, seed, 0.5 + seed / 10, "clinc150_tfidf")
        rules = {"name": "reality-check", "trials": 5, "folds": 4, "max_epochs": 6, "found": {}}
        made["settings"] = {**made["settings"], "protocol": rules}
        return made

    there = [
        record(recipe, seed)
        for recipe in ("potential_field", "proxy_anchor", "multi_similarity")
        for seed in (0, 1)
    ]
    text = page(measured([select("clinc150_tfidf", there, "reality-check")]))
    assert (
        "python -m benchmarks run --dataset clinc150_tfidf --protocol reality-check --trials 5 "
        "--seeds 0 1 --recipes normalized_softmax\n" in text
    )


def test_rows_with_budgets_of_their_own_are_compared_with_none_of_another(made_up: MadeUp) -> None:
    def record(recipe: str, seed: int, epochs: int) -> Record:
        made = made_up(recipe, seed, 0.5 + seed / 10 + len(recipe) / 100, "omniglot")
        made["settings"] = {
            **made["settings"],
            "budget": {**made["settings"]["budget"], "epochs": epochs},
            "protocol": {"name": "paper", "epoch_selected_on": "test", "found": None},
        }
        return made

    longer = {"lifted_structure_raw": 8, "contrastive": 8, "triplet_semihard": 2}
    records = [record(recipe, seed, n) for recipe, n in longer.items() for seed in (0, 1)]
    (selection,) = measured([select("omniglot", records, "paper")]).values()
    of_claim = section(page({("omniglot", "paper"): selection}), LIFTED.claims[0].title)
    assert " minus Contrastive " in of_claim
    assert " minus Triplet" not in of_claim
    assert "of 2 comparisons 1 as claimed, 1 not measured" in tables.table(selection)
    assert "forest" not in {picture.name for picture in pictures_of(selection)}
    alike = replace(selection, methods=selection.methods[:2], budget=BUDGETS["omniglot"].settings())
    assert "forest" in {picture.name for picture in pictures_of(alike)}
