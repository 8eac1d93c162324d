"""Workers of a sweep: each runs trial after trial. A killed worker loses its trial and is replaced."""

from __future__ import annotations

import multiprocessing
import signal
import threading
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import Trial, TrialState

from benchmarks.launching import devices, seeing
from benchmarks.locking import turn
from benchmarks.sweeping.plan import Plan, quiet
from benchmarks.sweeping.storage import counted, mark, open_storage, open_study, recover, study_name
from benchmarks.sweeping.trial import Sheet, TrialRun, read_sheets
from benchmarks.workers import cores, described, end_with_parent, quieten

#: How many dead workers are replaced, per requested worker.
REPLACEMENTS = 5


@dataclass(frozen=True)
class Stop:
    """An error that would hit every other trial too: the sweep ends.

    Attributes:
        line: what went wrong, in one line.
        expected: whether the user can fix it; otherwise it is a bug in this program.
        detail: the traceback.
    """

    line: str
    expected: bool
    detail: str


Event = Sheet | Stop


class Worker:
    """Takes trials until there are none left.

    Args:
        plan: the sweep.
        output: its folder.
        report: called with each trial's progress.
    """

    def __init__(self, plan: Plan, output: Path, report: Callable[[Sheet], None]) -> None:
        quiet()
        quieten()
        self.plan, self.output, self.report = plan, output, report
        self.storage = open_storage(plan.storage)
        for method in plan.methods:
            open_study(plan, self.storage, method)

    def work(self, stopped: Callable[[], bool]) -> None:
        """Runs trials until there are none left, or `stopped` says so."""
        while not stopped() and self._one():
            pass

    def _one(self) -> bool:
        """Runs one trial of the method that has the fewest; False if all have theirs."""
        with ExitStack() as claim:
            # Only one process of this folder at a time counts the trials and starts another.
            claim.enter_context(turn(self.output))
            begun = {method: self._begun(method) for method in self.plan.methods}
            wanting = [
                name for name, (count, waits) in begun.items() if waits or count < self.plan.trials_of(name)
            ]
            if not wanting:
                return False
            method = min(wanting, key=lambda name: begun[name][0])
            self._run(method, begun[method][0], claim)
        return True

    def _begun(self, method: str) -> tuple[int, bool]:
        """Number of started trials of a method, and whether one waits to be restarted."""
        study = optuna.load_study(study_name=study_name(self.plan, method), storage=self.storage)
        trials = study.get_trials(deepcopy=False)
        waits = sum(trial.state == TrialState.WAITING for trial in trials)
        return sum(map(counted, trials)) - waits, waits > 0

    def _run(self, method: str, begun: int, claim: ExitStack) -> None:
        """Runs one trial; others may start theirs once this one has its values."""
        study = optuna.load_study(
            study_name=study_name(self.plan, method),
            storage=self.storage,
            sampler=self.plan.sampler(method, begun),
            pruner=self.plan.make_pruner(),
        )
        last: list[Sheet] = []

        def report(sheet: Sheet) -> None:
            last[:] = [sheet]
            self.report(sheet)

        def objective(trial: Trial) -> float | tuple[float, ...]:
            mark(trial)
            run = TrialRun(self.plan, method, trial, self.output, report)
            claim.close()
            scores = run.run()
            return scores if len(scores) > 1 else scores[0]

        try:
            study.optimize(objective, n_trials=1, catch=(FloatingPointError,))
        except UpdateFinishedTrialError:
            # It missed heartbeats for so long that another machine took it over.
            if last:
                self.report(replace(last[0], state="stopped", error="another machine has taken it over"))


def _stop(error: BaseException) -> Stop:
    return Stop(*described(error), "".join(traceback.format_exception(error)))


def run_here(
    plan: Plan, output: Path, report: Callable[[Sheet], None], stopped: Callable[[], bool] = lambda: False
) -> Stop | None:
    """Runs all trials in this process, one after another; returns the error that stopped it, if any."""
    try:
        Worker(plan, output, report).work(stopped)
    except Exception as error:  # noqa: BLE001 - whatever ends a trial is told by the main process, in a line
        return _stop(error)
    return None


class Pool:
    """Parallel workers, each in its own process.

    Args:
        plan: the sweep.
        output: its folder.
        workers: how many.
        report: called with the trials' progress, in this process.
        say: called with messages for the user.
    """

    def __init__(
        self,
        plan: Plan,
        output: Path,
        workers: int,
        report: Callable[[Sheet], None],
        say: Callable[[str], None],
    ) -> None:
        self.plan, self.output, self.workers, self.report, self.say = plan, output, workers, report, say
        self._context = multiprocessing.get_context("spawn")
        self._processes: dict[Connection, BaseProcess] = {}
        self._stop: Stop | None = None
        self._replaced, self._started, self._devices = 0, 0, devices()

    def run(self) -> Stop | None:
        """Runs until no trial is left; returns the error that stopped the sweep, if any."""
        try:
            for _ in range(self.workers):
                self._start()
            while self._processes:
                for pipe in wait(list(self._processes), timeout=0.5):
                    assert isinstance(pipe, Connection)
                    self._read(pipe)
        except BaseException:
            for process in self._processes.values():
                process.terminate()
            raise
        return self._stop

    def _start(self) -> None:
        here, there = self._context.Pipe()
        threads = max(1, cores() // self.workers)
        process = self._context.Process(
            target=_work, args=(self.plan, self.output, there, threads), daemon=False
        )
        # Each on a GPU of its own, while there are enough.
        device = self._devices[self._started % len(self._devices)] if self._devices else None
        self._started += 1
        with seeing(device):
            process.start()
        there.close()  # so that the pipe ends when the worker does
        self._processes[here] = process

    def _read(self, pipe: Connection) -> None:
        """Reads a worker's messages; when they stop, checks how it ended."""
        try:
            event: Event = pipe.recv()
        except (EOFError, OSError):
            self._ended(pipe)
            return
        if isinstance(event, Sheet):
            self.report(event)
        elif self._stop is None:
            self._stop = event
            for other in self._processes:
                _ask_to_stop(other)

    def _ended(self, pipe: Connection) -> None:
        process = self._processes.pop(pipe)
        pipe.close()
        process.join()
        if process.exitcode == 0 or self._stop is not None:
            return
        code = process.exitcode or 0
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        self._begin_again(process.pid, how)
        if self._replaced >= REPLACEMENTS * self.workers:
            self.say(f"{self._replaced} workers have died; no more will be started")
            return
        self._replaced += 1
        self._start()

    def _begin_again(self, pid: int | None, how: str) -> None:
        """Puts a dead worker's trial back into the queue."""
        storage = open_storage(self.plan.storage)
        sheets = {(sheet.method, sheet.number): sheet for _, sheet in read_sheets(self.output)}
        with turn(self.output):
            for method in self.plan.methods:
                study = optuna.load_study(study_name=study_name(self.plan, method), storage=storage)
                for number in recover(study):
                    sheet = sheets.get((method, number), Sheet(method, number))
                    error = f"worker {pid} ended by {how}; it restarts"
                    self.report(replace(sheet, state="stopped", error=error))


def _ask_to_stop(pipe: Connection) -> None:
    try:
        pipe.send("stop")
    except OSError:
        return  # it has ended by itself


def _work(plan: Plan, output: Path, pipe: Connection, threads: int) -> None:
    """A worker process."""
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process ends this one
    threading.Thread(target=end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    stop = run_here(plan, output, pipe.send, pipe.poll)
    if stop is not None:
        pipe.send(stop)
    pipe.close()
