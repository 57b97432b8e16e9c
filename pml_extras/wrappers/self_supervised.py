"""A loss of two views of each image, whose labels are their positions."""

from typing import Any

import torch
from pytorch_metric_learning import losses
from torch import Tensor, nn

from pml_extras._checks import check_flag, check_rows, refuse
from pml_extras.functional.precision import at_least_float32, call_in_widest, no_autocast
from pml_extras.wrappers._asking import require
from pml_extras.wrappers._questions import both_views, of_views
from pml_extras.wrappers._rank_order import refuse_joining


class SelfSupervisedLoss(losses.SelfSupervisedLoss):
    r"""Row i of both views is one class, of its own.

    .. math::
        L = \ell\big((X, X'), (1, \ldots, B, 1, \ldots, B)\big)
        \quad\text{or}\quad
        L = \ell\big(X, (1, \ldots, B) \mid X', (1, \ldots, B)\big)

    the second, with X' for references, if not symmetric.

    Args:
        loss: any, of pml or not, that compares rows by equality of labels: among themselves if
            symmetric, with references if not. It is asked with small batches at construction:
            another second view, and other pairs of views, must change its value; other names of
            classes must not, which would index its parameters. One with a memory is refused: the
            class of row i would be that of rows i before.
        symmetric: whether the rows of both views are compared with all others; otherwise the first
            view is compared with the second alone, and the loss must honour references.
        **kwargs: those of pml's.

    Departures from pml 2.9.0: losses are asked, where pml lists 13 names, so that losses from
    elsewhere are admitted; rows of half precision and autocast regions are computed in float32, and
    parameters of the loss keep their dtype; views of unlike shapes are refused, with ValueError.

    Raises:
        ValueError: the loss cannot do that; the views are not two (B, D) tensors of one shape.

    >>> from pml_extras.losses import BinomialDevianceLoss
    >>> views = torch.eye(4), torch.eye(4).flip(0)
    >>> SelfSupervisedLoss(BinomialDevianceLoss(), symmetric=False)(*views).shape
    torch.Size([])
    """

    loss: nn.Module
    symmetric: bool

    def __init__(self, loss: nn.Module, symmetric: bool = True, **kwargs: Any) -> None:
        check_flag(symmetric=symmetric)
        compared = "among themselves" if symmetric else "with references"
        expected = f"one that compares rows {compared} by equality of labels"
        refuse_joining(loss=loss)
        parts = list(loss.modules()) if isinstance(loss, nn.Module) else []
        if any(isinstance(part, losses.CrossBatchMemory) for part in parts):  # it may start late
            came = f"{type(loss).__name__}, whose memory takes rows i of all batches for one class"
            raise refuse("loss", expected, came, "Leave the memory out.")
        require(
            loss,
            of_views(symmetric, _size_of(parts)),
            expected,
            "A view has as many classes as rows, and nothing to index with them.",
        )
        super().__init__(loss, symmetric, **kwargs)

    @classmethod
    def check_loss_support(cls, loss_name: str) -> None:
        """No name is refused: the loss was asked."""

    def forward(self, embeddings: Tensor, ref_emb: Tensor) -> Any:
        """Compute the loss.

        Args:
            embeddings: (B, D) floating, one view of each image.
            ref_emb: (B, D), another.

        Returns:
            What ``loss`` returns, by default a 0-dim tensor.
        """
        check_rows(embeddings=embeddings, ref_emb=ref_emb)
        if ref_emb.shape != embeddings.shape:
            expected = f"{tuple(embeddings.shape)}, the shape of `embeddings`"
            raise refuse("ref_emb", expected, tuple(ref_emb.shape))
        with no_autocast(embeddings):
            x, other = at_least_float32(embeddings), at_least_float32(ref_emb)
            labels = torch.arange(len(x), device=x.device)
            return call_in_widest(self.loss, *both_views(self.symmetric, x, other, labels, labels))


def _size_of(parts: list[nn.Module]) -> int:
    """``embedding_size`` of the first part that has one."""
    sizes = (getattr(part, "embedding_size", None) for part in parts)
    return next((size for size in sizes if isinstance(size, int)), 8)
