"""Records of ``benchmarks.field_cost`` -> a section of docs/cost.md."""

from collections.abc import Sequence

from benchmarks.field_cost import CLASSES, DIM
from benchmarks.records import Record
from benchmarks.reporting.tables import MISSING, markdown

TIMED = {
    "spread": "proxies spread, as they are drawn",
    "crowded": "close pairs in {share_of_tiles:.0%} of the tiles",
}


def section(records: Sequence[Record]) -> list[str]:
    """Paragraphs; none without records."""
    newest = {
        (r["field"], r["proxies_per_class"], r.get("rate")): r
        for r in records
        if (r["classes"], r["dim"]) == (CLASSES, DIM)
    }
    if not newest:
        return []
    found = list(newest.values())
    first = found[0]
    tables = [_times(found), _steps(found), _memory(found)]
    return [
        "## Potential field at the scale of Stanford Online Products",
        f"{first['classes']:,} classes, {first['dim']} dimensions, "
        f"{first['batch']} rows, float32, on {first['device']} "
        "(`python -m benchmarks.field_cost`). The floor of any search by products is that of the "
        "upper half of the tiles of X X^T; the dense way holds matrices of all pairs for autograd. "
        "Times of a value and its gradient are medians of turns in one process, without lists; "
        "those of steps are means, both ways at each step; memory is with lists.",
        *(table for table in tables if table),
    ]


def _table(lines: list[Record]) -> str:
    return markdown(lines) if lines else ""


def _times(records: Sequence[Record]) -> str:
    return _table(
        [
            {
                "value and gradient": TIMED[r["field"]].format(**r),
                "proxies a class": r["proxies_per_class"],
                "ours": f"{r['seconds']['ours']:.2f} s",
                "tile products alone": f"{r['seconds']['bare']:.2f} s",
                "ours / products": f"{r['ours_over_bare']:.2f}",
                "dense, autograd": f"{r['seconds']['dense']:.2f} s"
                if "dense" in r["seconds"]
                else MISSING,
            }
            for r in records
            if r["field"] in TIMED
        ]
    )


def _steps(records: Sequence[Record]) -> str:
    return _table(
        [
            {
                "neighbour lists, Adam at": f"{r['rate']:g}",
                "steps": r["steps"],
                "a step with lists": f"{r['mean_seconds']['lists']:.2f} s",
                "a step that searches": f"{r['mean_seconds']['search']:.2f} s",
                "ratio": f"{r['lists_over_search']:.2f}",
                "steps that build a list": f"{r['share_of_steps_that_build']:.1%}",
                "losses differ by": f"{r['largest_relative_difference']:.0e}",
            }
            for r in records
            if r["field"] == "steps"
        ]
    )


def _memory(records: Sequence[Record]) -> str:
    return _table(
        [
            {
                "forward and backward": f"{r['proxies_per_class']} proxies a class",
                "parameters": f"{4e-6 * r['classes'] * r['proxies_per_class'] * r['dim']:.0f} MB",
                "peak above them": f"{r['peak_megabytes']:.0f} MB",
            }
            for r in records
            if r["field"] == "memory" and r["peak_megabytes"] is not None
        ]
    )
