"""Worker processes that take one task after another. A dead one loses only its task, which is tried once more."""

from __future__ import annotations

import multiprocessing
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from benchmarks.launching import devices, seeing


@dataclass(frozen=True)
class Done:
    """A worker's message: its task is over."""


@dataclass
class _Seat:
    """A worker's place: its process, and what that is doing."""

    number: int
    process: BaseProcess
    task: Any


class Pool:
    """Workers, each in its own process and on a GPU of its own while there are enough.

    Args:
        target: called in each worker with a pipe and `arguments`; receives tasks until None, and sends anything, and
            `Done` after each task.
        arguments: see `target`.
        workers: how many.
        report: called, in this process, with what the workers send besides `Done`.
        died: called with the task of a dead worker, its exit code, and whether the task is tried again.
    """

    def __init__(
        self,
        target: Callable[..., None],
        arguments: Sequence[Any],
        workers: int,
        report: Callable[[Any], None],
        died: Callable[[Any, int | None, bool], None],
    ) -> None:
        self._target, self._arguments, self._workers = target, tuple(arguments), workers
        self._report, self._on_death = report, died
        self._context = multiprocessing.get_context("spawn")
        self._devices = devices()
        self._seats: dict[Connection, _Seat] = {}
        self._leaving: list[BaseProcess] = []
        self._waiting: deque[Any] = deque()
        self._tried: set[Any] = set()

    def run(self, tasks: Sequence[Any]) -> None:
        """Does all tasks; on an exception in this process, such as Ctrl-C, ends the workers."""
        self._waiting.extend(tasks)
        try:
            for number in range(min(self._workers, len(tasks))):
                self._start(number)
            while self._seats:
                for pipe in wait(list(self._seats), timeout=0.5):
                    assert isinstance(pipe, Connection)
                    self._read(pipe)
        except BaseException:
            for seat in self._seats.values():
                seat.process.terminate()
            raise
        for process in self._leaving:
            process.join()

    def _start(self, number: int) -> None:
        """Starts a worker with the next task."""
        here, there = self._context.Pipe()
        device = self._devices[number % len(self._devices)] if self._devices else None
        process = self._context.Process(target=self._target, args=(there, *self._arguments), daemon=False)
        with seeing(device):
            process.start()
        there.close()  # so that the pipe ends when the worker does
        self._seats[here] = _Seat(number, process, None)
        self._next(here)

    def _next(self, pipe: Connection) -> None:
        """Gives a worker its next task, or lets it go."""
        seat = self._seats[pipe]
        seat.task = self._waiting.popleft() if self._waiting else None
        try:
            pipe.send(seat.task)
        except OSError:
            return  # it is dead: the pipe's end says so
        if seat.task is None:
            self._leaving.append(self._seats.pop(pipe).process)

    def _read(self, pipe: Connection) -> None:
        try:
            event = pipe.recv()
        except (EOFError, OSError):
            self._died(pipe)
            return
        if isinstance(event, Done):
            self._next(pipe)
        else:
            self._report(event)

    def _died(self, pipe: Connection) -> None:
        seat = self._seats.pop(pipe)
        pipe.close()
        seat.process.join()
        if seat.task is not None:
            again = seat.task not in self._tried
            self._tried.add(seat.task)
            if again:
                self._waiting.append(seat.task)
            self._on_death(seat.task, seat.process.exitcode, again)
        if self._waiting:
            self._start(seat.number)
