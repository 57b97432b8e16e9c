"""Whatever ends a command early is a sentence and an exit code."""

import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from benchmarks.command_line import app
from benchmarks.datasets import DATASETS

ROOT = Path(__file__).parents[2]


def without(module: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """The command where this module is not installed."""
    code = (
        f"import sys; sys.modules[{module!r}] = None; from benchmarks.__main__ import main; main()"
    )
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)


@pytest.mark.parametrize(
    ("module", "extras", "arguments"),
    [
        ("optuna", "bench", ["--protocol", "reality-check", "--dataset", "digits"]),
        ("record_keeper", "bench,tensorboard", ["--smoke", "--tensorboard", "drawn"]),
        ("matplotlib", "bench", ["--help"]),
    ],
)
def test_a_missing_package_is_named_with_the_extra_that_brings_it(
    module: str, extras: str, arguments: list[str], tmp_path: Path
) -> None:
    found = without(module, "run", "--results", tmp_path, *arguments)
    assert found.returncode == 2
    assert found.stderr.splitlines()[-1] == (
        f"Error: {module}: expected an installed package; got none. Run "
        f'`pip install -e ".[{extras}]"`.'
    )
    assert "Traceback" not in found.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_missing_part_of_our_own_is_no_missing_package() -> None:
    found = without("benchmarks.records", "list")
    assert found.returncode == 1
    assert "Traceback" in found.stderr


def test_ctrl_c_during_imports_is_a_sentence() -> None:
    command = [sys.executable, "-X", "importtime", "-m", "benchmarks", "list"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stderr is not None
        next(line for line in process.stderr if line.rstrip().endswith("torch.version"))
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
    assert process.returncode == 130
    assert said.splitlines()[-1] == "Stopped before anything began."
    assert "Traceback" not in said


@pytest.mark.parametrize(
    "command", [["run", "--recipes", "untrained"], ["data", "verify", "digits"]]
)
def test_ctrl_c_while_data_is_read_is_a_sentence(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(root: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setitem(DATASETS, "digits", replace(DATASETS["digits"], load=interrupted))
    extra = ["--results", str(tmp_path)] if command[0] == "run" else []
    found = CliRunner().invoke(app, [*command, *extra])
    assert found.exit_code == 130
    assert found.output.splitlines()[-1] == "Stopped. What was finished is kept."
