"""One run of pytest over files of pml's tests: ``run.py`` starts one with pml's classes and one
with ours. The processes that a test starts import this module too, and replace the same.
"""

import json
import random
import sys

import numpy as np
import pytest
import torch

from tests.pml_suite import by_value
from tests.pml_suite.departures import DEPARTURES
from tests.pml_suite.replacements import replace

PROCESSES = 2


class Plugin:
    """Fixed seeds, processes without GPUs, and the outcome of each test."""

    def __init__(self, undo):
        self.undo = undo
        self.outcomes = {}

    @pytest.fixture(autouse=True)
    def _seeds(self):
        torch.manual_seed(0)
        np.random.seed(0)  # noqa: NPY002 - which pml's samplers and miners draw from
        random.seed(0)

    @pytest.fixture(autouse=True)
    def _gloo(self, request, monkeypatch):
        """pml compares processes on GPUs alone: where it asks, a device of another name than "cpu".

        The processes themselves read the device from the environment, and take gloo. What they get
        is copied, as on GPUs. The last dtype is enough: to start processes takes seconds.
        """
        if "test_distributed_" in request.node.name:
            monkeypatch.setattr(request.module, "TEST_DEVICE", torch.device("cpu", 0))
            monkeypatch.setattr(request.module, "TEST_DTYPES", request.module.TEST_DTYPES[-1:])
            monkeypatch.setattr(torch.cuda, "device_count", lambda: PROCESSES)
            monkeypatch.setattr(request.module.mp, "spawn", by_value.spawn)

    @pytest.fixture(autouse=True)
    def _undo(self, request, monkeypatch):
        departure = DEPARTURES.get(request.node.nodeid)
        if self.undo and departure is not None:
            departure.undo(monkeypatch, request.module)

    def pytest_runtest_makereport(self, item, call):
        test = item.nodeid
        if call.excinfo is not None:
            skipped = call.excinfo.errisinstance(pytest.skip.Exception)
            lines = str(call.excinfo.value).splitlines()
            text = " ".join(x.strip() for x in lines if ".py" not in x)  # no paths
            inside = [e for e in call.excinfo.traceback if e.path == item.path]
            statement = str(inside[-1].statement) if inside else ""
            self.outcomes[test] = {
                "outcome": "skipped" if skipped else "failed",
                "where": " ".join(statement.split()),
                "raised": f"{call.excinfo.typename}: {text}"[-200:],
            }
        elif call.when == "call":
            self.outcomes.setdefault(test, {"outcome": "passed"})


def main(side, output, folder, *tests):
    """Run tests by their names in pml's folder of tests; write what became of each."""
    plugin = Plugin(undo=side == "undone")
    options = ["-q", "-c", "/dev/null", f"--rootdir={folder}", "-p", "no:cacheprovider"]
    options += ["-W", "ignore", "--tb=short"]
    pytest.main([*options, *(f"{folder}/{test}" for test in tests)], plugins=[plugin])
    with open(output, "w", encoding="utf-8") as file:
        json.dump(plugin.outcomes, file)


if __name__ in ("__main__", "__mp_main__") and sys.argv[1] != "pml":
    replace()
if __name__ == "__main__":
    main(*sys.argv[1:])
