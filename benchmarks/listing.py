"""Command line: ``python -m benchmarks list``."""

import pandas as pd
import typer
from tabulate import tabulate

from benchmarks.datasets import DATASETS, Dataset
from benchmarks.options import Results, Root, fail
from benchmarks.recipes import BUDGETS, RECIPES, TABLES
from benchmarks.records import RESULTS, read

EXTRAS = (
    "All of it needs the extra bench; sentence encoders need text too, and --tensorboard needs "
    'tensorboard, as in: pip install -e ".[bench,text,tensorboard]". Networks of timm need timm.'
)


def list_command(results: Results = RESULTS, data_root: Root = None) -> None:
    """Data sets and recipes, what they need, how many runs are finished and how long they took."""
    try:
        records = [record for name in DATASETS for record in read(results, name)]
    except ValueError as error:
        fail(error)
    runs = pd.DataFrame(records, columns=["dataset", "recipe", "seconds_total"])
    data_sets = {
        name: {
            "finished": (runs.dataset == name).sum(),
            "seconds a run": _seconds(runs[runs.dataset == name]),
            "place": dataset.place(data_root) or "not here yet",
            "needs": _needs_of_data(dataset),
        }
        for name, dataset in DATASETS.items()
    }
    recipes = {
        name: {
            "method": recipe.title,
            "needs": "maps or tokens to pool" if recipe.pooling else "images, features or texts",
            "a row of": ", ".join(n for n, table in TABLES.items() if name in table.recipes),
            "seconds a run": ", ".join(
                f"{dataset} {_seconds(of_one)}"
                for dataset, of_one in runs[runs.recipe == name].groupby("dataset", sort=False)
            ),
        }
        for name, recipe in RECIPES.items()
    }
    for title, rows in (("data set", data_sets), ("recipe", recipes)):
        table = pd.DataFrame.from_dict(rows, orient="index").rename_axis(title).reset_index()
        typer.echo(tabulate(table, headers="keys", showindex=False, disable_numparse=True) + "\n")
    typer.echo("Seconds are medians of finished runs, whatever their settings and device.")
    typer.echo(EXTRAS)


def _seconds(runs: pd.DataFrame) -> str:
    return f"{runs.seconds_total.median():.0f}" if len(runs) else ""


def _needs_of_data(dataset: Dataset) -> str:
    if BUDGETS[dataset.name].backbone is None:
        return dataset.needs
    return f"{dataset.needs}; --weights of a pretrained backbone, or a random start"
