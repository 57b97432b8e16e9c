"""Data sets of texts that an encoder, trained with them, reads itself: no features yet."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import ClassVar

import torch
from torch import Tensor

from benchmarks.datasets.split import RECALL_AT, Data, Split, check_disjoint, check_labels
from pml_extras._checks import refuse

PADDING = -1
"""Behind the last token of a text: no token of any vocabulary."""


@dataclass(frozen=True)
class Utterances:
    """One part of a data set.

    Args:
        texts: N of them.
        labels: (N,) int64 into ``classes``.
        classes: names that are unique over all parts.
    """

    texts: tuple[str, ...]
    labels: Tensor
    classes: tuple[str, ...]

    def only(self, chosen: Callable[[str], bool]) -> "Utterances":
        """The classes whose names are chosen, numbered anew."""
        kept = torch.tensor([chosen(name) for name in self.classes])  # (C,)
        of_kept = kept[self.labels]  # (N,)
        return Utterances(
            tuple(compress(self.texts, of_kept.tolist())),
            (kept.cumsum(0) - 1)[self.labels[of_kept]],
            tuple(compress(self.classes, kept.tolist())),
        )

    def of_tokens(self, rows: Sequence[Sequence[int]], width: int) -> Split:
        """With tokens in the place of images: (N, width) int64, ``PADDING`` behind each text."""
        padded = [[*row, *[PADDING] * (width - len(row))] for row in rows]
        return Split(torch.tensor(padded), self.labels, self.classes, texts=self.texts)


@dataclass(frozen=True)
class RawTexts:
    """Training and test half, and where there is one a part to select on, with disjoint classes;
    refuses anything else."""

    name: str
    train: Utterances
    test: Utterances
    validation: Utterances | None = None
    gallery: ClassVar[None] = None
    recall_at: ClassVar[tuple[int, ...]] = RECALL_AT

    def __post_init__(self) -> None:
        parts = {"train": self.train, "test": self.test}
        if self.validation is not None:
            parts["validation"] = self.validation
        check_disjoint(self.name, parts)
        for part, found in parts.items():
            check_labels(f"{self.name} {part}", found)
            if len(found.texts) != len(found.labels):
                raise refuse(
                    f"{self.name} {part} texts", f"{len(found.labels)}, one a label",
                    len(found.texts),
                )  # fmt: skip

    def tokenised(self, tokens: Callable[[Sequence[str]], Sequence[Sequence[int]]]) -> Data:
        """As data in memory, once and for all steps.

        Args:
            tokens: texts -> the ids of the tokens of each, all that the encoder reads.
        """
        parts = [self.train, self.test]
        if self.validation is not None:
            parts.append(self.validation)
        rows = [tokens(part.texts) for part in parts]
        width = max(len(ids) for of_part in rows for ids in of_part)
        train, test, *validation = map(Utterances.of_tokens, parts, rows, [width] * len(parts))
        return Data(self.name, train, test, validation[0] if validation else None)
