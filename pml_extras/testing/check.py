"""Run the promises over a loss."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import nn

import pml_extras.testing.promised  # noqa: F401 - fills the registry
from pml_extras.testing.global_state import GlobalState
from pml_extras.testing.registry import REGISTRY, Promise
from pml_extras.testing.report import Outcome, Report, Status
from pml_extras.testing.subject import Subject


def promises() -> dict[str, str]:
    """Name and one-line meaning of each promise that :func:`check_loss` knows."""
    return {name: entry.meaning for name, entry in REGISTRY.items()}


def check_loss(
    factory: Callable[..., nn.Module],
    *,
    embedding_size: int = 8,
    labels_index_classes: bool = False,
    num_classes: int | None = None,
    needs_labels: bool = True,
    out_of_range: Mapping[str, object] | None = None,
    stochastic: bool = False,
    stateful: bool = False,
    promises: Iterable[str] | None = None,
    seed: int = 0,
) -> Report:
    """Try every promise on fresh instances of a loss, on the CPU, in eval mode, from fixed seeds.

    The caller's random state, grad mode and default dtype are as before afterwards.

    Args:
        factory: makes a fresh loss with each call: a class, or a function that hands keyword
            arguments on to the class. Called with one of ``out_of_range`` at a time, too.
        embedding_size: D of the batches.
        labels_index_classes: labels index the loss's own parameters (proxies, class weights): they
            lie in [0, num_classes), their names matter, and others must be refused.
        num_classes: >= 2, how many classes the loss was made for; if ``labels_index_classes``.
        needs_labels: False for a loss that is called without labels.
        out_of_range: for each hyper-parameter a value that the constructor must refuse.
        stochastic: the loss draws random numbers; also read from its ``is_stochastic``.
        stateful: calls change the loss (a memory, a running mean); also read from ``is_stateful``.
        promises: names of those to try; by default all of :func:`promises`.
        seed: of parameters, batches and draws.

    Returns:
        A report of each case of each promise; it raises nothing for a broken promise by itself.

    Raises:
        TypeError: ``factory`` is not callable, or does not make a torch module.
        ValueError: ``num_classes`` and ``labels_index_classes`` do not go together, or a name in
            ``promises`` is unknown.
    """
    chosen = _chosen(promises)
    _check_classes(labels_index_classes, num_classes)
    if isinstance(factory, nn.Module) or not callable(factory):
        raise TypeError(
            "factory: expected a class or function that makes a fresh loss with each call; got "
            f"an object of {type(factory)}. "
            f"Pass `lambda **kwargs: {type(factory).__name__}(..., **kwargs)`."
        )
    with _undisturbed():
        example = factory()
        if not isinstance(example, nn.Module):
            raise TypeError(
                f"factory: expected to make a torch.nn.Module; got {type(example)}. "
                "Return the loss from it."
            )
        subject = Subject(
            factory=factory,
            embedding_size=embedding_size,
            labels_index_classes=labels_index_classes,
            num_classes=num_classes,
            needs_labels=needs_labels,
            out_of_range=out_of_range or {},
            stochastic=stochastic or bool(getattr(example, "is_stochastic", False)),
            stateful=stateful or bool(getattr(example, "is_stateful", False)),
            seed=seed,
        )
        outcomes = tuple(outcome for entry in chosen for outcome in _try(entry, subject))
    meanings = {entry.name: entry.meaning for entry in chosen}
    return Report(type(example).__name__, meanings, outcomes)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Neither the caller's settings reach the checks nor the checks the caller's settings."""
    caller, num_threads = GlobalState.now(), torch.get_num_threads()
    torch.set_num_threads(1)  # on batches this small, threads wait for each other longer than work
    torch.set_default_dtype(torch.float32)
    try:
        with warnings.catch_warnings(), torch.enable_grad():
            warnings.simplefilter("ignore")  # a warning breaks no promise
            yield
    finally:
        torch.set_num_threads(num_threads)
        caller.restore()


def _try(entry: Promise, subject: Subject) -> Iterator[Outcome]:
    nothing = Outcome("", Status.NOT_APPLICABLE, case="the loss gives no value to compare with")
    with torch.enable_grad():  # whatever the promise before has left
        outcomes = list(entry.cases(subject)) or [nothing]
    for outcome in outcomes:
        yield replace(outcome, promise=entry.name)


def _chosen(names: Iterable[str] | None) -> list[Promise]:
    if names is None:
        return list(REGISTRY.values())
    wanted = [names] if isinstance(names, str) else list(names)
    for name in wanted:
        if name not in REGISTRY:
            raise ValueError(
                f"promises: expected names among {', '.join(REGISTRY)}; got {name!r}. "
                "pml_extras.testing.promises() lists them with their meanings."
            )
    return [entry for name, entry in REGISTRY.items() if name in wanted]


def _check_classes(labels_index_classes: bool, num_classes: int | None) -> None:
    if labels_index_classes != (num_classes is not None):
        raise ValueError(
            "num_classes: expected a number if and only if labels_index_classes is True; got "
            f"num_classes={num_classes} with labels_index_classes={labels_index_classes}. "
            "Give both for a loss with proxies or class weights, and neither for others."
        )
    if num_classes is not None and num_classes < 2:
        raise ValueError(
            f"num_classes: expected at least 2; got {num_classes}. "
            "Make the loss for more classes: with one there is nothing to tell apart."
        )
