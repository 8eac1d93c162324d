"""Figures of a sweep: how the search went, which parameters matter, and where the reward is high."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from matplotlib.tri import Triangulation
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from analysis.style import FAINT, INK, figure, looks, save, surround, tidy
from benchmarks.sweeping.choosing import best_trial, trials_of
from benchmarks.sweeping.plan import Plan
from benchmarks.sweeping.space import Parameter

#: Importances of fewer complete trials than these are noise.
FEWEST = 8
_COLOURS, _PRUNED = "viridis", "#777777"
_LABELS = {"reward": "judged reward", "kl": "KL to the base model, nats a video"}


def write_figures(plan: Plan, studies: Mapping[str, Study], output: Path, base: float | None) -> list[Path]:
    """Writes every figure that the trials so far allow, as PNG and SVG; returns the files."""
    complete = {name: _trials(plan, study, name) for name, study in studies.items()}
    if not any(complete.values()):
        return []
    folder = output / "figures"
    written = save(_history(plan, studies, base), folder, "history")
    written += save(_slices(plan, studies), folder, "slices")
    importances = _importances(plan, studies, complete)
    if importances:
        written += save(_importance(plan, importances), folder, "importance")
    if len(plan.objectives) > 1:
        written += save(_front(plan, studies), folder, "front")
    for method, trials in complete.items():
        pair = _pair(plan, method, importances.get(method, {}))
        if pair is not None and len(trials) >= 4:
            pruned = _trials(plan, studies[method], method, TrialState.PRUNED)
            written += save(_landscape(plan, method, trials, pruned, pair), folder, f"landscape_{method}")
    return written


def _trials(
    plan: Plan, study: Study, method: str, state: TrialState = TrialState.COMPLETE
) -> list[FrozenTrial]:
    return [trial for trial in trials_of(plan, study, method) if trial.state == state]


def _score(trial: FrozenTrial) -> float:
    return float(trial.values[0])


def _negative(trial: FrozenTrial) -> float:
    return -_score(trial)


def _key(label: str, marker: str = "", line: Any = "", colour: str = INK, **look: Any) -> Line2D:
    """An entry of a figure's key."""
    return Line2D([], [], color=colour, marker=marker, linestyle=line, label=label, **look)


def _footer(plan: Plan) -> str:
    base, trials = plan.base, max(map(plan.trials_of, plan.methods))
    return (
        f"Study {plan.study}: {trials} trials a method, {base.budget_text} each, training {plan.seeds_text}; judged on "
        f"{len(base.prompts.held_out)} training prompts that the trials do not train on. A trial's reward is noisy; "
        "the best of many is flattered by it."
    )


def _label(plan: Plan, objective: int = 0) -> str:
    return _LABELS[plan.objectives[objective]]


def _history(plan: Plan, studies: Mapping[str, Study], base: float | None) -> Figure:
    """Reward of each trial in their order, and the best so far."""
    drawn, styles = figure(7.6, 4.2), looks(list(studies))
    axes = drawn.subplots()
    tidy(axes)
    handles = []
    for method, study in studies.items():
        colour, marker = styles[method].colour, styles[method].marker
        complete = {trial.number: _score(trial) for trial in _trials(plan, study, method)}
        pruned = {
            trial.number: trial.intermediate_values[max(trial.intermediate_values)]
            for trial in _trials(plan, study, method, TrialState.PRUNED)
            if trial.intermediate_values
        }
        if complete:
            last = trials_of(plan, study, method)[-1].number
            axes.scatter(*_columns(complete), s=26, color=colour, marker=marker, alpha=0.75, linewidths=0)
            best = np.maximum.accumulate(list(complete.values()))
            axes.step([*complete, last], [*best, best[-1]], where="post", color=colour, linewidth=1.6)
        axes.scatter(*_columns(pruned), s=26, marker="x", color=colour, alpha=0.6, linewidths=1)
        handles.append(_key(f"{method}, best so far", marker, "-", colour))
    handles.append(_key("pruned, last value", "x", colour=FAINT))
    if base is not None:
        axes.axhline(base, color=styles["base"].colour, linestyle=":", linewidth=1.2)
        handles.append(_key("base model", line=":", colour=styles["base"].colour))
    axes.set_xlabel("trial")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylabel(_label(plan))
    surround(drawn, "Trials in their order", _footer(plan), handles, labels_a_row=3)
    return drawn


def _columns(points: Mapping[int, float]) -> tuple[list[int], list[float]]:
    return list(points.keys()), list(points.values())


def _importances(
    plan: Plan, studies: Mapping[str, Study], complete: Mapping[str, Sequence[FrozenTrial]]
) -> dict[str, dict[str, float]]:
    """Method -> parameter -> share of the importance, where there are trials enough to tell."""
    found = {}
    for method, study in studies.items():
        if len(complete[method]) >= FEWEST and len(plan.spaces[method]) > 1:
            # With several objectives Optuna must be told which, and takes small values for good ones.
            target = _negative if len(plan.objectives) > 1 else None
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # that it takes small values for good ones
                found[method] = optuna.importance.get_param_importances(study, target=target)
    return found


def _importance(plan: Plan, importances: Mapping[str, Mapping[str, float]]) -> Figure:
    """A bar for each parameter of each method."""
    names = list(dict.fromkeys(name for shares in importances.values() for name in shares))
    drawn, styles = figure(7.0, 1.6 + 0.3 * len(names) * len(importances)), looks(list(importances))
    axes = drawn.subplots()
    tidy(axes)
    height = 0.8 / len(importances)
    for row, name in enumerate(names):
        having = [method for method, shares in importances.items() if name in shares]
        for place, method in enumerate(having):
            at, value = row + (place - (len(having) - 1) / 2) * height, importances[method][name]
            axes.barh(at, value, height=0.9 * height, color=styles[method].colour)
            axes.text(value + 0.01, at, f"{value:.2f}", va="center", fontsize=8, color=INK)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.08)
    axes.set_xlabel("share of importance (PED-ANOVA)")
    handles = [_key(name, line="-", colour=styles[name].colour, linewidth=6) for name in importances]
    surround(drawn, "Which parameters matter", _footer(plan), handles)
    return drawn


def _slices(plan: Plan, studies: Mapping[str, Study]) -> Figure:
    """Reward over each parameter, a row of panels for each method."""
    columns = max(len(space) for space in plan.spaces.values())
    drawn = figure(max(5.0, 2.9 * columns), 1.1 + 2.4 * len(studies))
    grid = drawn.subplots(len(studies), columns, squeeze=False, sharey="row")
    styles = looks(list(studies))
    for row, (method, study) in zip(grid, studies.items(), strict=True):
        trials = _trials(plan, study, method)
        best = best_trial(plan, study, method)
        for axes, parameter in itertools.zip_longest(row, plan.spaces[method]):
            if parameter is None:
                axes.set_visible(False)
                continue
            tidy(axes)
            _scatter(axes, parameter, trials, styles[method].colour, best)
        row[0].set_ylabel(f"{method}\n{_label(plan)}", fontsize=9)
    handles = [_key("a trial", "o", alpha=0.6), _key("the best", "*", markersize=11)]
    surround(drawn, "Reward over each parameter", _footer(plan), handles)
    return drawn


def _scatter(
    axes: Axes, parameter: Parameter, trials: Sequence[FrozenTrial], colour: str, best: FrozenTrial | None
) -> None:
    places = [_place(parameter, trial.params[parameter.name]) for trial in trials]
    axes.scatter(places, [_score(trial) for trial in trials], s=22, color=colour, alpha=0.6, linewidths=0)
    if best is not None:
        at = _place(parameter, best.params[parameter.name])
        axes.scatter([at], [_score(best)], marker="*", s=130, color=colour, edgecolors=INK, linewidths=0.6)
    _set_scale(axes, parameter, "x")
    axes.set_xlabel(parameter.name, fontsize=9)


def _place(parameter: Parameter, value: Any) -> float:
    """Where a value lies on its axis: choices stand side by side."""
    return float(parameter.choices.index(value)) if parameter.choices else float(value)


def _set_scale(axes: Axes, parameter: Parameter, which: str) -> None:
    """Shows the whole range that was searched, in the parameter's own scale."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    limit = axes.set_xlim if which == "x" else axes.set_ylim
    if parameter.choices:
        axis.set_ticks(range(len(parameter.choices)), [str(choice) for choice in parameter.choices])
        limit(-0.5, len(parameter.choices) - 0.5)
        return
    low, high = parameter.limits
    if parameter.log:
        (axes.set_xscale if which == "x" else axes.set_yscale)("log")
        margin = (high / low) ** 0.03
        axis.set_major_locator(LogLocator(subs=(1.0,) if high / low > 200 else (1.0, 2.0, 5.0)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())
        limit(low / margin, high * margin)
    else:
        limit(low - 0.03 * (high - low), high + 0.03 * (high - low))


def _pair(plan: Plan, method: str, importances: Mapping[str, float]) -> tuple[Parameter, Parameter] | None:
    """The two parameters of the landscape: guidance and noise, or else the two that matter most."""
    space = {parameter.name: parameter for parameter in plan.spaces[method] if not parameter.choices}
    by_field = {parameter.field: parameter for parameter in space.values()}
    usual = [by_field.get(field) for field in ("sampler.noise.level", "sampler.guidance.strength")]
    if usual[0] is not None and usual[1] is not None:
        return usual[0], usual[1]
    ranked = sorted(space, key=lambda name: -importances.get(name, 0.0))
    return (space[ranked[0]], space[ranked[1]]) if len(ranked) > 1 else None


def _landscape(
    plan: Plan,
    method: str,
    trials: Sequence[FrozenTrial],
    pruned: Sequence[FrozenTrial],
    pair: tuple[Parameter, Parameter],
) -> Figure:
    """Reward over two parameters: cells of a grid, or filled contours through the complete trials."""
    drawn = figure(6.2, 5.0)
    axes = drawn.subplots()
    tidy(axes)
    across, up = pair
    frame = pd.DataFrame(
        [(trial.params[across.name], trial.params[up.name], _score(trial)) for trial in trials],
        columns=["x", "y", "score"],
    )
    if plan.search == "grid":
        _cells(drawn, axes, frame, _label(plan))
    else:
        _contours(drawn, axes, frame, pair, _label(plan))
    axes.set_xlabel(f"{across.name}  ({across.field})")
    axes.set_ylabel(f"{up.name}  ({up.field})")
    best = frame.sort_values("score").iloc[-1]
    handles = [_key(f"best, {best['score']:.3f}", "*", markersize=11)]
    if plan.search != "grid":
        star: dict[str, Any] = {
            "marker": "*",
            "s": 170,
            "color": "white",
            "edgecolors": INK,
            "linewidths": 0.9,
            "zorder": 4,
        }
        axes.scatter([best["x"]], [best["y"]], **star)
        handles.append(_key("complete trials", "o", markersize=4))
        if pruned:
            left, right = ([trial.params[entry.name] for trial in pruned] for entry in pair)
            axes.scatter(left, right, marker="x", s=22, color=_PRUNED, linewidths=1)
            handles.append(_key("pruned", "x", colour=_PRUNED, markersize=5))
    surround(drawn, f"{method}: reward over {across.name} and {up.name}", _footer(plan), handles)
    return drawn


def _cells(drawn: Figure, axes: Axes, frame: pd.DataFrame, label: str) -> None:
    """A heat map with the value in each cell; the mean where other parameters of the grid vary as well."""
    table = frame.groupby(["y", "x"])["score"].mean().unstack("x").sort_index()
    image = axes.pcolormesh(table.to_numpy(), cmap=_COLOURS, edgecolors="white", linewidth=1.5)
    axes.grid(visible=False)
    for ticks, values in ((axes.set_xticks, table.columns), (axes.set_yticks, table.index)):
        ticks([place + 0.5 for place in range(len(values))], [f"{value:.4g}" for value in values])
    middle = float(np.nanmean([np.nanmin(table.to_numpy()), np.nanmax(table.to_numpy())]))
    top = float(np.nanmax(table.to_numpy()))
    for (row, column), value in np.ndenumerate(table.to_numpy()):
        if not math.isnan(value):
            shown = f"{value:.3f}" + (" ★" if value == top else "")
            ink = "white" if value < middle else INK
            axes.text(column + 0.5, row + 0.5, shown, ha="center", va="center", fontsize=8.5, color=ink)
    drawn.colorbar(image, ax=axes, label=label, shrink=0.9)


def _contours(
    drawn: Figure, axes: Axes, frame: pd.DataFrame, pair: tuple[Parameter, Parameter], label: str
) -> None:
    """Filled contours of a triangulation in the parameters' own scales, and the trials."""
    limits = {"vmin": frame["score"].min(), "vmax": frame["score"].max()}
    scaled = [
        np.log10(frame[name]) if parameter.log else frame[name]
        for name, parameter in zip("xy", pair, strict=True)
    ]
    unit = [(column - column.min()) / max(float(column.max() - column.min()), 1e-12) for column in scaled]
    points = np.unique(np.round(np.stack(unit, axis=1), 9), axis=0)
    if len(points) >= 4 and np.linalg.matrix_rank(points - points[0], tol=1e-6) == 2:
        triangles = Triangulation(*unit)
        triangles.x, triangles.y = frame["x"].to_numpy(), frame["y"].to_numpy()
        axes.tricontourf(triangles, frame["score"], levels=12, cmap=_COLOURS, zorder=0.5, **limits)
    look: dict[str, Any] = {"cmap": _COLOURS, "s": 34, "edgecolors": INK, "linewidths": 0.6, **limits}
    dots = axes.scatter(frame["x"], frame["y"], c=frame["score"], **look)
    for parameter, which in zip(pair, "xy", strict=True):
        _set_scale(axes, parameter, which)
    drawn.colorbar(dots, ax=axes, label=label, shrink=0.9)


def _front(plan: Plan, studies: Mapping[str, Study]) -> Figure:
    """The objectives against one another, the trials that none beats in all of them joined by a line."""
    drawn, styles = figure(6.4, 4.6), looks(list(studies))
    axes = drawn.subplots()
    tidy(axes)
    handles = []
    for method, study in studies.items():
        look = styles[method]
        values = np.array([trial.values[:2] for trial in _trials(plan, study, method)]).reshape(-1, 2)
        front = np.array(sorted(tuple(trial.values[:2]) for trial in study.best_trials)).reshape(-1, 2)
        axes.scatter(
            values[:, 1], values[:, 0], s=26, color=look.colour, marker=look.marker, alpha=0.6, linewidths=0
        )
        axes.plot(front[:, 1], front[:, 0], color=look.colour, linewidth=1.4)
        handles.append(_key(f"{method}, no trial beats these", look.marker, "-", look.colour))
    axes.set_xlabel(_label(plan, 1))
    axes.set_ylabel(_label(plan))
    surround(drawn, "Objectives against one another", _footer(plan), handles, labels_a_row=2)
    return drawn
