"""Training that was killed in the middle of an epoch goes on with the same batches."""

import signal
import subprocess
import sys
from pathlib import Path

import torch
from torch.utils.data import DataLoader, TensorDataset

from tests.samplers.test_batches import LABELS, SAMPLERS


def run_until_killed(script, folder):
    """The batches that were trained on, one line each."""
    root = str(Path(__file__).parents[2])
    with (folder / "errors").open("w") as errors:
        run = subprocess.run(
            [sys.executable, "-c", f"import sys; sys.path.insert(0, {root!r})\n{script}"],
            cwd=folder,
            stdout=subprocess.DEVNULL,  # no pipe that orphaned workers would keep open
            stderr=errors,
            timeout=300,
        )
    assert run.returncode == -signal.SIGKILL, (folder / "errors").read_text()
    return [eval(line) for line in (folder / "trained").read_text().splitlines()]


KILLED = """
import os, signal
import torch
from tests.samplers.test_batches import SAMPLERS

samplers = {name: make(seed=6) for name, make in SAMPLERS.items()}
iterators = {name: iter(sampler) for name, sampler in samplers.items()}
trained = open("trained", "w")
for step in range(100):
    batches = {name: next(iterator) for name, iterator in iterators.items()}
    torch.save({name: s.state_dict() for name, s in samplers.items()}, "states")
    print(repr(batches), file=trained, flush=True)
    if step == 2:
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_process_that_was_killed_is_continued_by_another(tmp_path):
    trained = run_until_killed(KILLED, tmp_path)
    assert len(trained) == 3
    states = torch.load(tmp_path / "states", weights_only=True)
    for name, make in SAMPLERS.items():
        resumed = make()
        resumed.load_state_dict(states[name])
        assert [batches[name] for batches in trained] + list(resumed) == list(make(seed=6))


KILLED_WITH_WORKERS = """
import os, signal
import torch
from tests.samplers.test_kill_and_resume import SAMPLERS, loader_of

sampler, done = SAMPLERS["pairs"](seed=6), 0
loader = loader_of(sampler)
trained = open("trained", "w")
while True:
    for (batch,) in loader:
        done += 1
        ahead = sampler.state_dict()
        epoch, position = divmod(done, len(sampler))
        state = {**ahead, "epoch": epoch, "position": position}
        torch.save((state, ahead), "states")
        print(batch.tolist(), file=trained, flush=True)
        if done == len(sampler) + 2:
            os.kill(os.getpid(), signal.SIGKILL)
"""


def loader_of(sampler):
    dataset = TensorDataset(torch.arange(len(LABELS)))
    return DataLoader(dataset, batch_sampler=sampler, num_workers=2, persistent_workers=True)


def test_with_workers_a_count_of_batches_trained_on_is_continued(tmp_path):
    trained = run_until_killed(KILLED_WITH_WORKERS, tmp_path)
    state, ahead = torch.load(tmp_path / "states", weights_only=True)
    assert (state["epoch"], state["position"]) == (1, 2)
    assert ahead["position"] > 2  # of batches that died in the queue
    whole, resumed = SAMPLERS["pairs"](seed=6), SAMPLERS["pairs"]()
    resumed.load_state_dict(state)
    rest = [batch.tolist() for (batch,) in loader_of(resumed)]
    assert trained + rest == [*whole, *whole]
