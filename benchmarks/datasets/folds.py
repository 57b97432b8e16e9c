"""Classes to select on: each k-th of the training classes, in turn."""

from dataclasses import replace
from typing import Any

from benchmarks.datasets import AnyData, Data


def folds(data: AnyData, k: int, fold: int) -> AnyData:
    """One of ``k`` ways to give up training classes for validation; nothing is drawn.

    Class i of the training half validates in fold i % k: a fold takes from all over the list, since
    classes with neighbouring names are alike (characters of one alphabet, intents that begin with
    the same word). Over the k folds each training class validates once. The test half stays.
    Features that were fitted on training classes are fitted again, without those that validate,
    where the data says how.

    Args:
        data: without validation classes.
        k: folds, from 2 to the number of training classes - 1.
        fold: 0..k - 1.

    Returns:
        ``data`` under a name of its own, ``NAME_fold0of4`` for the first of 4.

    Raises:
        ValueError: there are validation classes already, or ``k`` or ``fold`` is out of range.
    """
    classes = data.train.classes
    if data.validation is not None:
        raise ValueError(
            f"data: expected no validation classes yet; got {data.name} with "
            f"{len(data.validation.classes)}. Take the data set without them."
        )
    if not 2 <= k < len(classes):
        raise ValueError(
            f"k: expected 2 to {len(classes) - 1}, for at least one class to train and one to "
            f"select on in each fold; got {k}."
        )
    if not 0 <= fold < k:
        raise ValueError(f"fold: expected 0 to {k - 1}, one of {k} folds; got {fold}.")
    chosen = set(classes[fold::k])
    train: Any = data.train  # of the same kind after it as before
    if isinstance(data, Data) and data.refit is not None:
        trains = [classes[label] not in chosen for label in train.labels.tolist()]
        train = replace(train, images=data.refit(train.texts, trains))
    return replace(
        data,
        name=f"{data.name}_fold{fold}of{k}",
        train=train.only(lambda name: name not in chosen),
        validation=train.only(lambda name: name in chosen),
    )


def training_half(data: AnyData, k: int, fold: int) -> AnyData:
    """A fold of the training classes alone: those that validate stand in the place of the test
    half, which stays outside.

    Also where queries of the test half have a gallery of their own, each image that validates is
    compared with all others that do.

    Raises:
        ValueError: as :func:`folds`.
    """
    part = folds(data, k, fold)
    assert part.validation is not None
    if isinstance(part, Data):
        return replace(part, test=part.validation, validation=None)
    return replace(part, test=part.validation, validation=None, gallery=None)
