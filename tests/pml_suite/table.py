"""Write docs/pml_tests.md from the record: ``python -m tests.pml_suite.table``."""

import json
from pathlib import Path

from pml_extras.testing.report import as_markdown
from tests.pml_suite.departures import DEPARTURES
from tests.pml_suite.run import LEFT_OUT, RECORD

PAGE = Path(__file__).parents[2] / "docs" / "pml_tests.md"
OUTCOMES = ("passed", "departed", "failed")

INTRODUCTION = """\
# pml's own tests, run against ours

Classes of ours that have the name of one of pytorch-metric-learning's (pml) take its place: put
into pml's modules, they are what pml's own tests import. Here is what these tests say. Nothing
below is written by hand; this page is what `python -m tests.pml_suite.table` writes, from the
record of `python -m tests.pml_suite.run FOLDER`, where FOLDER is the folder `tests` of a checkout
of pml. None of its files is kept here: a commit and a hash, that of `git hash-object`, name them.

A test is *passed*; *departed* where ours fails it on purpose, for the reason given, and passes it
once that reason alone is taken away (`tests/pml_suite/departures.py` says how); *failed* otherwise.
"""

NOTES = """\
All files of pml's tests that mention a class which ours replaces are run. Ours replaces no
reducer, miner, sampler, distance, trainer or tester of pml, so their files have nothing to say of
ours, unless they use one of its losses. pml compares processes on GPUs alone; here two processes
on gloo do, with the device that the test asks for replaced and nothing else.
"""


def records():
    """The line of versions, and those of files."""
    lines = RECORD.read_text(encoding="utf-8").splitlines()
    head, *files = map(json.loads, lines)
    return head, files


def verdict(test, sides):
    """One of ``OUTCOMES``, of what a test gave with pml's classes, with ours, and undone."""
    if sides["ours"]["outcome"] == "passed":
        return "passed"
    departure = DEPARTURES.get(test)
    if departure is None or sides.get("undone", {}).get("outcome") != "passed":
        return "failed"
    said = sides["ours"]["where"] + sides["ours"]["raised"]
    return "departed" if departure.where in said else "failed"


def page():
    """The text of docs/pml_tests.md."""
    head, files = records()
    rows, departed, failed = [], [], []
    for file in files:
        verdicts = {test: verdict(test, sides) for test, sides in file["tests"].items()}
        counts = [list(verdicts.values()).count(outcome) for outcome in OUTCOMES]
        of_pml = [sides["pml"]["outcome"] for sides in file["tests"].values() if "pml" in sides]
        names = ", ".join(f"`{name}`" for name in file["replaced"])
        rows.append(
            [
                f"`{file['file']}`",
                names,
                *map(str, counts),
                f"{of_pml.count('passed')} of {len(of_pml)}",
            ]
        )
        departed += [test for test, said in verdicts.items() if said == "departed"]
        failed += [(test, file) for test, said in verdicts.items() if said == "failed"]
    totals = [str(sum(int(row[column]) for row in rows)) for column in (2, 3, 4)]
    rows.append(["all", "", *totals, ""])
    sources = [
        [f"`{file['file']}`", f"`{file['commit'][:12]}`", f"`{file['blob'][:12]}`", file["remark"]]
        for file in files
    ]
    parts = [
        INTRODUCTION,
        f"Made with pytorch-metric-learning {head['pml']}, torch {head['torch']}, Python "
        f"{head['python']}, CPU, {head['dtypes'].replace(',', ' and ')}.\n",
        as_markdown(["File", "Replaced", *map(str.capitalize, OUTCOMES), "pml passes"], rows),
        NOTES,
        *(f"Left out: `{name}` {reason}.\n" for name, reason in LEFT_OUT.items()),
        "## Departures\n",
        *(f"- `{test}`: {DEPARTURES[test].reason}" for test in departed),
        "\n## Failures\n",
        *(failure(test, file["tests"][test]) for test, file in failed),
        *([] if failed else ["None."]),
        "\n## Sources\n",
        as_markdown(["File", "Commit", "Blob", "Remark"], sources),
    ]
    return "\n".join(parts)


def failure(test, sides):
    """A line of the page."""
    return f"- `{test}`: {sides['ours']['where']}: {sides['ours']['raised']}"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
