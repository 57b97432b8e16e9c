"""The examples of Lightning and Accelerate, started by torchrun."""

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("example", "package"), [("lightning_module", "lightning"), ("accelerate_loop", "accelerate")]
)
def test_two_processes_learn_as_one_and_continue_where_they_were_broken_off(
    example, package, tmp_path
):
    if find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    script = str(EXAMPLES / f"{example}.py")
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    learnt = []
    for start in ([], torchrun):
        run = subprocess.run(
            [sys.executable, *start, script],
            capture_output=True,
            text=True,
            timeout=300,
            cwd=tmp_path,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert run.returncode == 0, run.stderr
        *runs, last = run.stdout.splitlines()
        assert last == "the same network and proxies"
        learnt.append([[float(x) for x in re.findall(r"0\.\d+", line)] for line in runs])
    before, after, continued = learnt[1]
    assert before == learnt[0][0]
    assert after == continued
    assert after[1] > before[1] + 0.2
    assert after == pytest.approx(learnt[0][1], abs=0.03)
