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
    means = seed_means(run)
    trained = means[means["method"] != BASE]
    names = trained["reward"].where(trained["split"] != "train", "train/" + trained["reward"])
    keys = ["method", "seed", "iteration"]
    wide = trained.assign(name=names).pivot(index=keys, columns="name", values="value").reset_index()
    wanted = [
        name for prefix in ("", "train/") for reward in run.rewards if (name := prefix + reward) in wide
    ]
    status = run_status(run)
    finished = {
        (row["method"], int(row["seed"])) for _, row in status[status["counted"].astype(bool)].iterrows()
    }
    frame = with_costs(run, wide).sort_values(keys, ignore_index=True)
    frame["finished"] = [(m, s) in finished for m, s in zip(frame["method"], frame["seed"], strict=True)]
    frame["evaluation"] = frame.groupby(["method", "seed"]).cumcount()
    return frame[["method", "seed", "finished", "evaluation", *UNITS, *wanted]]


def prompt_frame(run: Records) -> pd.DataFrame:
    """One row per (method, seed, split, reward, prompt) at the end: the mean over videos and the base model's."""
    means = prompt_means(run)
    keys = ["split", "reward", "prompt"]
    base = means[means["method"] == BASE].set_index(keys)["value"].rename("base")
    return means[means["method"] != BASE].join(base, on=keys).reset_index(drop=True)


def answer_record(run: Records, course: Convergence, found: Answer) -> dict[str, Any]:
    """The answer for machines: the primary question first, with estimate, interval, n, target and decision."""
    speeds = [
        {
            "method": entry.method,
            "baseline": entry.baseline,
            "quantity": "speed-up",
            "estimate": entry.ratio.value,
            "low": entry.ratio.low,
            "high": entry.ratio.high,
            "confidence": entry.ratio.confidence,
            "n": entry.ratio.seeds,
            "unit": entry.unit,
            "target": {
                "shares": list(SPANS[entry.span]),
                "rewards": [course.reward_at(share) for share in SPANS[entry.span]],
            },
            "decision": entry.verdict,
        }
        for entry in found.speeds
    ]
    finals = [
        {
            "method": entry.first,
            "baseline": entry.second,
            "quantity": "difference of final rewards",
            "estimate": entry.interval.mean,
            "low": entry.interval.low,
            "high": entry.interval.high,
            "confidence": entry.interval.confidence,
            "n": min(entry.seeds),
            "p": entry.p,
            "decision": ("higher" if entry.interval.mean > 0 else "lower") if entry.distinct else "not shown",
        }
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
            {
                "method": entry.method,
                "base": entry.base,
                "final": entry.final,
                "gain": entry.gain.mean,
                "low": entry.gain.low,
                "high": entry.gain.high,
                "n": entry.gain.n,
            }
            for entry in found.standings
        ],
        "limits": list(found.limits),
    }


def _plain(value: Any) -> Any:
    """With None for what JSON has no number for: NaN (unknown) and infinity (no bound)."""
    if isinstance(value, dict):
        return {name: _plain(entry) for name, entry in value.items()}
    if isinstance(value, list):
        return [_plain(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def repeat_script(run: Records) -> str:
    """A shell script that makes the records anew from the settings beside it, and then this report."""
    lines = [
        "#!/usr/bin/env bash",
        "# Trains everything again from the recorded settings, then writes this report.",
        "set -euo pipefail",
    ]
    single = len(run.folders) == 1
    places = (
        ['$(dirname "$0")/' + SETTINGS_FILE]
        if single
        else [shlex.quote(str(folder / SETTINGS_FILE)) for folder in run.folders]
    )
    for place, settings in enumerate(places, start=1):
        given = f'"{settings}"' if single else settings
        lines.append(
            f'python -m benchmarks.run --config {given} --output "${{1:?give a folder for the new run}}/{place}"'
        )
    runs = " ".join(f'"$1/{place}"' for place in range(1, len(places) + 1))
    lines.append(f"python -m analysis.report {runs}" + ("" if single else ' --output "$1/report"'))
    command = str(run.settings.get("command", "")).strip()
    if command:
        lines[1:1] = [f"# First made by: {line}" for line in command.splitlines()]
    return "\n".join([*lines, ""])
