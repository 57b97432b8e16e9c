"""What goes wrong silently in a training, recorded and put into words."""

import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from pml_extras._checks import check_count, refuse
from pml_extras.training._recorder import Recorder, innermost_losses
from pml_extras.training._trained import NO_GRADIENT, NO_OPTIMIZER, NO_STEP, ParameterWatch

_FEW_POSITIVES = (
    "{name}: {when}, {share:.0%} of the rows had none of their class to be compared with. Batches "
    "drawn at random from many classes are like that. Draw several rows a class, with "
    "pml_extras.samplers.MPerClassBatchSampler or with MPerClassSampler of pml."
)
_NOTHING_MINED = (
    "{name}: {when}, the miner found no positive pair. Either no two rows of a batch are of one "
    "class, or it takes all of them for easy. Draw several rows a class, choose a miner that keeps "
    "more, or leave it out."
)
_COLLAPSE = (
    "{name}: {when}, embeddings had nearly one direction (mean cosine {cosine:.3f}, effective rank "
    "{rank:.1f}), and not for the first time. A network that stays there has collapsed, often by "
    "too high a rate, or because the hardest negatives alone were mined. Lower the rate, mine "
    "semi-hard negatives, or start without a miner."
)
_NOTHING_LEARNT = (
    "{name}: {when}, all terms were exactly zero in {share:.0%} of the calls, and nothing was "
    "learnt. Margins that all pairs keep are like that, and miners that find nothing. "
    "Widen the margin, mine harder pairs, or stop training here."
)
_FAULTS = {
    NO_OPTIMIZER: (
        "{name}: {when}, no optimizer held its parameters {parameters}, and they stayed as they "
        "are. Give them to one: in pml's trainers as "
        'optimizers["metric_loss_optimizer"] = Adam(loss_func.parameters()), in a loop as another '
        "group. If you do, the loss may have been copied afterwards."
    ),
    NO_GRADIENT: (
        "{name}: {when}, its parameters {parameters} had no gradient, so that their optimizer left "
        "them as they are. The value does not depend on them, or backward() does not reach them. "
        "If that is wanted, set requires_grad to False."
    ),
    NO_STEP: (
        "{name}: {when}, its parameters {parameters} had gradients and an optimizer, and stayed as "
        "they are. Call its step(), give it a rate above 0, and leave the loss out of freeze_these."
    ),
}


class Diagnostics:
    """Statistics of each batch, recorded on the loss, and warnings about what they tell.

    As a hook of pml's trainers, those of :class:`~pml_extras.training.GradCache` too:

    >>> from pytorch_metric_learning.losses import ContrastiveLoss
    >>> loss_func = ContrastiveLoss()
    >>> diagnostics = Diagnostics(loss_func)
    >>> arguments = {"end_of_iteration_hook": diagnostics.end_of_iteration_hook}

    or beside another, such as that of pml's ``HookContainer``, by a function that calls both. In a
    loop of your own ``diagnostics.after_step(optimizer)`` ends an iteration.

    Args:
        *loss_funcs: losses of pml, of ours or yours on pml's base, or modules that hold some:
            ``MultipleLosses``, a memory, an ensemble. They are called as ever, and return what they
            returned; a recorder stands in for their ``compute_loss``.
        window: iterations after each of which warnings are considered, >= 2.

    Recorded on each loss that is no ensemble of others, as 0-dim tensors, where pml's record keeper
    finds them (``collect_stats`` is not asked), for its last call:

    ==========================  ===================================================================
    ``share_without_positive``  of the rows: without another of their class among rows, or
                                references; with a miner, that are the anchor of no positive pair
    ``share_of_zero_losses``    of all losses of pairs, triplets or rows that go into the reducer;
                                regularizers are left out; 1 where there is nothing to compare
    ``mean_cosine``             of two different rows; 1 is complete collapse
    ``effective_rank``          of the normalised rows, exp(entropy of singular values), Roy and
                                Vetterli 2007; of the first batch of each window, as it is costly
    ==========================  ===================================================================

    nan is what a call cannot tell (without labels, say). Calls in evaluation mode, without
    gradients and in a compiled graph are not seen.

    Warnings (``UserWarning``), each once in the life of the object. At the end of a window, for the
    first of these that holds for a loss:

    1. on average half of the rows or more have none of their class among rows or references, and
       no parameter of the loss is a set of vectors of their size, to which they could be compared
       (proxies, class weights); or in no call a miner found a positive pair;
    2. the mean cosine is at least 0.99 on average, or the effective rank less than 1.5 with three
       classes or more in the batch; not in the first window: a network may start like that;
    3. in half of the calls or more all losses were exactly zero.

    And for the parameters of a loss that was called, if they require a gradient: no optimizer holds
    them and nothing else writes to them; they had no gradient in the window; they had one, and the
    entry where it was largest is what it was.

    Nothing is read back from an accelerator but in the first call of a window and at its end. Of
    several processes each speaks of its own batches. No state is saved: a resumed run starts with a
    new window, and may warn again.

    Raises:
        ValueError: ``window`` out of its range; a module without a loss on pml's base.
    """

    def __init__(self, *loss_funcs: nn.Module, window: int = 100) -> None:
        check_count(2, window=window)
        if not loss_funcs:
            raise refuse("loss_funcs", "at least one loss", "none")
        self.window = window
        self._iteration = 0
        self._warned: set[str] = set()
        self._recorders: list[tuple[nn.Module, list[Recorder]]] = []
        for module in loss_funcs:
            losses = innermost_losses(module) if isinstance(module, nn.Module) else []
            if not losses:
                expected = "losses on pml's BaseMetricLossFunction, or modules that hold some"
                raise refuse("loss_funcs", expected, type(module).__name__)
            self._recorders.append((module, [Recorder(loss) for loss in losses]))
        self._start_window()

    def end_of_iteration_hook(self, trainer: Any) -> None:
        """What pml's trainers call with themselves."""
        self.after_step(*trainer.optimizers.values())

    def after_step(self, *optimizers: torch.optim.Optimizer) -> None:
        """End an iteration: after the optimizers' steps, before gradients are set to zero.

        Args:
            *optimizers: all that train the losses.
        """
        for optimizer in optimizers:
            if not hasattr(optimizer, "param_groups"):
                raise refuse("optimizers", "optimizers of torch", type(optimizer).__name__)
        for watch in (w for watches in self._watches for w in watches):
            watch.after_step()
        self._iteration += 1
        if self._iteration % self.window == 0:
            found = list(self._found(optimizers))
            self._start_window()
            for text, values in found:
                if text not in self._warned:
                    self._warned.add(text)
                    warnings.warn(text.format(**values), stacklevel=2)

    def _start_window(self) -> None:
        for _, recorders in self._recorders:
            for recorder in recorders:
                recorder.start_window()
        self._watches = [
            [
                ParameterWatch(name, parameter)
                for name, parameter in module.named_parameters()
                if parameter.requires_grad and parameter.numel() > 0
            ]
            for module, _ in self._recorders
        ]

    def _found(
        self, optimizers: tuple[torch.optim.Optimizer, ...]
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """Texts, and what to write into them."""
        when = {"when": f"in the last {self.window} iterations"}
        held = {id(p) for o in optimizers for group in o.param_groups for p in group["params"]}
        for (module, recorders), watches in zip(self._recorders, self._watches, strict=True):
            called = [recorder for recorder in recorders if recorder.calls]
            for recorder in called:
                disease = self._disease(recorder)
                if disease is not None:
                    text, numbers = disease
                    yield text, {**when, "name": type(recorder.loss).__name__, **numbers}
            faults: dict[str, list[str]] = {}
            for watch in watches if called else ():
                fault = watch.fault(held)
                if fault is not None:
                    faults.setdefault(fault, []).append(watch.name)
            for fault, names in faults.items():
                listed = ", ".join(names)
                yield _FAULTS[fault], {**when, "name": type(module).__name__, "parameters": listed}

    def _disease(self, recorder: Recorder) -> tuple[str, dict[str, float]] | None:
        by_labels, by_tuple, zeros, cosine = recorder.read().unbind(dim=1)
        parameters = recorder.loss.parameters()
        own_vectors = any(p.ndim > 1 and recorder.num_columns in p.shape for p in parameters)
        alone = float(by_labels.nanmean())
        if alone >= 0.5 and not own_vectors:
            return _FEW_POSITIVES, {"share": alone}
        if (by_tuple == 1).all() and not own_vectors:
            return _NOTHING_MINED, {}
        alike, rank = float(cosine.mean()), float(recorder.rank)
        flat = rank < 1.5 and recorder.num_classes > 2
        if self._iteration > self.window and (alike >= 0.99 or flat):
            return _COLLAPSE, {"cosine": alike, "rank": rank}
        closed = float((zeros == 1).float().mean())
        return (_NOTHING_LEARNT, {"share": closed}) if closed >= 0.5 else None
