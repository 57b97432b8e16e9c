import json
import sys
from unittest import mock

import pytest
import torch

from benchmarks import field_cost
from pml_extras.functional import potential_field_energy, tiles


@pytest.fixture
def small(monkeypatch):
    """Tiles of 10 x 10 points of 6 coordinates."""
    monkeypatch.setattr(field_cost, "DIM", 6)
    monkeypatch.setattr(field_cost, "SIDE", 10)
    monkeypatch.setattr(field_cost, "CLOSE_PAIRS_A_TILE", 1)
    monkeypatch.setattr(field_cost, "TURNS", 2)
    with mock.patch.dict(tiles.TILE_ELEMENTS, {"cpu": 100}):
        yield


def test_a_crowd_is_in_a_tenth_of_the_tiles(small, monkeypatch):
    monkeypatch.setattr(field_cost, "DIM", 64)
    loss = field_cost.made(100, 2)
    assert field_cost.share_of_tiles(loss) == 0
    with torch.no_grad():
        field_cost.crowd(loss.proxies)
    assert field_cost.share_of_tiles(loss) == pytest.approx(0.1, abs=0.03)


def test_dense_energy_pulls_the_proxies_as_the_loss_does(small):
    loss = field_cost.made(20, 2)
    field_cost.dense(loss)
    dense, loss.proxies.grad = loss.proxies.grad, None
    potential_field_energy(
        torch.nn.functional.normalize(loss.proxies), torch.arange(40) // 2,
        alpha=loss.alpha, delta=loss.delta,
    ).energy.backward()  # fmt: skip
    scale = dense.abs().max().item()
    torch.testing.assert_close(loss.proxies.grad, dense, rtol=1e-3, atol=1e-3 * scale)


def test_measurements_are_lines_of_their_file(tmp_path, monkeypatch):
    path = tmp_path / "field.jsonl"
    given = ["--what", "memory", "steps", "--classes", "30", "--rates", "0.01", "--steps", "2"]
    monkeypatch.setattr(sys, "argv", ["field_cost", "--results", str(path), *given])
    field_cost.main()
    memory, steps = (json.loads(line) for line in path.read_text().splitlines())
    assert memory["field"] == "memory"
    assert memory["classes"] == steps["classes"] == 30
    assert steps["largest_relative_difference"] <= 1e-6
    assert steps["mean_seconds"]["lists"] > 0
    assert {"commit", "versions", "device"} <= set(steps)
