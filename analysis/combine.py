"""Several runs as one: refused, with the difference named, unless they can be compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePath
from textwrap import shorten
from typing import Any

import pandas as pd

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

_VIDEO = {"split": "str", "prompt": "str", "sample": "int64", "reward": "str"}
"""Columns that name a reward of an evaluated video."""


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
        notes += [f"{other.path}: {note}" for note in (*other.notes, *_same_base(first, other))]
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
        evaluations=_joined([run.evaluations for run in runs]),
        iterations=_joined([run.iterations for run in runs]),
        runs=_joined([run.runs for run in runs]),
        ledger=_joined([run.ledger for run in runs]),
        asked={name: tuple(sorted({s for run in runs for s in run.asked.get(name, ())})) for name in methods},
        notes=tuple(notes),
    )


def _same_settings(first: Records, other: Records) -> None:
    """Compare what both record, and the suite whole: an older run that lacks a setting is not refused for it."""
    ours, theirs = _comparable(first.settings), _comparable(other.settings)
    table = differing({"first": ours, "other": theirs})
    told = [(name in ours and name in theirs) or name.startswith("suite.") for name in table.index]
    if any(told):
        raise RecordError(
            f"{first.path} and {other.path} cannot be compared: {_said(table[told])}. Report them one by one"
        )


def _comparable(settings: Mapping[str, Any]) -> dict[str, Any]:
    flat = {"evaluation.final_samples_per_prompt": None, **flatten({"charge_prm": False, **settings})}
    bound = {name: value for name, value in flat.items() if not {*name.split(".")} & FREE}
    places = {name: "/".join(PurePath(str(bound[name])).parts[-2:]) for name in PATHS if bound.get(name)}
    return bound | places


def _said(table: pd.DataFrame) -> str:
    """The first fields in which two settings differ, with both values."""
    lines = [
        f"{name} is {shorten(str(ours), 60, placeholder='...')} and {shorten(str(theirs), 60, placeholder='...')}"
        for name, ours, theirs in table.itertuples(name=None)
    ]
    return "; ".join(lines[:NAMED]) + (f"; and {len(lines) - NAMED} more" if len(lines) > NAMED else "")


def _methods_once(runs: Sequence[Records]) -> None:
    given: dict[str, tuple[Records, Mapping[str, Any]]] = {}
    for run in runs:
        for name, entry in (run.settings.get("method_settings") or {}).items():
            before, kept = given.setdefault(str(name), (run, entry))
            table = differing({"first": kept, "other": entry})
            if len(table):
                raise RecordError(
                    f"{name} is not the same method in {before.path} and {run.path}: {_said(table)}. "
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


def _same_base(first: Records, other: Records) -> list[str]:
    """Sentences on the base model's evaluations; RecordError where they are not those of one model."""
    ours, theirs = (
        run.evaluations.loc[run.evaluations["method"] == BASE, [*_VIDEO, "value"]].astype(_VIDEO)
        for run in (first, other)
    )
    if not (len(ours) and len(theirs)):
        return []
    pairs = ours.merge(theirs, on=list(_VIDEO), suffixes=("", "_other"))
    spread = ours.groupby("reward")["value"].std(ddof=0)
    apart = (pairs["value"] - pairs["value_other"]).abs().groupby(pairs["reward"]).mean()
    off = (apart / spread.reindex(apart.index).clip(lower=1e-12)).fillna(0.0)
    if not len(off) or off.max() > BASE_TOLERANCE:
        where = f"on {text.reward_name(str(off.idxmax()))}" if len(off) else "and share no video"
        raise RecordError(
            f"the base model is not the same in {first.path} and {other.path}: their evaluations differ {where}, "
            "though the settings name one model; report them one by one"
        )
    slightly = (
        "its evaluation of the base model differs slightly from the first run's, as it does between machines; gains "
        "are over the first's"
    )
    return [slightly] if apart.max() > 0 else []


def _joined(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Frames below each other, text columns kept as categories and the base model's rows those of the first."""
    later = [frame[frame["method"] != BASE] for frame in frames[1:]]
    filled = [frame for frame in (frames[0], *later) if len(frame)] or [frames[0]]
    joined = pd.concat(filled, ignore_index=True)
    return joined.astype(dict.fromkeys(filled[0].select_dtypes("category"), "category"))
