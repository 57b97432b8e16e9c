"""docs/claims.md: the central claim of each paper, and what the results say of it."""

from collections import Counter
from collections.abc import Mapping, Sequence

from benchmarks.protocols import PROTOCOLS, QUICK
from benchmarks.recipes import RECIPES
from benchmarks.recipes.claims import FIELD, PAPERS, Claim, Paper
from benchmarks.recipes.tables import TABLES
from benchmarks.reporting.field_picture import FILE as FIELD_PICTURE
from benchmarks.reporting.heading import seeds_and_devices
from benchmarks.reporting.judge import FEWEST_SEEDS, NOT_MEASURED, RULE, Judgement, judge
from benchmarks.reporting.selection import Selection, place_of
from benchmarks.reporting.tables import markdown, percent, sides

Measured = Mapping[tuple[str, str], Selection]  # by data set and protocol
PICTURES = {
    FIELD.title: f"""![The potential field of two classes](figures/{FIELD_PICTURE})

What one point does to another by distance, and what a point of either class feels in a plane:
purple is low, brown is high, arrows pull. Points of one class attract one another, ever more weakly
with distance, and leave one another alone inside the radius; points of two classes repel inside it
and leave one another alone outside."""
}


def measured(selections: Sequence[Selection]) -> Measured:
    """All that is measured, by data set and protocol."""
    return {
        (selection.dataset, str(selection.protocol.get("name", QUICK.name))): selection
        for selection in selections
    }


def page(found: Measured) -> str:
    """The whole text."""
    sections = [_introduction(found)]
    for paper in PAPERS:
        sections.append(f"## {paper.title}\n\n{paper.cited}. {paper.remark}".rstrip())
        sections += [PICTURES[paper.title]] if paper.title in PICTURES else []
        sections += [paragraph for claim in paper.claims for paragraph in _of_claim(claim, found)]
    return "\n\n".join(sections) + "\n"


def verdicts(found: Measured) -> dict[str, str]:
    """How often what a class's paper states was found to be right and wrong, each data set and
    protocol by itself, with a link, by class."""
    return {name: _counted(paper, found) for paper in PAPERS for name in paper.classes}


def _counted(paper: Paper, found: Measured) -> str:
    counts = Counter(
        judged.verdict
        for claim in paper.claims
        if claim.stated
        for judged in _judgements(claim, found).values()
    )
    said = [f"{n} {verdict}" for verdict, n in sorted(counts.items()) if verdict != NOT_MEASURED]
    place = paper.title.lower().replace(" ", "-")
    return f"[{', '.join(said) or NOT_MEASURED}](docs/claims.md#{place})"


def _judgements(claim: Claim, found: Measured) -> dict[tuple[str, str], Judgement]:
    """By data set and protocol, ``quick`` where nothing is measured."""
    judged = {}
    for dataset in claim.datasets:
        protocols = [protocol for name, protocol in found if name == dataset] or [QUICK.name]
        for protocol in protocols:
            clean = found.get((claim.clean or "", protocol))
            selection = found.get((dataset, protocol))
            judged[dataset, protocol] = judge(claim, dataset, selection, clean)
    return judged


def _introduction(found: Measured) -> str:
    lines = []
    for claim in (claim for paper in PAPERS for claim in paper.claims):
        rows = [
            {"data set": f"`{place_of(*key)}`", "verdict": one.verdict, "why": sides(one)}
            for key, one in _judgements(claim, found).items()
            if one.measured
        ] or [{"data set": "", "verdict": NOT_MEASURED, "why": ""}]
        lines += [{"claim": claim.title, **row} for row in rows]
    return f"""# Claims

<!-- Written by `python -m benchmarks report`; what is changed by hand is lost. -->

What the papers of the losses here claim, tested on the rows of
[the benchmarks](../benchmarks/README.md). Claims are in our words, with where they were read; none
was tested as published, with its networks, data and length of training, unless a data set below is
the paper's. A claim that small networks contradict in a short budget may hold in the paper's.
Where rows are missing, a command measures them; `python -m benchmarks data list` says what data it
needs.

{RULE}

{markdown(lines)}"""


def _of_claim(claim: Claim, found: Measured) -> list[str]:
    """Paragraphs of its section."""
    paragraphs = [f"### {claim.title}", f"{claim.text} Source: {claim.source}."]
    commands: list[str] = []
    for key, judged in _judgements(claim, found).items():
        if judged.measured:
            paragraphs += [
                f"**`{place_of(*key)}`: {judged.verdict}.** {_where(claim, found[key])}",
                _differences(judged),
            ]
        commands += _commands(judged, *key, found)
    if commands:
        lines = "\n".join(dict.fromkeys(commands))
        paragraphs.append(f"Not measured yet:\n\n```bash\n{lines}\n```")
    return paragraphs


def _where(claim: Claim, selection: Selection) -> str:
    fall = f" Falls are from `{claim.clean}` on the same seeds." if claim.clean else ""
    return (
        f"{seeds_and_devices(selection)}, from [{selection.dataset}.jsonl]"
        f"(../benchmarks/results/{selection.dataset}.jsonl).{fall} Differences in points, mean ± "
        "half a 95 % t-interval, uncorrected:"
    )


def _differences(judged: Judgement) -> str:
    return markdown(
        [
            {
                "difference": f"{RECIPES[one.better].title} minus {RECIPES[one.worse].title}",
                "seeds": str(len(one.recall)),
                "Recall@1": percent(one.recall, sign="+"),
                "p, corrected": "< 0.001" if one.p < 0.001 else f"{one.p:.3f}",
                "MAP@R": percent(one.precision, sign="+"),
            }
            for one in judged.measured
        ]
    )


def _commands(judged: Judgement, dataset: str, protocol: str, found: Measured) -> list[str]:
    """What measures the comparisons that are missing."""
    missing = [one for one in judged.comparisons if not one.measured]
    recipes = list(dict.fromkeys(name for one in missing for name in (one.better, one.worse)))
    lacking = {}
    for place in filter(None, (dataset, judged.claim.clean)):
        selection = found.get((place, protocol))
        methods = selection.methods if selection else ()
        done = {method.recipe for method in methods if len(method.seeds) >= FEWEST_SEEDS}
        lacking[place] = [name for name in recipes if name not in done]
    if not any(lacking.values()):  # measured, with other seeds or another budget
        lacking = dict.fromkeys(lacking, recipes)
    return [
        f"python -m benchmarks run --dataset {place}{_rules(place, protocol, found)} "
        f"--recipes {' '.join(names)}"
        for place, names in lacking.items()
        if names
    ]


def _rules(dataset: str, protocol: str, found: Measured) -> str:
    """What puts a run beside those that there are: protocol, trials and seeds, where they are not
    the usual ones."""
    selection = found.get((dataset, protocol))
    options = [] if protocol == QUICK.name else [f"--protocol {protocol}"]
    if selection is not None:
        rules = PROTOCOLS[protocol]
        trials = selection.protocol.get("trials", 0)
        if trials != rules.trials:
            options.append(f"--trials {trials}")
        if selection.seeds != list(rules.seeds or TABLES[dataset].seeds):
            options.append(f"--seeds {' '.join(map(str, selection.seeds))}")
    return "".join(f" {option}" for option in options)
