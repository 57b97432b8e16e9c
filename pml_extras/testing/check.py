"""Run the promises over a loss."""

import difflib
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import nn

import pml_extras.testing.promised  # noqa: F401 - fills the registry
from pml_extras._checks import refuse
from pml_extras._global_state import GlobalState
from pml_extras.testing.registry import REGISTRY, Promise
from pml_extras.testing.report import Outcome, Report, Status
from pml_extras.testing.subject import Subject


def promises(*, extra: bool = False, without: Iterable[str] = ()) -> dict[str, str]:
    """Name and one-line meaning of each promise that :func:`check_loss` tries.

    Args:
        extra: those too that it tries only where they are asked for: ``compiles`` and
            ``two_processes`` take seconds, ``infinite_rows`` is a matter of taste.
        without: names of those to leave out, such as what a loss does not keep on purpose.

    Raises:
        ValueError: a name in ``without`` is unknown.
    """
    left_out = _known("without", without)
    return {
        name: entry.meaning
        for name, entry in REGISTRY.items()
        if (extra or not entry.extra) and name not in left_out
    }


def check_loss(
    factory: Callable[..., nn.Module],
    *,
    embedding_size: int = 8,
    labels_index_classes: bool = False,
    num_classes: int | None = None,
    needs_labels: bool = True,
    out_of_range: Mapping[str, object] | None = None,
    cost_only: Mapping[str, Sequence[object]] | None = None,
    stochastic: bool = False,
    stateful: bool = False,
    promises: Iterable[str] | None = None,
    seed: int = 0,
) -> Report:
    """Try promises on fresh instances of a loss, on the CPU, in eval mode, from fixed seeds.

    The caller's random state, grad mode and default dtype are as before afterwards. The promise
    ``compiles`` empties torch's cache of compiled graphs; ``two_processes`` starts processes, which
    import the script that asks for it.

    Args:
        factory: makes a fresh loss with each call: a class, or a function that hands keyword
            arguments on to the class. Called with one of ``out_of_range`` or ``cost_only`` at a
            time, too.
        embedding_size: D of the batches.
        labels_index_classes: labels index the loss's own parameters (proxies, class weights): they
            lie in [0, num_classes), their names matter, and others must be refused.
        num_classes: >= 2, how many classes the loss was made for; if ``labels_index_classes``.
        needs_labels: False for a loss that is called without labels.
        out_of_range: for each hyper-parameter a value that the constructor must refuse.
        cost_only: for each hyper-parameter that may change time and memory alone (the size of a
            tile, a chunk) some values to try; the result must be that of the factory's own value.
        stochastic: the loss draws random numbers; also read from its ``is_stochastic``.
        stateful: calls change the loss (a memory, a running mean); also read from ``is_stateful``.
        promises: names of those to try; None: those of :func:`promises`.
        seed: of parameters, batches and draws.

    Returns:
        A report of each case of each promise; it raises nothing for a broken promise by itself.

    Raises:
        TypeError: ``factory`` is not callable, needs arguments, or does not make a torch module.
        ValueError: ``num_classes`` and ``labels_index_classes`` do not go together; a name in
            ``promises`` is unknown; the loss has no argument of a name in ``out_of_range`` or
            ``cost_only``.
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
        try:
            example = factory()
        except TypeError as error:
            if "required" not in str(error):
                raise
            raise TypeError(
                f"factory: expected to be called without arguments; got {error}. "
                "Give them: `lambda **kwargs: MyLoss(5, 8, **kwargs)`."
            ) from error
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
            cost_only=cost_only or {},
            stochastic=stochastic or bool(getattr(example, "is_stochastic", False)),
            stateful=stateful or bool(getattr(example, "is_stateful", False)),
            seed=seed,
        )
        _check_arguments(subject)
        outcomes = tuple(outcome for entry in chosen for outcome in _try(entry, subject))
    return Report(
        type(example).__name__,
        {entry.name: entry.meaning for entry in chosen},
        outcomes,
        {entry.name: entry.fix for entry in chosen},
    )


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Neither the caller's settings reach the checks nor the checks the caller's settings."""
    caller, num_threads = GlobalState.now(), torch.get_num_threads()
    torch.set_num_threads(1)  # on batches this small, threads wait for each other longer than work
    torch.set_default_dtype(torch.float32)
    try:
        with warnings.catch_warnings():
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
    wanted = promises() if names is None else _known("promises", names)
    return [entry for name, entry in REGISTRY.items() if name in wanted]


def _known(argument: str, names: Iterable[str]) -> list[str]:
    wanted = [names] if isinstance(names, str) else list(names)
    for name in wanted:
        if name not in REGISTRY:
            near = difflib.get_close_matches(str(name), REGISTRY, n=1)
            way_out = f"Did you mean {near[0]!r}?" if near else ""
            raise refuse(argument, f"names among {', '.join(REGISTRY)}", repr(name), way_out)
    return wanted


def _check_arguments(subject: Subject) -> None:
    """Refuse a name that the loss does not know, which would read as a broken promise."""
    named = [("out_of_range", name, value) for name, value in subject.out_of_range.items()]
    named += [("cost_only", name, v[0]) for name, v in subject.cost_only.items() if v]
    for argument, name, value in named:
        try:
            subject.factory(**{name: value})
        except TypeError as error:
            if f"unexpected keyword argument '{name}'" in str(error):
                way_out = "Pass arguments on: `lambda **kwargs: MyLoss(..., **kwargs)`."
                raise refuse(argument, "arguments of the loss", repr(name), way_out) from error
        except Exception:  # which promises judge
            continue


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
