"""Sweeps on the tiny world: every trial counted once, the best one chosen, bad ones ended early, nothing lost."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
import pytest
import torch
import yaml
from mlflow import MlflowClient
from torch import Tensor

from analysis.curves import final_values
from analysis.records import load_run
from benchmarks import sweep
from benchmarks.records import read_rows
from benchmarks.resolve import read_config, resolve
from benchmarks.sweeping import plan
from benchmarks.sweeping.trial import read_sheets
from benchmarks.task import Training
from benchmarks.testbed.scenes import prompt_split
from benchmarks.tracking import EXPERIMENT
from methods.method import flatten
from tests.benchmarks.harness import NoTracker, Result, _plain, interrupt, replace_reward
from tests.benchmarks.saved_views import runs_of, saved_views
from tests.world import world_flags


class Swept:
    """Runs the sweep's command line on the tiny world, in this process."""

    def __init__(self, world: Path, folder: Path) -> None:
        self.world, self.folder = world, folder

    def config(self, **changes: Any) -> Path:
        train, held_out = prompt_split()
        values = {
            **world_flags(self.world),
            "method_settings": {"all": {"group_size": 2, "sampler.num_steps": 4}},
            "prompts": {"train": train[:9], "held_out": held_out[:2]},
            **changes,
        }
        del values["seeds"]  # a sweep has its own
        path = self.folder / "tiny.yaml"
        path.write_text(yaml.safe_dump(_plain(values)))
        return path

    def __call__(
        self,
        *arguments: object,
        output: str = "out",
        storage: str | None = None,
        workers: int = 1,
        **changes: Any,
    ) -> Result:
        folder = self.folder / output
        where = [
            "--storage",
            storage or f"sqlite:///{self.folder}/{output}.db",
            "--study",
            "s",
            "--output",
            folder,
        ]
        given = ["--config", self.config(**changes), "--workers", workers, *where, *arguments]
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            try:
                code = sweep.main(list(map(str, given)))
            except SystemExit as exit_:
                code = int(exit_.code or 0)
        return Result(code, out.getvalue(), err.getvalue(), folder)


def trials(result: Result) -> pd.DataFrame:
    return pd.read_csv(result.folder / "trials.csv", keep_default_na=False, na_values={"reward": ""})


@pytest.fixture
def swept(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Swept]:
    """Without MLflow and figures."""
    monkeypatch.setattr("benchmarks.sweeping.tracking.SweepTracker", NoTracker)
    monkeypatch.setattr("benchmarks.sweeping.plots.write_figures", lambda *_: [])
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    place = tmp_path / "place"
    place.mkdir()
    monkeypatch.chdir(place)
    yield Swept(world, tmp_path)
    assert not list(place.iterdir()), "left in the working folder"


class Scripted:
    """An accuracy that is what the script says for the n-th trial, whatever the videos."""

    def __init__(self, value: float) -> None:
        self.value = value

    def __call__(self, videos: Tensor, prompts: Sequence[str]) -> Tensor:
        return torch.full((len(videos),), self.value)


def script(monkeypatch: pytest.MonkeyPatch, values: Sequence[float]) -> None:
    """The headline reward of the trials, in their order; of the base model it is the first one's.

    A sweep loads the suite once to check that it can, and once for each trial.
    """
    left = iter([0.0, *values])
    replace_reward(monkeypatch, "accuracy", lambda _: Scripted(next(left)))


ONE = ("--methods", "dance_grpo", "--params", "noise,learning_rate")


def test_a_whole_sweep(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two methods, with figures and MLflow: what lies where, and that the best trial is what the runner will run."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    values = [0.5, 0.4, 0.625, 0.3, 0.45, 0.875, 0.75, 0.7]
    script(monkeypatch, values)
    swept = Swept(world, tmp_path)
    given = ("--methods", "euphonium,dance_grpo", "--params", "target,noise", "--trials", 4)
    result = swept(*given, "--set", "all.objective.clip_range=0.02", budget=2)
    assert result.code == 0, result.err
    table = trials(result)
    assert dict(table.groupby("method")["trial"].count()) == {"euphonium": 4, "dance_grpo": 4}
    assert set(table["state"]) == {"complete"}
    assert set(table["iterations"]) == {2}  # the same budget each
    for place, method in enumerate(("euphonium", "dance_grpo")):  # they take turns
        rewards = table.loc[table["method"] == method, "reward"].astype(float)
        assert rewards.tolist() == pytest.approx(values[place::2])
    best = {str(name): rows.sort_values("reward").iloc[-1] for name, rows in table.groupby("method")}

    # What the runner makes of the tuned settings is the best trial's method; held-out prompts and seeds are its own.
    config = read_config(result.folder / "tuned.yaml")
    again = resolve(config.pop("preset"), config, {}, [], "")
    assert again.methods == ("euphonium", "dance_grpo")
    assert again.budget == 2
    assert again.first_seed == 0
    assert again.prompts.train == tuple(prompt_split()[0][:9])
    for method, row in best.items():
        settings = yaml.safe_load((Path(row["folder"]) / "settings.yaml").read_text())
        tried = settings["method_settings"][method]
        assert again.method_settings[method].model_dump(mode="json") == tried
        assert flatten(again.method_settings[method])["sampler.noise.level"] == float(row["noise"])
        if method == "euphonium":
            assert flatten(again.method_settings[method])["distillation.strength"] == float(row["target"])
        assert again.method_settings[method].objective.clip_range == 0.02
        assert not set(again.prompts.held_out) & set(
            settings["prompts"]["train"] + settings["prompts"]["held_out"]
        )
    header = (result.folder / "tuned.yaml").read_text().split("preset:")[0]
    for part in (
        "sweep 's'",
        "training seed 100",
        "trained on 6",
        "judged on 3",
        "2 iterations",
    ):
        assert part in header.replace("\n# ", " ")

    _check_records(result, table)
    _check_figures(result)
    _check_tracking(result, table)


def _check_records(result: Result, table: pd.DataFrame) -> None:
    """A trial's folder is an ordinary run: analysis reads it, and finds the reward that the sweep went by."""
    for _, row in table.iterrows():
        run = load_run(row["folder"])
        finals = final_values(run)
        mine = finals[(finals["reward"] == "accuracy") & (finals["split"] == "held_out")]
        assert mine["seed"].tolist() == [100]
        assert mine["final"].iloc[0] == pytest.approx(row["reward"], abs=1e-6)
        ledger = pd.read_parquet(Path(row["folder"]) / "records" / "ledger.parquet")
        charged = ["rollout", "update", "process_reward", "decoder", "outcome_rewards"]
        used = ledger[ledger["component"].isin(charged) & (ledger["quantity"] == "tflops")]["value"].sum()
        assert float(row["tflops"]) == pytest.approx(used)
        assert not list(Path(row["folder"]).glob("runs/*/checkpoint"))
    written = yaml.safe_load((result.folder / "sweep.yaml").read_text())
    assert len(written["prompts"]["judged"]) == 3
    assert written["parameters"]["dance_grpo"] == {"noise": "sampler.noise.level=0.2..1.3"}


def _check_figures(result: Result) -> None:
    names = {path.name for path in (result.folder / "figures").iterdir()}
    assert {
        f"{name}.{kind}" for name in ("history", "slices", "landscape_euphonium") for kind in ("png", "svg")
    } <= names


def _check_tracking(result: Result, table: pd.DataFrame) -> None:
    """A parent and a run for each trial, with its parameters, its metric at each evaluation, and its state."""
    client = MlflowClient(tracking_uri=f"sqlite:///{result.folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    runs = list(client.search_runs([experiment.experiment_id]))
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert parent.data.tags["phase"] == "sweep"
    assert parent.data.params["budget"] == "2 iterations"
    children = {
        (run.data.tags["method"], int(run.data.tags["trial"])): run for run in runs if run is not parent
    }
    assert len(children) == len(runs) - 1 == len(table)
    assert {run.info.status for run in runs} == {"FINISHED"}
    for _, row in table.iterrows():
        child = children[row["method"], row["trial"]]
        assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert (child.data.tags["state"], child.data.tags["phase"]) == ("complete", "sweep")
        assert float(child.data.params["noise"]) == float(row["noise"])
        assert child.data.metrics["objective/reward"] == pytest.approx(row["reward"])
        history = client.get_metric_history(child.info.run_id, "eval/held_out/accuracy")
        assert sorted((entry.step, round(entry.value, 5)) for entry in history) == [
            (1, round(row["reward"], 5)),
            (2, round(row["reward"], 5)),
        ]
        assert "train/loss" in child.data.metrics
    ((key, view),) = saved_views(experiment).items()
    assert key == f"{parent.data.tags['study']}-trials"
    assert {run.info.run_id for run in runs_of(client, experiment, view)} == {
        child.info.run_id for child in children.values()
    }
    assert {"tuned.yaml", "trials.csv", "figures"} <= {
        entry.path for entry in client.list_artifacts(parent.info.run_id)
    }


def test_bad_trials_are_pruned_at_equal_shares_of_the_budget(
    swept: Swept, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The median of the finished trials is 0.5: worse ones end at the first evaluation after 30 % of the budget."""
    monkeypatch.setattr(plan, "STARTUP_TRIALS", 2)
    script(monkeypatch, [0.5, 0.5, 0.1, 0.8, 0.45])
    result = swept(*ONE, "--trials", 5, budget=4)
    assert result.code == 0, result.err
    table = trials(result)
    assert table["state"].tolist() == ["complete", "complete", "pruned", "complete", "pruned"]
    assert table["iterations"].tolist() == [4, 4, 2, 4, 2]  # one quarter is too early
    study = optuna.load_study(study_name="s/dance_grpo", storage=f"sqlite:///{swept.folder}/out.db")
    third = study.trials[2].intermediate_values
    # Half of the budget is used: five tenths are reported, on the way from the base model's 0.5 to 0.1 in a quarter.
    assert third == pytest.approx({1: 0.34, 2: 0.18, 3: 0.1, 4: 0.1, 5: 0.1})
    assert study.trials[3].intermediate_values.keys() == set(range(1, 11))
    status = {sheet.number: sheet.state for _, sheet in read_sheets(result.folder)}
    assert status == {0: "complete", 1: "complete", 2: "pruned", 3: "complete", 4: "pruned"}
    runs = pd.read_csv(result.folder / "trials" / "0002-dance_grpo" / "records" / "runs.csv")
    assert runs["status"].tolist() == ["pruned"]
    assert "trial 3, best of 5 (3 complete, 2 pruned" in result.out


def test_without_pruning_all_trials_use_their_budget(swept: Swept, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "STARTUP_TRIALS", 1)
    script(monkeypatch, [0.5, 0.1, 0.1])
    table = trials(swept(*ONE, "--trials", 3, "--pruner", "none"))
    assert table["state"].tolist() == ["complete"] * 3


def test_several_seeds_are_averaged_and_may_be_pruned_between(
    swept: Swept, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wilcoxon's test compares seed by seed with the best trial: after four worse seeds, p = 1 / 16 < 0.1."""
    script(monkeypatch, [0.5, 0.1])
    result = swept(*ONE, "--trials", 2, "--seeds", 5, "--pruner", "wilcoxon", budget=1)
    assert result.code == 0, result.err
    table = trials(result)
    assert table["state"].tolist() == ["complete", "pruned"]
    assert table["iterations"].tolist() == [5, 4]
    first = Path(table["folder"][0])
    assert {path.name for path in (first / "runs").iterdir()} == {
        "base",
        *(f"dance_grpo-seed{seed}" for seed in range(100, 105)),
    }
    study = optuna.load_study(study_name="s/dance_grpo", storage=f"sqlite:///{swept.folder}/out.db")
    assert study.trials[0].intermediate_values == pytest.approx(dict.fromkeys(range(100, 105), 0.5))


def test_two_objectives(swept: Swept) -> None:
    """The reward, and the KL to the base model that the last evaluation measured."""
    result = swept(*ONE, "--trials", 2, "--objectives", "reward,kl")
    assert result.code == 0, result.err
    for _, row in trials(result).iterrows():
        rows = read_rows(Path(row["folder"]) / "runs" / "dance_grpo-seed100", "iterations")
        kl = rows[rows["metric"] == "diagnostic/kl_to_base"].set_index("iteration")["value"]
        assert kl[0] == 0
        assert float(row["kl"]) == pytest.approx(kl[2])
        assert float(row["kl"]) > 0


def test_a_grid_visits_every_point_once(swept: Swept) -> None:
    result = swept(
        "--methods",
        "euphonium",
        "--params",
        "target=1..4:log:2,noise=0.5..1:2",
        "--sampler",
        "grid",
        budget=1,
    )
    assert result.code == 0, result.err
    table = trials(result)
    assert sorted(zip(table["target"], table["noise"], strict=True)) == [(1, 0.5), (1, 1), (4, 0.5), (4, 1)]


@pytest.mark.parametrize("storage", ["sqlite:///{}/s.db", "{}/s.log"])
def test_the_same_command_goes_on_where_it_was_interrupted(
    swept: Swept, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, storage: str
) -> None:
    """The interrupted trial is begun again from its checkpoint, the others are kept, and all is as if never stopped."""
    given = (*ONE, "--trials", 3)
    changes: dict[str, Any] = {"budget": 3, "checkpoint_every": 1}
    with monkeypatch.context() as patch:
        interrupt(patch, Training, "_iterate", 6)  # the second trial's third iteration
        first = swept(*given, storage=storage.format(tmp_path), **changes)
    assert first.code == 130
    kept = {path.name: path.stat().st_mtime_ns for path in first.folder.glob("trials/0000*/records/*")}
    result = swept(*given, storage=storage.format(tmp_path), **changes)
    assert result.code == 0, result.err
    assert {
        path.name: path.stat().st_mtime_ns for path in first.folder.glob("trials/0000*/records/*")
    } == kept
    table = trials(result)
    assert table["state"].tolist() == ["complete", "lost", "complete", "complete"]
    assert table["repeats"].tolist() == ["", "", "1", ""]
    assert {Path(folder).name for folder in table["folder"]} == {f"000{k}-dance_grpo" for k in (0, 1, 3)}

    if "sqlite" not in storage:
        return
    whole = swept(*given, output="whole", storage=f"sqlite:///{tmp_path}/whole.db", **changes)
    one, other = table[table["state"] == "complete"], trials(whole)
    for name in ("reward", "noise", "learning_rate", "iterations", "tflops"):
        np.testing.assert_array_equal(one[name].to_numpy(), other[name].to_numpy())
    for mine, theirs in zip(one["folder"], other["folder"], strict=True):
        folders = [Path(folder) / "runs" / "dance_grpo-seed100" for folder in (mine, theirs)]
        here, there = (read_rows(folder, "evaluations") for folder in folders)
        pd.testing.assert_frame_equal(here, there)
        rows = (read_rows(folder, "iterations") for folder in folders)
        here, there = (part[part["metric"] != "seconds"].reset_index(drop=True) for part in rows)
        pd.testing.assert_frame_equal(here, there)


def test_more_trials_are_added_and_none_beyond(swept: Swept) -> None:
    """--trials is how many there are in all."""
    for wanted in (1, 3, 3):
        result = swept(*ONE, "--trials", wanted, budget=1)
        assert result.code == 0, result.err
        assert len(trials(result)) == wanted


def test_a_study_of_other_settings_is_not_gone_on_with(swept: Swept, tmp_path: Path) -> None:
    assert swept(*ONE, "--trials", 1, budget=1).code == 0
    before = (tmp_path / "out" / "trials.csv").read_bytes()
    other = swept(*ONE, "--trials", 1, "--first-seed", 7, budget=1)
    assert other.code == 2
    assert "with other settings: run.first_seed; repeat its settings" in other.err
    elsewhere = swept(*ONE, "--trials", 1, storage=f"sqlite:///{tmp_path}/other.db", budget=1)
    assert elsewhere.code == 2
    assert "is not empty and not of study 's' in sqlite:///" in elsewhere.err
    assert (tmp_path / "out" / "trials.csv").read_bytes() == before


def test_a_trial_that_diverges_fails_and_the_others_go_on(
    swept: Swept, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    iterate = Training._iterate

    def diverging(self: Training, iteration: int) -> dict[str, float]:
        calls.append(iteration)
        if len(calls) == 2:
            raise FloatingPointError("the loss is nan")
        return iterate(self, iteration)

    monkeypatch.setattr(Training, "_iterate", diverging)
    result = swept(*ONE, "--trials", 3, budget=1)
    assert result.code == 0, result.err
    table = trials(result)
    assert table["state"].tolist() == ["complete", "failed", "complete"]
    assert "the loss is nan" in table["error"][1]
    assert "trial 1: failed (the loss is nan)" in result.out
    again = swept(*ONE, "--trials", 3, budget=1)  # it would diverge again: it has had its place
    assert trials(again)["state"].tolist() == table["state"].tolist()


def test_an_error_that_no_trial_would_escape_ends_the_sweep(
    swept: Swept, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told in a line, and the trial is begun again when its cause is mended."""
    with monkeypatch.context() as patch:
        patch.setattr(Training, "_iterate", lambda *_: 1 / 0)
        broken = swept(*ONE, "--trials", 2, budget=1)
    assert broken.code == 1
    assert broken.err.splitlines()[-1] == "error: ZeroDivisionError: division by zero (see error.txt)"
    assert "Traceback" in (broken.folder / "error.txt").read_text()
    mended = swept(*ONE, "--trials", 2, budget=1)
    assert mended.code == 0, mended.err
    assert trials(mended)["state"].tolist() == ["lost", "complete", "complete"]


def test_a_combination_that_does_not_fit_is_an_error_of_its_trial(swept: Swept) -> None:
    """Ends of ranges are tried before; what only two values together break is told when it comes."""
    given = ("--params", "sampler.guidance.start=0..3,sampler.guidance.stop=1..4", "--trials", 30)
    guided = ("--methods", "euphonium_published", "--set", "all.sampler.guidance.start=0")
    result = swept(*guided, *given, budget=1)
    assert result.code == 2
    assert "guidance.stop = " in result.err
    assert "give one above start" in result.err


def test_messages_name_the_remedy(swept: Swept, tmp_path: Path) -> None:
    (tmp_path / "no.db").write_text("this is no database, and longer than the header of one would be" * 20)
    # Without its driver, which is an extra, PostgreSQL cannot even be asked.
    driver = importlib.util.find_spec("psycopg") or importlib.util.find_spec("psycopg2")
    refused = "cannot be opened: OperationalError" if driver else "pip install '.[postgres]'"
    for storage, message in (
        (f"sqlite:///{tmp_path}/no.db", "cannot be opened: DatabaseError"),
        ("postgresql://me:secret@127.0.0.1:9/x", refused),
        ("sweep.txt", "give sqlite:///FILE.db, FILE.log for a journal, or a server's URL"),
        ("oracle12://x/y", "cannot be opened"),
    ):
        result = swept(*ONE, storage=storage, output="fresh")
        assert result.code == 2, (storage, result.err)
        assert message in result.err
        assert "secret" not in result.err + result.out
        for path in (tmp_path / "fresh").rglob("*.yaml"):
            assert "secret" not in path.read_text()
            path.unlink()


def test_a_store_out_of_reach_harms_no_trial_and_gets_all_when_it_is_back(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.sweeping.plots.write_figures", lambda *_: [])
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense://store")
    swept = Swept(world, tmp_path)
    result = swept(*ONE, "--trials", 1, budget=1)
    assert result.code == 0
    assert result.err.startswith("warning: MLflow: ")
    assert result.err.rstrip().endswith("are complete, and the same command sends the rest")
    assert trials(result)["state"].tolist() == ["complete"]
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    again = swept(*ONE, "--trials", 1, budget=1)
    assert (again.code, again.err) == (0, "")
    client = MlflowClient(tracking_uri=f"sqlite:///{result.folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    names = {run.info.run_name for run in client.search_runs([experiment.experiment_id])}
    assert names == {"out", "dance_grpo trial 0"}
