"""Classes of ours that have the name of one of pml's, and putting them in its place."""

import ast
import importlib
import pkgutil
import sys

import pml_extras

HOMES = ("losses", "miners", "reducers", "samplers", "distances", "regularizers", "testers")
HOMES += ("trainers", "utils.accuracy_calculator", "utils.distributed", "utils.inference")


def replacements():
    """``{class of pml: class of ours}``, by name, of all that either makes public."""
    for module in pkgutil.iter_modules(pml_extras.__path__, "pml_extras."):
        importlib.import_module(module.name)
    ours = {
        name: getattr(module, name)
        for path, module in sorted(sys.modules.items())
        if path.startswith("pml_extras.") and path.count(".") == 1
        for name in getattr(module, "__all__", ())
    }
    theirs = {}
    for home in HOMES:
        module = importlib.import_module(f"pytorch_metric_learning.{home}")
        theirs |= {name: x for name, x in vars(module).items() if isinstance(x, type)}
    return {value: ours[name] for name, value in theirs.items() if name in ours}


def replace():
    """Put ours wherever a module of pml has the class."""
    found = replacements()
    for path, module in list(sys.modules.items()):
        if path.startswith("pytorch_metric_learning"):
            for name, value in list(vars(module).items()):
                if isinstance(value, type) and value in found:
                    setattr(module, name, found[value])


def names_in(path):
    """The replaced classes that a file of tests mentions, by name."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    mentioned = {node.id for node in nodes if isinstance(node, ast.Name)}
    mentioned |= {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    return sorted(mentioned & {value.__name__ for value in replacements()})
