"""Progress display of a benchmark."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Table

from analysis.schema import BASE

if TYPE_CHECKING:
    from benchmarks.task import Progress


def say(console: Console, line: str) -> None:
    """Prints a line without wrapping."""
    console.print(line, highlight=False, markup=False, soft_wrap=True)


def print_table(
    console: Console,
    title: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    note: str = "",
    left: Collection[int] = (0,),
    **look: Any,
) -> None:
    """A table.

    Args:
        console: where to print.
        title, note: above and below.
        columns, rows: its content.
        left: indices of left-aligned columns.
        look: of all columns, as `rich` has it.
    """
    table = Table(title=title, caption=note or None, title_justify="left", caption_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number in left else "right", **look)
    for row in rows:
        table.add_row(*row)
    console.print(table, highlight=False, markup=False)


def bars(console: Console, *columns: str, period: float) -> Bars:
    """Bars with a description, the columns (fields of a task, padded as they say), and the time gone and left.

    Args:
        console: where to draw; nothing is drawn unless it is a terminal.
        columns: format strings, the bar after the first.
        period: seconds that the time left is estimated from.
    """
    first, *rest = (TextColumn(column, markup=False) for column in columns)
    times = (TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    return Bars(
        *(first, BarColumn(bar_width=28), *rest, *times),
        console=console,
        disable=not console.is_terminal,
        speed_estimate_period=period,
    )


class Display:
    """One bar for the whole benchmark and one per active run, with its reward and the time left.

    If the output is not a terminal, prints a line per finished run and per quarter of the whole instead.

    Args:
        console: where to draw.
        total: number of runs, including finished ones.
        done: budget used by an earlier call, in runs.
    """

    def __init__(self, console: Console, total: int, done: float) -> None:
        self._console, self._total = console, total
        columns = ("{task.description:<26}", "{task.fields[count]:<16}", "{task.fields[reward]:<14}")
        self._bars = bars(console, *columns, period=300)
        self._overall = self._bars.add_task("all runs", total=total, reward="", count=f"{done / total:.0%}")
        self._bars.update(self._overall, completed=done)
        self._tasks: dict[tuple[str, int], TaskID] = {}
        self._shares: dict[tuple[str, int], float] = {}
        self._before, self._said = done, math.floor(4 * done / total)
        self._started = time.monotonic()

    def __enter__(self) -> Display:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def show(self, progress: Progress) -> None:
        """Draws one run's progress."""
        if progress.method == BASE:
            self._say(f"base model evaluated: held-out headline reward {progress.reward:.3f}")
            return
        task = self._task(progress)
        self._advance(progress)
        count = f"{progress.iteration}/{max(progress.total, progress.iteration)} iterations"
        if progress.status == "finished":
            self._bars.update(task, visible=False)
            self._say(f"{progress.method} seed {progress.seed}: {progress.iteration} iterations done")
        else:
            reward = "" if progress.reward is None else f"reward {progress.reward:.3f}"
            self._bars.update(task, completed=progress.share, reward=reward, count=count)

    def _task(self, progress: Progress) -> TaskID:
        """The run's bar, created at the run's first report."""
        run = (progress.method, progress.seed)
        if run not in self._tasks:
            title = f"{progress.method} seed {progress.seed}"
            self._tasks[run] = self._bars.add_task(title, total=1.0, reward="", count="")
            # What the run had done when it was resumed is in `done` already: only its last iteration is new.
            self._shares[run] = progress.share * max(0, progress.iteration - 1) / max(1, progress.iteration)
        return self._tasks[run]

    def _advance(self, progress: Progress) -> None:
        """Advances the overall bar; without bars, prints a line at each quarter."""
        run = (progress.method, progress.seed)
        share = 1.0 if progress.status == "finished" else progress.share
        self._bars.update(self._overall, advance=share - self._shares[run])
        self._shares[run] = share
        done = self._bars.tasks[0].completed
        self._bars.update(self._overall, count=f"{min(1.0, done / self._total):.0%}")
        quarter = math.floor(4 * done / self._total + 1e-6)
        if not self._console.is_terminal and self._said < quarter < 4:
            self._said = quarter
            seconds = (time.monotonic() - self._started) * (self._total - done) / (done - self._before)
            self._say(f"{quarter * 25} % done, about {math.ceil(seconds / 60)} min left")

    def _say(self, line: str) -> None:
        say(self._console, line)
