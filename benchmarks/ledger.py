"""The ledger: the usage of every iteration of a run by component, and the meter that measures it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import torch

from analysis.schema import CHARGED, WHOLE
from rewards.cost import Cost, FlopCounter

#: (component, quantity) -> amount used by an iteration.
Usage = dict[tuple[str, str], float]
#: Number of past iterations used to predict the cost of the next.
_RECENT = 5


@dataclass
class UsageMeter:
    """Measures sections; see `methods.metering.Meter`.

    Floating-point operations are counted the first time a (component, key) is seen, which is slow, and then cached,
    because equal shapes cost the same. Nested sections are not counted twice.

    Attributes:
        device: device to synchronise before reading the clock, and whose memory is measured.
        known: (component, key) -> TFLOPs, excluding nested sections. Share it between runs of equal methods and models.
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    known: dict[tuple[str, Hashable], float] = field(default_factory=dict)
    _usage: Usage = field(default_factory=dict)
    _open: list[list[float]] = field(default_factory=list)

    @contextmanager
    def __call__(self, component: str, key: Hashable, **counts: float) -> Iterator[None]:
        """Opens a section; a section that raises is not counted."""
        place = (component, key)
        started = self._now()
        self._open.append([0.0, 0.0])
        total = None
        try:
            if place in self.known:
                yield
            else:
                with FlopCounter() as counter:
                    yield
                total = counter.tflops
        finally:
            inner_seconds, inner_tflops = self._open.pop()
        seconds = self._now() - started
        if total is not None:
            self.known[place] = total - inner_tflops
        tflops = self.known[place]
        if self._open:
            self._open[-1][0] += seconds
            self._open[-1][1] += tflops + inner_tflops
        self._add(component, {"tflops": tflops, "seconds": seconds - inner_seconds, **counts})

    def _add(self, component: str, amounts: Mapping[str, float]) -> None:
        self._usage = merged(self._usage, {(component, name): amount for name, amount in amounts.items()})

    def take(self) -> Usage:
        """The usage since the last call."""
        usage, self._usage = self._usage, {}
        return usage

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def reset_peak_memory(device: torch.device) -> None:
    """Resets the peak memory measurement, if the system allows it."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(OSError):  # not Linux: the peak since the process began is read instead
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory_mb(device: torch.device) -> float:
    """Peak memory in 10^6 bytes since `reset_peak_memory`: the GPU's allocations, or this process's memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e6
    import resource
    import sys

    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale / 1e6


@dataclass
class Ledger:
    """The usage of a run so far.

    Attributes:
        iterations: training iterations done.
        paid: cost charged to the run before its first iteration.
        totals: (component, quantity) -> sum over the iterations.
    """

    iterations: int = 0
    paid: Cost | None = None
    totals: Usage = field(default_factory=dict)
    _recent: deque[Usage] = field(default_factory=lambda: deque(maxlen=_RECENT))

    @classmethod
    def of(cls, usages: Iterable[Usage], paid: Cost | None = None) -> Ledger:
        """The ledger of recorded iterations."""
        ledger = cls(paid=paid)
        for usage in usages:
            ledger.add(usage)
        return ledger

    def add(self, usage: Usage) -> None:
        """Adds one training iteration."""
        self.iterations += 1
        self._recent.append(usage)
        self.totals = merged(self.totals, usage)

    def used(self, unit: str) -> float:
        """The amount charged to the run, in a budget's unit."""
        if unit == "iterations":
            return float(self.iterations)
        before = 0.0 if self.paid is None else float(self.paid.model_dump()[unit])
        return before + charged(self.totals, unit)

    def each(self, unit: str) -> float:
        """Mean cost of the last iterations, the prediction for the next; 0 before the first."""
        if unit == "iterations":
            return 1.0
        costs = [charged(usage, unit) for usage in self._recent]
        return sum(costs) / len(costs) if costs else 0.0


def merged(first: Usage, second: Usage) -> Usage:
    """The sum of two usages."""
    return {place: first.get(place, 0.0) + second.get(place, 0.0) for place in {**first, **second}}


def charged(usage: Usage, unit: str) -> float:
    """The charged part of some usage, in one unit: videos, nfe, tflops or seconds."""
    if unit == "seconds":
        return usage.get((WHOLE, "seconds"), 0.0)
    return sum(usage.get((component, unit), 0.0) for component in CHARGED)
