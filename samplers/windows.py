"""Which steps of a rollout are stochastic. The others are steps of the probability-flow ODE."""

from collections.abc import Iterable
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, model_validator

WindowKind = Literal["all", "first", "range", "sliding", "random"]

# The fields used by each kind. Setting any other is an error, so that no option is silently ignored.
_FIELDS: dict[str, frozenset[str]] = {
    "all": frozenset(),
    "first": frozenset({"count"}),
    "range": frozenset({"start", "stop", "interval"}),
    "sliding": frozenset({"count", "start", "stop", "stride", "period"}),
    "random": frozenset({"count", "start", "stop", "contiguous"}),
}


class Window(BaseModel):
    """A choice of steps, as data. ``steps`` resolves it for one training iteration.

    The kinds:

    - ``all``: every step.
    - ``first``: the first ``count`` steps.
    - ``range``: steps start, start + interval, ... below ``stop`` (None: the number of steps).
    - ``sliding``: ``count`` consecutive steps; every ``period`` training iterations the window moves by
      ``stride``, beginning at ``start``, and starts over when it would pass ``stop`` (MixGRPO, arXiv
      2507.21802: count 4, stride 1, period 25).
    - ``random``: ``count`` steps drawn at each iteration from [start, stop), consecutive unless
      ``contiguous`` is false (Flow-GRPO-Fast draws a consecutive window).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: WindowKind = "all"
    count: int = 0
    start: int = 0
    stop: int | None = None
    interval: int = 1
    stride: int = 1
    period: int = 1
    contiguous: bool = True

    @model_validator(mode="after")
    def _check(self) -> "Window":
        idle = self.model_fields_set - {"kind"} - _FIELDS[self.kind]
        changed = sorted(
            name for name in idle if getattr(self, name) != type(self).model_fields[name].default
        )
        if changed:
            raise ValueError(f"window.{changed[0]} is not used by kind {self.kind!r}: leave it out")
        if "count" in _FIELDS[self.kind] and self.count < 1:
            raise ValueError(f"window.count = {self.count} for kind {self.kind!r}: give at least 1 step")
        check_range("window", self.start, self.stop, self.interval)
        for name, value in (("stride", self.stride), ("period", self.period)):
            if value < 1:
                raise ValueError(f"window.{name} = {value}: give at least 1")
        return self

    def check(self, num_steps: int) -> None:
        """Raise ValueError if this window does not lie within ``num_steps`` steps."""
        check_inside("window", self.start, self.stop, num_steps)
        room = (num_steps if self.stop is None else self.stop) - self.start
        if self.count > room:
            raise ValueError(
                f"window.count = {self.count} does not fit the {room} steps from {self.start} on "
                f"(num_steps = {num_steps}): lower count or widen the window"
            )

    def steps(
        self, num_steps: int, iteration: int = 0, generator: torch.Generator | None = None
    ) -> tuple[bool, ...]:
        """The stochastic steps of one training iteration: num_steps booleans.

        Args:
            num_steps: steps of a rollout.
            iteration: training iteration, counted from 0. Only ``sliding`` windows depend on it.
            generator: source of randomness, on the CPU. Only ``random`` windows use it, and need it.
        """
        self.check(num_steps)
        stop = num_steps if self.stop is None else self.stop
        match self.kind:
            case "all":
                chosen: Iterable[int] = range(num_steps)
            case "first":
                chosen = range(self.count)
            case "range":
                chosen = range(self.start, stop, self.interval)
            case "sliding":
                positions = range(self.start, stop - self.count + 1, self.stride)
                begin = positions[(iteration // self.period) % len(positions)]
                chosen = range(begin, begin + self.count)
            case "random":
                chosen = self._draw(stop, generator)
        members = frozenset(chosen)
        return tuple(index in members for index in range(num_steps))

    def _draw(self, stop: int, generator: torch.Generator | None) -> Iterable[int]:
        if generator is None:
            raise ValueError(
                "a random window needs a generator: give one to sampler.at_iteration(i, generator)"
            )
        if self.contiguous:
            last = stop - self.count
            begin = int(torch.randint(self.start, last + 1, (1,), generator=generator))
            return range(begin, begin + self.count)
        order = torch.randperm(stop - self.start, generator=generator)[: self.count]
        return [self.start + int(position) for position in order]


def check_range(name: str, start: int, stop: int | None, interval: int) -> None:
    """Raise ValueError unless start, stop, interval describe a non-empty range of steps."""
    if start < 0:
        raise ValueError(f"{name}.start = {start}: steps are counted from 0, give a start >= 0")
    if stop is not None and stop <= start:
        raise ValueError(
            f"{name}.stop = {stop} with start = {start}: stop is exclusive, give one above start"
        )
    if interval < 1:
        raise ValueError(f"{name}.interval = {interval}: give at least 1")


def check_inside(name: str, start: int, stop: int | None, num_steps: int) -> None:
    """Raise ValueError unless the range [start, stop) lies within ``num_steps`` steps."""
    if start >= num_steps:
        raise ValueError(
            f"{name}.start = {start} lies outside the {num_steps} steps: give 0..{num_steps - 1}"
        )
    if stop is not None and stop > num_steps:
        raise ValueError(f"{name}.stop = {stop} lies outside the {num_steps} steps: give at most {num_steps}")
