"""An epoch of the trainer beside one of pml's MetricLossOnly, from the same seed."""

import copy
import logging

import numpy as np
import pytest
import torch
from pytorch_metric_learning import losses as pml
from pytorch_metric_learning import miners, samplers
from pytorch_metric_learning.trainers import MetricLossOnly
from pytorch_metric_learning.utils import common_functions as c_f
from torch import nn

from pml_extras.training import GradCache

ROWS, CLASSES, BATCH, FEATURES, SIZE = 48, 4, 12, 8, 5
EXACT = {"rtol": 1e-11, "atol": 1e-12}


class Data(torch.utils.data.Dataset):
    def __init__(self, dtype):
        generator = torch.Generator().manual_seed(0)
        self.x = torch.randn(ROWS, 6, generator=generator, dtype=dtype)
        self.labels = [i % CLASSES for i in range(ROWS)]

    def __len__(self):
        return ROWS

    def __getitem__(self, index):
        return self.x[index], self.labels[index]


def parts(dtype=torch.float64):
    """Trunk with batch norm that has seen data, embedder, and proxies."""
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Linear(6, FEATURES), nn.BatchNorm1d(FEATURES), nn.ReLU())
    trunk(torch.randn(64, 6))
    embedder, loss = nn.Linear(FEATURES, SIZE), pml.ProxyAnchorLoss(CLASSES, SIZE)
    return {"trunk": trunk.to(dtype), "embedder": embedder.to(dtype)}, loss.to(dtype)


def epoch(trainer, dtype=torch.float64, without=(), epochs=1, without_optimizer=(), **arguments):
    """Models, loss and what the hooks saw after an epoch."""
    models, loss = parts(dtype)
    learn = {**models, "metric_loss": loss}
    models = {name: model for name, model in models.items() if name not in without}
    seen = []
    arguments = {
        "optimizers": {
            f"{name}_optimizer": torch.optim.Adam(module.parameters(), lr=0.05)
            for name, module in learn.items()
            if name not in (*without, *without_optimizer)
        },
        "loss_funcs": {"metric_loss": loss},
        "freeze_trunk_batchnorm": True,
        **arguments,
    }
    if "lr_schedulers" in arguments:
        arguments["lr_schedulers"] = {
            "trunk_scheduler_by_iteration": torch.optim.lr_scheduler.StepLR(
                arguments["optimizers"]["trunk_optimizer"], 2, 0.1
            )
        }
    if "gradient_clippers" in arguments:
        arguments["gradient_clippers"] = {
            "trunk_grad_clipper": lambda: nn.utils.clip_grad_norm_(
                models["trunk"].parameters(), 0.01
            )
        }
    data = Data(dtype)
    trained = trainer(
        models=models,
        batch_size=BATCH,
        dataset=data,
        data_device=torch.device("cpu"),
        sampler=samplers.MPerClassSampler(data.labels, 3, BATCH, ROWS),
        dataloader_num_workers=0,
        end_of_iteration_hook=lambda t: seen.append(float(t.losses["total_loss"].detach())),
        end_of_epoch_hook=lambda t: seen.append(t.epoch),
        **arguments,
    )
    torch.manual_seed(1)
    c_f.NUMPY_RANDOM = np.random.default_rng(1)
    trained.train(num_epochs=epochs)
    state = {
        f"{name}.{key}": value.detach().clone()
        for name, module in learn.items()
        for key, value in module.state_dict().items()
    }
    return state, seen


def cached(chunk_size=5, **more):
    return lambda **arguments: GradCache(chunk_size=chunk_size, **more, **arguments)


class HalfOfTheBatch(nn.Module):
    """A subset batch miner."""

    def forward(self, embeddings, labels):
        assert not torch.is_grad_enabled()
        return embeddings[:, 0].argsort()[: len(embeddings) // 2]


SETTINGS = {
    "as it comes": {},
    "without embedder": {"without": ("embedder",), "loss_funcs": {"metric_loss": pml.NCALoss()}},
    "miner": {
        "mining_funcs": {"tuple_miner": miners.MultiSimilarityMiner(0.2)},
        "loss_funcs": {"metric_loss": pml.MultiSimilarityLoss()},
    },
    "subset": {"mining_funcs": {"subset_batch_miner": HalfOfTheBatch()}},
    "clipper": {"gradient_clippers": True},
    "scheduler": {"lr_schedulers": True},
    "frozen trunk": {"freeze_these": ("trunk",)},
    "frozen embedder": {"freeze_these": ("embedder",)},
    "frozen loss": {"freeze_these": ("metric_loss",)},
    "all but the loss": {"freeze_these": ("trunk", "embedder")},
    "loss weight": {"loss_weights": {"metric_loss": 0.3}},
    "two epochs": {"epochs": 2},
}


@pytest.fixture(autouse=True)
def _quiet():
    logging.getLogger("PML").setLevel(logging.ERROR)  # of an optimizer for what is frozen
    yield
    logging.getLogger("PML").setLevel(logging.NOTSET)


@pytest.mark.parametrize("name", SETTINGS)
def test_an_epoch_is_that_of_pml(name):
    def settings():
        return copy.deepcopy(SETTINGS[name])

    expected, expected_seen = epoch(MetricLossOnly, **settings())
    actual, seen = epoch(cached(), **settings())
    torch.testing.assert_close(actual, expected, **EXACT)
    torch.testing.assert_close(seen, expected_seen, **EXACT)
    models, loss = parts()
    moved = {
        part
        for part, module in {**models, "metric_loss": loss}.items()
        for key, value in module.state_dict().items()
        if not torch.equal(actual[f"{part}.{key}"], value)
    }
    idle = {*SETTINGS[name].get("freeze_these", ()), *SETTINGS[name].get("without", ())}
    if "loss_funcs" in SETTINGS[name]:
        idle.add("metric_loss")
    assert moved == {"trunk", "embedder", "metric_loss"} - idle


def test_batch_norm_sees_chunks_and_its_statistics_are_updated_once_a_chunk():
    state, _ = epoch(cached(chunk_size=5), freeze_trunk_batchnorm=False)
    chunks = 3 * ROWS // BATCH  # 5, 5 and 2 rows
    assert state["trunk.1.num_batches_tracked"] == 1 + chunks
    whole, _ = epoch(cached(chunk_size=BATCH), freeze_trunk_batchnorm=False)
    expected, _ = epoch(MetricLossOnly, freeze_trunk_batchnorm=False)
    torch.testing.assert_close(whole, expected, **EXACT)


def test_the_batch_moves_to_dtype_chunk_by_chunk():
    rows = []

    class Trunk(nn.Linear):
        def forward(self, x):
            assert x.dtype == torch.float64
            rows.append(len(x))
            return super().forward(x)

    trunk = Trunk(6, SIZE).double()
    trainer = GradCache(
        models={"trunk": trunk},
        optimizers={"trunk_optimizer": torch.optim.SGD(trunk.parameters(), lr=0.1)},
        batch_size=BATCH,
        loss_funcs={"metric_loss": pml.ContrastiveLoss()},
        dataset=Data(torch.float32),
        data_device="cpu",
        dtype=torch.float64,
        dataloader_num_workers=0,
        iterations_per_epoch=1,
        chunk_size=7,
    )
    trainer.train()
    assert rows == [7, 5, 7, 5]


def test_autocast_rounds_and_keeps_parameters_and_the_scaler_takes_its_scale_back():
    plain, seen = epoch(cached(), torch.float32, gradient_clippers=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    clipped = {"gradient_clippers": True}
    scaled, _ = epoch(cached(scaler=scaler), torch.float32, **clipped)
    torch.testing.assert_close(scaled, plain, rtol=1e-4, atol=1e-5)
    half, half_seen = epoch(cached(autocast=torch.float16, scaler=scaler), torch.float32, **clipped)
    assert all(half[key].dtype == value.dtype for key, value in plain.items())
    assert seen != half_seen
    assert half_seen == pytest.approx(seen, rel=0.05)
    for key in ("trunk.0.weight", "embedder.weight", "metric_loss.proxies"):
        assert not torch.equal(half[key], plain[key])


def test_weights_that_change_are_cast_anew():
    half, _ = epoch(cached(autocast=torch.bfloat16), torch.float32, epochs=3)
    plain, _ = epoch(cached(), torch.float32, epochs=3)
    start = {
        f"{n}.{k}": v for n, m in parts(torch.float32)[0].items() for k, v in m.state_dict().items()
    }
    for key in ("trunk.0.weight", "embedder.weight"):
        assert (half[key] - plain[key]).norm() < 0.2 * (plain[key] - start[key]).norm()


def test_a_step_with_gradients_that_are_not_finite_is_left_out():
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127, growth_interval=1000)
    state, _ = epoch(cached(scaler=scaler), torch.float32, freeze_these=("embedder",))
    assert all(value.isfinite().all() for value in state.values())
    assert scaler.get_scale() < 2.0**127


def test_a_scaler_has_nothing_to_do_where_nothing_steps():
    frozen = {"freeze_these": ("trunk", "embedder"), "without_optimizer": ("metric_loss",)}
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=1)
    scaled, seen = epoch(cached(scaler=scaler), **frozen)
    plain, expected_seen = epoch(cached(), **frozen)
    assert seen == expected_seen
    assert all(map(torch.equal, scaled.values(), plain.values()))
    assert scaler.get_scale() == 8.0


def sharing(**arguments):
    """Two optimizers that hold the embedder."""

    def trainer(optimizers, **more):
        held = optimizers["embedder_optimizer"].param_groups[0]["params"]
        optimizers["trunk_optimizer"].add_param_group({"params": held})
        return GradCache(chunk_size=5, optimizers=optimizers, **arguments, **more)

    return trainer


def test_optimizers_that_share_a_parameter_are_refused_with_a_scaler():
    scaler = torch.amp.GradScaler("cpu")
    with pytest.raises(ValueError, match=r"optimizers: expected each .* got two that share one"):
        epoch(sharing(scaler=scaler))
    epoch(sharing())
    epoch(sharing(scaler=torch.amp.GradScaler("cpu", enabled=False)))
    epoch(sharing(scaler=scaler), freeze_these=("embedder",))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"chunk_size": 0}, "chunk_size: expected an integer >= 1; got 0"),
        ({"autocast": torch.float64}, "autocast: expected None, .* got torch.float64"),
        ({"scaler": True}, "scaler: expected None or a .*GradScaler; got bool"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        epoch(cached(**arguments))


def test_the_optimizer_of_what_is_frozen_does_not_step_whatever_else_it_holds():
    embedder = nn.Linear(6, SIZE)
    start = embedder.weight.detach().clone()
    trainer = GradCache(
        models={"trunk": nn.Identity(), "embedder": embedder},
        optimizers={"trunk_optimizer": torch.optim.SGD(embedder.parameters(), lr=0.1)},
        batch_size=BATCH,
        loss_funcs={"metric_loss": pml.ContrastiveLoss()},
        dataset=Data(torch.float32),
        data_device="cpu",
        dataloader_num_workers=0,
        freeze_these=("trunk",),
        chunk_size=7,
    )
    trainer.train()
    assert embedder.weight.grad.abs().max() > 0
    assert torch.equal(embedder.weight, start)


def test_a_batch_that_is_no_tensor_is_refused():
    with pytest.raises(ValueError, match="data: expected a tensor of inputs; got dict"):
        epoch(cached(), data_and_label_getter=lambda batch: ({"x": batch[0]}, batch[1]))
