"""What goes wrong silently in a training, recorded and put into words."""

import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from pml_extras._checks import check_count, refuse
from pml_extras.training._recorder import Recorder, innermost_losses
from pml_extras.training._trained import NO_GRADIENT, NO_OPTIMIZER, NO_STEP, ParameterWatch

FEW_POSITIVES, NOTHING_MINED, COLLAPSE, NOTHING_LEARNT = "labels", "miner", "collapse", "zero"
_CAUSES = {
    FEW_POSITIVES: (
        "have no row of their class to be compared with. Batches drawn at random from many classes "
        "are like that. Draw several rows a class: pml_extras.samplers.MPerClassBatchSampler, or "
        "MPerClassSampler of pml."
    ),
    NOTHING_MINED: (
        "has been given no positive pair by its miner. Either batches have no two rows of a class "
        "(see pml_extras.samplers.MPerClassBatchSampler), or the miner takes all pairs for easy: "
        "choose one that keeps more, or leave it out."
    ),
    COLLAPSE: (
        "sees all embeddings in nearly one direction. A network that is stuck there has collapsed, "
        "often by a rate that is too high, or by the hardest negatives alone. Lower the rate, mine "
        "semi-hard negatives, or start with a loss without a miner."
    ),
    NOTHING_LEARNT: (
        "has no term above zero, so that nothing is learnt. Margins that all pairs keep, or a miner "
        "that returns nothing, are like that. Widen the margin, mine harder pairs, or stop here."
    ),
    NO_OPTIMIZER: (
        "are held by no optimizer and stay as they are. Give them to one: "
        'optimizers={..., "metric_loss_optimizer": Adam(loss_func.parameters())} in a trainer of '
        "pml, a group of parameters in a loop. Where you do, was the loss copied since?"
    ),
    NO_GRADIENT: (
        "have never had a gradient, so that their optimizer leaves them as they are. Does the value "
        "depend on them, and does backward() reach them? Otherwise freeze them."
    ),
    NO_STEP: (
        "have gradients and an optimizer, and have not changed. Is its step() called, is its rate "
        "above 0, and is the loss not among freeze_these?"
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
            ``MultipleLosses``, a memory, an ensemble. They are called as ever.
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

    Nothing is read back from an accelerator but at the first call and at the end of a window.

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
        self._recorders: list[tuple[nn.Module, dict[str, tuple[nn.Module, Recorder]]]] = []
        for module in loss_funcs:
            losses = innermost_losses(module) if isinstance(module, nn.Module) else {}
            if not losses:
                expected = "losses on pml's BaseMetricLossFunction, or modules that hold some"
                raise refuse("loss_funcs", expected, type(module).__name__)
            recorders = {path: (loss, Recorder(loss)) for path, loss in losses.items()}
            self._recorders.append((module, recorders))
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
            for cause, what in self._found(optimizers):
                if cause not in self._warned:
                    self._warned.add(cause)
                    text = f"{what} {_CAUSES[cause]}"
                    warnings.warn(text, stacklevel=3)
            self._start_window()

    def _start_window(self) -> None:
        for _, recorders in self._recorders:
            for _, recorder in recorders.values():
                recorder.start_window()
        self._watches = [
            [
                ParameterWatch(name, parameter)
                for name, parameter in module.named_parameters()
                if parameter.requires_grad and parameter.numel() > 0
            ]
            for module, _ in self._recorders
        ]

    def _found(self, optimizers: tuple[torch.optim.Optimizer, ...]) -> Iterator[tuple[str, str]]:
        """Causes, and the beginnings of sentences about them."""
        when = f"In the last {self.window} iterations"
        held = {id(p) for o in optimizers for group in o.param_groups for p in group["params"]}
        for (module, recorders), watches in zip(self._recorders, self._watches, strict=True):
            called = {p: pair for p, pair in recorders.items() if pair[1].calls}
            for path, (loss, recorder) in called.items():
                disease = self._disease(loss, recorder)
                if disease is not None:
                    name = type(loss).__name__ + (f" ({path})" if path else "")
                    yield disease[0], disease[1].format(when=when, name=name)
            faults: dict[str, list[str]] = {}
            for watch in watches if called else []:
                fault = watch.fault(held)
                if fault is not None:
                    faults.setdefault(fault, []).append(watch.name)
            for fault, names in faults.items():
                listed = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
                yield fault, f"{when} the parameters of {type(module).__name__} ({listed})"

    def _disease(self, loss: nn.Module, recorder: Recorder) -> tuple[str, str] | None:
        calls = recorder.read()
        by_labels, by_tuple, zeros, cosine = calls.unbind(dim=1)
        compares_vectors = any(
            p.ndim > 1 and recorder.num_columns in p.shape for p in loss.parameters()
        )
        if not compares_vectors and by_labels.mean() >= 0.5:
            return FEW_POSITIVES, f"{{when}} {by_labels.mean():.0%} of the rows of {{name}}"
        if not compares_vectors and (by_tuple == 1).all():
            return NOTHING_MINED, "{when} {name}"
        flat = bool(recorder.rank < 1.5) and recorder.num_classes > 2
        if self._iteration > self.window and (cosine.mean() >= 0.99 or flat):
            rank = f"mean cosine {cosine.mean():.3f}, effective rank {recorder.rank:.1f}"
            return COLLAPSE, f"{{when}} {{name}} ({rank})"
        if (zeros == 1).float().mean() >= 0.5:
            return NOTHING_LEARNT, f"{{when}}, in {(zeros == 1).float().mean():.0%}, {{name}}"
        return None
