"""A run that was killed and resumed ends exactly as one that was not: records, weights and optimiser, bit for bit."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Hashable
from pathlib import Path

import pytest
import torch

from analysis.schema import BASE
from benchmarks import checkpoint, task, workers
from benchmarks.locking import alone
from benchmarks.records import read_rows
from benchmarks.session import Session
from benchmarks.task import Training
from methods import CATALOG
from methods.method import Method
from methods.weights import AVERAGE
from tests.benchmarks.harness import (
    Bench,
    Result,
    assert_same_records,
    assert_same_state,
    digest,
    interrupt,
    misbehave,
    quick,
)
from tests.benchmarks.trainings import make
from tests.methods.small import one_of_each
from tests.world import world_settings

BOTH = ("--methods", "euphonium,dance_grpo")
ONE = ("--methods", "euphonium")
CHANGES = {"budget": 4, "checkpoint_every": 2}


@pytest.fixture(scope="module")
def undisturbed(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Result:
    """The run that nothing happened to, of two methods; what happens to one must not depend on the other."""
    with pytest.MonkeyPatch.context() as patch:
        quick(patch)
        return Bench(world, tmp_path_factory.mktemp("undisturbed"))(*BOTH, **CHANGES)


def assert_as_undisturbed(resumed: Result, undisturbed: Result) -> None:
    assert resumed.code == 0, resumed.err
    methods = list(resumed.runs()["method"])
    assert_same_records(resumed, undisturbed, [BASE, *methods])
    for method in methods:
        assert_same_state(resumed, undisturbed, method)
    assert set(resumed.runs()["status"]) == {"finished"}
    assert set(resumed.runs()["iterations"]) == {4}


@pytest.mark.parametrize(
    ("owner", "name", "call"),
    [
        (task, "evaluate", 1),  # the base model's
        (Training, "_iterate", 2),  # before a checkpoint was due
        (Training, "_iterate", 3),  # just after one
        (Training, "_iterate", 4),  # iteration 3 is recorded, and no checkpoint holds it
        (task, "evaluate", 4),  # iteration 3 is recorded, and its evaluation is not
        (checkpoint, "save", 1),  # iteration 2 is evaluated, and no checkpoint holds it
        (checkpoint, "save_optimiser", 2),  # in the middle of the last one: a .tmp is left
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_killed_and_resumed(
    bench: Bench, undisturbed: Result, monkeypatch: pytest.MonkeyPatch, owner: object, name: str, call: int
) -> None:
    with monkeypatch.context() as patch:
        interrupt(patch, owner, name, call)
        killed = bench(*ONE, **CHANGES)
    assert killed.code == 130
    assert "--resume" in killed.err
    assert_as_undisturbed(bench.resume(), undisturbed)
    assert not list((bench.folder / "out").rglob("*.tmp"))


def test_killed_in_the_second_method(
    bench: Bench, undisturbed: Result, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first one is finished and not run again."""
    with monkeypatch.context() as patch:
        interrupt(patch, Training, "_iterate", 8)
        assert bench(*BOTH, **CHANGES).code == 130
    before = digest(bench.folder / "out" / "runs" / "euphonium-seed0")
    assert_as_undisturbed(bench.resume(), undisturbed)
    assert digest(bench.folder / "out" / "runs" / "euphonium-seed0") == before


def test_killed_again_and_again(bench: Bench, undisturbed: Result, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint after every iteration, and death before every second one."""
    with monkeypatch.context() as patch:
        interrupt(patch, Training, "_iterate", 2)
        assert bench(*ONE, **{**CHANGES, "checkpoint_every": 1}).code == 130
    for _ in range(3):
        with monkeypatch.context() as patch:
            interrupt(patch, Training, "_iterate", 2)
            result = bench.resume()
    assert_as_undisturbed(result, undisturbed)


def test_killed_outright(bench: Bench, undisturbed: Result) -> None:
    """SIGKILL to a process of its own with two workers, which can clean nothing up; resumed in one process."""
    command = [sys.executable, "-m", "benchmarks.run", *BOTH, "--workers", "2"]
    command += ["--set", "all.group_size=2", "--set", "all.sampler.num_steps=4"]  # as `Bench` does
    folder = bench.folder / "out"
    command += ["--config", str(bench.config(**CHANGES)), "--output", str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    rows, deadline = folder / "runs" / "euphonium-seed0" / "iterations.csv", time.monotonic() + 120
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment
    ) as process:
        while not rows.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        assert process.poll() is None
        process.send_signal(signal.SIGKILL)
    time.sleep(0.5)  # the workers notice
    assert_as_undisturbed(bench.resume(), undisturbed)


@pytest.mark.parametrize("method", ["flow_grpo", "euphonium"])
def test_all_weights_and_a_kl_term(bench: Bench, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    """The KL's reference is the base model, also after a resume; nothing of it comes from the checkpoint."""
    given = ("--methods", method, "--weights", "full", "--set", "all.distillation.weight=0.1")
    changes = {"budget": 3, "checkpoint_every": 1}
    whole = bench(*given, output="whole", **changes)
    with monkeypatch.context() as patch:
        interrupt(patch, Training, "_iterate", 3)
        assert bench(*given, **changes).code == 130
    resumed = bench.resume()
    assert_same_records(whole, resumed)
    assert_same_state(whole, resumed, method)


def test_a_process_reward_that_is_trained_on(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its weights and its optimiser come from the checkpoint, too."""
    given = ("--methods", "euphonium", "--set", "euphonium.process_refresh.steps=2")
    changes = {"budget": 3, "checkpoint_every": 1}
    whole = bench(*given, output="whole", **changes)
    with monkeypatch.context() as patch:
        interrupt(patch, Training, "_iterate", 3)
        assert bench(*given, **changes).code == 130
    resumed = bench.resume()
    assert_same_records(whole, resumed)
    assert_same_state(whole, resumed, "euphonium")


def test_resumed_after_a_reward_was_mended(
    bench: Bench, undisturbed: Result, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        misbehave(patch, "motion_quality", 4, lambda values: values * torch.nan)
        failed = bench(*ONE, **CHANGES)
    assert failed.code == 2
    assert list(failed.runs()["status"]) == ["failed"]
    error = failed.folder / "runs" / "euphonium-seed0" / "error.txt"
    assert error.is_file()
    resumed = bench.resume()
    assert_as_undisturbed(resumed, undisturbed)
    assert not error.exists()
    assert list(resumed.runs()["error"]) == [""]


def test_training_time_is_neither_lost_nor_counted_twice(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`seconds` goes on from the checkpoint's iteration and the total is the last one's."""
    with monkeypatch.context() as patch:
        interrupt(patch, Training, "_iterate", 4)
        bench(*ONE, **CHANGES)
    before = seconds(bench, "euphonium")
    resumed = bench.resume()
    after = seconds(bench, "euphonium")
    assert after[:2] == before[:2]
    assert sorted(after) == after
    assert resumed.runs()["train_seconds"][0] == after[-1]


def seconds(bench: Bench, method: str) -> list[float]:
    rows = read_rows(bench.folder / "out" / "runs" / f"{method}-seed0", "iterations")
    return list(rows[rows["metric"] == "seconds"]["value"])


def test_finished_runs_are_not_run_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    assert bench(*BOTH, budget=1).code == 0
    before = digest(bench.folder / "out" / "runs")
    with monkeypatch.context() as patch:
        patch.setattr(Training, "run", lambda *_: pytest.fail("a finished run was run again"))
        patch.setattr(task, "evaluate", lambda *_: pytest.fail("the base model was evaluated again"))
        result = bench.resume()
    assert result.code == 0
    assert digest(bench.folder / "out" / "runs") == before


def torn(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run killed in its fourth iteration, and its checkpoint's folder."""
    with monkeypatch.context() as patch:
        interrupt(patch, Training, "_iterate", 4)
        bench(*ONE, **CHANGES)
    return bench.folder / "out" / "runs" / "euphonium-seed0" / "checkpoint"


def test_killed_between_the_renames_of_a_checkpoint(
    bench: Bench, undisturbed: Result, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last checkpoint has stepped aside and the new one has not taken its place."""
    folder = torn(bench, monkeypatch)
    folder.rename(folder.with_name("checkpoint.previous"))
    temporary = folder.with_name("checkpoint.tmp")
    temporary.mkdir()
    (temporary / "weights.safetensors").write_bytes(b"torn")
    assert_as_undisturbed(bench.resume(), undisturbed)
    assert not temporary.exists()


def flip(file: Path) -> None:
    """One bit in the middle, as a bad disk does it."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(bytes(content))


FILES = ("state.json", "weights.safetensors", "copies.safetensors", "optimiser.safetensors")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("harm", [flip, Path.unlink])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(
    bench: Bench, undisturbed: Result, monkeypatch: pytest.MonkeyPatch, caplog, name: str, harm: object
) -> None:
    """After iteration 4 of 4; that of iteration 2 is still there."""
    with monkeypatch.context() as patch:
        interrupt(patch, Training, "_write_weights", 1)
        bench(*ONE, **CHANGES)
    folder = bench.folder / "out" / "runs" / "euphonium-seed0" / "checkpoint"
    assert json.loads((folder / "state.json").read_text())["iteration"] == 4
    if harm is flip and name == "state.json":
        (folder / name).write_text("{")
    else:
        harm(folder / name)
    resumed = bench.resume()
    (warning,) = [record.getMessage() for record in caplog.records if "going on from" in record.getMessage()]
    assert name in warning
    assert "iteration 2" in warning
    assert_as_undisturbed(resumed, undisturbed)


def test_a_run_whose_checkpoints_are_all_damaged_stops(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Never trained on from the beginning in silence, nor with the optimiser's state lost."""
    folder = torn(bench, monkeypatch)
    flip(folder / "optimiser.safetensors")
    result = bench.resume()
    assert result.code == 2
    (line,) = result.err.splitlines()
    assert line.startswith(
        f"error: euphonium seed 0: checkpoint '{folder}': optimiser.safetensors is damaged; delete"
    )
    assert set(result.rows("iterations").query("method == 'euphonium'")["iteration"]) == {0, 1, 2, 3}


def test_nothing_in_a_checkpoint_is_pickled(undisturbed: Result) -> None:
    folder = undisturbed.checkpoint("euphonium")
    assert {file.name for file in folder.iterdir()} == set(FILES)
    state = json.loads((folder / "state.json").read_text())
    assert set(state["sha256"]) == set(FILES) - {"state.json"}


@pytest.mark.parametrize("other", ["dance_grpo-seed0", "euphonium-seed1"])
def test_a_checkpoint_of_another_run_is_refused(bench: Bench, other: str) -> None:
    result = bench(*BOTH, budget=1, seeds=2)
    assert result.code == 0
    mine = result.checkpoint("euphonium")
    shutil.rmtree(mine)
    shutil.copytree(result.folder / "runs" / other / "checkpoint", mine)
    status = mine.parent / "status.json"
    status.write_text(json.dumps({**json.loads(status.read_text()), "status": "running"}))
    refused = bench.resume()
    assert refused.code == 2
    (line,) = refused.err.splitlines()
    assert line.startswith("error: euphonium seed 0: checkpoint ")
    assert "belongs to" in line


def test_a_checkpoint_of_other_weights_is_refused(world: Path, tmp_path: Path) -> None:
    small = world_settings(world, ["dance_grpo"], budget=1)
    Training(Session.open(small), tmp_path, "dance_grpo", 0).run(lambda _: None)
    wide = world_settings(world, ["dance_grpo"], budget=1, weights={"kind": "lora", "rank": 3, "alpha": 4})
    with pytest.raises(
        checkpoint.CheckpointError, match=r"checkpoint .* does not fit these weights \(lora\)"
    ):
        Training(Session.open(wide), tmp_path, "dance_grpo", 0).run(lambda _: None)


def test_killed_when_only_the_status_was_left_to_write(
    bench: Bench, undisturbed: Result, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = bench(*ONE, **CHANGES)
    status = killed.checkpoint("euphonium").parent / "status.json"
    status.write_text(json.dumps({**json.loads(status.read_text()), "status": "running", "iterations": 2}))
    monkeypatch.setattr(Training, "_iterate", lambda *_: pytest.fail("an iteration was repeated"))
    assert_as_undisturbed(bench.resume(), undisturbed)


def test_a_run_under_way_is_not_resumed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes would write the same records."""
    with monkeypatch.context() as patch:
        interrupt(patch, Training, "_iterate", 2)
        bench(*ONE, **CHANGES)
    folder = bench.folder / "out"
    before = digest(folder)
    with alone(folder):
        refused = bench.resume()
    assert refused.code == 2
    (line,) = refused.err.splitlines()
    assert line.startswith("error: another process is using ")
    assert refused.out == ""
    assert digest(folder) == before
    assert bench.resume().code == 0


def test_a_worker_ends_with_the_main_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it would still write could meet a resumed run's rows."""
    ended: list[object] = []
    monkeypatch.setattr("os._exit", lambda code: ended.append(("exit", code)))

    class Parent:
        def join(self) -> None:
            ended.append("joined")

    monkeypatch.setattr("multiprocessing.parent_process", Parent)
    workers.end_with_parent()
    assert ended == ["joined", ("exit", 1)]


def kept(method: Method) -> Hashable:
    """What a method keeps from iteration to iteration, beside its weights, depends on these alone."""
    return method.objective.kind, method.objective.needs.copies, method.average is None


@pytest.mark.parametrize("name", one_of_each(kept))
def test_every_kind_of_method_resumes_bit_for_bit(world: Path, tmp_path: Path, name: str) -> None:
    """Weights, copies of them and optimiser, after two iterations and after one, a new process and another."""

    def trained(folder: Path, *stops: int) -> dict[str, torch.Tensor]:
        for stop in stops:
            training = make(world, folder, name).training
            done = checkpoint.load(training._checkpoint, training.learner, training._identity)
            for iteration in range(done, stop):
                training._iterate(iteration)
            checkpoint.save(training._checkpoint, training.learner, training._identity, stop)
        weights = training.learner.weights
        return weights.state_dict() | {
            f"copy {key}": copy for key, copy in weights.copies_state_dict().items()
        }

    straight, resumed = trained(tmp_path / "a", 2), trained(tmp_path / "b", 1, 2)
    assert straight.keys() == resumed.keys()
    assert all(torch.equal(tensor, resumed[key]) for key, tensor in straight.items())
    copies = {key.split(".")[0].removeprefix("copy ") for key in straight if key.startswith("copy ")}
    method = CATALOG[name]
    assert copies == method.objective.needs.copies | ({AVERAGE} if method.average else set())
