"""Several runs as one: refused, with the difference named, unless they can be compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePath
from typing import Any

import pandas as pd
from pandas.api.types import union_categoricals

from analysis import text
from analysis.records import RecordError, Records, load_run
from analysis.schema import BASE
from analysis.settings import differing, flatten

FREE = {"command", "preset", "methods", "method_settings", "seeds", "first_seed", "question", "looks"}
FREE |= {"checkpoint_every", "micro_batch", "descriptions", "file"}
"""Settings in which runs may differ: which methods and seeds, and what does not change a result."""

PATHS = ("model", "outcome_model", "process_reward")
"""Settings that are paths: equal when they end alike, since two machines keep one model in two places."""

NAMED = 4
BASE_TOLERANCE = 0.1
"""The base model is one model when its videos' rewards differ by less than this share of their spread."""

_COLUMNS = ["split", "prompt", "sample", "reward"]


def load_runs(paths: Sequence[Path | str]) -> Records:
    """Read one run, or several that can be compared, as one.

    Raises:
        RecordError: a folder cannot be read; or runs differ in suite, model, prompts, video, evaluation, budget
            or any other setting that changes results; or they hold a method by one name with two settings, or
            one (method, seed) twice; or their evaluations of the base model disagree.
    """
    if not paths:
        raise RecordError("no run was given; name at least one folder of a benchmark run")
    return combine([load_run(path) for path in paths])


def combine(runs: Sequence[Records]) -> Records:
    """Several runs as one: records joined, the base model's those of the first. Raises as `load_runs`."""
    first = runs[0]
    if len(runs) == 1:
        return first
    notes = list(first.notes)
    for other in runs[1:]:
        _same_settings(first, other)
        notes += [f"{other.path}: {note}" for note in (*other.notes, *_base(first, other))]
    _methods_once(runs)
    _seeds_once(runs)
    methods = list(dict.fromkeys(name for run in runs for name in run.settings["methods"]))
    settings = dict(first.settings)
    settings["command"] = "\n".join(str(run.settings.get("command", "")) for run in runs)
    settings["methods"] = methods
    settings["method_settings"] = {
        name: entry for run in runs for name, entry in (run.settings.get("method_settings") or {}).items()
    }
    return replace(
        first,
        folders=tuple(folder for run in runs for folder in run.folders),
        settings=settings,
        evaluations=_joined([first.evaluations, *(_trained(run.evaluations) for run in runs[1:])]),
        iterations=_joined([run.iterations for run in runs]),
        runs=pd.concat([run.runs for run in runs if len(run.runs)] or [first.runs], ignore_index=True),
        ledger=_joined([first.ledger, *(_trained(run.ledger) for run in runs[1:])]),
        asked={name: tuple(sorted({s for run in runs for s in run.asked.get(name, ())})) for name in methods},
        notes=tuple(notes),
    )


def _comparable(settings: Mapping[str, Any]) -> dict[str, Any]:
    flat = {"evaluation.final_samples_per_prompt": None, **flatten({"charge_prm": False, **settings})}
    free = {name: value for name, value in flat.items() if not {*name.split(".")} & FREE}
    for name in PATHS:
        if free.get(name) is not None:
            free[name] = "/".join(PurePath(str(free[name])).parts[-2:])
    return free


def _same_settings(first: Records, other: Records) -> None:
    """Compare what both record, and the suite whole: an older run that lacks a setting is not refused for it."""
    ours, theirs = _comparable(first.settings), _comparable(other.settings)
    lines = []
    for field in differing({"first": ours, "other": theirs}).index:
        if field in ours and field in theirs:
            lines.append(f"{field} is {_shown(ours[field])} and {_shown(theirs[field])}")
        elif field.startswith("suite."):
            lines.append(f"only {first.path if field in ours else other.path} has {field}")
    if lines:
        raise RecordError(
            f"{first.path} and {other.path} cannot be compared: {_first(lines)}. Report them one by one"
        )


def _first(lines: Sequence[str]) -> str:
    more = f"; and {len(lines) - NAMED} more" if len(lines) > NAMED else ""
    return "; ".join(lines[:NAMED]) + more


def _shown(value: object) -> str:
    if isinstance(value, list) and len(value) > NAMED:
        return f"a list of {len(value)} ({value[0]}, ...)"
    return str(value)


def _methods_once(runs: Sequence[Records]) -> None:
    given: dict[str, tuple[Records, Mapping[str, Any]]] = {}
    for run in runs:
        for name, entry in (run.settings.get("method_settings") or {}).items():
            before, kept = given.setdefault(str(name), (run, entry))
            table = differing({"first": kept, "other": entry}).itertuples(name=None)
            lines = [f"{field} is {_shown(ours)} and {_shown(theirs)}" for field, ours, theirs in table]
            if lines:
                raise RecordError(
                    f"{name} is not the same method in {before.path} and {run.path}: {_first(lines)}. "
                    "Give one of them another name and run it again, or report the runs one by one"
                )


def _seeds_once(runs: Sequence[Records]) -> None:
    seen: dict[tuple[str, int], Records] = {}
    for run in runs:
        for method, seed in [(name, seed) for name in run.methods for seed in run.seeds(name)]:
            before = seen.setdefault((method, seed), run)
            if before is not run:
                raise RecordError(
                    f"{method} seed {seed} is in {before.path} and in {run.path}; a seed counts once: "
                    "leave one of the runs out, or run with another --first-seed"
                )


def _base(first: Records, other: Records) -> list[str]:
    """Sentences on the base model's evaluations; RecordError where they are not those of one model."""
    values = [
        run.evaluations.loc[run.evaluations["method"] == BASE, [*_COLUMNS, "value"]].astype(
            dict.fromkeys(("split", "prompt", "reward"), str)
        )
        for run in (first, other)
    ]
    if not all(map(len, values)):
        return []
    pairs = values[0].merge(values[1], on=_COLUMNS, suffixes=("", "_other"))
    spread = values[0].groupby("reward")["value"].std(ddof=0)
    apart = (pairs["value"] - pairs["value_other"]).abs().groupby(pairs["reward"]).mean()
    off = (apart / spread.reindex(apart.index).clip(lower=1e-12)).fillna(0.0)
    if not len(off) or off.max() > BASE_TOLERANCE:
        means = [
            text.number(float(frame.groupby(["split", "reward"])["value"].mean().mean())) for frame in values
        ]
        where = f"on {text.reward_name(str(off.idxmax()))}" if len(off) else "and share no video"
        raise RecordError(
            f"the base model is not the same in {first.path} and {other.path}: their evaluations differ "
            f"{where} (means over all rewards {' and '.join(means)}), though the settings name one model; "
            "report them one by one"
        )
    if apart.max() > 0:
        return [
            "its evaluation of the base model differs slightly from the first run's, as it does between "
            "machines; gains are over the first's"
        ]
    return []


def _trained(frame: pd.DataFrame) -> pd.DataFrame:
    """Without the base model, which the first run has."""
    return frame[frame["method"] != BASE]


def _joined(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Frames below each other, text columns kept as categories."""
    filled = [frame for frame in frames if len(frame)]
    if len(filled) < 2:
        return (filled or frames)[0]
    joined = pd.concat(filled, ignore_index=True)
    for name in filled[0].select_dtypes("category"):
        joined[name] = pd.Series(union_categoricals([frame[name] for frame in filled]))
    return joined
