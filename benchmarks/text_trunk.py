"""A pretrained encoder of sentences, trained end to end, with weights from a local folder."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.backbones import Pooling
from benchmarks.datasets.raw_texts import PADDING
from benchmarks.encoders import sentence_transformer, weights_digest
from benchmarks.linear_trunk import LinearTrunk
from benchmarks.poolings import AveragePooling

CHUNK = 32
"""Texts that are read at once, by length, for little padding: forward and backward of 64 texts of
clinc150 take a quarter less time than at once, 0.93 s against 1.23 of a core with all-MiniLM-L6-v2;
16 take as long, 8 more."""


@dataclass(frozen=True)
class SentenceEncoder:
    """What is built.

    Args:
        weights: folder of a model of sentence-transformers, its tokenizer included; None says what
            a run lacks.
    """

    weights: Path | None = None

    def settings(self) -> dict[str, Any]:
        """As plain JSON; of the weights a digest of the files, wherever they lie.

        Raises:
            ValueError: there is no such folder.
        """
        weights = self.weights
        return {"weights": None if weights is None else _digest(weights.absolute())}

    def tokens(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, those of the encoder's own marks at both ends among them; cut at the
        length that it reads.

        Raises:
            ValueError: see :func:`benchmarks.encoders.sentence_transformer`.
        """
        model = sentence_transformer(self.weights)
        read = model.tokenizer(list(texts), truncation=True, max_length=model.max_seq_length)
        ids: list[list[int]] = read["input_ids"]
        return ids


class TextTrunk(nn.Module):
    """The transformer of an encoder, and a pooling of its last tokens.

    Args:
        encoder: with weights, whose dropout acts in training mode alone.
        embedding_size: D, not normalised: pml's distances and testers do that.
        pooling: (width of a token, D) -> module, tokens (B, T, width) and ``valid`` (B, T) -> (B,
            D), with a ``projection`` that has a ``weight``; None is the mean of the tokens, which
            the encoder was trained with.

    Input (B, T) int64 token ids, ``PADDING`` behind each text; output (B, D), in training mode with
    what a pooling appends. The projection starts as the identity, for every pooling, or as
    :class:`benchmarks.linear_trunk.LinearTrunk` does at another D: with the mean, the start is the
    encoder as it was. Its marks at both ends are pooled too, as they were when it was trained; for
    images the rule is to leave such tokens out of generalized sum pooling.

    Raises:
        ValueError: see :func:`benchmarks.encoders.sentence_transformer`.
    """

    def __init__(
        self, encoder: SentenceEncoder, embedding_size: int, pooling: Pooling | None = None
    ) -> None:
        super().__init__()
        self.transformer = sentence_transformer(encoder.weights)[0].auto_model
        if getattr(self.transformer, "pooler", None) is not None:
            self.transformer.pooler = None  # of one token, for another task: has no gradient here
        config = self.transformer.config
        self._padding = int(getattr(config, "pad_token_id", None) or 0)
        start = LinearTrunk(config.hidden_size, embedding_size).weight.detach()
        self.pooling = (pooling or AveragePooling)(config.hidden_size, embedding_size)
        with torch.no_grad():
            self.pooling.projection.weight.copy_(start)  # type: ignore[union-attr, operator]

    def forward(self, ids: Tensor) -> Tensor:
        """(B, T) -> what the pooling gives, (B, D) at evaluation."""
        valid = ids != PADDING
        lengths, order = valid.sum(dim=1).sort(stable=True)
        longest = int(lengths[-1])
        parts = []
        for rows in order.split(CHUNK):
            width = int(valid[rows[-1]].sum())
            tokens = self._tokens(ids[rows, :width], valid[rows, :width])
            parts.append(nn.functional.pad(tokens, (0, 0, 0, longest - width)))
        tokens = torch.cat(parts)[order.argsort()]  # (B, longest, width of a token)
        embeddings: Tensor = self.pooling(tokens, valid=valid[:, :longest])
        return embeddings

    def _tokens(self, ids: Tensor, valid: Tensor) -> Tensor:
        """(B, T, width of a token)."""
        tokens: Tensor = self.transformer(
            input_ids=ids.masked_fill(~valid, self._padding), attention_mask=valid.long()
        ).last_hidden_state
        return tokens


_digest = cache(weights_digest)
