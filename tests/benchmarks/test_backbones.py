"""Backbones: the features of torchvision, local weights, batch norms that stay frozen."""

import io
import sys
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torchvision import models

from benchmarks.backbones import TORCHVISION, Backbone, ImageTrunk
from benchmarks.recipes.generalized_sum_pooling import MaxPooling


def images(count: int = 3, size: int = 64) -> torch.Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def stirred(model: nn.Module) -> nn.Module:
    """With running statistics that no fresh model has."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.8, 1.2)
    return model.eval()


def published(name: str) -> nn.Module:
    """As torchvision's weights are: with classifiers."""
    torch.manual_seed(1)
    if name == "googlenet":
        return stirred(models.googlenet(aux_logits=True, transform_input=True, init_weights=False))
    return stirred(getattr(models, name)())


@pytest.mark.parametrize("name", ["resnet18", "googlenet"])
def test_features_and_weights_are_those_of_torchvision(name: str, tmp_path: Path) -> None:
    model = published(name)
    file = tmp_path / "weights.pt"
    torch.save(model.state_dict(), file)
    trunk = ImageTrunk(Backbone(name, weights=file), 8).eval()
    model.fc = nn.Identity()
    with torch.no_grad():
        expected = model(images())
        maps = trunk.features(images())
        made = trunk(images())
    torch.testing.assert_close(maps.mean(dim=(2, 3)), expected, rtol=1e-5, atol=1e-6)
    assert maps.shape[2:] == (2, 2)
    linear = trunk.pooling.get_submodule("2")
    torch.testing.assert_close(made, linear(expected), rtol=1e-5, atol=1e-6)


def test_the_network_of_the_papers_gives_maps_of_2048_channels() -> None:
    trunk = ImageTrunk(Backbone(), 512)
    assert trunk.features(images(1, 224)).shape == (1, 2048, 7, 7)
    assert trunk(images(2)).shape == (2, 512)


def test_a_pooling_of_a_recipe_takes_the_place_of_the_average() -> None:
    trunk = ImageTrunk(Backbone("resnet18"), 8, MaxPooling)
    assert isinstance(trunk.pooling, MaxPooling)
    expected = trunk.pooling.projection(trunk.features(images()).amax(dim=(2, 3)))
    torch.testing.assert_close(trunk(images()), expected)


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("name", ["resnet18", "googlenet"])
def test_frozen_batch_norms_stay_frozen_in_training_copies_and_files(
    name: str, frozen: bool
) -> None:
    trunk = ImageTrunk(Backbone(name, frozen_batch_norm=frozen), 8)
    file = io.BytesIO()
    torch.save(trunk, file)
    file.seek(0)
    for one in (trunk, deepcopy(trunk), torch.load(file, weights_only=False)):
        one.eval().train()
        before = {key: value.clone() for key, value in one.features.named_buffers()}
        out = one(images()).sum()
        changed = [
            key for key, value in one.features.named_buffers() if (value != before[key]).any()
        ]
        assert bool(changed) != frozen
        assert one.training
        assert one.pooling.training
        out.backward()
        norm = next(m for m in one.features.modules() if isinstance(m, nn.BatchNorm2d))
        assert norm.weight.grad is not None  # scales are trained


def test_another_seed_is_another_start() -> None:
    starts = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        trunk = ImageTrunk(Backbone("resnet18"), 8)
        starts.append(torch.cat([parameter.flatten() for parameter in trunk.parameters()]))
    assert torch.equal(starts[0], starts[1])
    assert not torch.equal(starts[0], starts[2])


def _files(folder: Path) -> dict[str, Any]:
    state = models.resnet18().state_dict()
    short = {key: value for key, value in state.items() if key != "layer1.0.conv1.weight"}
    return {
        "text": None,
        "list": [1, 2],
        "nested": {"state_dict": state},
        "short": short,
        "longer": {**state, "layer5.weight": torch.zeros(1)},
        "renamed": {f"module.{key}": value for key, value in state.items()},
        "reshaped": {**state, "conv1.weight": torch.zeros(64, 1, 7, 7)},
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("missing", "expected a file of weights at .*FileNotFoundError"),
        ("text", "expected a file of weights at "),
        ("list", "expected a mapping from names to tensors; got list"),
        ("nested", "expected a mapping from names to tensors; got dict of something else"),
        ("short", r"names of this network; got 1 missing \['layer1\.0\.conv1\.weight'\] and 0"),
        ("longer", r"names of this network; got 0 missing \[\] and 1 others \['layer5\.weight'\]"),
        ("renamed", r"got 100 missing .* and 122 others \['module\.conv1\.weight'"),
        ("reshaped", "the shapes of this network; got .*conv1"),
    ],
)
def test_weights_of_something_else_are_explained(
    content: str, message: str, tmp_path: Path
) -> None:
    file = tmp_path / content
    if content == "text":
        file.write_text("weights")
    elif content != "missing":
        torch.save(_files(tmp_path)[content], file)
    with pytest.raises(ValueError, match=rf"(?s)--weights: .*{message}.*random start"):
        ImageTrunk(Backbone("resnet18", weights=file), 8)


def test_settings_name_weights_by_their_content(tmp_path: Path) -> None:
    for name, content in (("a", b"1"), ("b", b"1"), ("c", b"2")):
        (tmp_path / name).write_bytes(content)
    a, b, c = (Backbone(weights=tmp_path / name).settings() for name in "abc")
    assert a == b != c
    assert Backbone().settings()["weights"] is None
    with pytest.raises(ValueError, match=r"--weights: expected a file at .*none"):
        Backbone(weights=tmp_path / "none").settings()


def test_other_networks_are_refused() -> None:
    with pytest.raises(ValueError, match="backbone: expected one of resnet18, resnet50, googlenet"):
        Backbone("vgg")
    assert list(TORCHVISION) == ["resnet18", "resnet50", "googlenet"]


def test_networks_of_timm_pool_by_themselves_and_never_download(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Network(nn.Module):
        num_features = 3

        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm2d(3)

        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            pooled: torch.Tensor = self.norm(batch).mean(dim=(2, 3))
            return pooled

    def create_model(name: str, *, pretrained: bool, num_classes: int) -> nn.Module:
        assert (pretrained, num_classes) == (False, 0)
        if name != "small":
            raise RuntimeError(f"Unknown model ({name})")
        return Network()

    monkeypatch.setitem(sys.modules, "timm", SimpleNamespace(create_model=create_model))
    state = {"norm.weight": torch.ones(3), "norm.bias": torch.ones(3), "head.weight": torch.ones(1)}
    statistics = {"norm.running_mean": torch.zeros(3), "norm.running_var": torch.ones(3)}
    torch.save({**state, **statistics}, tmp_path / "small.pt")
    trunk = ImageTrunk(Backbone("timm:small", weights=tmp_path / "small.pt"), 5).train()
    assert trunk(images()).shape == (3, 5)
    assert trunk.features(images()).mean() > 0.9  # the bias of the file
    assert not trunk.features.get_submodule("norm").training
    with pytest.raises(ValueError, match=r"timm\.list_models.*got timm:large.*Unknown model"):
        ImageTrunk(Backbone("timm:large"), 5)
    with pytest.raises(ValueError, match="pooling: expected None for timm:small"):
        ImageTrunk(Backbone("timm:small"), 5, MaxPooling)
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(
        ValueError, match=r"expected an installed timm; got none\. Run `pip install"
    ):
        ImageTrunk(Backbone("timm:small"), 5)
