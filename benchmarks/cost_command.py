"""Command line: ``python -m benchmarks cost``."""

from typing import Annotated

import typer

from benchmarks.cost import sweep
from benchmarks.cost_losses import OF_EMBEDDINGS
from benchmarks.cost_subjects import SUBJECTS
from benchmarks.options import Results, device_of, known
from benchmarks.records import CPU, FLOAT32, RESULTS, append_line, path_of_costs

DTYPES = (FLOAT32, "bfloat16")


def cost_command(
    rows: Annotated[
        list[int] | None, typer.Option(min=1, help="Batch sizes, as in --rows 64 256.")
    ] = None,
    losses: Annotated[
        list[str] | None,
        typer.Option(help=f"One or more of {', '.join(SUBJECTS)}; all if left out."),
    ] = None,
    results: Results = RESULTS,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1 ...")] = CPU,
    dtype: Annotated[
        str, typer.Option(help=f"Of the embeddings of losses: {' or '.join(DTYPES)}.")
    ] = FLOAT32,
) -> None:
    """Time and peak memory of one forward and backward pass: losses beside pml's nearest one, and
    ways to compute attention."""
    here = "`python -m benchmarks cost --help`"
    known("--dtype", dtype, DTYPES, where=here)
    subjects = SUBJECTS if dtype == FLOAT32 else OF_EMBEDDINGS  # the others have no other type
    for name in losses or ():
        known("--losses", name, subjects, where=here)
    place = device_of(device)
    path = path_of_costs(results, place.type)
    for record in sweep(losses or tuple(subjects), rows or (), place, dtype):
        append_line(path, record)
        peak = record["peak_mib"]
        typer.echo(
            f"{record['loss']:32} {record['side']:8} {record['rows']:6} rows  "
            f"{record['milliseconds']:10.2f} ms  "
            + ("peak unknown" if peak is None else f"{peak:10.2f} MiB")
        )
    typer.echo(f"kept in {path}; `python -m benchmarks report` makes the table")
