"""What others compute from: curves and prompts as CSV, the answer as JSON, and the script that repeats a run."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from analysis.answer import answer
from analysis.convergence import convergence
from analysis.costs import cumulative_costs
from analysis.curves import seed_means
from analysis.export import repeat_script, write_exports
from analysis.records import Records, load_run
from analysis.schema import UNITS
from tests.analysis.synthetic import Plan, write_run

FEW = ("accuracy", "caption_match")
BROKEN = Plan(failed={("dance_grpo", 2): 12}, rewards=FEW, with_samples=False)


def export(run: Records, output: Path) -> dict[str, Any]:
    """Writes all of it and returns the answer, read as strict JSON."""
    course = convergence(run)
    write_exports(run, course, answer(run, course), output)

    def refuse(constant: str) -> float:
        raise AssertionError(f"{constant} is no JSON")

    content = (output / "answer.json").read_text(encoding="utf-8")
    return dict(json.loads(content, parse_constant=refuse))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Records:
    return load_run(write_run(tmp_path_factory.mktemp("exported"), BROKEN))


@pytest.fixture(scope="module")
def exported(run: Records) -> dict[str, Any]:
    return export(run, run.path)


@pytest.mark.usefixtures("exported")
def test_curves_hold_costs_and_rewards_of_every_evaluation(run: Records) -> None:
    frame = pd.read_csv(run.path / "tables" / "curves.csv")
    names = ["method", "seed", "finished", "evaluation", *UNITS]
    assert frame.columns.tolist() == [*names, *FEW, *(f"train/{name}" for name in FEW)]
    assert len(frame) == 8 * 7 + 3
    assert set(frame["method"]) == set(run.methods)
    unfinished = frame[~frame["finished"]]
    assert set(zip(unfinished["method"], unfinished["seed"], strict=True)) == {("dance_grpo", 2)}
    assert unfinished["evaluation"].tolist() == [0, 1, 2]
    keys = ["method", "seed", "iteration"]
    wide = frame.rename(columns={"iterations": "iteration"}).set_index(keys)
    means = seed_means(run)
    means = means[means["method"] != "base"].set_index(["split", "reward", *keys])["value"].sort_index()
    for split, prefix in (("held_out", ""), ("train", "train/")):
        for reward in FEW:
            own = means[split, reward]
            np.testing.assert_allclose(wide[prefix + reward].reindex(own.index), own, rtol=1e-7)
    costs = cumulative_costs(run).set_index(keys)
    for unit in ("videos", "nfe", "tflops", "seconds"):
        np.testing.assert_allclose(wide[unit], costs[unit].reindex(wide.index), rtol=1e-7)


@pytest.mark.usefixtures("exported")
def test_prompts_hold_the_end_of_every_finished_seed(run: Records) -> None:
    frame = pd.read_csv(run.path / "tables" / "prompts.csv")
    assert set(frame) == {"method", "seed", "split", "reward", "prompt", "value", "base"}
    assert len(frame) == 8 * 2 * 2 * 4
    row = frame[
        (frame["method"] == "flow_grpo") & (frame["seed"] == 1) & (frame["reward"] == "accuracy")
    ].iloc[0]
    records = run.evaluations.astype({"prompt": str})
    own = records[
        (records["prompt"] == row["prompt"])
        & (records["split"] == row["split"])
        & (records["reward"] == "accuracy")
    ]
    base = own[own["method"] == "base"]["value"].mean()
    value = own[(own["method"] == "flow_grpo") & (own["seed"] == 1) & (own["iteration"] == 30)][
        "value"
    ].mean()
    assert (row["value"], row["base"]) == pytest.approx((value, base))


def test_the_primary_question_comes_first(run: Records, exported: dict[str, Any]) -> None:
    names = list(exported)
    assert names[:2] == ["question", "answer"]
    assert names.index("primary") < names.index("secondary")
    assert exported["primary"]["asks"] == "speed"
    assert (exported["baseline"], exported["reward"], exported["split"]) == (
        "flow_grpo",
        "accuracy",
        "held_out",
    )
    assert [entry["method"] for entry in exported["primary"]["estimates"]] == ["euphonium", "dance_grpo"]
    entry = exported["primary"]["estimates"][0]
    known = convergence(run).speed("euphonium", "iterations")
    assert known is not None
    assert (entry["estimate"], entry["low"]) == pytest.approx((known.ratio.value, known.ratio.low))
    assert (entry["n"], entry["unit"], entry["decision"]) == (3, "iterations", known.verdict)
    assert entry["target"]["shares"] == [0.25, 0.85]
    assert len(exported["secondary"]["estimates"]) == 3
    assert exported["secondary"]["estimates"][0]["quantity"] == "difference of final rewards"
    assert len(exported["methods"]) == 3
    assert any("1 of 9 seeds did not finish" in limit for limit in exported["limits"])


def test_a_question_about_the_end_turns_both_around(tmp_path: Path) -> None:
    folder = write_run(tmp_path, replace(BROKEN, settings={"question": {"asks": "final"}}))
    found = export(load_run(folder), folder)
    assert found["primary"]["asks"] == "final"
    assert len(found["primary"]["estimates"]) == 3
    assert {entry["quantity"] for entry in found["secondary"]["estimates"]} == {"speed-up"}


def test_what_is_unknown_is_null(tmp_path: Path) -> None:
    folder = write_run(tmp_path, Plan(seeds=1, rewards=FEW, with_samples=False, ledger=False))
    found = export(load_run(folder), folder)
    assert found["primary"]["estimates"] == []
    assert "one finished seed" in found["primary"]["why_not"]
    assert not found["primary"]["decided"]
    assert {entry["low"] for entry in found["methods"]} == {None}
    assert {entry["p"] for entry in found["secondary"]["estimates"]} == {None}
    curves = pd.read_csv(folder / "tables" / "curves.csv")
    assert curves["tflops"].isna().all()
    assert curves["seconds"].notna().all()


@pytest.mark.usefixtures("exported")
def test_the_script_repeats_the_run(run: Records, tmp_path: Path) -> None:
    script = run.path / "repeat.sh"
    assert script.stat().st_mode & stat.S_IXUSR
    text = script.read_text()
    assert text.startswith(
        "#!/usr/bin/env bash\n# First made by: python -m benchmarks.run --methods euphonium"
    )
    assert 'python -m benchmarks.run --config "$(dirname "$0")/settings.yaml"' in text
    assert 'python -m analysis.report "$1/1"' in text
    # Run it with a python that says what it was asked for.
    told = tmp_path / "python"
    told.write_text('#!/bin/sh\necho "$@"\n')
    told.chmod(0o755)
    path = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run([script, tmp_path / "new"], capture_output=True, text=True, check=True, env=path)
    made, reported = done.stdout.splitlines()
    assert (
        made == f"-m benchmarks.run --config {run.path / 'settings.yaml'} --output {tmp_path / 'new' / '1'}"
    )
    assert reported == f"-m analysis.report {tmp_path / 'new' / '1'}"
    none = subprocess.run([script], capture_output=True, text=True, check=False, env=path)
    assert none.returncode != 0
    assert "give a folder for the new run" in none.stderr


def test_a_command_of_several_lines_stays_a_comment(run: Records) -> None:
    settings = {**run.settings, "command": "python -m a\nrm -r b"}
    lines = repeat_script(replace(run, settings=yaml.safe_load(yaml.safe_dump(settings)))).splitlines()
    assert lines[1:3] == ["# First made by: python -m a", "# First made by: rm -r b"]
