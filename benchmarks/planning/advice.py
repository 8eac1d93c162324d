"""Which settings make a run fit on a GPU."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from benchmarks.planning.estimate import MethodPlan, RunPlan
from benchmarks.settings import RunSettings

#: A setting's dotted name and its new value.
Change = tuple[str, Any]

_STEPS = 12


@dataclass(frozen=True)
class Advice:
    """Changes of settings, in the order in which they were tried.

    Attributes:
        changes: setting -> value.
        fits: whether the run fits with all of them.
        peak: its peak memory then, in bytes.
    """

    changes: dict[str, Any]
    fits: bool
    peak: float


def worst(plan: RunPlan) -> MethodPlan:
    """The method that needs most memory."""
    return max(plan.methods, key=lambda method: method.memory.peak)


def fits(plan: RunPlan) -> bool:
    """Whether all methods fit on one of the GPUs."""
    return worst(plan).memory.peak <= plan.gpu.usable


def advise(plan: RunPlan, again: Callable[[RunSettings], RunPlan]) -> Advice:
    """Settings with which a run fits, changed one after another where the most memory is needed.

    Args:
        plan: of the run as it is.
        again: plans it with other settings.
    """
    changes: dict[str, Any] = {}
    for _ in range(_STEPS):
        if fits(plan):
            break
        better = _next(plan, again)
        if better is None:
            break
        (name, value), plan = better
        changes[name] = value
    return Advice(changes, fits(plan), worst(plan).memory.peak)


def _next(plan: RunPlan, again: Callable[[RunSettings], RunPlan]) -> tuple[Change, RunPlan] | None:
    """The first change that lowers the peak, and the plan with it."""
    peak = worst(plan).memory.peak
    for change in _candidates(plan):
        changed = again(with_change(plan.settings, change))
        if worst(changed).memory.peak < 0.995 * peak:
            return change, changed
    return None


def _candidates(plan: RunPlan) -> Iterator[Change]:
    """Changes that may help in the phase with the peak, those that cost least time first."""
    settings, execution = plan.settings, plan.settings.execution
    memory = worst(plan).memory
    phase = memory.peak_phase
    if phase == "decode" and execution.decode_batch > 1:
        yield "execution.decode_batch", _smaller(execution.decode_batch, plan)
    if phase in ("update", "guidance") and settings.micro_batch > 1:
        yield "micro_batch", _smaller(settings.micro_batch, plan)
    if phase in ("rollout", "guidance", "decode") and settings.rollout_batch != 1:
        videos = (
            settings.prompts_per_iteration
            // plan.gpus
            * max(method.group_size for method in settings.method_settings.values())
        )
        yield "rollout_batch", _smaller(min(settings.rollout_batch or videos, videos), plan)
    if execution.dtype == "float32":
        yield "execution.dtype", "bfloat16"
    if phase == "update" and not execution.gradient_checkpointing:
        yield "execution.gradient_checkpointing", True
    if phase != "prompts" and execution.trajectories == "device":
        yield "execution.trajectories", "cpu"
    if phase not in ("prompts", "decode") and not execution.offload_decoder:
        yield "execution.offload_decoder", True
    if settings.weights.kind == "full":
        yield "weights.kind", "lora"


def _smaller(batch: int, plan: RunPlan) -> int:
    """A batch that may fit: memory beyond what stays is taken to be in proportion to it."""
    memory = worst(plan).memory
    held = sum(memory.held.values())
    room = max(0.0, plan.gpu.usable - held)
    share = room / (memory.peak - held) if memory.peak > held else 0.0
    return max(1, min(batch // 2, math.floor(batch * share)))


def with_change(settings: RunSettings, change: Change) -> RunSettings:
    """Settings with one dotted field changed."""
    name, value = change
    part, dot, field = name.partition(".")
    if not dot:
        return settings.replace(**{name: value})
    return settings.replace(**{part: getattr(settings, part).model_copy(update={field: value})})
