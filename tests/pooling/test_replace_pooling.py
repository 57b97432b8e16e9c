import copy
import functools
import pickle

import pytest
import torch
from torch import nn

from pml_extras.pooling import GeneralizedSumPooling, replace_pooling

models = pytest.importorskip("torchvision.models")

CLASSES = 7
SMALL_VIT = functools.partial(
    models.VisionTransformer,
    image_size=32,
    patch_size=8,
    num_layers=2,
    num_heads=2,
    hidden_dim=24,
    mlp_dim=32,
)
BACKBONES = {  # with the side of their images
    "resnet18": (models.resnet18, 64),
    "googlenet": (functools.partial(models.googlenet, init_weights=False), 64),
    "vit": (SMALL_VIT, 32),
    "vit with pre-logits": (functools.partial(SMALL_VIT, representation_size=10), 32),
}


def layer_of(model):
    (layer,) = (m for m in model.modules() if isinstance(m, GeneralizedSumPooling))
    return layer


def make(name, **arguments):
    build, side = BACKBONES[name]
    return build(num_classes=CLASSES, **arguments), torch.randn(4, 3, side, side)


def before_classifier(model, x):
    """What the classifier takes."""
    taken = []
    classifier = model.heads if hasattr(model, "heads") else model.fc
    handle = classifier.register_forward_pre_hook(lambda module, args: taken.append(args[0]))
    scores = model(x)
    handle.remove()
    return taken[0], scores


@pytest.mark.parametrize(
    ("build", "side"),
    [
        (models.resnet50, 64),
        (functools.partial(models.googlenet, init_weights=False), 64),
    ],
)
def test_all_mass_gives_the_pooled_vector_and_scores_of_before(build, side):
    model, x = build(num_classes=CLASSES).eval(), torch.randn(2, 3, side, side)
    with torch.no_grad():
        pooled, scores = before_classifier(model, x)
        classifier = model.fc
        assert replace_pooling(model, mass=1, startup_size=0) is model
        assert model.fc is classifier
        actual, actual_scores = before_classifier(model, x)
    torch.testing.assert_close(actual, pooled, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(actual_scores, scores, rtol=1e-5, atol=1e-5)


def test_all_mass_gives_the_mean_of_patch_tokens():
    model = models.vit_b_16(image_size=64, num_classes=CLASSES).eval()
    x, tokens = torch.randn(2, 3, 64, 64), []
    model.encoder.register_forward_hook(lambda module, args, out: tokens.append(out))
    with torch.no_grad():
        model(x)
        expected = tokens[0][:, 1:].mean(dim=1)
        actual, scores = before_classifier(replace_pooling(model, mass=1, startup_size=0), x)
    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-6)
    assert scores.shape == (2, CLASSES)


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("embedding_size", [None, 5])
@pytest.mark.parametrize("classifier", [True, False])
def test_shapes_and_gradients_after_start_up(name, embedding_size, classifier):
    model, x = make(name)
    width = (model.heads[0] if hasattr(model, "heads") else model.fc).in_features
    replace_pooling(model, embedding_size, classifier=classifier, num_prototypes=2, startup_size=4)
    for part in (model.heads if hasattr(model, "heads") else model.fc).modules():
        if isinstance(part, nn.Linear):
            nn.init.normal_(part.weight)  # that of a new transformer is 0
    layer = layer_of(model)
    assert not layer.started
    model(x)
    assert not layer.started
    out = model(x)
    assert layer.started
    out = out if torch.is_tensor(out) else out[0]  # googlenet: scores and those of its branches
    expected = CLASSES if classifier else (embedding_size or width)
    assert out.shape == (4, expected)
    out.square().sum().backward()
    for parameter, value in model.named_parameters():
        if not parameter.startswith("aux"):
            assert value.grad is not None, parameter
            assert torch.isfinite(value.grad).all(), parameter
    assert layer.prototypes.grad.abs().max() > 0


def test_branches_of_googlenet_stay():
    model, x = make("googlenet", aux_logits=True)
    branch = copy.deepcopy(model.aux1.state_dict())
    replace_pooling(model, 5, classifier=False, num_prototypes=2, startup_size=0)
    out = model(x)
    assert out.logits.shape == (4, 5)
    assert out.aux_logits1.shape == out.aux_logits2.shape == (4, CLASSES)
    for name, value in model.aux1.state_dict().items():
        if "running" not in name and "tracked" not in name:
            assert torch.equal(value, branch[name])


def test_attributes_reach_the_end_where_there_is_no_classifier():
    for name in ("resnet18", "vit"):
        model, x = make(name)
        replace_pooling(
            model,
            5,
            classifier=False,
            num_prototypes=2,
            startup_size=0,
            concatenate_attributes=True,
        )
        assert model(x).shape == (4, 7)
        assert model.eval()(x).shape == (4, 5)


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("embedding_size", [None, 5])
@pytest.mark.parametrize("startup_size", [0, 4])  # with weights, and as an average
def test_a_model_in_bfloat16_takes_its_images(name, embedding_size, startup_size):
    model, x = make(name)
    replace_pooling(
        model, embedding_size, classifier=True, num_prototypes=2, startup_size=startup_size
    )
    model.bfloat16().eval()
    taken, scores = before_classifier(model, x.bfloat16())
    assert taken.dtype == scores.dtype == torch.bfloat16
    scores.sum().backward()
    assert isinstance(layer_of(model).prototypes.grad, torch.Tensor)


@pytest.mark.parametrize("name", BACKBONES)
def test_under_autocast_scores_have_its_type_and_are_those_of_before(name):
    model, x = make(name)
    for part in (model.heads if hasattr(model, "heads") else model.fc).modules():
        if isinstance(part, nn.Linear):
            nn.init.normal_(part.weight)
    replace_pooling(model, num_prototypes=2, startup_size=0).eval()
    with torch.no_grad():
        expected = model(x)
        with torch.autocast("cpu", torch.bfloat16):
            found = model(x)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(
        found.float(), expected, rtol=0.1, atol=0.05 * expected.abs().max().item()
    )


def test_without_a_classifier_half_features_are_pooled_in_float32():
    model, x = make("resnet18")
    replace_pooling(model, 5, classifier=False, num_prototypes=2, startup_size=0)
    assert model.bfloat16().eval()(x.bfloat16()).dtype == torch.float32


def test_attributes_of_a_layer_before_a_classifier_come_with_it():
    model = replace_pooling(make("resnet18")[0], num_prototypes=2, startup_size=0)
    maps = torch.randn(3, 512, 2, 2)
    pooled, z = model.avgpool(maps, return_attributes=True)
    assert torch.equal(model.avgpool(x=maps), pooled)
    assert z.shape == (3, 2)


def test_a_replaced_model_is_copied_and_pickled_with_the_type_of_its_features():
    model, x = make("resnet18")
    replace_pooling(model, num_prototypes=2, startup_size=0).bfloat16().eval()
    expected = model(x.bfloat16())
    for again in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(again(x.bfloat16()), expected)


@pytest.mark.parametrize("name", BACKBONES)
def test_a_classifier_whose_size_fits_is_kept(name):
    model, _ = make(name)
    end = "heads" if hasattr(model, "heads") else "fc"
    before = getattr(model, end)
    width = (before[0] if end == "heads" else before).in_features
    weights = copy.deepcopy(before.state_dict())
    replace_pooling(model, width, classifier=True, num_prototypes=2, startup_size=0)
    assert getattr(model, end) is before
    assert layer_of(model).projection.weight.shape == (width, width)
    for key, value in before.state_dict().items():
        assert torch.equal(value, weights[key])


def test_what_stands_around_the_first_linear_layer_of_a_classifier_is_kept():
    model, x = make("resnet18")
    parts = [
        nn.Sequential(nn.Dropout(0.5), nn.Linear(512, 6, bias=False)),
        nn.ReLU(),
        nn.Linear(6, CLASSES),
    ]
    model.fc = nn.Sequential(*parts).double()
    head = replace_pooling(model, 5, classifier=True, num_prototypes=2, startup_size=0).fc
    assert isinstance(head[0][0], nn.Dropout)
    assert (head[1], head[2]) == (parts[1], parts[2])
    new = head[0][1]
    assert (new.in_features, new.out_features, new.bias) == (5, 6, None)
    assert new.weight.dtype == torch.float64
    assert model.double()(x.double()).shape == (4, CLASSES)


@pytest.mark.parametrize("norm", [nn.LayerNorm(512), nn.BatchNorm1d(512, affine=False)])
def test_a_classifier_that_starts_with_another_size_is_refused_and_kept(norm):
    model, x = make("resnet18")
    pooling, head = model.avgpool, nn.Sequential(norm, nn.Linear(512, CLASSES))
    model.fc = head
    came = rf"^embedding_size: expected None or 512, which {type(norm).__name__} of .*; got 5"
    with pytest.raises(ValueError, match=came):
        replace_pooling(model, 5, classifier=True)
    assert (model.avgpool, model.fc, head[1].in_features) == (pooling, head, 512)
    assert replace_pooling(model, 512, classifier=True, num_prototypes=2, startup_size=0)(
        x
    ).shape == (4, CLASSES)


def test_new_modules_follow_the_model():
    model = make("resnet18")[0].double().eval()
    replace_pooling(model, 5, classifier=True)
    assert {p.dtype for p in model.parameters()} == {torch.float64}
    assert not any(m.training for m in model.modules())
    without = replace_pooling(make("resnet18")[0].eval(), 5, classifier=False)
    assert not any(m.training for m in without.modules())
    assert model.fc.out_features == CLASSES


@pytest.mark.parametrize(
    ("build", "found"),
    [
        (lambda: models.alexnet(num_classes=2), r"AlexNet with features \(Sequential\), avgpool"),
        (
            lambda: models.squeezenet1_1(num_classes=2),
            r"SqueezeNet with features \(Sequential\), classifier",
        ),
        (lambda: nn.Sequential(), "Sequential with no modules"),
        (lambda: replace_pooling(make("resnet18")[0]), r"ResNet with conv1 \(Conv2d\)"),
        (lambda: replace_pooling(make("vit")[0]), r"VisionTransformer with conv_proj \(Conv2d\)"),
    ],
)
def test_other_models_are_refused_with_the_way_out(build, found):
    model = build()
    before = list(model.named_modules())
    with pytest.raises(ValueError, match=rf"^model: expected .*; got {found}.*\. Replace the"):
        replace_pooling(model)
    assert list(model.named_modules()) == before


def test_a_classifier_that_is_gone_is_refused():
    model = make("resnet18")[0]
    model.fc = nn.Identity()
    with pytest.raises(ValueError, match="before its classifier is removed"):
        replace_pooling(model)


def test_a_pooling_that_keeps_a_grid_is_refused():
    model = make("resnet18")[0]
    model.avgpool = nn.AdaptiveAvgPool2d(2)
    with pytest.raises(ValueError, match=r"^model: expected avgpool \(to 1 x 1\)"):
        replace_pooling(model)


def test_bad_arguments_are_named_and_change_nothing():
    model = make("resnet18")[0]
    pooling = model.avgpool
    for arguments, message in (
        ({"classifier": "new"}, "^classifier: expected True or False"),
        ({"embedding_size": 5}, "^classifier: expected False, which gives embeddings, or True"),
        ({"project": False}, "^project: expected no such argument"),
        ({"in_channels": 512}, "^in_channels: expected no such argument"),
        ({"embedding_size": 0}, "^embedding_size: expected an integer >= 1"),
        ({"concatenate_attributes": True}, "^concatenate_attributes: expected False before a"),
        ({"mass": 2.0}, "^mass: expected a fraction"),
    ):
        with pytest.raises(ValueError, match=message):
            replace_pooling(model, **arguments)
    assert model.avgpool is pooling


class LikeTimm(nn.Module):
    """Pools and flattens in one module, as the residual networks of timm do."""

    def __init__(self):
        super().__init__()
        self.trunk = nn.Conv2d(3, 6, 3)
        self.global_pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.fc = nn.Linear(6, CLASSES)

    def forward(self, x):
        return self.fc(self.global_pool(self.trunk(x)))


def test_a_global_pool_that_flattens_is_replaced():
    model, x = LikeTimm(), torch.randn(2, 3, 8, 8)
    expected = model(x)
    torch.testing.assert_close(replace_pooling(model, mass=1, startup_size=0)(x), expected)
    with pytest.raises(ValueError, match=r"^model: expected"):
        replace_pooling(model)
    assert replace_pooling(LikeTimm(), 5, classifier=False)(x).shape == (2, 5)
