"""What :class:`WeightedLossEnsemble` is given, checked and by name."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from pml_extras._checks import check_count, check_finite, refuse
from pml_extras.losses._members import check_member


def members_by_name(losses: Any) -> dict[str, nn.Module]:
    """Losses of a mapping, a list of pairs, or a list, whose names are loss_0, loss_1, ..."""
    if isinstance(losses, nn.ModuleDict):
        losses = dict(losses.items())
    if isinstance(losses, Mapping):
        pairs = list(losses.items())
    elif isinstance(losses, (Sequence, nn.ModuleList)):
        pairs = [
            entry if isinstance(entry, tuple) and len(entry) == 2 else (f"loss_{k}", entry)
            for k, entry in enumerate(losses)
        ]
    else:
        raise refuse("losses", "a mapping or a list", type(losses).__name__)
    if not pairs:
        raise refuse("losses", "one at least", "none")
    names = [name for name, _ in pairs]
    for name, loss in pairs:
        check_member(f"losses[{name!r}]", loss)
        if names.count(name) > 1:
            raise refuse("losses", "names that differ", f"{name!r} twice")
    return dict(pairs)


def check_names(names: list[str]) -> None:
    """Of all sub-losses, those of extra terms too."""
    for name in names:
        if not isinstance(name, str) or not name.isidentifier() or hasattr(nn.ModuleDict(), name):
            expected = "names that are identifiers and no attributes of a module"
            raise refuse("losses", expected, repr(name))
        if names.count(name) > 1:
            raise refuse("losses", "names other than those of extra terms", repr(name))


def check_scale(scale: Any, max_scale: float | None) -> None:
    expected = '"cumulative", a momentum in (0, 1), or None'
    if isinstance(scale, str):
        if scale != "cumulative":
            raise refuse("scale", expected, repr(scale))
    elif scale is not None and (not isinstance(scale, (int, float)) or not 0 < scale < 1):
        raise refuse("scale", expected, repr(scale))
    if max_scale is not None:
        check_finite(max_scale=max_scale)
        if max_scale < 1:
            raise refuse("max_scale", "None or at least 1", max_scale)
        if scale is None:
            raise refuse("max_scale", "None with scale=None", max_scale)


def miners_by_name(miners: Any, names: tuple[str, ...]) -> dict[str, nn.Module]:
    """Of the losses that have one."""
    if miners is None:
        return {}
    if not isinstance(miners, (Mapping, nn.ModuleDict)):
        if not isinstance(miners, Sequence):
            raise refuse("miners", "a mapping by name or a list", type(miners).__name__)
        if len(miners) != len(names):
            raise refuse("miners", f"{len(names)}, one a loss or None", len(miners))
        miners = dict(zip(names, miners, strict=True))
    for name, miner in miners.items():
        if name not in names:
            raise refuse("miners", f"names among {list(names)}", repr(name))
        if miner is not None and not isinstance(miner, nn.Module):
            raise refuse(f"miners[{name!r}]", "a miner or None", type(miner).__name__)
    return {name: miner for name, miner in miners.items() if miner is not None}


def sizes_or_modules(
    heads: Any, names: tuple[str, ...]
) -> tuple[list[int] | None, dict[str, nn.Module]]:
    """Sizes of slices, from left to right, or modules by name."""
    if heads is None:
        return None, {}
    if not isinstance(heads, (Mapping, nn.ModuleDict, Sequence, nn.ModuleList)):
        raise refuse("heads", "a mapping by name, or a list", type(heads).__name__)
    if any(isinstance(head, nn.Module) for head in heads):  # of a list: a mapping gives names
        if len(heads) != len(names):
            raise refuse("heads", f"{len(names)} modules, one a loss", len(heads))
        heads = dict(zip(names, heads, strict=True))
    if isinstance(heads, (Mapping, nn.ModuleDict)):
        if set(heads) != set(names):
            raise refuse("heads", f"the names of the losses, {list(names)}", list(heads))
        for name in names:
            if not isinstance(heads[name], nn.Module):
                raise refuse(f"heads[{name!r}]", "a torch module", type(heads[name]).__name__)
        return None, {name: heads[name] for name in names}
    sizes = list(heads)
    if len(sizes) != len(names):
        raise refuse("heads", f"{len(names)} sizes, one a loss", len(sizes))
    for size in sizes:
        check_count(1, heads=size)
    return [int(size) for size in sizes], {}
