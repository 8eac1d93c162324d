"""A benchmark as jobs: submitted, preempted, queued again, collected. submitit's local executor stands in for Slurm."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import submitit

from analysis.records import load_run
from benchmarks import cluster
from benchmarks.cluster import JOBS_FILE, Cluster, in_queue
from benchmarks.settings import SettingsError
from benchmarks.task import Training
from tests.benchmarks.harness import Bench, Result, assert_same_records, assert_same_state, interrupt

LOCAL = ("--launcher", "slurm", "--slurm", "cluster=local,time=30:00")
CHANGES = {"budget": 20, "checkpoint_every": 1}
CHANGES["evaluation"] = {"every": 20, "train_prompts": 1, "samples_per_prompt": 2, "num_steps": 1}
GIVEN = ("--methods", "dance_grpo", "--set", "all.group_size=2")


def until(there: Callable[[], object], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not there() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert there()


@pytest.mark.nightly
def test_jobs_are_submitted_preempted_and_collected(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    config = bench.config(**CHANGES)
    with monkeypatch.context() as patch:  # the base model is evaluated here
        interrupt(patch, Training, "_iterate", 1)
        assert bench.plain(*GIVEN, "--config", config, "--workers", 1).code == 130
    started = bench.plain("--resume", *LOCAL)
    assert started.code == 0, started.err
    (job,) = in_queue(started.folder).values()
    assert f"1 jobs of local, one for each run: {job}" in started.out
    assert f"benchmarks.run --resume --output {started.folder}" in started.out

    # In the middle: what has finished is reported, and a resume trains nothing that has a job.
    rows = started.folder / "runs" / "dance_grpo-seed0" / "iterations.csv"
    until(lambda: rows.exists() and rows.read_text().count(",1,") > 0)
    (task,) = psutil.Process(int(job)).children()
    task.suspend()
    assert set(load_run(started.folder).evaluations["method"]) >= {"base"}
    collected = bench.plain("--resume")
    assert collected.code == 0, collected.err
    assert f"1 runs wait in the queue or run as jobs {job}" in collected.out
    again = bench.plain("--resume", *LOCAL)
    assert again.code == 0, again.err
    assert "nothing is left to submit" in again.out

    task.send_signal(signal.SIGUSR2)  # what Slurm sends before a job's time is over
    task.resume()
    until(lambda: not in_queue(started.folder))
    log = (started.folder / "jobs" / f"{job}_0_log.out").read_text()
    assert "this job is preempted" in log
    assert log.count("iteration 1 of 20") == 1  # it went on from its checkpoint
    finished = bench.plain("--resume")
    assert finished.code == 0, finished.err
    assert "queue" not in finished.out
    assert list(finished.runs()["status"]) == ["finished"]
    assert_as_here(finished, bench.plain(*GIVEN, "--config", config, "--workers", 1, output="here"))


def assert_as_here(jobs: Result, here: Result) -> None:
    assert_same_records(jobs, here)
    assert_same_state(jobs, here, "dance_grpo")


def test_a_job_tells_what_went_wrong(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run here, as submitit runs it there."""
    result = bench(*GIVEN, **{**CHANGES, "budget": 1})
    from benchmarks.run import resumed_settings

    settings = resumed_settings(SimpleNamespace(output=result.folder, resume=True))  # type: ignore[arg-type]
    task = cluster.ClusterTask(
        settings, result.folder, "dance_grpo", 1, [*settings.runs(), ("dance_grpo", 1)]
    )
    monkeypatch.setattr("benchmarks.task.Training.run", lambda *_: 1 / 0)
    assert task() == "dance_grpo seed 1: ZeroDivisionError: division by zero (see error.txt)"
    assert list(result.runs()["status"]) == ["finished", "failed"]
    assert task.checkpoint().function == task


@pytest.mark.parametrize(
    ("texts", "parameters"),
    [
        ([], {"timeout_min": 1440}),
        (["partition=a,b,time=90"], {"timeout_min": 90, "partition": "a,b"}),
        (["time=1:30", "gpus_per_node=1"], {"timeout_min": 2, "gpus_per_node": 1}),
        (["time=12:00:00, mem_gb=64.5"], {"timeout_min": 720, "mem_gb": 64.5}),
        (["time=2-00"], {"timeout_min": 2880}),
        (["time=1-02:03"], {"timeout_min": 1563}),
        (["time=1-02:03:04,exclusive=true"], {"timeout_min": 1564, "exclusive": True}),
    ],
)
def test_options_of_jobs(texts: list[str], parameters: dict[str, object]) -> None:
    assert Cluster.parse(texts) == Cluster("slurm", 50, parameters)


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (["partition"], "'partition'; give NAME=VALUE"),
        (["time=soon"], "time is 'soon'"),
        (["time=1:2:3:4"], "time is '1:2:3:4'"),
        (["nodes=2"], "nodes: each job trains one run in one process"),
        (["cluster=lsf"], "cluster is 'lsf'"),
    ],
)
def test_options_that_are_none(texts: list[str], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        Cluster.parse(texts)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("--launcher", "slurm"), "srun is not on this machine"),
        ((*LOCAL, "--slurm", "colour=red"), "Unknown argument 'colour'"),
        ((*LOCAL, "--slurm", "gpus_per_node=many"), "gpus_per_node"),
        (("--slurm", "time=1"), "--slurm needs --launcher slurm"),
        ((*LOCAL, "--workers", "2"), "--workers is for --launcher local"),
        (
            (*LOCAL, "--methods", "dance_grpo,flow_grpo", "--until", "decided", "--seeds", "2..4"),
            "--until decided",
        ),
    ],
)
def test_refused_before_a_job_starts(bench: Bench, given: tuple[str, ...], words: str) -> None:
    if "srun" in words and submitit.SlurmExecutor.affinity() > 0:
        pytest.skip("a machine of a Slurm cluster")
    result = bench.plain(*GIVEN, "--config", bench.config(**CHANGES), *given)
    assert result.code == 2
    assert words in result.err
    assert len(result.err.splitlines()) == 1
    assert not (result.folder / JOBS_FILE).exists()


def test_an_array_of_slurm(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """sbatch, srun and sacct are scripts here, which note what they are given."""
    place = tmp_path / "bin"
    place.mkdir()
    scripts = {
        "srun": "",
        "sbatch": f'cp "$1" {tmp_path}/submitted.sh; echo "Submitted batch job 77"',
        "sacct": 'printf "JobID|State|NodeList\\n77_0|COMPLETED|n\\n77_1|PENDING|n\\n"',
    }
    for name, body in scripts.items():
        (place / name).write_text(f"#!/bin/sh\n{body}\n")
        (place / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{place}:{os.environ['PATH']}")
    asked = ("--launcher", "slurm", "--slurm", "partition=gpu,time=2-00,gpus_per_node=1,array_parallelism=2")
    result = bench.plain(*GIVEN, "--config", bench.config(**CHANGES), *asked)
    assert result.code == 0, result.err
    assert "2 jobs of slurm, one for each run: 77_0, 77_1" in result.out
    lines = (tmp_path / "submitted.sh").read_text().splitlines()
    expected = ("array=0-1%2", "partition=gpu", "time=2880", "gpus-per-node=1", "signal=USR2@90")
    for option in expected:
        assert f"#SBATCH --{option}" in lines
    assert any(sys.executable in line and "submitit.core._submit" in line for line in lines)
    assert in_queue(result.folder) == {("dance_grpo", 0): "77_1"}
