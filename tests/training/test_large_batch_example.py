"""The example's memory is in MiB, whatever unit the system counts in."""

import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

resource = pytest.importorskip("resource", reason="the example needs Linux or macOS")
EXAMPLE = Path(__file__).parents[2] / "examples" / "large_batch.py"


@pytest.mark.parametrize(("platform", "unit"), [("darwin", 2**20), ("linux", 2**10)])
def test_peak_is_in_mib(monkeypatch, platform, unit):
    peak = runpy.run_path(str(EXAMPLE))["peak"]
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(resource, "getrusage", lambda who: SimpleNamespace(ru_maxrss=3 * unit))
    assert peak() == 3
