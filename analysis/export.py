"""What others need to compute everything again: curves and prompts as CSV, the answer as JSON, a script."""

from __future__ import annotations

import json
import math
import shlex
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.alignment import prompt_means
from analysis.answer import Answer
from analysis.convergence import SPANS, Convergence
from analysis.costs import with_costs
from analysis.curves import run_status, seed_means
from analysis.records import Records
from analysis.schema import BASE, SETTINGS_FILE, UNITS
from analysis.statistics import Estimate, Interval

CURVES_FILE = "curves.csv"
PROMPTS_FILE = "prompts.csv"
ANSWER_FILE = "answer.json"
SCRIPT_FILE = "repeat.sh"


def write_exports(run: Records, course: Convergence, found: Answer, output: Path) -> None:
    """Write `tables/curves.csv`, `tables/prompts.csv`, `answer.json` and `repeat.sh` into a folder."""
    tables = output / "tables"
    tables.mkdir(parents=True, exist_ok=True)
    curve_frame(run).to_csv(tables / CURVES_FILE, index=False, float_format="%.9g")
    prompt_frame(run).to_csv(tables / PROMPTS_FILE, index=False, float_format="%.9g")
    content = json.dumps(_plain(answer_record(run, course, found)), indent=2, ensure_ascii=False)
    (output / ANSWER_FILE).write_text(content + "\n", encoding="utf-8")
    script = output / SCRIPT_FILE
    script.write_text(repeat_script(run), encoding="utf-8")
    script.chmod(0o755)


def curve_frame(run: Records) -> pd.DataFrame:
    """One row per (method, seed, evaluation): what had been spent in every unit, and every reward.

    Columns method, seed, finished, evaluation (0 is the base model's), `UNITS`, then rewards, means over videos: on
    held-out prompts by their name, on training prompts as `train/<name>`.
    """
    keys = ["method", "seed", "iteration"]
    means = seed_means(run)
    names = means["reward"].where(means["split"] != "train", "train/" + means["reward"])
    wide = means.assign(name=names).pivot(index=keys, columns="name", values="value").reset_index()
    frame = with_costs(run, wide).merge(
        run_status(run)[["method", "seed", "counted"]], on=keys[:2], how="left"
    )
    frame = frame.sort_values(keys, ignore_index=True).rename(columns={"counted": "finished"})
    frame["evaluation"] = frame.groupby(["method", "seed"]).cumcount()
    rewards = [prefix + reward for prefix in ("", "train/") for reward in run.rewards]
    return frame[
        ["method", "seed", "finished", "evaluation", *UNITS, *(name for name in rewards if name in wide)]
    ]


def prompt_frame(run: Records) -> pd.DataFrame:
    """One row per (method, seed, split, reward, prompt) at the end: the mean over videos and the base model's."""
    means = prompt_means(run)
    keys = ["split", "reward", "prompt"]
    base = means[means["method"] == BASE].set_index(keys)["value"].rename("base")
    return means[means["method"] != BASE].join(base, on=keys).reset_index(drop=True)


def answer_record(run: Records, course: Convergence, found: Answer) -> dict[str, Any]:
    """The answer for machines: the primary question first, with estimate, interval, n, target and decision."""
    speeds = [
        {"method": entry.method, "baseline": entry.baseline, "quantity": "speed-up"}
        | _estimate(entry.ratio.value, entry.ratio, entry.ratio.seeds)
        | {"unit": entry.unit, "decision": entry.verdict}
        | {"target": {"shares": list(span), "rewards": [course.reward_at(share) for share in span]}}
        for entry in found.speeds
        for span in [SPANS[entry.span]]
    ]
    finals = [
        {"method": entry.first, "baseline": entry.second, "quantity": "difference of final rewards"}
        | _estimate(entry.interval.mean, entry.interval, min(entry.seeds))
        | {"p": entry.p, "decision": "not shown"}
        | ({"decision": "higher" if entry.interval.mean > 0 else "lower"} if entry.distinct else {})
        for entry in found.differences
    ]
    about_speed = run.question.asks == "speed"
    return {
        "question": found.question,
        "answer": found.sentence,
        "reward": run.suite.headline,
        "split": course.split,
        "budget": run.settings["budget"],
        "budget_unit": run.budget_unit,
        "baseline": course.baseline,
        "looks": run.looks,
        "primary": {
            "asks": run.question.asks,
            "decided": found.decided,
            "why_not": course.why_not if about_speed else "",
            "estimates": speeds if about_speed else finals,
        },
        "secondary": {"estimates": finals if about_speed else speeds},
        "methods": [
            {"method": entry.method, "base": entry.base, "final": entry.final}
            | _estimate(entry.gain.mean, entry.gain, entry.gain.n, "gain")
            for entry in found.standings
        ],
        "limits": list(found.limits),
    }


def _estimate(
    value: float, bounds: Interval | Estimate, seeds: int, name: str = "estimate"
) -> dict[str, Any]:
    limits = {"low": bounds.low, "high": bounds.high, "confidence": bounds.confidence}
    return {name: value, **limits, "n": seeds}


def _plain(value: Any) -> Any:
    """With None for what JSON has no number for: NaN (unknown) and infinity (no bound)."""
    if isinstance(value, dict):
        return {name: _plain(entry) for name, entry in value.items()}
    if isinstance(value, list):
        return [_plain(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def repeat_script(run: Records) -> str:
    """A shell script that makes the records anew from the settings beside it, and then this report."""
    command = str(run.settings.get("command", "")).strip()
    lines = ["#!/usr/bin/env bash", *(f"# First made by: {line}" for line in command.splitlines())]
    lines += [
        "# Trains everything again from the recorded settings, then writes this report.",
        "set -euo pipefail",
    ]
    beside = '"$(dirname "$0")/' + SETTINGS_FILE + '"'
    single = len(run.folders) == 1
    places = [beside] if single else [shlex.quote(str(folder / SETTINGS_FILE)) for folder in run.folders]
    for place, settings in enumerate(places, start=1):
        target = f'"${{1:?give a folder for the new run}}/{place}"'
        lines.append(f"python -m benchmarks.run --config {settings} --output {target}")
    runs = " ".join(f'"$1/{place}"' for place in range(1, len(places) + 1))
    lines.append(f"python -m analysis.report {runs}" + ("" if single else ' --output "$1/report"'))
    return "\n".join([*lines, ""])
