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
from analysis.convergence import SPANS, UNDECIDED, WHOLE, Convergence
from analysis.costs import with_costs
from analysis.curves import run_status, seed_means
from analysis.records import Records
from analysis.schema import BASE, SETTINGS_FILE, UNITS
from analysis.statistics import Interval
from analysis.statistics.speed import Estimate


def write_exports(run: Records, course: Convergence, found: Answer, output: Path) -> None:
    """Write `tables/curves.csv`, `tables/prompts.csv`, `answer.json` and `repeat.sh` into a folder."""
    tables = output / "tables"
    tables.mkdir(parents=True, exist_ok=True)
    for name, frame in (("curves", curve_frame(run)), ("prompts", prompt_frame(run))):
        frame.to_csv(tables / f"{name}.csv", index=False, float_format="%.9g")
    content = json.dumps(_plain(answer_record(run, course, found)), indent=2, ensure_ascii=False)
    (output / "answer.json").write_text(content + "\n", encoding="utf-8")
    script = output / "repeat.sh"
    script.write_text(repeat_script(run), encoding="utf-8")
    script.chmod(0o755)


def curve_frame(run: Records) -> pd.DataFrame:
    """One row per (method, seed, evaluation): what had been spent in every unit, and every reward.

    Columns method, seed, finished, evaluation (0 is the base model's), `UNITS`, then rewards, means over videos: on
    held-out prompts by their name, on training prompts as `train/<name>`.
    """
    keys, own = ["method", "seed", "iteration"], ["method", "seed"]
    means = seed_means(run)
    names = means["reward"].where(means["split"] != "train", "train/" + means["reward"])
    wide = means.assign(name=names).pivot(index=keys, columns="name", values="value").reset_index()
    finished = run_status(run).set_index(own)["counted"].rename("finished")
    frame = with_costs(run, wide).join(finished, on=own).sort_values(keys, ignore_index=True)
    frame["evaluation"] = frame.groupby(own).cumcount()
    rewards = [prefix + reward for prefix in ("", "train/") for reward in run.rewards]
    return frame[[*own, "finished", "evaluation", *UNITS, *(name for name in rewards if name in wide)]]


def prompt_frame(run: Records) -> pd.DataFrame:
    """One row per (method, seed, split, reward, prompt) at the end: the mean over videos and the base model's."""
    means = prompt_means(run)
    keys = ["split", "reward", "prompt"]
    base = means[means["method"] == BASE].set_index(keys)["value"].rename("base")
    return means[means["method"] != BASE].join(base, on=keys)


def answer_record(run: Records, course: Convergence, found: Answer) -> dict[str, Any]:
    """The answer for machines: the primary question first, with estimate, interval, n, target and decision."""
    shares = SPANS[WHOLE]
    target = {"shares": list(shares), "rewards": [course.reward_at(share) for share in shares]}
    speeds = [
        {"method": entry.method, "baseline": entry.baseline, "quantity": "speed-up"}
        | {"estimate": entry.ratio.value, **_limits(entry.ratio), "n": entry.ratio.seeds}
        | {"unit": entry.unit, "decision": entry.verdict, "target": target}
        for entry in found.speeds
    ]
    finals = [
        {"method": entry.first, "baseline": entry.second, "quantity": "difference of final rewards"}
        | {"estimate": entry.interval.mean, **_limits(entry.interval), "n": min(entry.seeds), "p": entry.p}
        | {"decision": ("higher" if entry.interval.mean > 0 else "lower") if entry.distinct else UNDECIDED}
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
            | {"gain": entry.gain.mean, **_limits(entry.gain), "n": entry.gain.n}
            for entry in found.standings
        ],
        "limits": list(found.limits),
    }


def _limits(found: Interval | Estimate) -> dict[str, float]:
    return {"low": found.low, "high": found.high, "confidence": found.confidence}


def _plain(value: Any) -> Any:
    """With None for what JSON has no number for: NaN (unknown) and infinity (no bound)."""
    if isinstance(value, dict):
        return {name: _plain(entry) for name, entry in value.items()}
    if isinstance(value, list):
        return [_plain(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def repeat_script(run: Records) -> str:
    """A shell script that makes the records anew from the settings beside it, and then this report."""
    single, command = len(run.folders) == 1, str(run.settings.get("command", "")).strip()
    places = [shlex.quote(str(folder / SETTINGS_FILE)) for folder in run.folders]
    if single:
        places = [f'"$(dirname "$0")/{SETTINGS_FILE}"']
    runs = " ".join(f'"$1/{number}"' for number in range(1, len(places) + 1))
    lines = [
        "#!/usr/bin/env bash",
        *(f"# First made by: {line}" for line in command.splitlines()),
        "# Trains everything again from the recorded settings, then writes this report.",
        "set -euo pipefail",
        *(
            f'python -m benchmarks.run --config {settings} --output "${{1:?give a folder for the new run}}/{number}"'
            for number, settings in enumerate(places, start=1)
        ),
        f"python -m analysis.report {runs}" + ("" if single else ' --output "$1/report"'),
    ]
    return "\n".join([*lines, ""])
