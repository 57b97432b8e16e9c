"""Where each setting of a recipe comes from: the paper, its authors' code, or this package.

A mark belongs to a value: what was published is listed, and any other value of the same setting is
ours. A setting that is not listed at all has no mark, and is refused.
"""

from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from typing import Any, Literal

from benchmarks.backbones import Backbone
from benchmarks.recipes.budget import DINO, TRANSFORMERS, Budget
from benchmarks.recipes.published import row_of
from benchmarks.recipes.recipe import Recipe

Mark = Literal["paper", "authors' code", "ours"]
PAPER: Mark = "paper"
CODE: Mark = "authors' code"
OURS: Mark = "ours"
Values = tuple[Any, ...]
Published = Mapping[str, Mapping[Mark, Values]]  # setting -> mark -> values
PRIOR = {"classification": 2, "triplet": 1, "binomial": 2, "proxy_nca": 3}
NOWHERE: Mapping[Mark, Values] = {}  # whatever the value, it is ours
IBC: Published = {
    "num_heads": {CODE: (2, 4, 8)},
    "num_layers": {CODE: (1, 2)},
    "feedforward_size": {CODE: (None,)},
    "dropout": {CODE: (0.1,)},
    "temperature": {CODE: (0.2, 1 / 9, 0.6046908988578005, 0.18591347176280537)},
    "label_smoothing": {CODE: (0.1,)},
    "mpn_weight": {CODE: (1.0,)},
    "aux_weight": {CODE: (1.0,)},
    "add_zero_attn": {PAPER: (False,), CODE: (True,)},
    "concat_layers": {PAPER: (False,), CODE: (True,)},
    "attention_dropout": {CODE: (None,)},
}
LIFTED: Published = {"neg_margin": {CODE: (1,)}, "pos_margin": {PAPER: (0,)}}
OF_CLASSES: Mapping[str, Published] = {
    "PotentialFieldLoss": {
        "proxies_per_class": {PAPER: (0, 5, 10, 15, 20, 25, 30)},
        "alpha": {PAPER: (0, 1, 2, 3, 4, 5, 6)},
        "delta": {PAPER: (0.1, 0.15, 0.2, 0.25, 0.3, 0.35)},
        "delta_rep": {PAPER: (None,)},
        "reduction": {PAPER: ("sum",)},
        "core_radius": NOWHERE,
        "collect_stats": NOWHERE,
    },
    "LiftedStructureLoss": LIFTED,
    "GeneralizedLiftedStructureLoss": {"neg_margin": NOWHERE, "pos_margin": NOWHERE},
    "LpDistance": {"normalize_embeddings": {CODE: (False,)}},
    "IntraBatchConnectionsLoss": IBC,
    "WithoutMessages": IBC,
    "LearnedSimplex": {"prior": {CODE: (PRIOR,)}, "floor": {CODE: (None,)}},
    "SquaredWeights": {
        "prior": {CODE: (PRIOR,)},
        "floor": {CODE: (None,)},
        "penalty": {CODE: (10000.0,)},
    },
    "ClassificationLoss": {"label_smoothing": {CODE: (0.15,)}, "hidden_size": {CODE: (None,)}},
    "TripletMarginLoss": {
        "margin": {CODE: (1.0,)},
        "swap": {CODE: (False,)},
        "smooth_loss": {CODE: (False,)},
        "triplets_per_anchor": {CODE: ("all",)},
    },
    "TripletMarginMiner": {"margin": {CODE: (0.1,)}, "type_of_triplets": {CODE: ("semihard",)}},
    "BinomialDevianceLoss": {
        "scale_pos": {CODE: (2.0,)},
        "scale_neg": {CODE: (25.0,)},
        "threshold": {CODE: (0.5,)},
        "per_anchor": {CODE: (True,)},
    },
    "SmoothedProxyNCALoss": {"softmax_scale": {CODE: (3.0,)}, "label_smoothing": {CODE: (0.1,)}},
    "on_one_embedding": {"max_scale": NOWHERE},
    "on_heads": {
        "max_scale": {CODE: (None,)},
        "diversity_weight": {CODE: (0.01, 0.1)},
        "heads_to_width": {CODE: (2, 16)},
    },
    "FixedWeights": {"weights": NOWHERE},
    "HomoscedasticUncertainty": {"kind": NOWHERE, "initial": NOWHERE},
    "NonNegativeUncertainty": {"initial": NOWHERE},
    "GradNorm": {"restoring_force": {PAPER: (1.5,)}},
    "DynamicWeightAverage": {"temperature": {PAPER: (2.0,)}},
    "MultipleGradientDescent": {"normalize": NOWHERE},
    "ContrastiveLoss": {"pos_margin": NOWHERE, "neg_margin": NOWHERE},
    "GeneralizedSumPooling": {
        "num_prototypes": {CODE: (64, 128)},
        "mass": {CODE: (0.3,)},
        "sharpness": {CODE: (5.0,)},
        "project": {CODE: (True,)},
        "max_pool_branch": {CODE: (False, True)},
        "gem": {CODE: (False, True)},
        "learn_mass": {CODE: (False,)},
        "learn_sharpness": {CODE: (False,)},
        "startup_size": {CODE: (1024,)},
        "concatenate_attributes": {CODE: (False, True)},
    },
    "ZeroShotPredictionLoss": {
        "num_attributes": {CODE: (64, 128)},
        "ridge": {CODE: (0.05,)},
        "logit_scale": {CODE: (9.5,)},
        "weight": {CODE: (0.1,)},
    },
    "zero_shot_with_memory": {
        "num_attributes": {CODE: (64, 128)},
        "memory_size": {CODE: (1600, 2800, 44800, 156800)},
        "start_after": {CODE: (125, 1400, 2400)},
    },
    "GeneralizedMeanPooling": {"exponent": {CODE: (3.0,)}, "floor": {CODE: (1e-6,)}},
    "MultiSimilarityLoss": {
        "alpha": {PAPER: (2,)},
        "beta": {PAPER: (50,), CODE: (40,)},
        "base": {PAPER: (1,), CODE: (0.5,)},
    },
    "MultiSimilarityMiner": {"epsilon": {PAPER: (0.1,)}},
    "ProxyAnchorLoss": {"margin": {PAPER: (0.1,)}, "alpha": {PAPER: (32,)}},
    "NormalizedSoftmaxLoss": {"temperature": {PAPER: (0.05,)}},
    "ReloadAndDrop": {
        "at": {CODE: ((30 / 70, 50 / 70),)},
        "factor": {CODE: (10.0,)},
        "select_on": {CODE: ("test",)},
    },
}
"""By class or function. Of losses straight from pml, paper and code are those of the loss."""
C1: Mapping[Mark, Values] = {CODE: (1.0, 0.5)}
OF_RECIPES: Mapping[str, Mapping[str, Mapping[Mark, Values]]] = {
    "triplet_semihard": {
        "miner.type_of_triplets": NOWHERE,
        "loss.swap": NOWHERE,
        "loss.smooth_loss": NOWHERE,
        "loss.triplets_per_anchor": NOWHERE,
    },
    **{
        name: {"loss.pos_margin": C1, "loss.neg_margin": C1}
        for name in ("gsp", "average_pooling", "max_pooling", "gem_pooling")
    },
    "ibc": {"loss.mpn_weight": {CODE: (0.0, 1.0)}},  # 0 for Stanford Online Products
    "gsp_zero_shot": {"loss.inner.loss.pos_margin": C1, "loss.inner.loss.neg_margin": C1},
}
"""Where a value was published for this recipe and not for its class, or the other way round."""
OF_PFML: Published = {
    "epochs": {PAPER: (200,)},
    "embedding_size": {PAPER: (512,)},
    "optimizer": {PAPER: ("adam",)},
}
"""Of the potential field with ResNet-50, in general; the paper is silent on training crops, and on
the batch norm of other sets than those of the rows."""
OF_PFML_ROWS: Published = {
    **OF_PFML,
    "batch_size": {PAPER: (100,)},
    "warm_up_epochs": {PAPER: (1,)},
    "backbone": {PAPER: (Backbone("resnet50"),)},
}
OF_BUDGETS: Mapping[str, Published] = {
    "cub": {**OF_PFML_ROWS, "weight_decay": {PAPER: (5e-4,)}},
    "cars196": {
        **OF_PFML_ROWS,
        "trunk_lr": {PAPER: (1e-4,)},
        "proxy_base_lr": {PAPER: (1e-4,)},
        "weight_decay": {PAPER: (1e-4,)},
    },
    "sop": OF_PFML,
    **{
        name: {**OF_PFML, "embedding_size": {PAPER: (384,)}, "backbone": {PAPER: (DINO,)}}
        for name in TRANSFORMERS
    },
    "omniglot_validation": {
        "optimizer": {CODE: ("radam",)},
        "weight_decay": {CODE: (6.059722614369727e-06,)},
    },
    "flowers": {"epochs": {CODE: (20,)}, "batch_size": {CODE: (64,)}},
    "pets": {"epochs": {CODE: (20,)}, "batch_size": {CODE: (64,)}},
    "omniglot_collage": {"batch_size": {CODE: (64,)}, "images_per_class": {CODE: (4,)}},
    **{
        name: {"batch_size": {CODE: (64,)}, "images_per_class": {CODE: (4,)}}
        for name in ("cifar_collage", "clinc150_text", "banking77_text")
    },
}
PARTS = ("loss", "distance", "miner", "pooling")
BUDGET_FIELDS = (
    "epochs",
    "iterations",
    "batch_size",
    "images_per_class",
    "embedding_size",
    "trunk_lr",
    "proxy_base_lr",
    "optimizer",
    "weight_decay",
    "label_noise",
    "backbone",
    "crops",
    "warm_up_epochs",
    "amp",
    "accumulate",
    "sub_batch",
    "encoder",
    "head_multiple",
)
"""Those that are ours unless their data set says otherwise."""


def marked(recipe: Recipe, dataset: str, budget: Budget) -> dict[str, tuple[Any, Mark]]:
    """Every setting of a run by its path in the record, as "loss.margin", with its mark; that of a
    backbone is of the network and its batch norm, whatever weights it starts from.

    Raises:
        ValueError: a setting without a mark.
    """
    settings = recipe.settings(dataset, budget)
    whole = {field.name: getattr(budget, field.name) for field in fields(budget)}
    found: dict[str, tuple[Any, Mark]] = {}
    of_budget = OF_BUDGETS.get(dataset, {})
    if row := row_of(recipe, dataset):
        of_budget = {name: {CODE: (getattr(row.budget, name),)} for name in row.released}
    for name, value in whole.items():
        published = of_budget.get(name, NOWHERE)
        if name not in BUDGET_FIELDS:
            raise _unmarked(recipe, f"budget.{name}")
        unloaded = replace(value, weights=None) if isinstance(value, Backbone) else value
        found[f"budget.{name}"] = (value, _mark(published, unloaded))
    for part in PARTS:
        found |= dict(_of_part(recipe, part, settings.get(part)))
    if recipe.schedule is not None:
        for name, value in settings["schedule"].items():
            published = OF_CLASSES["ReloadAndDrop"][name]
            found[f"schedule.{name}"] = (value, _mark(published, value))
    if recipe.sampler is not None:
        found["sampler"] = (settings["sampler"], CODE)
    if not recipe.unit_rows:
        found["unit_rows"] = (False, CODE)
    return found


def _of_part(recipe: Recipe, path: str, part: Any) -> Iterator[tuple[str, tuple[Any, Mark]]]:
    """Of a loss, a miner and the like, and of those inside it."""
    if part is None:
        return
    made = str(part["class"]).rpartition(".")[2] if "class" in part else None
    for name, value in part.items():
        here = f"{path}.{name}"
        if isinstance(value, Mapping) and _has_parts(value):
            yield from _of_part(recipe, here, value)
        elif made is not None and name != "class":
            of_class = OF_CLASSES.get(made, {}).get(name)
            published = OF_RECIPES.get(recipe.name, {}).get(here, of_class)
            if published is None:
                raise _unmarked(recipe, here)
            yield here, (value, _mark(published, value))


def _has_parts(value: Mapping[str, Any]) -> bool:
    return "class" in value or any(isinstance(entry, Mapping) for entry in value.values())


def _mark(published: Mapping[Mark, Values], value: Any) -> Mark:
    return next((mark for mark, values in published.items() if value in values), OURS)


def _unmarked(recipe: Recipe, path: str) -> ValueError:
    return ValueError(
        f"{recipe.name}, {path}: expected a mark, where its value is from; got none. Add it to "
        "benchmarks/recipes/marks.py."
    )
