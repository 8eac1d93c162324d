"""A whole benchmark on the tiny world: what it leaves behind, and that its settings reproduce it."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from accelerate.state import AcceleratorState
from PIL import Image

from analysis.records import load_run
from analysis.schema import BASE, COLUMNS, SETTINGS_FILE
from benchmarks.session import Session
from benchmarks.task import Training, share_of
from benchmarks.workers import run_all
from methods.catalog import CATALOG
from rewards.suites import suite_named
from tests.benchmarks.harness import Bench, Result, assert_same_records, assert_same_state
from tests.world import HELD_OUT, world_settings

RUNS = [(method, seed) for seed in (0, 1) for method in ("euphonium", "dance_grpo")]


def test_files(whole: Result) -> None:
    present = {str(path.relative_to(whole.folder)) for path in whole.folder.rglob("*") if path.is_file()}
    expected = {"settings.yaml", "report.html", "mlflow.db", "tracking.json", "records/runs.csv"}
    expected |= {f"records/{name}.parquet" for name in ("iterations", "evaluations")}
    expected |= {"tables/final.csv", "tables/final.md", "figures/rewards_held_out.png", "figures/videos.gif"}
    folders = ["base", *(f"{method}-seed{seed}" for method, seed in RUNS)]
    expected |= {f"runs/{name}/{file}" for name in folders for file in ("samples.npz", "samples.gif")}
    assert expected <= present
    assert not [name for name in present if name.endswith((".tmp", "error.txt"))]
    assert whole.err == ""


def test_records_hold_all_methods_and_seeds(whole: Result) -> None:
    iterations, evaluations = whole.rows("iterations"), whole.rows("evaluations")
    assert tuple(iterations.columns) == COLUMNS["iterations"]
    assert tuple(evaluations.columns) == COLUMNS["evaluations"]
    found = iterations.groupby(["method", "seed"])["iteration"].unique()
    assert set(found.index) == set(RUNS)
    assert all(sorted(values) == [0, 1, 2] for values in found)  # 0: diagnostics of the base model
    trained = evaluations[evaluations["method"] != BASE]
    assert set(trained.groupby(["method", "seed"]).groups) == set(RUNS)
    assert set(trained["iteration"]) == {1, 2}
    assert np.isfinite(iterations["value"]).all()
    assert np.isfinite(evaluations["value"]).all()


def test_the_base_model_is_evaluated_once(whole: Result) -> None:
    rows = whole.rows("evaluations")
    rows = rows[rows["method"] == BASE]
    assert set(rows["iteration"]) == {0}
    assert set(rows["seed"]) == {0}
    assert not rows.duplicated(["split", "prompt", "sample", "reward"]).any()
    suite = suite_named("shapes")
    assert set(rows["reward"]) == {*suite.training, *suite.held_out}
    assert set(rows["split"]) == {"held_out", "train"}


def test_every_run_finished_and_took_time(whole: Result) -> None:
    runs = whole.runs()
    assert list(runs[["method", "seed"]].itertuples(index=False, name=None)) == RUNS
    assert set(runs["status"]) == {"finished"}
    assert set(runs["iterations"]) == {2}
    assert (runs["train_seconds"] > 0).all()
    assert (runs["evaluation_seconds"] > 0).all()


def test_tables_and_report_name_every_method_and_reward(whole: Result) -> None:
    table = pd.read_csv(whole.folder / "tables" / "final.csv")
    assert {"euphonium", "dance_grpo"} <= set(table["method"])
    assert set(table.query("method == 'euphonium'")["seeds"]) == {2}
    page = (whole.folder / "report.html").read_text()
    for word in ("euphonium", "dance_grpo", "data:image/webp", "data:image/png", "--methods euphonium"):
        assert word in page


def test_the_console_names_what_was_done(whole: Result) -> None:
    assert "4 runs (euphonium, dance_grpo; 2 seeds), 2 iterations each" in whole.out
    for word in ("base model evaluated", "euphonium seed 1", "accuracy", "report.html", "mlflow ui"):
        assert word in whole.out


def test_sample_videos_share_prompts_and_noise(whole: Result) -> None:
    samples = {entry.method: entry for entry in load_run(whole.folder).samples()}
    assert samples.keys() == {BASE, "euphonium", "dance_grpo"}
    assert len({entry.prompts for entry in samples.values()}) == 1
    assert samples[BASE].videos.shape == (HELD_OUT, 5, 16, 16, 3)
    # Two iterations hardly move the policy: from the same noise it draws nearly the base model's videos.
    difference = samples[BASE].videos.astype(int) - samples["euphonium"].videos
    assert np.abs(difference).max() <= 8
    with Image.open(whole.folder / "runs" / "euphonium-seed1" / "samples.gif") as picture:
        assert getattr(picture, "n_frames", 1) == 5


def test_settings_hold_what_was_set(whole: Result) -> None:
    settings = yaml.safe_load((whole.folder / SETTINGS_FILE).read_text())
    methods = settings["method_settings"]
    assert methods["euphonium"]["objective"]["clip_range"] == 0.002
    assert methods["dance_grpo"]["objective"]["clip_range"] == CATALOG["dance_grpo"].objective.clip_range
    assert (
        methods["euphonium"]["objective"]["train_fraction"]
        == methods["dance_grpo"]["objective"]["train_fraction"]
        == 0.8
    )
    assert "--set euphonium.objective.clip_range=0.002" in settings["command"]
    assert settings["suite"]["training"] == suite_named("shapes").training


def test_settings_reproduce_the_run(bench: Bench, whole: Result) -> None:
    """settings.yaml alone, given as --config, makes the same records and weights, bit for bit."""
    again = bench.plain("--config", whole.folder / SETTINGS_FILE, "--workers", 1)
    assert again.code == 0, again.err
    assert_same_records(again, whole)
    for method, seed in RUNS:
        assert_same_state(again, whole, method, seed)
    first, second = (yaml.safe_load((result.folder / SETTINGS_FILE).read_text()) for result in (whole, again))
    assert {**second, "command": first["command"]} == first


def test_a_run_does_not_depend_on_the_others(bench: Bench, whole: Result) -> None:
    """Some of the methods, in another order, with fewer seeds."""
    config = whole.folder / SETTINGS_FILE
    alone = bench.plain("--config", config, "--workers", 1, "--methods", "dance_grpo", "--seeds", 1)
    assert alone.code == 0, alone.err
    for name in ("iterations", "evaluations"):
        rows = whole.rows(name).query("(method == 'dance_grpo' or method == 'base') and seed == 0")
        one, two = (table.reset_index(drop=True) for table in (rows, alone.rows(name)))
        pd.testing.assert_frame_equal(one, two, check_exact=True)
    assert_same_state(alone, whole, "dance_grpo")


def test_seeds_differ(whole: Result) -> None:
    rows = whole.rows("iterations").query("metric == 'gradient_norm'")
    assert rows["value"].nunique() == len(rows)


@pytest.fixture
def fresh_accelerate() -> Iterator[None]:
    """accelerate fixes a process's precision at its first use."""
    AcceleratorState._reset_state()
    yield
    AcceleratorState._reset_state()


@pytest.mark.usefixtures("fresh_accelerate")
@pytest.mark.parametrize("given", [("--weights", "full"), ("--precision", "bf16")], ids=" ".join)
def test_all_weights_and_mixed_precision(bench: Bench, given: tuple[str, str]) -> None:
    result = bench("--methods", "flow_grpo,euphonium", *given, budget=1)
    assert result.code == 0, result.err
    rows = result.rows("iterations")
    assert np.isfinite(rows["value"]).all()
    assert (rows.query("metric == 'gradient_norm'")["value"] > 0).all()
    lora = any("lora" in name for name in result.weights("euphonium"))
    assert lora == (given[0] != "--weights")


def test_a_finished_run_lets_its_model_go(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nine runs in one process must not hold nine models."""
    models: list[weakref.ref[torch.nn.Module]] = []
    make = Session.policy

    def policy(self: Session) -> object:
        made = make(self)
        models.append(weakref.ref(made.transformer))
        return made

    monkeypatch.setattr(Session, "policy", policy)
    settings = world_settings(world, ["euphonium"], budget=1, seeds=2)
    assert not run_all(settings, tmp_path, settings.runs(), 1, lambda _: None)
    gc.collect()
    assert len(models) == 3
    assert [model() for model in models] == [None] * 3


def test_prompts_are_shared_out_evenly() -> None:
    assert share_of(8, 2) == 4
    with pytest.raises(ValueError, match="prompts_per_iteration is 8; give a multiple of the 3 processes"):
        share_of(8, 3)


def test_progress_is_reported(world: Path, tmp_path: Path) -> None:
    settings = world_settings(world, ["dance_grpo"], budget=3)
    said = []
    Training(Session.open(settings), tmp_path, "dance_grpo", 0).run(said.append)
    assert [(entry.iteration, entry.status) for entry in said] == [
        (1, "running"),
        (2, "running"),
        (3, "running"),
        (3, "finished"),
    ]
    assert all(entry.total == 3 for entry in said)
    assert all(entry.reward is not None for entry in said[:3])
