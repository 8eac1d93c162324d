"""Parallel runs: each worker process trains one (method, seed) after another."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

from analysis.schema import BASE, run_folder
from benchmarks.causes import cause_of_death, memory_advice
from benchmarks.launching import ProcessLost, devices, lost
from benchmarks.locking import Busy, alone
from benchmarks.pool import Done, Pool
from benchmarks.records import Recorder
from benchmarks.settings import RunSettings

if TYPE_CHECKING:
    from benchmarks.session import Session
    from benchmarks.task import Progress

ERROR_FILE = "error.txt"

#: Errors that stop one run with a plain line; anything else is a bug in this program and keeps its traceback.
EXPECTED = (
    "Busy",
    "CheckpointError",
    "FloatingPointError",
    "ModelError",
    "NonFiniteError",
    "ProvenanceError",
    "RewardError",
    "SettingsError",
    "SuiteError",
    "WeightsError",
    "WorkerDiedError",
)


class WorkerDiedError(Exception):
    """The process of a run has ended in the middle of it."""


@dataclass(frozen=True)
class Failure:
    """A failed run.

    Attributes:
        method, seed: which run.
        line: what went wrong, in one line.
        expected: whether it is in `EXPECTED`: for the user to fix, not a bug in this program.
    """

    method: str
    seed: int
    line: str
    expected: bool

    @property
    def run(self) -> str:
        """Its name."""
        return "base model" if self.method == BASE else f"{self.method} seed {self.seed}"

    @classmethod
    def of(cls, method: str, seed: int, error: BaseException) -> Failure:
        """Describes an error."""
        return cls(method, seed, *described(error))


def described(error: BaseException) -> tuple[str, bool]:
    """An error in one line, and whether it is in `EXPECTED`."""
    text, name = " ".join(str(error).split()), type(error).__name__
    if advice := memory_advice(error):
        return f"{advice} ({text[:120]}; see {ERROR_FILE})", True
    return (text, True) if name in EXPECTED else (f"{name}: {text} (see {ERROR_FILE})", False)


def told(failures: Sequence[Failure]) -> int:
    """Prints each failure in one line; returns the exit code: 0 for none, 2 if the user can fix all, else 1."""
    for failure in failures:
        sys.stderr.write(f"error: {failure.run}: {failure.line}\n")
    if not failures:
        return 0
    return 2 if all(failure.expected for failure in failures) else 1


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def side_by_side(most: int) -> int:
    """Default number of parallel runs, up to a maximum: one per GPU, or one per CPU core without any."""
    import torch

    return min(max(1, len(devices())) if torch.cuda.is_available() else cores(), most)


def run_all(
    settings: RunSettings,
    output: Path,
    runs: Sequence[tuple[str, int]],
    workers: int,
    report: Callable[[Progress], None],
    base: bool = True,
) -> list[Failure]:
    """Evaluates the base model and trains every (method, seed).

    Args:
        settings: the run's settings.
        output: the benchmark's folder.
        runs: the runs to train.
        workers: processes; 1 runs everything in this one.
        report: called with progress, in this process.
        base: whether to evaluate the base model, unless that is done.

    Returns:
        The failed runs; failures do not stop the others.
    """
    tasks = [*([(BASE, 0)] if base else []), *runs]
    if workers == 1:
        return _run_here(settings, output, tasks, report)
    return _run_apart(settings, output, tasks, workers, report)


def _run_here(
    settings: RunSettings, output: Path, tasks: Sequence[tuple[str, int]], report: Callable[[Progress], None]
) -> list[Failure]:
    from benchmarks.session import Session

    quieten()
    session = Session.open(settings)

    failures = []
    for method, seed in tasks:
        try:
            run_one(session, output, method, seed, report)
        except Exception as error:
            if session.accelerator.num_processes > 1 and lost(error):
                raise ProcessLost from error  # not this run's failure
            failures.append(record_failure(output, method, seed, error))
            if session.accelerator.num_processes > 1:
                raise  # the other processes wait for this one: only the launcher can end them
    return failures


def _run_apart(
    settings: RunSettings,
    output: Path,
    tasks: Sequence[tuple[str, int]],
    workers: int,
    report: Callable[[Progress], None],
) -> list[Failure]:
    failures: list[Failure] = []

    def read(event: Failure | Progress) -> None:
        if isinstance(event, Failure):
            failures.append(event)
        else:
            report(event)

    def died(task: tuple[str, int], code: int | None, again: bool) -> None:
        error = WorkerDiedError(f"its worker {cause_of_death(code)}")
        if again:
            line = f"{Failure.of(*task, error).run}: {error}; it goes on from its last checkpoint"
            sys.stderr.write(f"warning: {line}\n")
        else:
            error = WorkerDiedError(f"{error} (twice)")
            failures.append(record_failure(output, *task, error))

    Pool(_work, (settings, output, max(1, cores() // workers)), workers, read, died).run(tasks)
    return failures


def _work(pipe: Connection, settings: RunSettings, output: Path, threads: int) -> None:
    """A worker process: trains what it receives until it receives None."""
    import torch

    from benchmarks.session import Session

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process ends this one
    threading.Thread(target=end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    quieten()
    session: Session | None = None
    while (task := pipe.recv()) is not None:
        method, seed = task
        try:
            session = session or Session.open(settings)
            run_one(session, output, method, seed, pipe.send)
        except Exception as error:  # noqa: BLE001 - whatever ends a run ends that run alone
            pipe.send(record_failure(output, method, seed, error))
        pipe.send(Done())


def end_with_parent() -> None:
    """Ends this worker when the main process is gone, however it ended: nobody would read its results."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def run_one(
    session: Session, output: Path, method: str, seed: int, report: Callable[[Progress], None]
) -> None:
    """Trains one run, or evaluates the base model.

    Raises:
        Busy: another process is doing so.
    """
    from benchmarks.finetuning import FineTuning, FineTuningSettings
    from benchmarks.task import Training, evaluate_base

    folder = run_folder(output, method, seed)
    try:
        with alone(folder) if session.accelerator.is_main_process else nullcontext():
            (folder / ERROR_FILE).unlink(missing_ok=True)
            if method == BASE:
                evaluate_base(session, output, report)
            elif isinstance(session.settings, FineTuningSettings):
                FineTuning(session, session.settings, output, seed).run(report)
            else:
                Training(session, output, method, seed).run(report)
    finally:
        session.accelerator.free_memory()  # it would hold every run's model and optimiser until the end


def record_failure(output: Path, method: str, seed: int, error: BaseException) -> Failure:
    """Writes a failure beside the run's records, with its traceback."""
    failure = Failure.of(method, seed, error)
    if isinstance(error, Busy):
        return failure  # the records are another process's
    recorder = Recorder(output, method, seed)
    recorder.status.status, recorder.status.error = "failed", failure.line
    recorder.save_status()
    lines = traceback.format_exception(error)
    (run_folder(output, method, seed) / ERROR_FILE).write_text("".join(lines), encoding="utf-8")
    return failure


def quieten() -> None:
    """Silences the libraries' progress bars and notices."""
    import diffusers
    import transformers

    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()
