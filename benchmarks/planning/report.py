"""A plan as text, tables and JSON."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from analysis.schema import in_words
from benchmarks.display import print_table, say
from benchmarks.planning.advice import Advice, fits, worst
from benchmarks.planning.estimate import MethodPlan, RunPlan

_MEMORY = ("prompts", "rollout", "guidance", "decode", "update")
_WORK = ("rollout", "guidance", "decode", "update")


def as_json(plan: RunPlan, advice: Advice) -> dict[str, Any]:
    """The plan as plain values: bytes, TFLOP, seconds."""
    settings = plan.settings
    return {
        "model": str(settings.model),
        "parameters": plan.parameters,
        "trained_parameters": plan.trained,
        "video": vars(settings.video),
        "gpu": plan.gpu.title,
        "gpus": plan.gpus,
        "utilisation": plan.utilisation,
        "usable_bytes": plan.gpu.usable,
        "budget": settings.budget,
        "budget_unit": settings.budget_unit,
        "process_reward_blocks": plan.process_blocks,
        "fits": fits(plan),
        "changes": advice.changes,
        "fits_with_changes": advice.fits,
        "methods": {method.method: _method_json(plan, method) for method in plan.methods},
    }


def _method_json(plan: RunPlan, method: MethodPlan) -> dict[str, Any]:
    memory = method.memory
    return {
        "held_bytes": dict(memory.held),
        "phase_bytes": memory.at,
        "peak_bytes": memory.peak,
        "peak_phase": memory.peak_phase,
        "host_bytes": memory.host,
        "tflop": {phase: method.tflops(phase) for phase in _WORK},
        "videos": method.used("videos"),
        "nfe": method.used("nfe"),
        "videos_scored": method.scored,
        "trained_rows_per_gpu": method.pairs,
        "seconds_per_iteration": plan.seconds(method),
        "iterations": plan.iterations(method),
        "hours": plan.hours(method),
    }


def show(plan: RunPlan, advice: Advice, console: Console) -> None:
    """Prints the plan."""
    settings, video = plan.settings, plan.settings.video
    say(
        console,
        f"planned, not measured: {settings.model}, {plan.parameters / 1e9:.2f} billion parameters, "
        f"{plan.trained / 1e6:.4g} million trained ({settings.weights.kind}); videos of {video.num_frames} frames, "
        f"{video.height}x{video.width}; {plan.gpus} x {plan.gpu.title}, {plan.utilisation:.0%} of its peak speed",
    )
    _show_memory(plan, console)
    _show_work(plan, console)
    say(console, verdict(plan, advice))


def _show_memory(plan: RunPlan, console: Console) -> None:
    rows = []
    for method in plan.methods:
        memory = method.memory
        cells = [_gigabytes(memory.at[phase]) if phase in memory.at else "" for phase in _MEMORY]
        host = _gigabytes(memory.host) if memory.host else ""
        held = sum(memory.held.values())
        rows.append(
            [
                method.method,
                _gigabytes(held),
                *cells,
                f"{_gigabytes(memory.peak)} ({memory.peak_phase})",
                host,
            ]
        )
    kinds = dict.fromkeys(name for method in plan.methods for name in method.memory.held)
    print_table(
        console,
        "memory of each GPU at the peak of each phase, GB",
        ["method", "held", *_MEMORY, "peak", "on the CPU"],
        rows,
        f"held throughout: {', '.join(kinds)}. Without the models of outcome rewards, which are not known.",
    )


def _show_work(plan: RunPlan, console: Console) -> None:
    rows = []
    for method in plan.methods:
        work = [_tflop(method.tflops(phase)) for phase in _WORK]
        rows.append(
            [
                method.method,
                *work,
                _tflop(method.used("tflops")),
                f"{method.used('videos'):,.0f}",
                f"{method.used('nfe'):,.0f}",
                _duration(plan.seconds(method)),
                f"{plan.iterations(method):,}",
                f"{plan.hours(method):,.3g}",
            ]
        )
    seeds = plan.settings.seeds
    hours = sum(plan.hours(method) for method in plan.methods) * seeds
    print_table(
        console,
        "work of one iteration, TFLOP, and runs of one seed",
        ["method", *_WORK, "charged", "videos", "nfe", "time", "iterations", "hours"],
        rows,
        f"{_budget(plan)} for each method and seed; {len(plan.methods)} methods x {seeds} seeds: {hours:,.3g} hours on "
        f"{plan.gpus} x {plan.gpu.title}. Unknown, and not in any figure: the outcome rewards' operations; in hours, "
        "evaluation too.",
    )


def _budget(plan: RunPlan) -> str:
    return f"budget: {in_words(plan.settings.budget, plan.settings.budget_unit)}"


def verdict(plan: RunPlan, advice: Advice) -> str:
    """Whether the run fits, by how much, and which settings to change if it does not."""
    most, usable = worst(plan), plan.gpu.usable
    memory = most.memory
    where = f"{most.method} needs {_gigabytes(memory.peak)} GB at its peak ({memory.peak_phase})"
    room = f"{_gigabytes(usable)} GB of a {plan.gpu.title} are usable"
    if fits(plan):
        return f"fits: {where}; {room}, {_gigabytes(usable - memory.peak)} GB remain"
    over = f"does not fit, by {_gigabytes(memory.peak - usable)} GB: {where}; {room}."
    changes = ", ".join(f"{name}: {_yaml(value)}" for name, value in advice.changes.items())
    if advice.fits:
        return f"{over} It fits with {changes} ({_gigabytes(advice.peak)} GB)"
    tried = f" With {changes} it still needs {_gigabytes(advice.peak)} GB;" if changes else ""
    return f"{over}{tried} choose a GPU with more memory, fewer frames or a smaller size"


def _yaml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _gigabytes(amount: float) -> str:
    return f"{amount / 1e9:.3g}" if amount < 1e11 else f"{amount / 1e9:,.0f}"


def _tflop(amount: float) -> str:
    if not amount:
        return ""
    return f"{amount:,.0f}" if amount >= 1000 else f"{amount:.4g}"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if seconds < 7200 else f"{seconds / 3600:.3g} h"
