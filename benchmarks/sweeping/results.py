"""What a sweep found: all trials as a table, and each method's best one as settings that `benchmarks.run` takes."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from benchmarks.records import replace_text
from benchmarks.resolve import resolve
from benchmarks.sweeping.display import shown_values
from benchmarks.sweeping.plan import Plan
from benchmarks.sweeping.storage import ERROR, counted, history, masked

TRIALS_FILE, TUNED_FILE, SWEEP_FILE = "trials.csv", "tuned.yaml", "sweep.yaml"

#: Fields of a run that a tuned method rests on, beside its own: they go into the tuned settings where a preset differs.
_RUN_FIELDS = (
    "suite",
    "model",
    "outcome_model",
    "process_reward",
    "video",
    "guidance_scale",
    "prompts_per_iteration",
    "weights",
    "precision",
    "budget",
    "budget_unit",
    "charge_prm",
)


def trials_of(plan: Plan, study: Study, method: str) -> list[FrozenTrial]:
    """The trials that count, in the order of their numbers, and no more than the sweep asks for."""
    return [trial for trial in study.get_trials(deepcopy=False) if counted(trial)][: plan.trials_of(method)]


def best_trial(plan: Plan, study: Study, method: str) -> FrozenTrial | None:
    """The complete trial with the largest reward."""
    complete = [trial for trial in trials_of(plan, study, method) if trial.state == TrialState.COMPLETE]
    return max(complete, key=lambda trial: trial.values[0], default=None)


def trials_table(plan: Plan, studies: Mapping[str, Study]) -> pd.DataFrame:
    """All trials, lost ones included: one row a trial, one column for each objective and parameter."""
    rows = []
    parameters = dict.fromkeys(p.name for space in plan.spaces.values() for p in space)
    for method, study in studies.items():
        for trial in study.get_trials(deepcopy=False):
            values = trial.values or [None] * len(plan.objectives)
            rows.append(
                {
                    "method": method,
                    "trial": trial.number,
                    "state": _state(trial),
                    **dict(zip(plan.objectives, values, strict=True)),
                    **{name: trial.params.get(name) for name in parameters},
                    "iterations": trial.user_attrs.get("iterations"),
                    "tflops": trial.user_attrs.get("tflops"),
                    "seconds": trial.user_attrs.get("seconds"),
                    "repeats": " ".join(map(str, history(trial))),
                    "folder": trial.user_attrs.get("folder", ""),
                    "error": trial.user_attrs.get(ERROR, ""),
                }
            )
    return pd.DataFrame(rows)


def _state(trial: FrozenTrial) -> str:
    """complete, pruned, failed (training diverged), lost (its process ended), running or waiting."""
    if trial.state == TrialState.FAIL:
        return "failed" if ERROR in trial.user_attrs else "lost"
    return trial.state.name.lower()


def fields_of(plan: Plan, method: str, trial: FrozenTrial) -> dict[str, Any]:
    """Dotted field -> value that a trial had."""
    return {parameter.field: trial.params[parameter.name] for parameter in plan.spaces[method]}


def tuned_settings(plan: Plan, studies: Mapping[str, Study]) -> dict[str, Any]:
    """Each method's best trial as a configuration of `benchmarks.run`; methods with no complete trial are left out."""
    methods = {}
    for method, study in studies.items():
        best = best_trial(plan, study, method)
        if best is not None:
            settings = plan.settings(method, fields_of(plan, method, best))
            methods[method] = settings.method_settings[method].model_dump(mode="json")
    own = plan.base.model_dump(mode="json")
    usual = resolve(plan.preset, {}, {}, [], "").model_dump(mode="json")
    different = {name: own[name] for name in _RUN_FIELDS if own[name] != usual[name]}
    prompts = {"prompts": plan.config["prompts"]} if "prompts" in plan.config else {}
    return {
        "preset": plan.preset,
        "methods": list(methods),
        **different,
        **prompts,
        "method_settings": methods,
    }


def _header(plan: Plan, studies: Mapping[str, Study], base: float | None) -> str:
    """What the tuned settings rest on, as comments."""
    seeds, prompts = plan.seeds_text, plan.base.prompts
    lines = [
        f"The best trial of each method in the sweep {plan.study!r}. Take it with: python -m benchmarks.run --config "
        f"{TUNED_FILE}",
        f"Made by: {masked(plan.command)}" if plan.command else "",
        f"Storage {masked(plan.storage)}; each trial used at most {plan.base.budget_text}, with "
        f"training {seeds}; trained on {len(prompts.train)} and judged on {len(prompts.held_out)} of the training"
        " prompts; no trial saw the held-out ones.",
        "A best trial is the best of many noisy ones: expect less of it on other seeds.",
    ]
    lines += [_line(plan, study, method) for method, study in studies.items()]
    if base is not None:
        lines.append(f"The base model scores {base:.3f} there.")
    wrapped = [part for line in lines if line for part in textwrap.wrap(line, 110)]
    return "".join(f"# {line}\n" for line in wrapped)


def _line(plan: Plan, study: Study, method: str) -> str:
    trials = trials_of(plan, study, method)
    states = [_state(trial) for trial in trials]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    spent = sum(trial.user_attrs.get("tflops", 0.0) for trial in trials)
    best = best_trial(plan, study, method)
    if best is None:
        return f"{method}: no trial is complete ({counts})"
    scores = ", ".join(
        f"{name} {value:.4g}" for name, value in zip(plan.objectives, best.values, strict=True)
    )
    first = next((trial for trial in trials if trial.system_attrs.get("fixed_params")), None)
    own = f"; its own settings {first.values[0]:.4g}" if first is not None and first.values else ""
    return (
        f"{method}: trial {best.number}, best of {len(trials)} ({counts}; {spent:.3g} TFLOP in all): {scores}{own}; "
        f"{shown_values(best.params)}"
    )


def write_results(
    plan: Plan, studies: Mapping[str, Study], output: Path, base: float | None
) -> tuple[pd.DataFrame, list[str]]:
    """Writes `trials.csv` and `tuned.yaml`; returns the table, and the best trials in a line each."""
    table = trials_table(plan, studies)
    table.to_csv(output / TRIALS_FILE, index=False)
    tuned = tuned_settings(plan, studies)
    if tuned["methods"]:
        text = yaml.safe_dump(tuned, sort_keys=False, allow_unicode=True, width=110)
        replace_text(output / TUNED_FILE, _header(plan, studies, base) + text)
    return table, [_line(plan, study, method) for method, study in studies.items()]
