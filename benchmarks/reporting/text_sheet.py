"""Nearest neighbours that are texts: printed, where pictures have a contact sheet."""

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from benchmarks.reporting.plots import INK, RIGHT, WRONG, shown
from benchmarks.reporting.selection import Selection

WIDTH, LINE = 6.4, 0.155  # inches, of a method and of a line
CHARACTERS = 88
TITLE_LINES = 5


def has_texts(selection: Selection) -> bool:
    """Whether its records hold no pictures."""
    method = selection.methods[0]
    return "png" not in method.runs[method.seeds[0]]["neighbours"]


def text_sheet(selection: Selection, path: Path) -> None:
    """Fixed queries, each above its nearest neighbours: ours, the best of the others, the floor.

    Of features without texts the names of the classes are printed.
    """
    methods = shown(selection)
    sheets = [method.runs[method.seeds[0]]["neighbours"] for method in methods]
    lines = sum(len(row) + 2 for row in sheets[0]["correct"])
    figure = Figure(
        figsize=(WIDTH * len(methods), LINE * (lines + TITLE_LINES)), layout="constrained", dpi=110
    )
    axes = figure.subplots(1, len(methods), squeeze=False).ravel()
    for axis, method, sheet in zip(axes, methods, sheets, strict=True):
        for place, (text, colour, weight) in enumerate(_lines(sheet)):
            axis.text(
                0,
                -place,
                text,
                color=colour,
                weight=weight,
                fontsize=7,
                va="top",
                parse_math=False,  # a dollar sign starts no formula
            )
        right = [one for row in sheet["correct"] for one in row]
        axis.set_title(
            f"{method.title}\n{sum(right)} of {len(right)} right", fontsize=10, color=INK
        )
        axis.set(xlim=(0, 1), ylim=(-lines, 0))
        axis.axis("off")
    figure.suptitle(
        f"{selection.dataset}: test queries (bold) and their nearest neighbours, "
        f"seed {methods[0].seeds[0]}; green right, red wrong",
        fontsize=11,
        color=INK,
    )
    figure.savefig(path, metadata={"Software": None})


def _lines(sheet: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Text, colour and weight of each line; an empty one after each query's neighbours."""
    found = []
    for texts, correct in zip(sheet.get("texts", sheet["classes"]), sheet["correct"], strict=True):
        query, *others = (_short(text) for text in texts)
        found.append((query, INK, "bold"))
        for text, right in zip(others, correct, strict=True):
            found.append((f"    {text}", RIGHT if right else WRONG, "normal"))
        found.append(("", INK, "normal"))
    return found


def _short(text: str) -> str:
    """One line of it."""
    line = " ".join(text.split())
    return line if len(line) <= CHARACTERS else f"{line[: CHARACTERS - 1]}…"
