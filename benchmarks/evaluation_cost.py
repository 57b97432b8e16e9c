"""Cost of evaluation at the scale of Stanford Online Products: 60,502 queries of 11,316 classes.

``python -m benchmarks.evaluation_cost --results evaluation.jsonl`` appends one JSON line a side:
seconds and peak memory above the embeddings of Recall@1, 10, 100 and 1000, MAP@R and R-precision,
each in a fresh process. ``pml`` computes what pml has (no recall beyond 1), on as many neighbours.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import torch
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
from torch import Tensor

from benchmarks.measure import PeakMemory, resident_mib
from benchmarks.provenance import provenance
from benchmarks.records import Record, append_line
from pml_extras.evaluation import RetrievalAccuracyCalculator

CLASSES, DIM, RECALL_AT = 11_316, 512, (1, 10, 100, 1000)
CPU = torch.device("cpu")
OF_R = ("mean_average_precision_at_r", "r_precision")
SIDES = ("ours", "pml")


def embeddings(rows: int, classes: int) -> tuple[Tensor, Tensor]:
    """Unit vectors around the centres of their classes."""
    labels = torch.arange(rows) % classes
    around = torch.randn(classes, DIM)[labels] + 6 * torch.randn(rows, DIM)
    return torch.nn.functional.normalize(around), labels


def calculator(side: str) -> AccuracyCalculator:
    """Ours, or pml's with as many neighbours."""
    if side == "pml":
        return AccuracyCalculator(include=("precision_at_1", *OF_R), k=max(RECALL_AT), device=CPU)
    recalls = tuple(f"recall_at_{at}" for at in RECALL_AT)
    return RetrievalAccuracyCalculator(
        include=("precision_at_1", *OF_R, *recalls),
        recall_at=RECALL_AT,
        k="max_bin_count",
        device=CPU,
    )


def measured(side: str, rows: int, classes: int) -> Record:
    """Of this process, which has done nothing else."""
    torch.manual_seed(0)
    small = min(rows, 2000)
    calculator(side).get_accuracy(*embeddings(small, small // 4))  # loads what is loaded once
    given = embeddings(rows, classes)
    peak = PeakMemory(CPU)
    peak.start()
    before = resident_mib()
    began = time.perf_counter()
    metrics = calculator(side).get_accuracy(*given)
    seconds = time.perf_counter() - began
    peak.stop()
    above = None if peak.mib is None or before is None else peak.mib - before
    return {"metrics": metrics, "seconds": seconds, "peak_mib": above}


def main() -> None:
    """Measure each side in a process of its own and append it to the file of results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--results", type=Path, help="JSON lines; without it, one to the screen")
    parser.add_argument("--sides", nargs="+", default=list(SIDES), choices=SIDES)
    parser.add_argument("--rows", type=int, default=60_502)
    parser.add_argument("--classes", type=int, default=CLASSES)
    args = parser.parse_args()
    if args.results is None:
        print(json.dumps(measured(args.sides[0], args.rows, args.classes)))
        return
    for side in args.sides:
        command = [sys.executable, "-m", "benchmarks.evaluation_cost", "--sides", side]
        command += ["--rows", str(args.rows), "--classes", str(args.classes)]
        run = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        shape = {"rows": args.rows, "classes": args.classes, "dim": DIM}
        record = {"evaluation": side, **shape, **json.loads(run.stdout)}
        append_line(args.results, {**record, **provenance(CPU)})


if __name__ == "__main__":
    main()
