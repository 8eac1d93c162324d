"""A benchmark as jobs of a cluster, through submitit: one array, each job one (method, seed) or the base model."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from benchmarks.locking import turn
from benchmarks.records import consolidate, replace_text
from benchmarks.settings import RunSettings, SettingsError

if TYPE_CHECKING:
    from submitit import Job
    from submitit.helpers import DelayedSubmission

#: In a benchmark's folder: the jobs of its runs, and below the other one what submitit and the jobs write.
JOBS_FILE, JOBS_FOLDER = "jobs.json", "jobs"
#: submitit's names that every cluster understands; others are Slurm's own.
_SHARED = ("name", "timeout_min", "mem_gb", "cpus_per_task", "gpus_per_node", "stderr_to_stdout")
_ONE_PROCESS = ("nodes", "tasks_per_node", "ntasks_per_node")
#: Default limit of a job in minutes, and how often one that reached its limit is queued again.
_MINUTES, _REQUEUES = 24 * 60, 50


@dataclass(frozen=True)
class Cluster:
    """Where jobs run and what they ask for.

    Attributes:
        kind: "slurm", or "local" for processes of this machine.
        requeues: how often a job that reached its time limit is queued again.
        parameters: submitit's, such as partition or gpus_per_node.
    """

    kind: str = "slurm"
    requeues: int = _REQUEUES
    parameters: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, texts: Sequence[str]) -> Cluster:
        """From `--slurm partition=gpu,time=12:00:00,gpus_per_node=1`, given once or several times.

        Raises:
            SettingsError: it is no list of assignments, or asks for several processes for a run.
        """
        given: dict[str, Any] = {"timeout_min": _MINUTES}
        for assignment in [part for text in texts for part in re.split(r",(?=\s*\w+=)", text)]:
            name, sign, value = (part.strip() for part in assignment.partition("="))
            if not (name and sign and value):
                raise SettingsError(f"--slurm has {assignment!r}; give NAME=VALUE, such as partition=gpu")
            if name in _ONE_PROCESS:
                raise SettingsError(f"--slurm {name}: each job trains one run in one process; leave it out")
            if name == "time":
                name, value = "timeout_min", str(_minutes(value))
            given[name] = yaml.safe_load(value) if re.fullmatch(r"[\d.]+|true|false", value) else value
        kind, requeues = given.pop("cluster", "slurm"), given.pop("requeues", _REQUEUES)
        if kind not in ("slurm", "local"):
            raise SettingsError(
                f"--slurm cluster is {kind!r}; give slurm, or local to try jobs on this machine"
            )
        return cls(kind, int(requeues), given)

    def submit(self, settings: RunSettings, output: Path, tasks: Sequence[tuple[str, int]]) -> list[str]:
        """Submits one job for each task and notes them in `JOBS_FILE`; returns their ids.

        Raises:
            SettingsError: there is no such cluster here, or it refuses a parameter.
        """
        output = output.resolve()
        runs = settings.runs()
        jobs: list[Job[str | None]] = []
        try:
            executor = self._executor(output / JOBS_FOLDER)
            with executor.batch():
                jobs += [executor.submit(ClusterTask(settings, output, *task, runs)) for task in tasks]
        except (NameError, AssertionError, ValueError, RuntimeError, OSError) as error:
            text = " ".join(str(error).split())
            raise SettingsError(f"--slurm: {type(error).__name__}: {text[:500]}") from error
        ids = [str(job.job_id) for job in jobs]
        known = _read(output)
        known |= {
            _name(*task): {"cluster": self.kind, "id": job} for task, job in zip(tasks, ids, strict=True)
        }
        replace_text(output / JOBS_FILE, json.dumps(known, indent=1) + "\n")
        return ids

    def _executor(self, folder: Path) -> Any:
        submitit = _submitit()
        try:
            executor = submitit.AutoExecutor(folder, cluster=self.kind, slurm_max_num_timeout=self.requeues)
        except RuntimeError as error:
            raise SettingsError(
                "--launcher slurm: srun is not on this machine; submit from a login node, or try jobs on this "
                "machine with --slurm cluster=local"
            ) from error
        named = {"name": "benchmark", **self.parameters}
        executor.update_parameters(
            **{name if name in _SHARED else f"slurm_{name}": value for name, value in named.items()}
        )
        return executor


@dataclass(frozen=True)
class ClusterTask:
    """What one job does.

    Attributes:
        settings: the benchmark's.
        output: its folder.
        method, seed: which run.
        runs: all runs, whose records the job collects when it ends.
    """

    settings: RunSettings
    output: Path
    method: str
    seed: int
    runs: list[tuple[str, int]]

    def __call__(self) -> str | None:
        """Trains the run from its last checkpoint; returns what went wrong, in one line."""
        from benchmarks.session import Session
        from benchmarks.workers import quieten, record_failure, run_one

        quieten()
        failure = None
        try:
            run_one(Session.open(self.settings), self.output, self.method, self.seed, print_progress)
        except Exception as error:  # noqa: BLE001 - whatever ends a run is told with its records
            failure = record_failure(self.output, self.method, self.seed, error)
        with turn(self.output):
            consolidate(self.output, self.runs)
        return None if failure is None else f"{failure.run}: {failure.line}"

    def checkpoint(self) -> DelayedSubmission:
        """Called by submitit when the job is preempted or its time is over: the same again, which goes on."""
        return _submitit().helpers.DelayedSubmission(self)


def print_progress(progress: Any) -> None:
    """One line in the job's log."""
    reward = "" if progress.reward is None else f", reward {progress.reward:.3f}"
    name = f"{progress.method} seed {progress.seed}"
    print(f"{name}: iteration {progress.iteration} of {progress.total}{reward}", flush=True)  # noqa: T201


def in_queue(output: Path) -> dict[tuple[str, int], str]:
    """Runs whose job waits or runs, and the job's id.

    Raises:
        SettingsError: submitit is needed to ask, and not installed.
    """
    found = {}
    for name, job in _read(output).items():
        if not _ended(output.resolve() / JOBS_FOLDER, job["cluster"], job["id"]):
            method, _, seed = name.rpartition("-seed")
            found[method, int(seed)] = job["id"]
    return found


def _ended(folder: Path, kind: str, number: str) -> bool:
    submitit = _submitit()
    if kind == "slurm":
        return bool(submitit.SlurmJob(folder, number).done(force_check=True))
    import psutil

    if submitit.LocalJob(folder, number).paths.result_pickle.exists():
        return True
    try:
        return bool(psutil.Process(int(number)).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def _read(output: Path) -> dict[str, dict[str, str]]:
    file = output / JOBS_FILE
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def _name(method: str, seed: int) -> str:
    return f"{method}-seed{seed}"


def _minutes(text: str) -> int:
    """A time as sbatch reads it (minutes, M:S, H:M:S, D-H, D-H:M, D-H:M:S) in minutes, at least 1.

    Raises:
        SettingsError: it is none.
    """
    days, dash, rest = text.rpartition("-")
    parts = rest.split(":")
    if not all(part.isdigit() for part in [*parts, *([days] if dash else [])]) or len(parts) > 3:
        raise SettingsError(f"--slurm time is {text!r}; give minutes, H:MM:SS or D-HH:MM:SS")
    numbers = list(map(int, parts))
    if dash:
        hours, minutes, seconds = (*numbers, 0, 0)[:3]
    else:
        hours, minutes, seconds = {1: (0, *numbers, 0), 2: (0, *numbers), 3: tuple(numbers)}[len(numbers)]
    return max(1, int(days or 0) * 1440 + hours * 60 + minutes + (seconds > 0))


def _submitit() -> Any:
    try:
        import submitit
    except ImportError as error:
        raise SettingsError("jobs need submitit: pip install '.[slurm]'") from error
    return submitit
