"""What a weighting strategy is: values of m losses in, m weighted terms out."""

from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from pml_extras._checks import refuse
from pml_extras.functional.precision import at_least_float32

T = TypeVar("T")
ROUNDING = 1e-6  # a loss that is 0 may come out below it, as pml's FastAPLoss does


class Weighted(NamedTuple):
    """What is minimised: the sum of ``terms`` (m,), and ``extra`` () of a strategy that has one."""

    terms: Tensor
    extra: Tensor | None = None


class LossWeighting(nn.Module):
    """Base of the strategies. ``WeightedLossEnsemble`` binds one to its losses and calls it.

    A subclass makes its parameters and buffers in :meth:`_build` and implements ``forward`` and
    :meth:`weights`. One that returns an extra term sets ``extra_name``, and then always returns it.
    One that sets ``takes_gradients`` is given a view of the embeddings for each loss, which has a
    gradient also where the trunk is frozen; others are given the embeddings.

    State is float32 unless moved by ``.to()``; terms are computed in the dtype of the losses, half
    types in float32.
    """

    extra_name: ClassVar[str | None] = None
    takes_gradients: ClassVar[bool] = False

    def __init__(self) -> None:
        super().__init__()
        self.names: tuple[str, ...] = ()

    def bind(self, names: Sequence[str]) -> None:
        """Get to know the losses, once.

        Raises:
            ValueError: it knows others already, or an argument does not fit these losses; then
                it stays unbound.
        """
        if self.names:
            came = f"one that weighs {', '.join(self.names)}"
            raise refuse("weighting", "a strategy of its own for each ensemble", came)
        self.names = tuple(names)
        try:
            self._build(len(names))
        except ValueError:
            self.names = ()
            raise

    def forward(
        self, losses: Tensor, raw: Tensor, shared: Tensor | Sequence[Tensor] | None
    ) -> Weighted:
        """Weigh one batch.

        Args:
            losses: (m,) values with their graph, scaled if the ensemble scales.
            raw: (m,) the values as the losses gave them, without graph.
            shared: the tensor that all losses were computed from, or, for one pass instead of m, a
                view of it for each loss (see :func:`gradients`); None or without gradient where
                there is none to take.
        """
        raise NotImplementedError

    def weights(self) -> Tensor:
        """(m,) factors of the losses, of the last batch or as they are now, without graph."""
        raise NotImplementedError

    def _build(self, num_losses: int) -> None:
        """Make parameters and buffers."""

    def _in_order(self, name: str, values: Mapping[str, T] | Iterable[T]) -> list[T]:
        """One value a loss, from a sequence in their order or a mapping by name."""
        if isinstance(values, Mapping):
            if set(values) != set(self.names):
                raise refuse(name, f"the names {list(self.names)}", list(values))
            return [values[key] for key in self.names]
        if not isinstance(values, Iterable):
            raise refuse(name, "a sequence or a mapping by name, one entry a loss", repr(values))
        in_order = list(values)
        if len(in_order) != len(self.names):
            raise refuse(name, f"{len(self.names)} entries, one a loss", len(in_order))
        return in_order

    def _vector(self, losses: Tensor) -> Tensor:
        """The losses in at least float32."""
        if losses.shape != (len(self.names),):
            raise refuse(
                "losses",
                f"shape ({len(self.names)},), one entry for each of {list(self.names)}",
                f"shape {tuple(losses.shape)}",
                "Call bind(names) first.",
            )
        return at_least_float32(losses)

    def _refuse_negative(self, losses: Tensor) -> None:
        """Name a loss below 0 to a strategy that has no meaning for it."""
        if torch.compiler.is_compiling():  # values are read from the device
            return
        for name, value in zip(self.names, losses.tolist(), strict=True):
            if value < -ROUNDING:
                expected = f"values >= 0, as {type(self).__name__} needs"
                raise refuse("losses", expected, f"{value} from {name!r}")


def gradients(losses: Tensor, shared: Tensor | Sequence[Tensor] | None) -> Tensor | None:
    """(m, n) gradient of each loss at the shared tensor, in at least float32; None without one.

    The graph is kept and no ``.grad`` is touched. Checkpointed modules between ``shared`` and the
    losses need ``use_reentrant=False``, since torch refuses the other kind here.

    Given one tensor, it is m backward passes, and since the losses are stacked each goes through
    all of them. Given m views of it (``x.view_as(x)``), loss j computed from view j alone, one pass
    over the sum finds all gradients.
    """
    views = [shared] if isinstance(shared, Tensor) else list(shared or ())
    if not (views and losses.requires_grad and torch.is_grad_enabled()):
        return None
    if not all(view.requires_grad for view in views):
        return None
    totals = losses if isinstance(shared, Tensor) else [losses.sum()]
    rows = []
    for total in totals:
        grads = torch.autograd.grad(total, views, retain_graph=True, allow_unused=True)
        for grad, view in zip(grads, views, strict=True):
            rows.append(torch.zeros_like(view) if grad is None else grad)
    if len(rows) != len(losses):
        raise refuse("shared", f"one view for each of {len(losses)} losses", len(rows))
    return at_least_float32(torch.stack(rows).flatten(1))
