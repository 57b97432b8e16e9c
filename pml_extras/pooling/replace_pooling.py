"""Put generalized sum pooling into a network that ends in an average and a linear classifier."""

from typing import Any, TypeVar

from torch import Tensor, nn

from pml_extras._checks import check_count, check_flag, refuse
from pml_extras.pooling.generalized_sum_pooling import GeneralizedSumPooling

Model = TypeVar("Model", bound=nn.Module)


def replace_pooling(
    model: Model,
    embedding_size: int | None = None,
    *,
    classifier: bool | None = None,
    **pooling: Any,
) -> Model:
    """Replace the pooling of a backbone in place, and its classifier where that is asked for.

    Args:
        model: with modules ``avgpool`` and ``fc``, an average over all locations and a linear
            classifier (torchvision's ResNet, ResNeXt, RegNet, GoogLeNet, Inception);
            ``global_pool`` and ``fc`` (timm's ResNet and its kin); or ``encoder`` and ``heads``
            (torchvision's VisionTransformer, whose patch tokens are pooled and whose class token is
            left out). Auxiliary classifiers stay as they are.
        embedding_size: d of a projection before pooling; None pools the features themselves.
        classifier: False returns what is pooled, in float32 at least: embeddings. True ends in
            class scores, by the classifier of ``model``, in which the first linear layer is a new
            one where it takes another size. To be chosen where there is an ``embedding_size``; None
            without one is True.
        pooling: further arguments of :class:`GeneralizedSumPooling`, but for ``in_channels`` and
            ``project``; it is then ``model.avgpool``, ``model.global_pool`` or
            ``model.encoder.pooling``. A forward pre-hook there sees the maps that its ``weights``
            and ``plan`` take. torchvision's ``create_feature_extractor`` cannot trace through it:
            pass ``tracer_kwargs={"leaf_modules": [GeneralizedSumPooling]}``.

    Returns:
        ``model``. New modules have the device, type and mode of its classifier, which is given what
        is pooled in the type of the features, as it was their average. Load weights first: the
        names of a transformer's encoder change.

    Raises:
        ValueError: a model of another form, that was changed before, or whose classifier is not
            linear; ``concatenate_attributes`` before a classifier; another size for one that has
            parameters before its first linear layer.

    >>> import torch, torchvision
    >>> trunk = replace_pooling(torchvision.models.resnet18(), 128, classifier=False)
    >>> trunk(torch.randn(2, 3, 64, 64)).shape
    torch.Size([2, 128])
    """
    if embedding_size is not None:
        check_count(1, embedding_size=embedding_size)
    if classifier is None and embedding_size is not None:
        expected = "False, which gives embeddings, or True, which gives class scores of them"
        raise refuse("classifier", expected, None)
    classifier = classifier is None or classifier
    check_flag(classifier=classifier)
    for name in ("in_channels", "project"):
        if name in pooling:
            raise refuse(name, "no such argument", repr(pooling[name]), "The model decides it.")
    if classifier and pooling.get("concatenate_attributes"):
        expected = "False before a classifier"
        raise refuse("concatenate_attributes", expected, True, "Pass classifier=False.")
    place, end = _places(model)
    last: nn.Module = getattr(model, end)
    name, linear = _linears(last)[0]
    size = linear.in_features
    layer = GeneralizedSumPooling(
        size, embedding_size, project=embedding_size is not None, **pooling
    )
    layer.to(linear.weight).train(linear.training)
    if classifier:
        layer.register_forward_hook(_as_features, with_kwargs=True)
        if layer.embedding_size != size:
            last = _with_input_size(layer.embedding_size, last, name, linear)
    else:
        last = nn.Identity().train(linear.training)
    replaced = getattr(model, place)
    setattr(model, place, PooledEncoder(replaced, layer) if place == "encoder" else layer)
    setattr(model, end, last)
    return model


class PooledEncoder(nn.Module):
    """A transformer's encoder whose only token is pooled from those of the patches."""

    def __init__(self, encoder: nn.Module, pooling: GeneralizedSumPooling) -> None:
        super().__init__()
        self.encoder = encoder
        self.pooling = pooling

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, 1 + N, C), the class token first, to (B, 1, d)."""
        pooled: Tensor = self.pooling(self.encoder(tokens)[:, 1:])
        return pooled[:, None]


def _places(model: nn.Module) -> tuple[str, str]:
    """Names of the module to replace and of the classifier."""
    has = dict(model.named_children())
    average = has.get("avgpool")
    if isinstance(average, nn.AdaptiveAvgPool2d) and average.output_size in (1, (1, 1)):
        pooled = "avgpool"
    elif "global_pool" in has and not isinstance(has["global_pool"], GeneralizedSumPooling):
        pooled = "global_pool"
    elif {"encoder", "heads"} <= has.keys() and hasattr(model, "class_token"):
        pooled = "encoder"
    else:
        pooled = ""
    end = "heads" if pooled == "encoder" else "fc"
    already = isinstance(has.get("encoder"), PooledEncoder)
    if not pooled or already or end not in has or not _linears(has[end]):
        parts = [f"{name} ({type(part).__name__})" for name, part in has.items()]
        raise refuse(
            "model",
            "avgpool (to 1 x 1) or global_pool before a linear fc, or encoder before heads",
            f"{type(model).__name__} with " + (", ".join(parts) or "no modules"),
            "Replace the pooling before its classifier is removed, and once; of another network "
            "build nn.Sequential(model.features, GeneralizedSumPooling(channels, size)).",
        )
    return pooled, end


def _linears(module: nn.Module) -> list[tuple[str, nn.Linear]]:
    return [(name, part) for name, part in module.named_modules() if isinstance(part, nn.Linear)]


def _with_input_size(size: int, head: nn.Module, name: str, linear: nn.Linear) -> nn.Module:
    """``head`` with a new layer of ``size`` inputs in place of ``linear``, its first one."""
    first = next(part for part in head.modules() if _held(part))
    if first is not linear:
        raise refuse(
            "embedding_size",
            f"None or {linear.in_features}, which {type(first).__name__} of the classifier takes",
            size,
        )
    new = nn.Linear(size, linear.out_features, bias=linear.bias is not None)
    new.to(linear.weight).train(linear.training)
    if head is linear:
        return new
    parent, _, key = name.rpartition(".")
    setattr(head.get_submodule(parent), key, new)
    return head


def _held(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(recurse=False), *module.buffers(recurse=False)]


def _as_features(layer: nn.Module, args: Any, kwargs: dict[str, Any], pooled: Any) -> Any:
    """In the type of the features, as their average would be; a pair with attributes as it is."""
    x: Tensor = args[0] if args else kwargs["x"]
    return pooled if isinstance(pooled, tuple) else pooled.to(x.dtype)
