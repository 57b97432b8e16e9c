"""What stands above a table: under which conditions its numbers came about."""

from typing import Any

from benchmarks.reporting.selection import Method, Selection


def heading(selection: Selection) -> str:
    """Protocol, budget, seeds, devices, and whose metrics the table has."""
    rules = selection.protocol
    budget = "Budgets of the rows as listed below"
    if selection.budget:
        epochs = rules.get("max_epochs") or selection.budget["epochs"]
        up_to = "up to " * selection.evaluated_once
        budget = _budget({**selection.budget, "epochs": epochs}, up_to)
    named = f"Protocol {rules['name']}. " if rules else ""
    return (
        f"{named}{budget}, {seeds_and_devices(selection)}. Metrics of the test classes "
        f"{_when(selection)}, in %, mean ± half a 95 % t-interval over seeds."
    )


def seeds_and_devices(selection: Selection) -> str:
    """Of all its rows."""
    seeds = selection.seeds
    devices = {run["device"] for method in selection.methods for run in method.runs.values()}
    return (
        f"{len(seeds)} seed{'s' * (len(seeds) != 1)} ({', '.join(map(str, seeds))}), "
        f"{'; '.join(sorted(devices))}"
    )


def own_budgets(selection: Selection) -> str:
    """What is not comparable, where rows have budgets of their own, and the budget of each."""
    first = selection.methods[0].budget
    budgets = [method.budget for method in selection.methods]
    names = {name for budget in budgets for name in budget}
    differing = [
        name.replace("_", " ")
        for name in sorted(names)
        if any(budget.get(name) != first.get(name) for budget in budgets)
    ]
    titles: dict[str, list[str]] = {}
    for method in selection.methods:
        titles.setdefault(_of_row(method), []).append(method.title)
    return "\n".join(
        [
            "Rows are not comparable with one another, and no differences between them are shown: "
            f"as published, they differ in {', '.join(differing)}.",
            "",
            *(f"- {'; '.join(alike)}: {budget}." for budget, alike in titles.items()),
        ]
    )


def _of_row(method: Method) -> str:
    own = method.settings.get("protocol", {}).get("own_budget", False)
    sampler = method.settings.get("sampler")
    batches = f", batches by {sampler}" if sampler else ""
    rate = f", rate {method.budget['trunk_lr']:.3g}"
    whose = "" if own else ", the budget of the data set"
    described = _budget(method.budget, nominal=sampler is not None)
    return described[0].lower() + described[1:] + rate + batches + whose


def _budget(budget: dict[str, Any], up_to: str = "", *, nominal: bool = False) -> str:
    """In words; ``nominal`` leaves out the images of a class, which a sampler has its own way
    with."""
    per_class = budget["images_per_class"]
    classes = f" ({budget['batch_size'] // per_class} classes x {per_class})" * (not nominal)
    optimizer = (
        f", {budget.get('optimizer', 'adam')} with weight decay "
        f"{budget.get('weight_decay', 0.0):.3g}"
        if budget.keys() & {"optimizer", "weight_decay"}
        else ""
    )
    noise = budget.get("label_noise", 0.0)
    steps = "".join(
        f", {words}"
        for name, words in (
            ("accumulate", f"{budget.get('accumulate')} batches a step"),
            ("amp", f"trunks trained in {budget.get('amp')}"),
            ("sub_batch", f"{budget.get('sub_batch')} rows of a batch at a time"),
        )
        if name in budget
    )
    return (
        f"Embedding size {budget['embedding_size']}, batch {budget['batch_size']}{classes}, "
        f"{up_to}{budget['epochs'] * budget['iterations']} iterations{steps}{optimizer}"
        + (f", {100 * noise:g} % of the training labels wrong" if noise else "")
        + _network(budget)
    )


def _network(budget: dict[str, Any]) -> str:
    """Of image files; "" of images in memory."""
    if "backbone" not in budget:
        return ""
    backbone, crops = budget["backbone"], budget["crops"]
    frozen = "frozen" if backbone["frozen_batch_norm"] else "trained"
    weights = f"weights {backbone['weights']}" if backbone["weights"] else "a random start"
    return (
        f", {backbone['name']} from {weights} with {frozen} batch norm, crops of "
        f"{crops['name']} at {crops['size']}"
    )


def _when(selection: Selection) -> str:
    """At which epoch, and what chose it."""
    rules = selection.protocol
    if selection.evaluated_once:
        return (
            "after the last epoch, evaluated once (rates, settings of the losses and the number of "
            f"epochs were chosen on validation classes, in {rules['trials']} trials on "
            f"{rules['folds']} folds for each method that is trained)"
        )
    if rules.get("epoch_selected_on") == "test":
        return "at the epoch with their best Recall@1, which flatters every row"
    if any(method.selected_on == "validation" for method in selection.methods):
        return "at the epoch that validation classes chose"
    return "after the last epoch"
