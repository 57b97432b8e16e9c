"""A loss with proxies in Lightning: broken off in the middle of an epoch, and continued exactly.

Real scans of digits, one half for training, retrieval in the other. What to note, in its place
below: proxies have a rate of their own, the checkpoint holds proxies and the place of the sampler,
and the same lines train in several processes. Writes ``half_way.ckpt``. Needs Lightning,
scikit-learn for the scans and faiss for neighbours: pip install ".[bench,dev]" in a clone. Takes
seconds on a CPU:

    python examples/lightning_module.py
    torchrun --nproc-per-node 2 examples/lightning_module.py
"""

import os
import warnings
from typing import Any

import torch
from lightning import LightningDataModule, LightningModule, Trainer
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from pml_extras.losses import PotentialFieldLoss
from pml_extras.samplers import MPerClassBatchSampler
from pml_extras.wrappers import DistributedLossWrapper

PROCESSES = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # set by torchrun
BATCH_SIZE, STEPS = 40, 200  # of all processes together; no epoch ends half-way
FILE = "half_way.ckpt"


class Embedding(LightningModule):
    """The loss is a submodule: it moves to the device, and its proxies are in the checkpoint."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 64))
        # The loss of the joined batch in several processes, the loss itself in one.
        self.loss_func = DistributedLossWrapper(PotentialFieldLoss(10, 64, reduction="batch_mean"))
        self.calculator = AccuracyCalculator(
            include=("precision_at_1", "mean_average_precision_at_r"), k="max_bin_count"
        )

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Not ``self.parameters()``, which would give proxies the rate of the trunk."""
        proxies = self.loss_func.loss.param_groups(lr=1e-4)
        return torch.optim.Adam([{"params": self.trunk.parameters()}, *proxies], lr=1e-4)

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        scans, digits = batch
        loss: Tensor = self.loss_func(self.trunk(scans), digits)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], _: int) -> None:
        """All scans as one batch: retrieval is no mean over batches."""
        scans, digits = batch
        measured = self.calculator.get_accuracy(nn.functional.normalize(self.trunk(scans)), digits)
        self.log_dict(measured, sync_dist=True)  # the same on all ranks


class Digits(LightningDataModule):
    """The sampler of this process, whose place in the epoch is in the checkpoint."""

    def setup(self, stage: str) -> None:
        assert self.trainer is not None
        images, digits = (torch.from_numpy(x) for x in load_digits(return_X_y=True))
        seen = torch.arange(len(digits)) % 2 == 0
        self.seen, self.new = (
            TensorDataset((images[half] / 16).float(), digits[half]) for half in (seen, ~seen)
        )
        self.sampler = MPerClassBatchSampler(
            digits[seen],
            m=4,
            batch_size=BATCH_SIZE // PROCESSES,
            num_replicas=self.trainer.world_size,
            rank=self.trainer.global_rank,
        )

    def train_dataloader(self) -> DataLoader[Any]:
        # Without workers, which fetch batches ahead: the state would count these.
        return DataLoader(self.seen, batch_sampler=self.sampler)

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.new, batch_size=len(self.new))

    def state_dict(self) -> dict[str, Any]:
        return self.sampler.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.sampler.load_state_dict(state_dict)


def trained(steps: int, checkpoint: str | None = None) -> tuple[Trainer, Embedding]:
    """New objects, up to a step, from the start or from a checkpoint."""
    torch.manual_seed(0)
    module = Embedding()
    trainer = Trainer(
        accelerator="cpu",
        devices=PROCESSES,
        strategy="ddp" if PROCESSES > 1 else "auto",
        use_distributed_sampler=False,  # ours gives each process its part already
        max_steps=steps,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, Digits(), ckpt_path=checkpoint)
    return trainer, module


def main() -> None:
    """Not at all, without a break, and from the checkpoint half-way."""
    torch.set_num_threads(1)
    warnings.filterwarnings(
        "ignore", "You're resuming .* your dataloader is not resumable"
    )  # it is
    trained(STEPS // 2)[0].save_checkpoint(FILE)
    states = []
    for begin, end in ((0, 0), (0, STEPS), (STEPS // 2, STEPS)):
        trainer, module = trained(end, FILE if begin else None)
        (found,) = trainer.validate(module, Digits(), verbose=False)
        states.append([*module.parameters()])
        if trainer.is_global_zero:
            print(
                f"steps {begin:3d} to {end:3d}, new scans: "
                f"recall at 1 {found['precision_at_1']:.3f}, "
                f"MAP@R {found['mean_average_precision_at_r']:.3f}"
            )
    if trainer.is_global_zero:
        same = all(torch.equal(x, y) for x, y in zip(*states[1:], strict=True))
        print(f"{'the same' if same else 'another'} network and proxies")


if __name__ == "__main__":
    main()
