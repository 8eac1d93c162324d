"""Progress display of a sweep."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.progress import TaskID

from benchmarks.display import bars, say
from benchmarks.sweeping.trial import Sheet


def shown_values(values: Mapping[str, Any]) -> str:
    """ "guidance 12.3, noise 0.93"."""
    parts = (
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in values.items()
    )
    return ", ".join(parts)


class SweepDisplay:
    """One bar for the sweep, with the best reward so far, and one per running trial.

    If the output is not a terminal, prints a line per finished trial instead.

    Args:
        console: where to draw.
        total: trials of all methods.
        done: trials that had ended before.
        best: method -> (reward, trial) of the best one so far.
    """

    def __init__(
        self, console: Console, total: int, done: int, best: Mapping[str, tuple[float, int]]
    ) -> None:
        self._console, self._total, self._done = console, total, done
        self._best = dict(best)
        columns = ("{task.description:<24}", "{task.fields[count]:<14}", "{task.fields[note]}")
        self._bars = bars(console, *columns, period=600)
        self._overall = self._bars.add_task("all trials", total=total, completed=done, count="", note="")
        self._tasks: dict[tuple[str, int], TaskID] = {}
        self._count()

    def __enter__(self) -> SweepDisplay:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def show(self, sheet: Sheet) -> None:
        """Draws one trial."""
        key = (sheet.method, sheet.number)
        if key not in self._tasks:
            title = f"{sheet.method} {sheet.number}"
            self._tasks[key] = self._bars.add_task(
                title, total=1.0, count="", note=shown_values(sheet.values)
            )
        if sheet.state == "running":
            reward = "" if sheet.reward is None else f"reward {sheet.reward:.3f}"
            self._bars.update(self._tasks[key], completed=sheet.share, count=reward)
        else:
            self._bars.remove_task(self._tasks.pop(key))
            self._ended(sheet)
        under_way = sum(task.completed for task in self._bars.tasks if task.id != self._overall)
        self._bars.update(self._overall, completed=self._done + under_way)

    def _ended(self, sheet: Sheet) -> None:
        if sheet.state != "stopped":
            self._done += 1
        if sheet.state == "complete" and sheet.reward is not None:
            best = self._best.get(sheet.method)
            if best is None or sheet.reward > best[0]:
                self._best[sheet.method] = (sheet.reward, sheet.number)
        self._count()
        result = "" if sheet.reward is None else f" {sheet.reward:.3f}"
        state = "" if sheet.state == "complete" else f" {sheet.state}"
        why = f" ({sheet.error})" if sheet.error else ""
        again = f", replacing {sheet.repeats[-1]}" if sheet.repeats else ""
        self.say(
            f"{sheet.method} trial {sheet.number}{again}:{result}{state}{why}; {shown_values(sheet.values)}; "
            f"{sheet.seconds:.0f} s{self._best_of(sheet.method)}"
        )

    def _best_of(self, method: str) -> str:
        if method not in self._best:
            return ""
        reward, number = self._best[method]
        return f"; best {reward:.3f} of trial {number}"

    def _count(self) -> None:
        best = ", ".join(f"{name} {reward:.3f} ({number})" for name, (reward, number) in self._best.items())
        self._bars.update(self._overall, count=f"{self._done}/{self._total}", note=best and f"best: {best}")

    def say(self, line: str) -> None:
        """A line above the bars."""
        say(self._console, line)
