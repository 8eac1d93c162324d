"""Parallel runs: each worker process trains one (method, seed) after another."""

from __future__ import annotations

import multiprocessing
import os
import queue
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.schema import BASE, run_folder
from benchmarks.records import Recorder
from benchmarks.settings import RunSettings

if TYPE_CHECKING:
    from benchmarks.session import Session
    from benchmarks.task import Progress

ERROR_FILE = "error.txt"

#: Errors that stop one run with a plain line; anything else is a bug in this program and keeps its traceback.
EXPECTED = (
    "CheckpointError",
    "FloatingPointError",
    "ModelError",
    "NonFiniteError",
    "ProvenanceError",
    "RewardError",
    "SettingsError",
    "SuiteError",
    "WeightsError",
)


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
    """Default number of parallel runs, up to a maximum: one per CPU core, or one on a GPU."""
    import torch

    return 1 if torch.cuda.is_available() else min(cores(), most)


def run_all(
    settings: RunSettings,
    output: Path,
    runs: Sequence[tuple[str, int]],
    workers: int,
    report: Callable[[Progress], None],
) -> list[Failure]:
    """Evaluates the base model and trains every (method, seed).

    Args:
        settings: the run's settings.
        output: the benchmark's folder.
        runs: the runs to train.
        workers: processes; 1 runs everything in this one.
        report: called with progress, in this process.

    Returns:
        The failed runs; failures do not stop the others.
    """
    tasks = [(BASE, 0), *runs]
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
            _run_one(session, output, method, seed, report)
        except Exception as error:
            failures.append(_record_failure(output, method, seed, error))
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
    context = multiprocessing.get_context("spawn")
    events: Any = context.Queue()
    threads = max(1, cores() // workers)
    pool = ProcessPoolExecutor(
        workers, context, initializer=_initialise, initargs=(settings, output, events, threads)
    )
    with pool:
        waiting: dict[Future[None], tuple[str, int]] = {
            pool.submit(_run_in_worker, *task): task for task in tasks
        }
        failures = []
        try:
            while waiting:
                _drain(events, report)
                for future in [future for future in waiting if future.done()]:
                    task = waiting.pop(future)
                    error = future.exception()
                    if error is not None:
                        failures.append(_record_failure(output, *task, error))
        except KeyboardInterrupt:
            _stop(pool)
            raise
    _drain(events, report)
    return failures


def _drain(events: Any, report: Callable[[Progress], None]) -> None:
    """Passes on all available progress, waiting up to a fifth of a second for the first."""
    wait = 0.2
    while True:
        try:
            report(events.get(timeout=wait))
        except queue.Empty:
            return
        wait = 0.0


def _stop(pool: ProcessPoolExecutor) -> None:
    """Ends the workers at once; their records and last checkpoints are kept."""
    processes = list((pool._processes or {}).values())
    pool.shutdown(wait=False, cancel_futures=True)
    for process in processes:
        process.terminate()


@dataclass
class _Worker:
    """State of a worker process between its runs."""

    settings: RunSettings
    output: Path
    events: Any
    session: Session | None = None


_worker: _Worker | None = None


def _initialise(settings: RunSettings, output: Path, events: Any, threads: int) -> None:
    global _worker
    import torch

    threading.Thread(target=end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    quieten()
    _worker = _Worker(settings, output, events)


def end_with_parent() -> None:
    """Ends this worker when the main process is gone, however it ended: nobody would read its results."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _run_in_worker(method: str, seed: int) -> None:
    from benchmarks.session import Session

    assert _worker is not None  # set by _initialise
    if _worker.session is None:
        _worker.session = Session.open(_worker.settings)
    _run_one(_worker.session, _worker.output, method, seed, _worker.events.put)


def _run_one(
    session: Session, output: Path, method: str, seed: int, report: Callable[[Progress], None]
) -> None:
    from benchmarks.finetuning import FineTuning, FineTuningSettings
    from benchmarks.task import Training, evaluate_base

    (run_folder(output, method, seed) / ERROR_FILE).unlink(missing_ok=True)
    try:
        if method == BASE:
            evaluate_base(session, output, report)
        elif isinstance(session.settings, FineTuningSettings):
            FineTuning(session, session.settings, output, seed).run(report)
        else:
            Training(session, output, method, seed).run(report)
    finally:
        session.accelerator.free_memory()  # it would hold every run's model and optimiser until the end


def _record_failure(output: Path, method: str, seed: int, error: BaseException) -> Failure:
    """Writes a failure beside the run's records, with its traceback."""
    failure = Failure.of(method, seed, error)
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
