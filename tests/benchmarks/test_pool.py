"""Workers that die: only their own run is lost, it is tried once more, and its likely cause is named."""

from __future__ import annotations

import multiprocessing
import os
import signal
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch

from benchmarks.causes import cause_of_death, memory_advice
from benchmarks.locking import alone
from benchmarks.pool import Done, Pool
from benchmarks.task import Training
from benchmarks.workers import described
from tests.benchmarks.harness import Bench, assert_same_records, assert_same_state

CHANGES = {"budget": 3, "checkpoint_every": 1, "seeds": 1}


@pytest.fixture
def _forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers that have what is imported and patched here."""
    context = multiprocessing.get_context("fork")
    monkeypatch.setattr("multiprocessing.get_context", lambda _: context)


def work(pipe: Connection, folder: Path) -> None:
    """Ends by SIGKILL at "dies", and at "once" the first time."""
    while (task := pipe.recv()) is not None:
        first = not (folder / task).exists()
        (folder / task).touch()
        if task == "dies" or (task == "once" and first):
            os.kill(os.getpid(), signal.SIGKILL)
        pipe.send((task, os.environ.get("CUDA_VISIBLE_DEVICES")))
        pipe.send(Done())


@pytest.mark.usefixtures("_forked")
@pytest.mark.parametrize("workers", [1, 2, 5])
def test_every_task_is_done_or_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    monkeypatch.setattr("benchmarks.pool.devices", lambda: ["7", "8"])
    seen: list[tuple[str, str]] = []
    deaths: list[tuple[str, int | None, bool]] = []
    pool = Pool(work, (tmp_path,), workers, seen.append, lambda *death: deaths.append(death))
    pool.run(["a", "dies", "b", "once", "c"])
    assert sorted(task for task, _ in seen) == ["a", "b", "c", "once"]
    assert {device for _, device in seen} <= {"7", "8"}
    if workers == 1:
        assert {device for _, device in seen} == {"7"}
    assert sorted(deaths) == [("dies", -9, False), ("dies", -9, True), ("once", -9, True)]


@pytest.mark.usefixtures("_forked")
def test_a_dead_worker_costs_its_own_run_alone(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One run's worker is killed once after a checkpoint, another's always."""
    iterate = Training._iterate

    def deadly(self: Training, iteration: int) -> dict[str, float]:
        name, mark = self.method.name, tmp_path / self.method.name
        if name == "flow_grpo" or (iteration == 1 and not mark.exists()):
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return iterate(self, iteration)

    undisturbed = bench("--methods", "dance_grpo", output="undisturbed", **CHANGES)
    with monkeypatch.context() as patch:
        patch.setattr(Training, "_iterate", deadly)
        result = bench("--methods", "flow_grpo,dance_grpo", "--workers", 2, **CHANGES)
    assert result.code == 2
    warned = [line for line in result.err.splitlines() if line.startswith("warning: ")]
    assert sorted(line.split(":")[1] for line in warned) == [" dance_grpo seed 0", " flow_grpo seed 0"]
    assert all("goes on from its last checkpoint" in line for line in warned)
    (error,) = [line for line in result.err.splitlines() if line.startswith("error: ")]
    assert error.startswith(
        "error: flow_grpo seed 0: its worker was killed (SIGKILL), most likely for want of"
    )
    assert "halve micro_batch" in error
    runs = result.runs().set_index("method")
    assert runs["status"].to_dict() == {"flow_grpo": "failed", "dance_grpo": "finished"}
    assert "killed" in runs.loc["flow_grpo", "error"]
    assert_same_records(undisturbed, result, ["dance_grpo"])
    assert_same_state(undisturbed, result, "dance_grpo")
    assert bench.resume().code == 0
    assert list(result.runs()["status"]) == ["finished", "finished"]


def test_a_run_that_another_process_trains_is_left_alone(bench: Bench) -> None:
    """As a job of a cluster does while `--resume` collects."""
    result = bench("--methods", "dance_grpo", **CHANGES)
    before = (result.folder / "runs" / "dance_grpo-seed0" / "status.json").read_text()
    status = before.replace("finished", "running")
    (result.folder / "runs" / "dance_grpo-seed0" / "status.json").write_text(status)
    with alone(result.folder / "runs" / "dance_grpo-seed0"):
        busy = bench.resume()
    assert busy.code == 2
    assert "another process is using" in busy.err
    assert (result.folder / "runs" / "dance_grpo-seed0" / "status.json").read_text() == status
    again = bench.resume()
    assert again.code == 0
    assert (result.folder / "runs" / "dance_grpo-seed0" / "status.json").is_file()


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (-9, "SIGKILL"),
        (-11, "crashed in native code (SIGSEGV)"),
        (-15, "ended from outside (SIGTERM)"),
        (-64, "native code (SIGRTMAX)"),
        (-99, "signal 99"),
        (3, "exit code 3"),
    ],
)
def test_causes_of_death(code: int, words: str) -> None:
    assert words in cause_of_death(code)


@pytest.mark.parametrize(
    ("place", "setting"),
    [
        ("collect", "rollout_batch"),
        ("update", "micro_batch"),
        ("decode", "execution.decode_batch"),
        ("evaluate", "evaluation.batch"),
        ("elsewhere", "micro_batch and rollout_batch"),
    ],
)
def test_out_of_memory_names_the_setting_to_halve(place: str, setting: str) -> None:
    code = f"def {place}():\n    raise error\n{place}()"
    for error in (
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("can't allocate memory"),
    ):
        with pytest.raises(type(error)) as caught:
            exec(code, {"error": error})
        line, expected = described(caught.value)
        assert expected
        assert "out of memory" in line
        assert f"halve {setting} in settings.yaml" in line
    assert memory_advice(ValueError("no")) == ""
