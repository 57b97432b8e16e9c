"""A loss under test: how to make a fresh one, and what a call of it gave."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor, nn

from pml_extras._global_state import GlobalState, seed_everything
from pml_extras.testing.batches import Batch, Batches, Case


@dataclass(frozen=True)
class Run:
    """One forward and backward.

    Args:
        batch: what the loss was to be given.
        given: the same tensors after the call, with whatever the loss did to them.
        value: what the loss returned, without its graph; None after an error.
        attached: whether the value had a graph to run backward through.
        gradients: of "embeddings" and of each parameter by name; None where none flowed.
        disturbed: parts of the process's global state that the call changed.
        error: what was raised by the forward or the backward.
    """

    batch: Batch
    given: Batch
    value: Tensor | None = None
    attached: bool = False
    gradients: Mapping[str, Tensor | None] = field(default_factory=dict)
    disturbed: tuple[str, ...] = ()
    error: Exception | None = None

    @property
    def usable(self) -> bool:
        """Whether there is a finite value to compare others with."""
        return self.value is not None and bool(self.value.isfinite())


@dataclass(frozen=True)
class Subject:
    """A loss, with what a promise has to know of it; arguments as for ``check_loss``."""

    factory: Callable[..., nn.Module]
    embedding_size: int
    labels_index_classes: bool
    num_classes: int | None
    needs_labels: bool
    out_of_range: Mapping[str, object]
    cost_only: Mapping[str, Sequence[object]]
    stochastic: bool
    stateful: bool
    seed: int

    @cached_property
    def batches(self) -> Batches:
        return Batches(self.embedding_size, self.num_classes, self.needs_labels, self.seed)

    @cached_property
    def usual(self) -> Case:
        """The first plain batch that the loss accepts, or the first of all if it accepts none."""
        cases = self.batches.plain()
        return next((case for case in cases if self.run(case.batch).usable), cases[0])

    @cached_property
    def compares_pairs_only(self) -> bool:
        """Whether the rows of the batch are all that the loss compares."""
        return not self.labels_index_classes and not any(True for _ in self.fresh().parameters())

    @property
    def repeatable(self) -> bool:
        """Whether the value depends on nothing but the batch and the parameters."""
        return not (self.stochastic or self.stateful)

    def fresh(
        self,
        arguments: Mapping[str, object] | None = None,
        *,
        seed_offset: int = 0,
        dtype: torch.dtype | None = None,
    ) -> nn.Module:
        """A new instance in eval mode; float64 batches get float64 parameters, others float32."""
        seed_everything(self.seed + seed_offset)
        loss = self.factory(**(arguments or {})).eval()
        return loss.double() if dtype is torch.float64 else loss

    def run(
        self,
        batch: Batch,
        loss: nn.Module | None = None,
        *,
        call: Callable[..., Tensor] | None = None,
        autocast: torch.dtype | None = None,
    ) -> Run:
        """Forward and backward of ``loss`` (a fresh one by default), from the same seed always.

        The loss gets copies that are not leaves, as the output of a model is not. ``call`` is what
        is called in place of the loss, if not the loss itself.
        """
        if loss is None:
            loss = self.fresh(dtype=batch.embeddings.dtype)
        leaf = batch.embeddings.clone().requires_grad_()
        copy = batch.cloned()
        given = Batch(leaf.clone(), copy.labels, copy.indices_tuple, copy.ref_emb, copy.ref_labels)
        loss.zero_grad()
        seed_everything(self.seed)
        before = GlobalState.now()
        value, error = None, None
        try:
            with _autocast(autocast):
                value = (loss if call is None else call)(*given.arguments)
            if not isinstance(value, Tensor) or value.numel() != 1:
                raise TypeError(f"expected the loss to return one number; got {type(value)}")
            if value.requires_grad:
                value.backward()
        except Exception as raised:  # whatever it is, it is the outcome
            error = raised
        disturbed = GlobalState.now().changed_from(before)
        before.restore()
        if error is not None or value is None:
            return Run(batch, given, disturbed=tuple(disturbed), error=error)
        gradients = {name: parameter.grad for name, parameter in loss.named_parameters()}
        return Run(
            batch,
            given,
            value=value.detach().reshape(()),
            attached=value.requires_grad,
            gradients={"embeddings": leaf.grad, **gradients},
            disturbed=tuple(disturbed),
        )


def _autocast(dtype: torch.dtype | None) -> contextlib.AbstractContextManager[object]:
    return contextlib.nullcontext() if dtype is None else torch.autocast("cpu", dtype=dtype)
