"""Several processes of `accelerate launch`: how many there are is said, they agree with one, and they end together."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file

from benchmarks.launching import CONFIG, check_launch, lost, seeing, shape
from benchmarks.settings import SettingsError
from tests.benchmarks.harness import Bench, Result
from tests.world import world_settings

ROOT = Path(__file__).parents[2]
METHODS = ("--methods", "euphonium", "--set", "all.group_size=2")
SETTINGS: dict[str, Any] = {"budget": 6, "checkpoint_every": 2, "prompts_per_iteration": 4}
SETTINGS["evaluation"] = {"every": 6, "train_prompts": 2, "samples_per_prompt": 2, "num_steps": 2}


def launch(arguments: str, place: Path) -> subprocess.Popen[str]:
    """A command line as a user types it, in a folder."""
    accelerate = Path(sys.executable).with_name("accelerate")
    command = [str(accelerate), *shlex.split(arguments)[1:]]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=place, env=environment, text=True, stdout=pipe, stderr=pipe)


def kill(launcher: subprocess.Popen[str], rank: int, rows: Path) -> float:
    """SIGKILL to one process once rows of an iteration are there; returns how long the others took to end."""
    deadline = time.monotonic() + 120
    while not rows.exists() and launcher.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    children = psutil.Process(launcher.pid).children()
    (child,) = [child for child in children if child.environ().get("RANK") == str(rank)]
    child.send_signal(signal.SIGKILL)
    killed = time.monotonic()
    launcher.wait(60)
    return time.monotonic() - killed


def test_two_processes_end_together_go_on_and_agree_with_one(
    bench: Bench, empty_store: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{shutil.copy(empty_store, tmp_path)}")
    config, folder, place = bench.config(**SETTINGS), bench.folder / "two", tmp_path / "elsewhere"
    place.mkdir()  # MLflow's files go there
    given = shlex.join([*METHODS, "--config", str(config), "--output", str(folder)])
    start = f"accelerate launch --config_file {CONFIG} --num_processes 2 -m benchmarks.run"
    with launch(f"{start} {given}", place) as launcher:
        seconds = kill(launcher, 1, folder / "runs" / "euphonium-seed0" / "iterations.csv")
        out, err = launcher.communicate()
    assert launcher.returncode != 0
    assert seconds < 10
    assert out.startswith("2 processes, ")
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    (again,) = re.findall(r"continue with `(.*)`$", line)
    assert again == f"{start} --resume --output {folder}"
    with launch(again, place) as launcher:
        out, err = launcher.communicate()
    assert launcher.returncode == 0, err
    assert out.count("2 processes, ") == 1
    assert out.count("euphonium seed 0: 6 iterations done") == 1  # one of them prints
    alone = bench.plain(*METHODS, "--config", config, "--workers", 1, output="one")
    assert alone.out.startswith("1 process, 1 worker, ")
    agree(Result(0, out, err, folder), alone)


def agree(two: Result, one: Result) -> None:
    """Insists on rewards, advantages' statistics and weights of one process, to 1e-5."""
    keys = ["method", "seed", "iteration", "metric"]
    rows = [result.rows("iterations").set_index(keys)["value"] for result in (two, one)]
    assert not rows[0].index.duplicated().any()
    assert rows[0].index.sort_values().equals(rows[1].index.sort_values())
    metrics = rows[1].index.get_level_values("metric")
    rewards = rows[1][metrics.str.startswith("reward/")]
    assert len(rewards) == 6 * 2
    torch.testing.assert_close(
        torch.tensor(rows[0].loc[rewards.index].to_numpy()),
        torch.tensor(rewards.to_numpy()),
        atol=1e-5,
        rtol=1e-5,
    )
    weights = [load_file(result.checkpoint("euphonium") / "weights.safetensors") for result in (two, one)]
    assert weights[0].keys() == weights[1].keys()
    for name, tensor in weights[1].items():
        torch.testing.assert_close(weights[0][name], tensor, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"MASTER_PORT": "29500"}, ("asked for several processes and has started 1", "--config_file")),
        ({"WORLD_SIZE": "2"}, ("WORLD_SIZE is 2", "RANK is not set")),
        ({"ACCELERATE_USE_FSDP": "true"}, ("set to FSDP", "not support", "ddp.yaml")),
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, ("set to DeepSpeed", "not support", "ddp.yaml")),
        ({"ACCELERATE_MIXED_PRECISION": "bf16"}, ("mixed_precision is 'bf16'", "precision is 'no'")),
    ],
    ids=["one started", "no rank", "fsdp", "deepspeed", "precision"],
)
def test_another_launch_than_asked_for_is_refused(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], words: tuple[str, ...]
) -> None:
    for name, value in ({"ACCELERATE_MIXED_PRECISION": "no"} | environment).items():
        monkeypatch.setenv(name, value)
    result = bench("--methods", "dance_grpo")
    assert result.code == 2
    (line,) = result.err.splitlines()
    for word in words:
        assert word in line
    assert not result.folder.exists()


def test_a_plain_process_needs_no_launcher(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASTER_PORT", "29500")  # as some clusters have it everywhere
    check_launch(world_settings(world, ["dance_grpo"]))
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    monkeypatch.setenv("WORLD_SIZE", "1")
    check_launch(world_settings(world, ["dance_grpo"], precision="bf16"))
    with pytest.raises(SettingsError, match="--precision bf16"):
        check_launch(world_settings(world, ["dance_grpo"]))


@pytest.mark.parametrize(
    ("gpus", "workers", "environment", "words"),
    [
        (0, 1, {}, "1 process, 1 worker, cpu"),
        (0, 2, {"CUDA_VISIBLE_DEVICES": ""}, "1 process, 2 workers, cpu"),
        (4, 1, {}, "1 process, 1 worker, 1 GPU (H)"),
        (4, 6, {}, "1 process, 6 workers, 4 GPUs (H)"),
        (0, 1, {"WORLD_SIZE": "2"}, "2 processes, cpu"),
        (8, 1, {"WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "8"}, "8 processes, 8 GPUs (H)"),
        (8, 1, {"WORLD_SIZE": "16", "LOCAL_WORLD_SIZE": "8"}, "16 processes, 8 GPUs (H) on each machine"),
    ],
)
def test_what_trains_in_words(
    monkeypatch: pytest.MonkeyPatch, gpus: int, workers: int, environment: dict[str, str], words: str
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("torch.cuda.is_available", lambda: gpus > 0)
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda _: "H")
    assert shape(workers) == words


def test_a_worker_sees_its_gpu_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with seeing("3"):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "3"
    assert "CUDA_VISIBLE_DEVICES" not in os.environ
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    with seeing("3"):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "3"
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "2,3"


def test_which_errors_say_that_a_process_has_gone() -> None:
    assert lost(RuntimeError("[pair.cc:547] Connection closed by peer [127.0.0.1]:5"))
    assert not lost(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not lost(ValueError("Connection closed by peer"))
