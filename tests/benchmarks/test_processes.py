"""Two processes that share a batch train what one process trains alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.benchmarks.processes import CASES, ITERATIONS, train

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def runs(world: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Number of processes -> folder of their results."""
    folders = {count: tmp_path_factory.mktemp(f"processes-{count}") for count in (1, 2)}
    for case in CASES:
        train(world, folders[1], case)
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.processes", str(world), str(folders[2]), "2"],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return folders


def results(runs: dict[int, Path], case: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What one process noted, and what each of two did."""
    alone, *both = [
        torch.load(runs[count] / f"{case}-{rank}.pt", weights_only=False)
        for count, rank in ((1, 0), (2, 0), (2, 1))
    ]
    assert alone["processes"] == 1
    assert [one["processes"] for one in both] == [2, 2]
    return alone, both


@pytest.mark.parametrize("case", CASES)
def test_processes_split_the_prompts_and_share_no_noise(runs, case):
    alone, both = results(runs, case)
    for iteration in range(ITERATIONS):
        first, second = (one["prompts"][iteration] for one in both)
        assert len(set(first)) == len(set(second)) == 2
        assert not set(first) & set(second)
        assert first + second == alone["prompts"][iteration]
        starts, ends = (
            torch.stack([one["states"][iteration][step] for one in both]).flatten(2) for step in (0, -1)
        )
        for row in range(starts.shape[1]):
            assert ((starts[0, row] - starts[1]).abs().amax(dim=1) > 0.5).all()
        assert ((ends[0] - ends[1]).abs().amax(dim=1) > 0.1).all()


@pytest.mark.parametrize("case", CASES)
def test_processes_draw_together_what_one_process_draws(runs, case):
    alone, both = results(runs, case)
    for iteration in range(ITERATIONS):
        together = torch.cat([one["states"][iteration] for one in both], dim=1)
        torch.testing.assert_close(together, alone["states"][iteration], atol=1e-4, rtol=1e-4)
        for reward, values in alone["rewards"][iteration].items():
            joined = torch.cat([one["rewards"][iteration][reward] for one in both])
            torch.testing.assert_close(joined, values, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("case", CASES)
def test_gradients_are_synchronised_and_the_weights_are_those_of_one_process(runs, case):
    alone, both = results(runs, case)
    norm = torch.stack([part.norm() for part in alone["gradient"]]).norm()
    assert norm > 0
    for one, two, expected in zip(both[0]["gradient"], both[1]["gradient"], alone["gradient"], strict=True):
        assert torch.equal(one, two)
        assert (one - expected).norm() < 1e-3 * norm
    # Adam's steps are of the size of the learning rate, 1e-3: without synchronisation weights would be that far apart.
    for key, expected in alone["weights"].items():
        assert torch.equal(both[0]["weights"][key], both[1]["weights"][key])
        torch.testing.assert_close(both[0]["weights"][key], expected, atol=1e-4, rtol=1e-4)
