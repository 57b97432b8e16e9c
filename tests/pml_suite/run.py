"""``python -m tests.pml_suite.run FOLDER`` runs pml's tests in FOLDER and writes ``record.jsonl``.

FOLDER is the folder ``tests`` of a checkout of pytorch-metric-learning; its wheel has none, and
none is kept here. Run are the files that mention a class that ours replaces: with pml's classes,
with ours, and, where ours departs on purpose, with ours and the departure taken away. On a CPU;
``TEST_DTYPES``, a variable of pml's tests, is "float32,float64" unless set, as in pml's own CI.

A line of the record is a file. FOLDER may hold a file ``COMMITS``, of lines ``path commit remark``;
without one the commit is that of the checkout. ``blob`` is what ``git hash-object`` says of a file.
"""

import argparse
import hashlib
import json
import os
import platform
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from tests.pml_suite.departures import DEPARTURES
from tests.pml_suite.replacements import names_in

ROOT = Path(__file__).parents[2]
RECORD = Path(__file__).parent / "record.jsonl"
LEFT_OUT = {
    "trainers/test_metric_loss_only.py": "downloads a network and CIFAR-100",
}


def main(folder):
    """Run all sides, and write."""
    tests = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("test_*.py"))}
    replaced = {name: names_in(path) for name, path in tests.items() if name not in LEFT_OUT}
    chosen = [name for name, found in replaced.items() if found]
    sides = {side: session(folder, side, chosen) for side in ("pml", "ours")}
    departing = [test for test in sides["ours"] if test in DEPARTURES]
    sides["undone"] = session(folder, "undone", departing)
    write(folder, {name: replaced[name] for name in chosen}, sides)


def write(folder, replaced, sides):
    """The record."""
    sources = commits(folder)
    lines = [versions()]
    for name, classes in replaced.items():
        commit, _, remark = sources[name].partition(" ")
        content = (folder / name).read_bytes()
        blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        source = {"commit": commit, "blob": blob, "remark": remark}
        outcomes = {
            test: {side: found[test] for side, found in sides.items() if test in found}
            for test in sides["ours"]
            if test.startswith(f"{name}::")
        }
        lines.append({"file": name, **source, "replaced": classes, "tests": outcomes})
    RECORD.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def session(folder, side, tests):
    """What became of each test, in a process of its own."""
    if not tests:
        return {}
    with tempfile.TemporaryDirectory() as scratch:
        link = Path(scratch) / "pml_tests"  # a package of another name than our own tests
        link.symlink_to(folder.resolve())
        output = Path(scratch) / "outcomes.json"
        command = [sys.executable, "-m", "tests.pml_suite.session", side, output, link, *tests]
        paths = os.pathsep.join([str(ROOT), scratch, os.environ.get("PYTHONPATH", "")])
        settings = {"TEST_DEVICE": "cpu", "PYTHONPATH": paths}
        settings["TEST_DTYPES"] = os.environ.get("TEST_DTYPES", "float32,float64")
        subprocess.run(command, env=os.environ | settings, cwd=scratch, check=True)
        return json.loads(output.read_text(encoding="utf-8"))


def commits(folder):
    """``{path: commit}``, a remark after the commit where there is one."""
    listed = folder / "COMMITS"
    if listed.exists():
        lines = listed.read_text(encoding="utf-8").splitlines()
        return dict(line.split(" ", 1) for line in lines)
    command = ["git", "-C", folder, "rev-parse", "HEAD"]
    head = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    return {str(path.relative_to(folder)): head for path in folder.rglob("*.py")}


def versions():
    """What the record was made with."""
    return {
        "pml": version("pytorch-metric-learning"),
        "torch": version("torch").split("+")[0],
        "python": platform.python_version(),
        "dtypes": os.environ.get("TEST_DTYPES", "float32,float64"),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("folder", type=Path, help="tests of a checkout of pml")
    main(parser.parse_args().folder.resolve())
