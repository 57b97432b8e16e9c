"""Command line: ``python -m benchmarks run|report|list|data|cost``."""

import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from typer.core import TyperGroup

from benchmarks.cost_command import cost_command
from benchmarks.data_commands import data_app
from benchmarks.datasets import DATASETS, RawTexts
from benchmarks.dry_run import text as dry_run_text
from benchmarks.jobs import Job, jobs_of
from benchmarks.listing import list_command
from benchmarks.options import Results, Root, device_of
from benchmarks.options import fail as _fail
from benchmarks.options import known as _known
from benchmarks.processes import joined, rank_and_number
from benchmarks.protocols import PROTOCOLS, QUICK
from benchmarks.recipes import RECIPES, TABLES, Recipe
from benchmarks.recipes.budget import AMP
from benchmarks.records import RESULTS
from benchmarks.reporting import report as reports
from benchmarks.reporting import tables
from benchmarks.reporting.selection import Selection
from benchmarks.run_command import INTERRUPTED, run_all
from benchmarks.spread_values import SpreadValues

SMOKE = {"epochs": 2, "iterations": 3}


class Commands(TyperGroup):
    """Ctrl-C where a command has nothing of its own to say, as while it reads data."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            typer.echo("Stopped. What was finished is kept.", err=True)
            raise typer.Exit(INTERRUPTED) from None


app = typer.Typer(
    cls=Commands,
    help="Compare losses under one budget. Start with: "
    "python -m benchmarks run --dataset digits --seeds 0 1 2",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(data_app, name="data")


Names = Annotated[
    list[str] | None,
    typer.Option(help="One or more recipes; those of the data set's table if left out."),
]


@app.command("run", cls=SpreadValues)
def run_command(
    dataset: Annotated[str, typer.Option(help=f"One of {', '.join(DATASETS)}.")] = "digits",
    recipes: Names = None,
    seeds: Annotated[
        list[int] | None,
        typer.Option(help="One or more, as in --seeds 0 1 2; the table's if left out."),
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Instead of the budget's.")] = None,
    iterations: Annotated[
        int | None, typer.Option(min=1, help="Training steps an epoch, instead of the budget's.")
    ] = None,
    smoke: Annotated[
        bool, typer.Option("--smoke", help="A few steps of seed 0; results to a new folder.")
    ] = False,
    label_noise: Annotated[
        float | None,
        typer.Option(min=0, help="Share of wrong training labels, fixed by the seed."),
    ] = None,
    amp: Annotated[
        str | None, typer.Option(help=f"{' or '.join(AMP)}, in which trunks are trained.")
    ] = None,
    accumulate: Annotated[
        int | None,
        typer.Option(
            min=1, help="Batches a step, whose gradients are averaged; no larger batch for pairs."
        ),
    ] = None,
    sub_batch: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Rows of a batch that a trunk takes at a time: less memory, same batch. Not for "
            "trunks whose batch norm is trained, as those of digits and omniglot.",
        ),
    ] = None,
    data_root: Root = None,
    results: Annotated[
        Path | None, typer.Option(help=f"Folder of the results.  [default: {RESULTS.name}/]")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1 ...; auto takes a GPU.")] = "auto",
    threads: Annotated[
        int, typer.Option(min=1, help="Of torch; more than one changes the last digits.")
    ] = 1,
    nmi: Annotated[bool, typer.Option("--nmi", help="Cluster the test half too; slow.")] = False,
    protocol: Annotated[
        str, typer.Option(help=f"{', '.join(PROTOCOLS)}: what chooses settings and epochs.")
    ] = QUICK.name,
    trials: Annotated[
        int | None, typer.Option(min=1, help="Of the search for each recipe, in reality-check.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show all settings and where they are from; no run.")
    ] = False,
    weights: Annotated[
        Path | None,
        typer.Option(
            help="To start from: of image files a state dict, else random; of NAME_text the folder "
            "of a model of sentence-transformers."
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Processes that read image files, which does not change results; one a "
            "processor, up to 8, if left out.",
        ),
    ] = None,
    tensorboard: Annotated[
        Path | None, typer.Option(help="Folder to draw runs into; needs the extra tensorboard.")
    ] = None,
) -> None:
    """Train and evaluate; runs that are finished already are skipped, and one that was broken off
    goes on from its last whole epoch. Under torchrun the processes share every batch."""
    _known("--dataset", dataset, DATASETS)
    _known("--protocol", protocol, PROTOCOLS, where="`python -m benchmarks run --help`")
    chosen = _recipes(recipes or TABLES[dataset].recipes)
    with joined(device_of(device)) as place:
        torch.set_num_threads(threads)
        overrides: dict[str, Any] = {
            "epochs": epochs,
            "iterations": iterations,
            "label_noise": label_noise,
            "amp": amp,
            "accumulate": accumulate,
            "sub_batch": sub_batch,
        }
        changed = {name: value for name, value in overrides.items() if value is not None}
        folder = results or (Path(tempfile.mkdtemp(prefix="benchmarks-")) if smoke else RESULTS)
        load = cache(lambda: DATASETS[dataset].load(data_root))
        try:
            rules = (
                PROTOCOLS[protocol]
                if trials is None
                else replace(PROTOCOLS[protocol], trials=trials)
            )
            if smoke:
                changed = {**SMOKE, **changed}
            jobs: Iterable[Job] = jobs_of(chosen, dataset, rules, changed, weights)
            own_seeds = rules.seeds or TABLES[dataset].seeds
            wanted = list(dict.fromkeys(seeds or ([0] if smoke else own_seeds)))
            if dry_run:
                typer.echo(dry_run_text(list(jobs), dataset, rules, wanted))
                return
            if rules.trials:
                if rank_and_number()[1] > 1:
                    raise ValueError(
                        f"--protocol: expected one process for {rules.name}, whose search is "
                        f"written by one; got {rank_and_number()[1]}. Start it without torchrun."
                    )
                from benchmarks.search_command import settle_all  # only a search needs optuna

                data = load()
                if isinstance(data, RawTexts):
                    raise ValueError(
                        f"--protocol: expected data in memory for {rules.name}, or image files; "
                        f"got {dataset}, texts without features. Use features of them."
                    )
                jobs = settle_all(list(jobs), data, folder, device=place, workers=workers)
            for settled, budget, after in jobs:
                run_all(settled, dataset, wanted, budget, folder, after, load, place, nmi,
                        workers, tensorboard)  # fmt: skip
        except ValueError as error:
            _fail(error)


@app.command("report", cls=SpreadValues)
def report_command(
    dataset: Annotated[
        list[str] | None, typer.Option(help="One or more; all that have results if left out.")
    ] = None,
    results: Results = RESULTS,
    readme: Annotated[
        list[Path] | None,
        typer.Option(
            help="Pages with <!-- table:DATASET:start --> and <!-- table:DATASET:end -->, between "
            "which the table goes; benchmarks/README.md and README.md if left out, and none with "
            "other --results than the committed ones."
        ),
    ] = None,
    output: Annotated[Path, typer.Option(help="Folder for the pictures.")] = reports.FIGURES,
    check: Annotated[
        bool,
        typer.Option("--check", help="Write nothing; exit 1 where a page is not current."),
    ] = False,
) -> None:
    """Tables and pictures from the results alone; trains nothing and reads no data set."""
    names = dataset or reports.datasets_with_results(results)
    if not names:
        _fail(ValueError(f"--results: expected JSON lines in {results}; got none. Run first."))
    stale: list[str] = []
    committed = results.resolve() == RESULTS.resolve()
    for name in names:
        _known("--dataset", name, DATASETS)
        try:
            for selection in reports.selections_of(results, name):
                pages = (
                    reports.pages_of(selection.name, readme or ()) if readme or committed else []
                )
                stale += _table(selection, pages, output, check=check)
        except ValueError as error:
            _fail(error)
    if not dataset and committed:
        stale += _overview(results, check=check)
    if stale:
        typer.echo(
            f"Other pages than the results give: {', '.join(stale)}. "
            "Run `python -m benchmarks report`.",
            err=True,
        )
        raise typer.Exit(1)


def _table(selection: Selection, pages: Sequence[Path], output: Path, *, check: bool) -> list[str]:
    """Write one table and its pictures; or name the pages that are not current."""
    name, text = selection.name, tables.table(selection)
    if check:
        return [f"{page} ({name})" for page in pages if not tables.is_current(page, name, text)]
    typer.echo(f"\n{name}\n\n{text}\n")
    for page in pages:
        tables.write(page, name, text)
        typer.echo(f"wrote the table into {page}")
    for picture in reports.draw(selection, output):
        typer.echo(f"wrote {picture}")
    return []


def _overview(results: Path, *, check: bool) -> list[str]:
    """Write what no single data set makes; or name the pages that are not current."""
    stale = []
    for page, text in reports.whole_pages(results).items():
        if not check:
            page.write_text(text, encoding="utf-8")
            typer.echo(f"wrote {page}")
        elif not page.is_file() or page.read_text(encoding="utf-8") != text:
            stale.append(str(page))
    for picture in () if check else reports.draw_of_pages(results, reports.DOCS / "figures"):
        typer.echo(f"wrote {picture}")
    for name, text in reports.overview_of(results).items():
        for page in reports.pages_of(name):
            if not check:
                tables.write(page, name, text)
                typer.echo(f"wrote the table `{name}` into {page}")
            elif not tables.is_current(page, name, text):
                stale.append(f"{page} ({name})")
    return stale


def _recipes(names: Sequence[str]) -> list[Recipe]:
    for name in names:
        _known("--recipes", name, RECIPES)
    return [RECIPES[name] for name in dict.fromkeys(names)]


app.command("cost", cls=SpreadValues)(cost_command)
app.command("list")(list_command)
