"""What a person sees while a benchmark runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars

from benchmarks.records import BASE

if TYPE_CHECKING:
    from benchmarks.task import Progress


class Display:
    """One bar for the whole benchmark and one for each run under way, with its reward and the time left.

    Where the output is no terminal, a line for each finished run instead.

    Args:
        console: where to draw.
        total: iterations of all runs together.
        done: how many of them an earlier call has done.
    """

    def __init__(self, console: Console, total: int, done: int) -> None:
        self._console = console
        self._bars = Bars(
            TextColumn("{task.description:<26}", markup=False),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn("{task.fields[reward]:<14}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
            speed_estimate_period=300,
        )
        self._overall = self._bars.add_task("all runs", total=total, completed=done, reward="")
        self._tasks: dict[tuple[str, int], TaskID] = {}
        self._done: dict[tuple[str, int], int] = {}

    def __enter__(self) -> Display:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def show(self, progress: Progress) -> None:
        """Draws one run's progress."""
        run = (progress.method, progress.seed)
        if progress.method == BASE:
            self._say(f"base model evaluated: held-out headline reward {progress.reward:.3f}")
        elif progress.status == "finished":
            self._bars.update(self._task(progress), visible=False)
            self._say(f"{progress.method} seed {progress.seed}: {progress.total} iterations done")
        else:
            task = self._task(progress)
            step = progress.iteration - self._done[run]
            self._done[run] = progress.iteration
            self._bars.update(task, completed=progress.iteration, reward=f"reward {progress.reward:.3f}")
            self._bars.update(self._overall, advance=step)

    def _task(self, progress: Progress) -> TaskID:
        """The run's bar, made when the run first reports."""
        run = (progress.method, progress.seed)
        if run not in self._tasks:
            title = f"{progress.method} seed {progress.seed}"
            self._tasks[run] = self._bars.add_task(title, total=progress.total, reward="")
            self._done[run] = max(0, progress.iteration - 1)
        return self._tasks[run]

    def _say(self, line: str) -> None:
        self._console.print(line, highlight=False, markup=False)
