"""The runs of a command, one after another, with a bar and a line for each."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import torch
import typer
from torch.multiprocessing import cpu_count
from tqdm import tqdm

from benchmarks.campaign import carry_out, plan, steps_of
from benchmarks.datasets import Loaded
from benchmarks.options import fail
from benchmarks.processes import rank_and_number
from benchmarks.protocols import Protocol
from benchmarks.recipes import Budget, Recipe
from benchmarks.records import Record, path_of

INTERRUPTED = 130


def number_of_workers(named: int | None) -> int:
    """Processes that read image files: one a processor, up to 8, where none are named."""
    return min(8, cpu_count()) if named is None else named


def run_all(
    chosen: list[Recipe],
    dataset: str,
    wanted: list[int],
    budget: Budget,
    folder: Path,
    protocol: Protocol,
    load: Callable[[], Loaded],
    device: torch.device,
    nmi: bool,
    workers: int | None,
    tensorboard: Path | None,
) -> None:
    """What is not finished yet, with a bar and a line for each run."""
    planned = plan(chosen, dataset, wanted, budget, folder, nmi=nmi, protocol=protocol)
    skipped = len(chosen) * len(wanted) - len(planned)
    first = rank_and_number()[0] == 0  # of several processes the first one speaks
    if first:
        typer.echo(
            f"{dataset}: {len(planned)} runs to do, {skipped} finished already; "
            f"results in {path_of(folder, dataset)}"
        )
    if not planned:
        return
    if tensorboard is not None:
        import_module("benchmarks.tensorboard")  # a missing extra is said before anything is read
    data = load()
    done: list[Record] = []
    bar = tqdm(
        total=steps_of(planned, budget),
        unit="step",
        dynamic_ncols=True,
        disable=None if first else True,
    )

    def started(recipe: Recipe, seed: int) -> None:
        bar.set_description(f"{recipe.name} seed {seed}")

    def stepped() -> None:
        bar.update()

    def finished(record: Record) -> None:
        done.append(record)
        bar.write(_line(record, len(done), len(planned)))

    try:
        with bar:
            carry_out(
                planned,
                data,
                budget,
                folder,
                device=device,
                nmi=nmi,
                workers=number_of_workers(workers),
                protocol=protocol,
                tensorboard=tensorboard,
                on_start=started,
                on_step=stepped,
                on_record=finished,
            )
    except KeyboardInterrupt:
        typer.echo(
            f"Stopped: {len(done)} of {len(planned)} runs are finished and kept in "
            f"{path_of(folder, dataset)}. The same command goes on with the rest.",
            err=True,
        )
        raise typer.Exit(INTERRUPTED) from None
    except OSError as error:
        fail(
            ValueError(
                f"{error}: {len(done)} of {len(planned)} runs are finished and kept in "
                f"{path_of(folder, dataset)}. Make room or choose another --results, and give the "
                "same command again."
            )
        )


def _line(record: Record, number: int, planned: int) -> str:
    metrics = record["metrics"]
    return (
        f"{number:3}/{planned}  {record['recipe']:22} seed {record['seed']}  "
        f"Recall@1 {100 * metrics['recall_at_1']:5.1f}  "
        f"MAP@R {100 * metrics['mean_average_precision_at_r']:5.1f}  "
        f"{record['seconds_total']:6.1f} s"
    )
