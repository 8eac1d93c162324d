"""Results of a sweep: all trials as a table, and each method's chosen trial as settings for `benchmarks.run`."""

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
from benchmarks.sweeping.choosing import best_trial, trials_of
from benchmarks.sweeping.display import shown_values
from benchmarks.sweeping.final import Verdict, finals_table
from benchmarks.sweeping.plan import Plan
from benchmarks.sweeping.storage import ERROR, history, masked

TRIALS_FILE, FINALS_FILE = "trials.csv", "finals.csv"
TUNED_FILE, SWEEP_FILE = "tuned.yaml", "sweep.yaml"

#: Fields of a run that a tuned method depends on besides its own; written to the tuned settings if a preset differs.
_RUN_FIELDS = (
    "suite",
    "model",
    "outcome_model",
    "process_reward",
    "video",
    "guidance_scale",
    "prompts",
    "prompts_per_iteration",
    "weights",
    "precision",
    "budget",
    "budget_unit",
    "charge_prm",
)


def trials_table(plan: Plan, studies: Mapping[str, Study]) -> pd.DataFrame:
    """All trials, including lost ones: one row per trial, one column per objective and parameter."""
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


def chosen_trial(
    plan: Plan, study: Study, method: str, verdicts: Mapping[str, Verdict]
) -> FrozenTrial | None:
    """A method's chosen trial: the winner of the final, or else the best of the search."""
    winner = verdicts[method].winner if method in verdicts else None
    return best_trial(plan, study, method) if winner is None else winner.trial


def tuned_settings(
    plan: Plan, studies: Mapping[str, Study], verdicts: Mapping[str, Verdict]
) -> dict[str, Any]:
    """Each method's chosen trial as a configuration of `benchmarks.run`; methods without one are left out."""
    methods = {}
    for method, study in studies.items():
        chosen = chosen_trial(plan, study, method, verdicts)
        if chosen is not None:
            methods[method] = plan.method(method, chosen.params).model_dump(mode="json")
    own = plan.base.replace(prompts=plan.run.prompts).model_dump(mode="json")
    usual = resolve(plan.run.preset, {}, {}, [], "").model_dump(mode="json")
    different = {name: own[name] for name in _RUN_FIELDS if own[name] != usual[name]}
    return {"preset": plan.run.preset, "methods": list(methods), **different, "method_settings": methods}


def _header(
    plan: Plan, studies: Mapping[str, Study], verdicts: Mapping[str, Verdict], base: float | None
) -> str:
    """How the tuned settings were found, as comments."""
    seeds, prompts = plan.seeds_text, plan.base.prompts
    won = any(verdict.winner for verdict in verdicts.values())
    lines = [
        f"The {'winner of the final' if won else 'best trial'} of each method in the sweep {plan.study!r}. Take it "
        f"with: python -m benchmarks.run --config {TUNED_FILE}",
        f"Made by: {plan.run.command}" if plan.run.command else "",
        f"Storage {masked(plan.storage)}; each trial used at most {plan.base.budget_text}, with "
        f"training {seeds}; trained on {len(prompts.train)} and judged on {len(prompts.held_out)} of the training"
        " prompts; no trial saw the held-out ones.",
        *_final_lines(plan, verdicts),
        "A best trial is the best of many noisy ones: expect a lower reward on other seeds.",
    ]
    lines += [_line(plan, study, method) for method, study in studies.items()]
    if base is not None:
        lines.append(f"The base model scores {base:.3f} there.")
    wrapped = [part for line in lines if line for part in textwrap.wrap(line, 110)]
    return "".join(f"# {line}\n" for line in wrapped)


def _final_lines(plan: Plan, verdicts: Mapping[str, Verdict]) -> list[str]:
    """The final's results, one line per method."""
    if not verdicts:
        return []
    rule = (
        f"The final trained the best {plan.finalists} trials of each method again, with {plan.final_seeds_text}; the "
        "mean over these alone chooses. Where a final has no winner, the best trial of the search stands here."
    )
    return [rule, *(verdict.line(method, plan.final_seeds_text) for method, verdict in verdicts.items())]


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
    plan: Plan,
    studies: Mapping[str, Study],
    verdicts: Mapping[str, Verdict],
    output: Path,
    base: float | None,
) -> tuple[pd.DataFrame, list[str]]:
    """Writes `trials.csv`, `tuned.yaml` and, of a final, `finals.csv`.

    Args:
        plan, studies: the sweep.
        verdicts: the final's, by method; none without a final.
        output: the sweep's folder.
        base: the base model's reward.

    Returns:
        The table of trials, and one line per best trial or winner.
    """
    table = trials_table(plan, studies)
    table.to_csv(output / TRIALS_FILE, index=False)
    if verdicts:
        finals_table(plan, verdicts).to_csv(output / FINALS_FILE, index=False)
    tuned = tuned_settings(plan, studies, verdicts)
    if tuned["methods"]:
        text = yaml.safe_dump(tuned, sort_keys=False, allow_unicode=True, width=110)
        replace_text(output / TUNED_FILE, _header(plan, studies, verdicts, base) + text)
    lines = [_line(plan, study, method) for method, study in studies.items()]
    return table, lines + [
        verdict.line(method, plan.final_seeds_text) for method, verdict in verdicts.items()
    ]
