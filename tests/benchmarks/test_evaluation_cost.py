"""Evaluation of large sets beside pml's: what is measured, and the section of the page."""

import json
import sys

from benchmarks import evaluation_cost
from benchmarks.records import read_evaluation
from benchmarks.reporting import evaluation_page


def test_both_sides_measure_the_same_embeddings(monkeypatch):
    monkeypatch.setattr(evaluation_cost, "DIM", 16)
    ours, pml = (evaluation_cost.measured(side, 1500, 300) for side in evaluation_cost.SIDES)
    assert {name: ours["metrics"][name] for name in pml["metrics"]} == pml["metrics"]
    recalls = [ours["metrics"][f"recall_at_{at}"] for at in (1, 10, 100, 1000)]
    assert recalls == sorted(recalls)
    assert 0 < recalls[0] < recalls[-1]
    assert ours["seconds"] > 0


def test_a_side_in_a_process_of_its_own_becomes_a_line_and_a_row(tmp_path, monkeypatch):
    file = tmp_path / "cost" / "evaluation.jsonl"
    file.parent.mkdir()
    command = ["evaluation_cost", "--results", str(file), "--sides", "ours"]
    monkeypatch.setattr(sys, "argv", [*command, "--rows", "1200", "--classes", "400"])
    evaluation_cost.main()
    (record,) = read_evaluation(tmp_path)
    assert (record["evaluation"], record["rows"], record["classes"]) == ("ours", 1200, 400)
    assert json.loads(file.read_text()) == record
    assert evaluation_page.section([record]) == []  # another scale
    full = {**record, "rows": 60_502, "classes": evaluation_cost.CLASSES, "seconds": 61.2}
    less = {**full, "evaluation": "pml", "metrics": {"precision_at_1": 0.125}, "peak_mib": None}
    heading, _, table = evaluation_page.section([record, full, less])
    assert heading.startswith("## Evaluation")
    _, _, ours, pml = ([cell.strip() for cell in row.split("|")[1:-1]] for row in table.split("\n"))
    assert ours[:2] == ["`RetrievalAccuracyCalculator`", "61 s"]
    assert ours[3] == f"{100 * record['metrics']['recall_at_1']:.2f} %"
    assert pml[1:5] == ["61 s", evaluation_page.MISSING, "12.50 %", evaluation_page.MISSING]
