"""What goes wrong in the middle of training: one run ends, with its reason; all that was recorded stays."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from analysis.schema import SETTINGS_FILE
from benchmarks.task import Training
from tests.benchmarks.harness import Bench, Result, assert_same_state, misbehave, replace_reward


def raised(values: Tensor) -> Tensor:
    raise ConnectionError("the judge\ndoes not answer")


def with_nan(values: Tensor) -> Tensor:
    return torch.where(torch.arange(len(values)) == 3, torch.nan, values)


@pytest.mark.parametrize(
    ("then", "words"),
    [
        (raised, ("failed at iteration 2", "first prompt 'a ", "ConnectionError: the judge does not answer")),
        (with_nan, ("returned nan for prompt 'a ", "at iteration 2", "1 of 4")),
        (lambda values: values / 0, ("for prompt 'a ", "at iteration 2", "not finite")),
        (lambda values: values[:2], ("returned (2,) at iteration 2", "expected (4,)")),
        (lambda values: values.tolist(), ("returned list at iteration 2",)),
    ],
    ids=["raises", "nan", "infinite", "too few", "no tensor"],
)
def test_a_reward_that_fails(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, then: Callable[[Tensor], Tensor], words: tuple[str, ...]
) -> None:
    misbehave(monkeypatch, "motion_quality", 2, then)
    result = bench("--methods", "dance_grpo", budget=3)
    assert result.code == 2
    (line,) = result.err.splitlines()
    assert line.startswith("error: dance_grpo seed 0: reward 'motion_quality' ")
    for word in words:
        assert word in line
    assert set(result.rows("iterations")["iteration"]) == {0, 1}  # 0: diagnostics of the base model
    evaluated = result.rows("evaluations")
    assert set(evaluated[evaluated["method"] == "dance_grpo"]["iteration"]) == {1}
    (run,) = result.runs().to_dict("records")
    assert (run["status"], run["iterations"]) == ("failed", 1)
    assert run["train_seconds"] > 0
    assert "motion_quality" in run["error"]
    assert "Traceback" in (result.folder / "runs" / "dance_grpo-seed0" / "error.txt").read_text()


def test_the_other_runs_go_on_and_the_report_is_written(
    reporting: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    misbehave(monkeypatch, "caption_match", 2, with_nan)
    result = reporting("--methods", "dance_grpo,flow_grpo", budget=2)
    assert result.code == 2
    (line,) = result.err.splitlines()
    assert line.startswith("error: dance_grpo seed 0: reward 'caption_match' returned nan")
    status = dict(zip(result.runs()["method"], result.runs()["status"], strict=True))
    assert status == {"dance_grpo": "failed", "flow_grpo": "finished"}
    rows = result.rows("iterations")
    assert rows.groupby("method")["iteration"].max().to_dict() == {"dance_grpo": 1, "flow_grpo": 2}
    page = (result.folder / "report.html").read_text()
    assert "did not finish" in page
    assert "returned nan" in page


def test_nothing_can_be_evaluated(reporting: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A held-out reward that always fails leaves no evaluation at all; the training rows stay."""

    class Broken:
        def __call__(self, videos: Tensor, prompts: list[str]) -> Tensor:
            raise RuntimeError("no judge")

    replace_reward(monkeypatch, "accuracy", lambda _: Broken())
    result = reporting("--methods", "dance_grpo", budget=2)
    assert result.code == 2
    errors = [line for line in result.err.splitlines() if line.startswith("error: ")]
    assert [line.split(": reward ")[0] for line in errors] == [
        "error: base model",
        "error: dance_grpo seed 0",
    ]
    assert all("reward 'accuracy' failed at iteration" in line for line in errors)
    assert "Traceback" not in result.err
    assert set(result.rows("iterations")["iteration"]) == {0, 1}  # 0: diagnostics of the base model


def test_a_fault_of_the_program_keeps_its_traceback(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    iterate = Training._iterate

    def broken(self: Training, iteration: int) -> dict[str, float]:
        if self.method.name == "dance_grpo" and iteration == 1:
            raise KeyError("momentum")
        return iterate(self, iteration)

    monkeypatch.setattr(Training, "_iterate", broken)
    result = bench("--methods", "dance_grpo,flow_grpo")
    assert result.code == 1
    assert result.err == "error: dance_grpo seed 0: KeyError: 'momentum' (see error.txt)\n"
    assert "in broken" in (result.folder / "runs" / "dance_grpo-seed0" / "error.txt").read_text()
    assert list(result.runs()["status"]) == ["failed", "finished"]


@pytest.fixture
def nan_process_reward(world: Path, tmp_path: Path) -> Path:
    """The tiny process reward with one weight that is no number."""
    folder = Path(shutil.copytree(world / "process_reward", tmp_path / "process_reward"))
    weights = load_file(folder / "model.safetensors")
    weights["query"][..., 0] = torch.nan
    save_file(weights, folder / "model.safetensors")
    return folder


def test_runs_side_by_side(bench: Bench, whole: Result, nan_process_reward: Path) -> None:
    """Two processes: the one method fails and is told; the other's results are those of a single process."""
    settings = whole.folder / SETTINGS_FILE
    given = ("--config", settings, "--seeds", 1, "--workers", 2, "--process-reward", nan_process_reward)
    result = bench.plain(*given)
    assert result.code == 2
    (line,) = result.err.splitlines()
    assert line.startswith("error: euphonium seed 0: ")
    assert "step 0" in line
    status = dict(zip(result.runs()["method"], result.runs()["status"], strict=True))
    assert status == {"euphonium": "failed", "dance_grpo": "finished"}
    for name in ("iterations", "evaluations"):
        rows = whole.rows(name).query("(method == 'dance_grpo' or method == 'base') and seed == 0")
        one, two = (table.reset_index(drop=True) for table in (rows, result.rows(name)))
        pd.testing.assert_frame_equal(one, two, check_exact=True)
    assert_same_state(result, whole, "dance_grpo")
