"""The batches that promises are tried on."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import torch
from torch import Tensor

# Neither list is sorted; both have four rows or more between the rows of a class.
UNEVEN = (1, 0, 2, 0, 1, 0, 3, 2, 0, 1)  # classes of 4, 3, 2 and 1 rows
BALANCED = (2, 0, 1, 1, 0, 2, 0, 2, 1)  # as many rows a class as classes


@dataclass(frozen=True)
class Batch:
    """What one call of a loss is given: B embeddings, their labels, and the optional rest.

    Args:
        embeddings: (B, D) float.
        labels: (B,) integer, or None for a loss that takes none.
        indices_tuple: what a pml miner gives: 3 (triplets) or 4 (pairs) tensors of indices.
        ref_emb: (R, D) references to compare with, or None for the batch itself.
        ref_labels: (R,) integer, or None.
    """

    embeddings: Tensor
    labels: Tensor | None = None
    indices_tuple: tuple[Tensor, ...] | None = None
    ref_emb: Tensor | None = None
    ref_labels: Tensor | None = None

    @property
    def arguments(self) -> tuple[Tensor | tuple[Tensor, ...] | None, ...]:
        """In the order in which pml's losses take them."""
        return self.embeddings, self.labels, self.indices_tuple, self.ref_emb, self.ref_labels

    def permuted(self, order: Tensor) -> "Batch":
        labels = None if self.labels is None else self.labels[order]
        return replace(self, embeddings=self.embeddings[order], labels=labels)

    def renamed(self, names: Tensor) -> "Batch":
        """Class c is called ``names[c]``."""
        return replace(self, labels=None if self.labels is None else names[self.labels])

    def to(self, dtype: torch.dtype) -> "Batch":
        ref_emb = None if self.ref_emb is None else self.ref_emb.to(dtype)
        return replace(self, embeddings=self.embeddings.to(dtype), ref_emb=ref_emb)

    def cloned(self) -> "Batch":
        given = self.indices_tuple
        return Batch(
            embeddings=self.embeddings.clone(),
            labels=_clone(self.labels),
            indices_tuple=None if given is None else tuple(index.clone() for index in given),
            ref_emb=_clone(self.ref_emb),
            ref_labels=_clone(self.ref_labels),
        )

    def changed_from(self, other: "Batch") -> list[str]:
        """Names of the parts that do not hold the same numbers in both."""
        return [
            field.name
            for field in fields(self)
            if not _same(getattr(self, field.name), getattr(other, field.name))
        ]

    def __str__(self) -> str:
        parts = [_dtype_and_shape(self.embeddings)]
        if self.labels is not None:
            parts.append(f"labels {_dtype(self.labels)} {self.labels.tolist()}")
        if self.indices_tuple is not None:
            lengths = ", ".join(str(len(index)) for index in self.indices_tuple)
            parts.append(f"indices_tuple of lengths ({lengths})")
        if self.ref_emb is not None:
            parts.append(f"ref_emb {_dtype_and_shape(self.ref_emb)}")
        if self.ref_labels is not None:
            parts.append(f"ref_labels {self.ref_labels.tolist()}")
        return ", ".join(parts)


class Case(NamedTuple):
    name: str
    batch: Batch


@dataclass(frozen=True)
class Batches:
    """Makes batches that suit one loss.

    Args:
        embedding_size: D.
        num_classes: labels are taken modulo this; None leaves them as they are.
        with_labels: False leaves the labels out.
        seed: another seed gives other embeddings.
    """

    embedding_size: int
    num_classes: int | None
    with_labels: bool
    seed: int

    def of(self, labels: Sequence[int], *, draw: int = 0) -> Batch:
        """Embeddings in generic position (no ties, no right angles) for these labels, in float64.

        Rows share a direction, so that hinges with common margins are not all satisfied.
        """
        return Batch(self.rows(len(labels), draw=draw), self.labels(labels))

    def rows(self, num_rows: int, *, draw: int = 0) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed + 1000 * draw)
        shape = (num_rows, self.embedding_size)
        return 1.0 + torch.randn(shape, generator=generator, dtype=torch.float64)  # (B, D)

    def labels(self, labels: Sequence[int]) -> Tensor | None:
        return self.class_of(labels) if self.with_labels else None

    def class_of(self, labels: Sequence[int]) -> Tensor:
        values = torch.tensor(labels, dtype=torch.int64)  # (B,)
        return values if self.num_classes is None else values % self.num_classes

    def with_size(self, embedding_size: int) -> "Batches":
        """The same with longer or shorter rows."""
        return replace(self, embedding_size=embedding_size)

    def plain(self) -> list[Case]:
        return [
            Case("uneven classes", self.of(UNEVEN)),
            Case("balanced classes", self.of(BALANCED)),
        ]

    def degenerate(self) -> list[Case]:
        batch = self.of(UNEVEN).to(torch.float32)
        x = batch.embeddings
        num_rows = len(x)
        on_axis = torch.zeros_like(x)
        on_axis[:, 0] = 1.0
        on_axis[::3, 0] = -1.0
        one_zero = x.clone()
        one_zero[3] = 0.0
        duplicates = x.clone()
        duplicates[1::2] = duplicates[::2]  # rows 2k and 2k + 1 agree, their labels do not
        cases = [
            Case("all rows identical", replace(batch, embeddings=x[:1].repeat(num_rows, 1))),
            Case("cosines exactly 1 and -1", replace(batch, embeddings=on_axis)),
            Case("all rows zero", replace(batch, embeddings=torch.zeros_like(x))),
            Case("one row zero", replace(batch, embeddings=one_zero)),
            Case("duplicate rows", replace(batch, embeddings=duplicates)),
        ]
        if self.with_labels:
            num_unique = min(num_rows, self.num_classes or num_rows)
            cases += [
                Case("one class only", self.of([1] * num_rows).to(torch.float32)),
                Case("all labels unique", self.of(range(num_unique)).to(torch.float32)),
            ]
        return cases


def triplets(labels: Tensor, anchors: range) -> tuple[Tensor, Tensor, Tensor]:
    """All (anchor, positive, negative) whose anchor is among ``anchors``."""
    positive, negative = _masks(labels, anchors)
    a, p, n = torch.where(positive[:, :, None] & negative[:, None, :])
    return a, p, n


def pairs(labels: Tensor, anchors: range) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """All (anchor, positive) and (anchor, negative) whose anchor is among ``anchors``."""
    positive, negative = _masks(labels, anchors)
    return *torch.where(positive), *torch.where(negative)  # type: ignore[return-value]


def _masks(labels: Tensor, anchors: range) -> tuple[Tensor, Tensor]:
    same = labels[:, None] == labels[None, :]  # (B, B)
    chosen = torch.zeros(len(labels), 1, dtype=torch.bool)
    chosen[list(anchors)] = True
    positive = same & ~torch.eye(len(labels), dtype=torch.bool)
    return positive & chosen, ~same & chosen


def _clone(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.clone()


def _same(left: object, right: object) -> bool:
    if isinstance(left, Tensor) and isinstance(right, Tensor):
        return left.dtype == right.dtype and torch.equal(left, right)
    if isinstance(left, tuple) and isinstance(right, tuple):
        return len(left) == len(right) and all(map(_same, left, right))
    return left is right


def _dtype(x: Tensor) -> str:
    return str(x.dtype).removeprefix("torch.")


def _dtype_and_shape(x: Tensor) -> str:
    return f"{_dtype(x)} {tuple(x.shape)}"
