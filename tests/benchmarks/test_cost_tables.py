"""Tables of costs."""

from typing import Any

from benchmarks.reporting import costs
from benchmarks.reporting.selection import Selection, select
from benchmarks.reporting.tables import MISSING
from tests.benchmarks.cost_records import record


def cells_of(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]


def test_tables_show_the_newest_measurement_and_leave_blanks() -> None:
    found = costs.newest(
        [
            record("LiftedStructureLoss", "ours", 256, 99.0, 99.0),
            record("LiftedStructureLoss", "ours", 256, 2.54, 2.85),
            record("LiftedStructureLoss", "theirs", 256, 1606.2, 1042.3),
            record("LiftedStructureLoss", "ours", 512, 7.0, None),
        ]
    )
    lines = cells_of(costs.cost_table(found))
    assert lines[0] == ["ms / MiB at rows", "256", "512"]
    assert lines[2] == ["`LiftedStructureLoss`", "2.5 ms / 2.9 MiB", f"7.0 ms / {MISSING} MiB"]
    assert lines[3] == ["pml: LiftedStructureLoss", "1606 ms / 1042 MiB", MISSING]
    assert len(lines) == 4
    overview = costs.overview_table(found, (), {})
    assert "1606 ms / 1042 MiB (LiftedStructureLoss)" in overview
    row = next(line for line in overview.splitlines() if "`PotentialFieldLoss`" in line)
    assert row.count(MISSING) == 4


def test_a_loss_that_pml_has_nothing_near_has_a_row_with_blanks() -> None:
    alone = costs.newest([record("DistancePreservingLoss", "ours", 256, 2.5, 1.0)])
    overview = costs.overview_table(alone, (), {})
    (row,) = (line for line in overview.splitlines() if "`DistancePreservingLoss`" in line)
    assert row.count(MISSING) == 3
    assert costs.cost_table(alone).count("`DistancePreservingLoss`") == 1
    assert "pml" not in costs.cost_table(alone)


def test_the_overview_takes_the_first_data_set_that_has_a_recipe(made_up: Any) -> None:
    def selection(dataset: str, **recalls: float) -> Selection:
        found = [made_up(recipe, 0, recall, dataset) for recipe, recall in recalls.items()]
        return select(dataset, found)

    overview = costs.overview_table(
        {},
        (
            selection("omniglot", ensemble_simplex=0.51),
            selection("omniglot_ensemble", ensemble_simplex=0.62, binomial_deviance=0.73),
        ),
        {"WeightedLossEnsemble": "[2 confirmed](page)"},
    )
    rows = {line.split("|")[1].strip(" `"): line for line in overview.splitlines()[2:]}
    assert "51.0 (Ensemble of losses)" in rows["WeightedLossEnsemble"]
    assert "[2 confirmed](page)" in rows["WeightedLossEnsemble"]
    assert "73.0 (Binomial deviance)" in rows["BinomialDevianceLoss"]
    assert rows["ClassificationLoss"].count(MISSING) == 4


def test_strategies_are_shown_over_the_bare_sum_of_the_same_rows() -> None:
    found = costs.newest(
        [
            record("ensemble", "sum", 128, 4.0, 1.0),
            record("ensemble", "simplex", 128, 4.5, 1.0),
            record("ensemble", "sum", 512, 20.0, 1.0),
            record("ensemble", "simplex", 512, 19.0, 1.0),
            record("ensemble", "mgda", 512, 50.0, 1.0),
        ]
    )
    lines = cells_of(costs.ensemble_table(found))
    rows = {line[0]: line[1:] for line in lines[2:]}
    assert lines[0][1:] == ["128", "512"]
    assert rows["bare sum of the three losses"] == ["4.00 ms", "20.00 ms"]
    assert rows["`LearnedSimplex`"] == ["4.50 ms, +12.5 %", "19.00 ms, -5.0 %"]
    assert rows["`MultipleGradientDescent`"] == [MISSING, "50.00 ms, +150.0 %"]
    assert costs.ensemble_table({}) == ""


def test_attention_has_a_table_of_its_own() -> None:
    found = costs.newest(
        [
            record("LiftedStructureLoss", "ours", 256, 2.54, 2.85),
            record("attention", "fused", 4096, 7.0, 30.0),
            record("attention", "dropout", 4096, 8.0, 2000.0),
        ]
    )
    assert "4096" not in costs.cost_table(found)
    lines = [line.split("|")[1].strip() for line in costs.attention_table(found).splitlines()]
    assert lines[2:] == ["fused", "fused, attention dropout 0.1"]
    assert costs.attention_table({}) == ""


def test_the_table_of_the_pooling_says_how_many_times_more() -> None:
    sides = {"weights": 2.0, "weights_unrolled": 9.0, "layer": 30.0, "average": 1.0}
    records = [record("pooling_49", side, 112, ms, ms) for side, ms in sides.items()]
    table = costs.pooling_table(costs.newest(records))
    assert "9.0 ms / 9.0 MiB, 4.5x its time, 4.5x its memory" in table
    assert "30 ms / 30 MiB |" in table
    assert "training step" not in table
    steps = [
        record("pooling_step", "average", 8, 1000.0, None),
        record("pooling_step", "layer", 8, 1050.0, None),
    ]
    assert costs.pooling_table(costs.newest(steps)).endswith(
        "1000 ms with average pooling and a linear layer, 1050 ms with `GeneralizedSumPooling`, "
        "+5.0 %."
    )
    steps[1]["milliseconds"] = 990.0
    assert costs.pooling_table(costs.newest(steps)).endswith(
        "`GeneralizedSumPooling`: no share shows."
    )
    assert costs.pooling_table({}) == ""


def test_a_table_of_fewer_sizes_has_no_other_column() -> None:
    found = costs.newest([record("PNPLoss", "ours", rows, 1.0, 2.0) for rows in (64, 256, 512)])
    assert cells_of(costs.cost_table(found, (256, 4096)))[0] == ["ms / MiB at rows", "256"]
    assert costs.cost_table(found, (128,)) == ""


def test_the_product_stands_above_the_losses_and_a_loss_is_shown_in_times_of_it() -> None:
    found = costs.newest(
        [
            record("PNPLoss", "ours", 256, 9.0, 2.0),
            record("product", "floor", 256, 2.0, 1.0),
            record("product", "lifted", 256, 5.0, 1.0),
            record("product", "lifted", 512, 5.0, 1.0),
            record("product", "floor", 64, 2.0, 1.0),
        ]
    )
    lines = cells_of(costs.cost_table(found))
    assert [line[0] for line in lines[2:]] == ["`X @ X.T`, then `S @ X`", "`PNPLoss`"]
    table = cells_of(costs.floor_table(found))
    assert table[0][1:] == ["256"]
    assert table[2] == ["`LiftedStructureLoss`", "2.50x"]
    assert costs.floor_table({}) == ""


def test_embeddings_of_another_type_have_tables_of_their_own() -> None:
    records = [
        record("PNPLoss", "ours", 64, 1.0, 1.0),
        record("PNPLoss", "ours", 64, 2.0, 1.0, dtype="bfloat16"),
        record("PNPLoss", "ours", 64, 3.0, 1.0, dtype="float32"),
    ]
    assert [r["milliseconds"] for r in costs.newest(records).values()] == [3.0]
    assert [r["milliseconds"] for r in costs.newest(records, "bfloat16").values()] == [2.0]


def old(loss: str, side: str, rows: int, ms: float) -> dict[str, Any]:
    made = record(loss, side, rows, ms, 1.0)
    del made["classes"]
    return made


def test_a_row_of_100_classes_says_so_and_never_mixes_with_others() -> None:
    first = [old("PNPLoss", side, rows, 1.0) for side in ("ours", "theirs") for rows in (64, 256)]
    lines = cells_of(costs.cost_table(costs.newest(first)))
    assert [line[0] for line in lines[2:]] == [
        "`PNPLoss` (100 classes)",
        "pml: PNPLoss (100 classes)",
    ]
    lines = cells_of(
        costs.cost_table(costs.newest([*first, record("PNPLoss", "ours", 64, 2.0, 1.0)]))
    )
    assert lines[2] == ["`PNPLoss`", "2.0 ms / 1.0 MiB", MISSING]
    assert lines[3][0] == "pml: PNPLoss (100 classes)"
    overview = costs.overview_table(costs.newest(first), (), {})
    (row,) = (line for line in overview.splitlines() if "`PNPLoss`" in line)
    assert row.count("(100 classes)") == 2
    strategies = costs.newest([old("ensemble", side, 128, 2.0) for side in ("sum", "simplex")])
    assert costs.ensemble_table(strategies).count("(100 classes)") == 2


def test_what_is_no_loss_has_no_classes_to_mark() -> None:
    assert "classes" not in costs.attention_table(
        costs.newest([old("attention", "fused", 64, 1.0)])
    )


def test_large_batches_have_a_table() -> None:
    found = costs.newest([record("large_batch", "chunks_8", 512, 2.0, 1.0)])
    assert "`cached_embeddings`, 8 chunks" in costs.large_batch_table(found)
    assert costs.large_batch_table({}) == ""
