"""``data verify``, ``data build``, and a run on a small folder of texts from end to end."""

import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner, Result

from benchmarks import data_commands, encoders
from benchmarks.command_line import app
from benchmarks.datasets import DATASETS, Data, clinc150, texts
from benchmarks.datasets.texts import ENCODER
from benchmarks.features import Encoder
from benchmarks.records import read
from tests.benchmarks.text_folders import clinc_folder, with_features


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def plain(result: Result) -> str:
    return " ".join(result.output.replace("│", " ").split())


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With a small clinc150, which the registry takes for the official one."""
    source = clinc_folder(tmp_path)
    for name, load in (("clinc150", clinc150.load), ("clinc150_tfidf", clinc150.load_tfidf)):
        small = replace(
            DATASETS[name],
            load=partial(load, source=source),
            source=source if DATASETS[name].source else None,
        )
        monkeypatch.setitem(DATASETS, name, small)
    monkeypatch.delenv("PML_EXTRAS_DATA", raising=False)
    return tmp_path


def made_up_encoder(width: int) -> Callable[[Path], Encoder]:
    def encode(rows: list[str]) -> Any:
        return np.array([[len(row) % (k + 2) for k in range(width)] for row in rows], float)

    return lambda weights: Encoder({"library": str(weights)}, width, encode)


def test_texts_train_from_end_to_end_and_are_reported(root: Path) -> None:
    run = ["run", "--dataset", "clinc150_tfidf", "--data-root", root, "--device", "cpu"]
    short = ["--epochs", 1, "--iterations", 2, "--seeds", 0, "--results", root / "results"]
    found = call(*run, *short, "--recipes", "potential_field_1", "contrastive", "untrained")
    assert found.exit_code == 0, found.output
    records = read(root / "results", "clinc150_tfidf")
    assert [record["recipe"] for record in records] == (
        ["potential_field_1", "contrastive", "untrained"]
    )
    floor = records[-1]["metrics"]["mean_average_precision_at_r"]
    assert [record["curve"][0]["mean_average_precision_at_r"] for record in records] == [floor] * 3
    assert 1 / 26 < floor < 1
    neighbours = records[0]["neighbours"]
    assert "png" not in neighbours
    assert all('"ü"?' in text for row in neighbours["texts"] for text in row)
    report = call("report", "--results", root / "results", "--output", root / "figures")
    assert report.exit_code == 0, report.output
    assert (root / "figures" / "clinc150_tfidf_neighbours.png").stat().st_size > 10_000


def test_a_smoke_run_trains_every_row_of_the_table(root: Path) -> None:
    found = call("run", "--dataset", "clinc150_tfidf", "--smoke", "--data-root", root)
    assert found.exit_code == 0, found.output
    assert "10 runs to do" in found.output
    assert "10/10" in found.output


def test_label_noise_is_another_run_and_the_table_says_so(root: Path) -> None:
    run = ["run", "--dataset", "clinc150_tfidf", "--data-root", root, "--recipes", "contrastive"]
    short = ["--epochs", 1, "--iterations", 1, "--seeds", 0, "--results", root / "results"]
    assert call(*run, *short).exit_code == 0
    assert "1 runs to do, 0 finished" in call(*run, *short, "--label-noise", 0.2).output
    assert "0 runs to do, 1 finished" in call(*run, *short, "--label-noise", 0.2).output
    report = call("report", "--results", root / "results", "--output", root / "figures")
    assert "20 % of the training labels wrong" in report.output
    refused = call(*run, *short, "--label-noise", 1)
    assert refused.exit_code == 2
    assert "label_noise: expected a share" in plain(refused)


def test_a_whole_copy_is_verified_and_counted(root: Path) -> None:
    found = call("data", "verify", "clinc150_tfidf", "--data-root", root)
    assert found.exit_code == 0, found.output
    assert "clinc150_tfidf test: 26 classes, 416 texts of shape (384,)" in found.output


def test_what_is_wrong_with_a_copy_is_said(root: Path) -> None:
    without = call("data", "verify", "clinc150", "--data-root", root)
    assert without.exit_code == 2
    assert "got neither. `python -m benchmarks data build clinc150" in plain(without)
    (root / "clinc150" / "data_full.json").write_text("{}")
    for name in ("clinc150", "clinc150_tfidf"):
        found = call("data", "verify", name, "--data-root", root)
        assert found.exit_code == 2
        assert "data_full.json: expected SHA-256" in plain(found)


def test_nothing_is_downloaded_to_be_verified(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("downloads unasked")

    monkeypatch.setattr("urllib.request.urlopen", forbidden)
    monkeypatch.setattr("benchmarks.datasets.omniglot.CACHE", root / "cache")
    for name in ("omniglot", "clinc150"):
        found = call("data", "verify", name)
        assert found.exit_code == 2
        assert f"{name}: expected a local copy; got neither --data-root nor" in plain(found)


def test_what_needs_no_folder_is_verified_without_one() -> None:
    assert "digits train: 5 classes, 901 images of shape (1, 28, 28)" in (
        call("data", "verify", "digits").output
    )


def test_features_of_texts_are_built_beside_them_and_then_loaded(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_commands, "sentence_encoder", made_up_encoder(384))
    built = call("data", "build", "clinc150", "--weights", "model", "--data-root", root)
    assert built.exit_code == 0, built.output
    assert f"832 rows of 384 features in {root / 'clinc150' / ENCODER}.npy" in built.output
    data: Data = DATASETS["clinc150"].load(root)
    assert data.test.texts is not None
    first = torch.tensor([float(len(text) % 2) for text in data.test.texts])
    assert torch.equal(data.test.images[:, 0], first)
    found = texts.read(DATASETS["clinc150"].source or clinc150.SOURCE, root)
    with_features(found.folder, found.labels.tolist(), found.names)
    assert torch.equal(DATASETS["clinc150"].load(root).test.images, data.test.images)


def test_features_of_images_are_built_in_a_folder_of_their_data_set(
    root: Path, few: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(DATASETS, "digits", replace(DATASETS["digits"], load=lambda root: few))

    def means(trunk: str, weights: Path) -> Encoder:
        return Encoder({"trunk": trunk}, 1, lambda images: images.mean(dim=(1, 2, 3))[:, None])

    monkeypatch.setattr(data_commands, "torchvision_encoder", means)
    build = ["data", "build", "digits", "--weights", "weights.pth", "--data-root", root]
    found = call(*build, "--trunk", "resnet18")
    assert found.exit_code == 0, found.output
    stored = np.load(root / "digits" / "resnet18.npy", mmap_mode="r")
    images = torch.cat([few.train.images, few.test.images])
    expected = images.mean(dim=(1, 2, 3)).half().numpy()
    np.testing.assert_array_equal(stored[:, 0], expected)
    assert call(*build).exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["verify", "clinc15"], "NAME: expected one of digits"),
        (["build", "clinc15", "--weights", "w"], "NAME: expected one of digits"),
        (
            ["build", "clinc150", "--weights", "nowhere"],
            "--weights: expected the folder of a",
        ),
        (
            ["build", "clinc150_tfidf", "--trunk", "alexnet", "--weights", "nowhere"],
            "clinc150_tfidf: expected images or texts to encode; got features already",
        ),
        (
            ["build", "digits", "--weights", "nowhere", "--trunk", "alexnet"],
            "--weights: expected a file with the state_dict of alexnet; got nowhere",
        ),
    ],
)
def test_mistakes_are_explained(arguments: list[str], message: str, root: Path) -> None:
    found = call("data", *arguments, "--data-root", root)
    assert found.exit_code == 2
    assert message in plain(found)


def test_an_encoder_of_another_width_is_not_the_one_of_the_table(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_commands, "sentence_encoder", made_up_encoder(7))
    found = call("data", "build", "clinc150", "--weights", "model", "--data-root", root)
    assert found.exit_code == 2
    assert "expected all-MiniLM-L6-v2, with 384 features; got 7 from model" in plain(found)


def test_ctrl_c_stops_a_build_and_says_how_to_go_on(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(rows: list[str]) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(
        data_commands, "sentence_encoder", lambda weights: Encoder({}, 384, interrupted)
    )
    found = call("data", "build", "clinc150", "--weights", "model", "--data-root", root)
    assert found.exit_code == 130
    assert "The same command goes on with the rest." in found.output


def test_a_sentence_encoder_is_read_from_its_folder_and_nowhere_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []

    class Model:
        def __init__(self, folder: str, **named: Any) -> None:
            asked.append({"folder": folder, **named})

        def encode(self, rows: list[str], **named: Any) -> Any:
            return np.ones((len(rows), 5))

    library = ModuleType("sentence_transformers")
    library.SentenceTransformer = Model  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "sentence_transformers", library)
    monkeypatch.setattr(encoders, "version", lambda name: "9.9")
    (tmp_path / "modules.json").write_text("[]")
    first = encoders.sentence_encoder(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    second = encoders.sentence_encoder(tmp_path)
    assert asked[0] == {"folder": str(tmp_path), "device": "cpu", "local_files_only": True}
    assert (first.width, first.encode(["a", "b"]).shape) == (5, (2, 5))
    assert first.about["library"] == "sentence-transformers 9.9"
    assert first.about["weights_sha256"] != second.about["weights_sha256"]


def test_without_the_library_the_message_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "modules.json").write_text("[]")
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(ValueError, match=r"sentence-transformers: expected it to be installed"):
        encoders.sentence_encoder(tmp_path)
