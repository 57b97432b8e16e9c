"""What stands above a table: under which conditions its numbers came about."""

from benchmarks.reporting.selection import Selection


def heading(selection: Selection) -> str:
    """Protocol, budget, seeds, devices, and whose metrics the table has."""
    budget = selection.budget
    per_class = budget["images_per_class"]
    optimizer = (
        f"{budget['optimizer']} with weight decay {budget.get('weight_decay', 0.0):.3g}, "
        if "optimizer" in budget
        else ""
    )
    rules = selection.protocol
    epochs = rules.get("max_epochs") or budget["epochs"]
    noise = budget.get("label_noise", 0.0)
    noisy = f"{100 * noise:g} % of the training labels wrong, " if noise else ""
    steps = "".join(
        f"{words}, "
        for name, words in (
            ("accumulate", f"{budget.get('accumulate')} batches a step"),
            ("amp", f"trunks trained in {budget.get('amp')}"),
            ("sub_batch", f"{budget.get('sub_batch')} rows of a batch at a time"),
        )
        if name in budget
    )
    named = f"Protocol {rules['name']}. " if rules else ""
    return (
        f"{named}Embedding size {budget['embedding_size']}, batch {budget['batch_size']} "
        f"({budget['batch_size'] // per_class} classes x {per_class}), "
        f"{'up to ' * selection.evaluated_once}{epochs * budget['iterations']} iterations, "
        f"{steps}{optimizer}{noisy}"
        f"{seeds_and_devices(selection)}. Metrics of the test classes {_when(selection)}, in %, "
        "mean ± half a 95 % t-interval over seeds."
    )


def seeds_and_devices(selection: Selection) -> str:
    """Of all its rows."""
    seeds = selection.seeds
    devices = {run["device"] for method in selection.methods for run in method.runs.values()}
    return (
        f"{len(seeds)} seed{'s' * (len(seeds) != 1)} ({', '.join(map(str, seeds))}), "
        f"{'; '.join(sorted(devices))}"
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
