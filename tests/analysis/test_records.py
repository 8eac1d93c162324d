from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from analysis.curves import bands, counted_curves, final_values, run_status, seed_means
from analysis.records import RecordedQuestion, RecordError, load_run
from analysis.schema import LOOKS_FILE
from tests.analysis.synthetic import Plan, write_run


@pytest.fixture
def run_copy(whole_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole_run, tmp_path / "run"))


def test_a_run_knows_its_methods_rewards_and_budget(whole_run: Path) -> None:
    run = load_run(whole_run)
    assert run.methods == ("euphonium", "flow_grpo", "dance_grpo")
    assert run.rewards[0] == "accuracy"
    assert run.rewards[-2:] == ("caption_match", "motion_quality")
    assert run.splits == ("held_out", "train")
    assert run.budget == "30 iterations"
    assert run.seeds("euphonium") == (0, 1, 2)
    assert run.notes == ()
    assert [sample.method for sample in run.samples()] == ["base", *run.methods]


def test_missing_settings_name_file_and_remedy(run_copy: Path) -> None:
    (run_copy / "settings.yaml").unlink()
    with pytest.raises(RecordError, match=r"settings\.yaml: not there; give the --output folder"):
        load_run(run_copy)


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="no such folder"):
        load_run(tmp_path / "nowhere")


def test_missing_setting_is_named(run_copy: Path) -> None:
    file = run_copy / "settings.yaml"
    settings = yaml.safe_load(file.read_text())
    del settings["suite"]["headline"]
    file.write_text(yaml.safe_dump(settings))
    with pytest.raises(RecordError, match=r"settings\.yaml: suite\.headline is .* Field required"):
        load_run(run_copy)


def test_unreadable_settings(run_copy: Path) -> None:
    (run_copy / "settings.yaml").write_text("methods: [a")
    with pytest.raises(RecordError, match="not valid YAML"):
        load_run(run_copy)


def test_missing_evaluations_say_that_nothing_was_evaluated(run_copy: Path) -> None:
    (run_copy / "records" / "evaluations.parquet").unlink()
    with pytest.raises(RecordError, match=r"evaluations\.parquet: not there, so nothing was evaluated"):
        load_run(run_copy)


@pytest.mark.parametrize(
    ("name", "column"),
    [("evaluations.parquet", "value"), ("iterations.parquet", "metric"), ("runs.csv", "status")],
)
def test_missing_column_is_named(run_copy: Path, name: str, column: str) -> None:
    file = run_copy / "records" / name
    if file.suffix == ".csv":
        pd.read_csv(file).drop(columns=column).to_csv(file, index=False)
    else:
        pd.read_parquet(file).drop(columns=column).to_parquet(file, index=False)
    with pytest.raises(RecordError, match=rf"{name}: no column {column} "):
        load_run(run_copy)


def test_truncated_parquet(run_copy: Path) -> None:
    file = run_copy / "records" / "evaluations.parquet"
    file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(RecordError, match=r"evaluations\.parquet: not a readable parquet file"):
        load_run(run_copy)


def test_broken_samples_are_named(run_copy: Path) -> None:
    file = run_copy / "runs" / "base" / "samples.npz"
    file.write_bytes(file.read_bytes()[:300])
    with pytest.raises(RecordError, match=r"samples\.npz: not a readable"):
        load_run(run_copy).samples()
    np.savez(file, videos=np.zeros((2, 5, 8, 8)))
    with pytest.raises(RecordError, match="prompts is not a file in the archive"):
        load_run(run_copy).samples()
    np.savez(file, videos=np.zeros((2, 5, 8, 8)), prompts=np.array(["a", "b"]))
    with pytest.raises(RecordError, match="videos must be uint8"):
        load_run(run_copy).samples()


def test_without_training_metrics_or_run_list_it_still_loads(run_copy: Path) -> None:
    (run_copy / "records" / "iterations.parquet").unlink()
    (run_copy / "records" / "runs.csv").unlink()
    run = load_run(run_copy)
    assert len(run.notes) == 2
    assert run_status(run)["counted"].all()
    assert final_values(run)["gain"].notna().all()


def test_base_is_iteration_zero_of_every_curve(whole_run: Path) -> None:
    curves = seed_means(load_run(whole_run))
    starts = curves[curves["iteration"] == 0].groupby(["split", "reward"])["value"].agg(["nunique", "size"])
    assert (starts["nunique"] == 1).all()
    assert (starts["size"] == 1 + 3 * 3).all()


def test_means_are_over_videos(whole_run: Path) -> None:
    run = load_run(whole_run)
    records = run.evaluations
    chosen = (
        (records["method"] == "flow_grpo")
        & (records["seed"] == 1)
        & (records["iteration"] == 20)
        & (records["split"] == "train")
        & (records["reward"] == "accuracy")
    )
    curves = seed_means(run).set_index(["method", "seed", "iteration", "split", "reward"])["value"]
    expected = records.loc[chosen, "value"].mean()
    assert curves["flow_grpo", 1, 20, "train", "accuracy"] == pytest.approx(expected)


def test_nan_value_makes_its_mean_nan(run_copy: Path) -> None:
    file = run_copy / "records" / "evaluations.parquet"
    frame = pd.read_parquet(file)
    frame.loc[(frame["method"] == "flow_grpo").idxmax(), "value"] = np.nan
    frame.to_parquet(file, index=False)
    assert seed_means(load_run(run_copy))["value"].isna().sum() == 1


def test_seeds_that_failed_are_left_out_of_means(broken_run: Path) -> None:
    run = load_run(broken_run)
    status = run_status(run).set_index(["method", "seed"])
    assert not status.loc[("flow_grpo", 1), "counted"]
    assert status.loc[("flow_grpo", 1), "evaluated"] == 10
    assert not status.loc[("dance_grpo", 2), "counted"]
    assert int(status["counted"].sum()) == 7
    finals = final_values(run)
    assert set(finals.loc[finals["method"] == "flow_grpo", "seed"]) == {0, 2}
    assert (finals["iteration"] == 30).all()


def test_bands_are_over_the_same_seeds_at_every_iteration(broken_run: Path) -> None:
    run = load_run(broken_run)
    average = bands(counted_curves(run), ["method", "split", "reward", "iteration"])
    counts = average.groupby("method")["n"].unique()
    assert {method: list(n) for method, n in counts.items()} == {
        "euphonium": [3],
        "flow_grpo": [2],
        "dance_grpo": [2],
    }
    later = average[average["iteration"] > 0]
    assert (later["low"] < later["mean"]).all()
    assert (later["mean"] < later["high"]).all()


def test_methods_beyond_the_settings_are_kept(tmp_path: Path) -> None:
    folder = write_run(tmp_path, Plan(with_samples=False))
    file = folder / "settings.yaml"
    settings = yaml.safe_load(file.read_text())
    settings["methods"] = ["flow_grpo"]
    file.write_text(yaml.safe_dump(settings))
    assert load_run(folder).methods == ("flow_grpo", "dance_grpo", "euphonium")


def test_planned_looks_say_how_many_seeds_were_asked_for(run_copy: Path) -> None:
    assert (load_run(run_copy).looks, load_run(run_copy).confidence) == (1, 0.95)
    (run_copy / LOOKS_FILE).write_text("seeds,confidence\n3,0.994\n5,0.975\n")
    run = load_run(run_copy)
    assert (run.looks, run.confidence) == (2, 0.975)
    assert run.asked["euphonium"] == (0, 1, 2, 3, 4)
    assert len(run_status(run)) == 15


def test_older_records_ask_about_speed(run_copy: Path) -> None:
    assert load_run(run_copy).question == RecordedQuestion(asks="speed")
    file = run_copy / "settings.yaml"
    asked = {"question": {"asks": "final", "baseline": "dance_grpo"}}
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | asked))
    assert load_run(run_copy).question == RecordedQuestion(asks="final", baseline="dance_grpo")


def test_a_unit_that_nothing_is_counted_in_is_refused(run_copy: Path) -> None:
    file = run_copy / "settings.yaml"
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | {"budget_unit": "parsecs"}))
    with pytest.raises(RecordError, match="budget_unit is 'parsecs': Input should be 'iterations', 'videos'"):
        load_run(run_copy)
