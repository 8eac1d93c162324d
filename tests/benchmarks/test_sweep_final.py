"""The final of a sweep on the tiny world: who comes in, who wins, on which seeds, and that nothing is done twice."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import pytest
import yaml
from mlflow import MlflowClient
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.trial import TrialState, create_trial

from analysis.records import load_run
from benchmarks.evaluation import Evaluated
from benchmarks.records import read_rows
from benchmarks.resolve import read_config, resolve
from benchmarks.sweeping.choosing import finalists_of
from benchmarks.sweeping.options import arguments as options
from benchmarks.sweeping.options import make_plan
from benchmarks.sweeping.plan import Plan, differing_settings
from benchmarks.task import Training
from benchmarks.testbed.scenes import prompt_split
from benchmarks.tracking import EXPERIMENT
from methods.method import flatten
from tests.benchmarks.harness import NoTracker, Result, interrupt
from tests.benchmarks.test_sweep import ONE, Swept, trials


@pytest.fixture
def swept(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Swept:
    """Without MLflow and figures."""
    monkeypatch.setattr("benchmarks.sweeping.tracking.SweepTracker", NoTracker)
    monkeypatch.setattr("benchmarks.sweeping.plots.write_figures", lambda *_: [])
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return Swept(world, tmp_path)


#: Reward of each trial in the search.
SEARCH = (0.5, 0.9, 0.7, 0.6)
#: (trial, seed) -> reward in the final: the search's best trial loses, though not if its own score were counted.
FINAL = {
    **{(1, 101): 0.5, (1, 102): 0.6, (1, 103): 0.7},
    **{(2, 101): 0.8, (2, 102): 0.4, (2, 103): 0.75},
    **{(3, 101): 0.1, (3, 102): 0.2, (3, 103): 0.3},
}


def judge(
    monkeypatch: pytest.MonkeyPatch,
    final: Mapping[tuple[int, int], float] = FINAL,
    search: Callable[[int], float] = SEARCH.__getitem__,
) -> None:
    """Makes trials and finals score what the script says, whatever they learn."""
    record = Training._record

    def scripted(self: Training, result: Evaluated, iteration: int, last: bool) -> None:
        name, _, number = self.method.name.partition(".trial-")
        if number:
            value = final[int(number), self.seed]
        else:
            value = search(int(self.recorder.folder.parts[-3].removesuffix(f"-{name}")))
        rows = [(*row[:4], value if row[3] == "accuracy" else row[4]) for row in result.rows]
        record(self, replace(result, rows=rows), iteration, last)

    monkeypatch.setattr(Training, "_record", scripted)


GIVEN = (*ONE, "--trials", 4, "--pruner", "none", "--finalists", 3)


def finals(result: Result) -> pd.DataFrame:
    return pd.read_csv(result.folder / "finals.csv")


def header(result: Result) -> str:
    return (result.folder / "tuned.yaml").read_text().split("preset:")[0].replace("\n# ", " ")


def began(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """(method, seed) of every training that begins from now on."""
    runs: list[tuple[str, int]] = []
    run = Training.run

    def noted(self: Training, *arguments: Any) -> None:
        runs.append((self.method.name, self.seed))
        run(self, *arguments)

    monkeypatch.setattr(Training, "run", noted)
    return runs


def test_the_winner_is_the_best_on_the_seeds_of_the_final_alone(
    swept: Swept, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge(monkeypatch)
    result = swept(*GIVEN)
    assert result.code == 0, result.err
    table = finals(result)
    assert list(zip(table["trial"], table["seed"], strict=True)) == list(FINAL)
    assert table["reward"].tolist() == pytest.approx(list(FINAL.values()))
    assert table["search_reward"].tolist() == pytest.approx([0.9] * 3 + [0.7] * 3 + [0.6] * 3)
    assert set(table["state"]) == {"finished"}
    assert set(table["iterations"]) == {2}
    searched = trials(result).set_index("trial")
    for name in ("noise", "learning_rate"):
        assert table[name].tolist() == [searched.loc[number, name] for number in table["trial"]]
    # One evaluation more or less changes no budget: every run costs what its trial cost.
    assert table["tflops"].tolist() == pytest.approx([searched.loc[n, "tflops"] for n in table["trial"]])

    config = read_config(result.folder / "tuned.yaml")
    tuned = resolve(config.pop("preset"), config, {}, [], "").method_settings["dance_grpo"]
    assert flatten(tuned)["sampler.noise.level"] == searched.loc[2, "noise"]
    assert tuned.name == "dance_grpo"
    wins = "dance_grpo: trial 2 wins the final, reward 0.65 on average over seeds 101, 102, 103 and 0.7 in the search"
    assert f"{wins}; noise" in result.out
    assert "behind it trial 1 0.6 (0.9), trial 3 0.2 (0.6)" in result.out
    for part in (wins, "The winner of the final of each method", "dance_grpo: trial 1, best of 4"):
        assert part in header(result)


def test_a_final_has_seeds_of_its_own_and_the_trials_prompts(
    swept: Swept, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Evaluated at the end only; an ordinary run, which analysis reads."""
    judge(monkeypatch, {(number, seed): 0.5 for number in range(2) for seed in (9, 10)}, lambda _: 0.5)
    given = ("--trials", 2, "--seeds", 2, "--first-seed", 7, "--finalists", 2, "--final-seeds", 2)
    result = swept(*ONE, *given, "--pruner", "none", "--objectives", "reward,kl")
    assert result.code == 0, result.err
    settings = yaml.safe_load((result.folder / "finals" / "settings.yaml").read_text())
    trial = yaml.safe_load((result.folder / "trials" / "0000-dance_grpo" / "settings.yaml").read_text())
    assert (trial["first_seed"], trial["seeds"]) == (7, 2)
    assert (settings["first_seed"], settings["seeds"]) == (9, 2)
    for name in ("prompts", "budget", "budget_unit", "weights", "video", "prompts_per_iteration"):
        assert settings[name] == trial[name]
    changed = {
        name for name in trial["evaluation"] if settings["evaluation"][name] != trial["evaluation"][name]
    }
    assert changed == {"every", "diagnostic_prompts"}
    for number, method in enumerate(settings["method_settings"].values()):
        own = yaml.safe_load(
            (result.folder / "trials" / f"000{number}-dance_grpo" / "settings.yaml").read_text()
        )
        assert method == {**own["method_settings"]["dance_grpo"], "name": f"dance_grpo.trial-{number}"}

    held_out = set(prompt_split()[1])
    for run in (result.folder / "finals" / "runs").iterdir():
        rows = read_rows(run, "evaluations")
        assert set(rows["iteration"]) == ({0} if run.name == "base" else {2})
        assert not set(rows["prompt"]) & held_out
        assert not set(read_rows(run, "iterations")["metric"]) & {"diagnostic/kl_to_base"}
        assert not (run / "checkpoint").exists()
    shared = result.folder / "base" / "runs" / "base" / "evaluations.csv"
    assert (result.folder / "finals/runs/base/evaluations.csv").read_bytes() == shared.read_bytes()
    assert set(load_run(result.folder / "finals").methods) == {"dance_grpo.trial-0", "dance_grpo.trial-1"}
    written = yaml.safe_load((result.folder / "sweep.yaml").read_text())
    assert (written["finalists"], written["final_seeds"]) == (2, [9, 10])


def test_the_same_command_runs_what_is_missing(swept: Swept, monkeypatch: pytest.MonkeyPatch) -> None:
    judge(monkeypatch)
    with monkeypatch.context() as patch:
        interrupt(patch, Training, "_iterate", 4 * 2 + 4 * 2 + 2)  # trials, four finals, half of the fifth
        first = swept(*GIVEN, checkpoint_every=1)
    assert first.code == 130
    assert "dance_grpo: the final is not finished; 5 of its runs are missing" in first.out
    assert "dance_grpo: the final is not finished" in header(first)
    states = finals(first).groupby("state")["seed"].count()
    assert dict(states) == {"finished": 4, "running": 1, "waiting": 4}

    runs = began(monkeypatch)
    result = swept(*GIVEN, checkpoint_every=1)
    assert result.code == 0, result.err
    assert len(runs) == len(set(runs)) == 5
    assert "trial 2 wins the final" in result.out
    ledger = pd.read_parquet(result.folder / "finals" / "records" / "ledger.parquet")
    assert not ledger.duplicated(["method", "seed", "iteration", "component", "quantity"]).any()

    runs.clear()
    again = swept(*GIVEN, checkpoint_every=1)
    assert (again.code, runs) == (0, [])
    pd.testing.assert_frame_equal(finals(again), finals(result))
    more = swept(*GIVEN, "--final-seeds", 2, checkpoint_every=1)
    assert (more.code, runs) == (0, [])
    assert "trial 2 wins the final, reward 0.6 on average over seeds 101, 102" in more.out


@pytest.mark.nightly
def test_a_study_whose_trials_are_all_there_goes_straight_to_its_final(
    swept: Swept, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Also where the trials' folders are elsewhere, as those of a study that somebody handed on."""
    judge(monkeypatch)
    storage = f"sqlite:///{tmp_path}/shared.db"
    without = swept(*GIVEN[:-2], storage=storage)
    assert not (without.folder / "finals").exists()
    runs = began(monkeypatch)
    result = swept(*GIVEN, output="elsewhere", storage=storage)
    assert result.code == 0, result.err
    assert sorted(set(runs)) == [
        (f"dance_grpo.trial-{n}", seed) for n in (1, 2, 3) for seed in (101, 102, 103)
    ]
    assert "The base model scores" in header(result)  # as the final evaluated it

    runs.clear()
    back = swept(*GIVEN[:-2], output="elsewhere", storage=storage)
    assert (back.code, runs) == (0, [])
    assert "finals.csv is of an earlier final, and tuned.yaml has the best trials of the search" in back.err
    assert "The best trial of each method" in header(back)


@pytest.mark.nightly
def test_a_finalist_that_diverges_is_out_and_an_error_is_tried_again(
    swept: Swept, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge(monkeypatch)
    iterate = Training._iterate
    diverging, refused = ("dance_grpo.trial-2", 102), ("dance_grpo.trial-3", 101)
    broken = {diverging: FloatingPointError("the loss is nan"), refused: OSError("no")}

    def breaking(self: Training, iteration: int) -> dict[str, float]:
        error = broken.get((self.method.name, self.seed))
        if error is not None:
            raise error
        return iterate(self, iteration)

    monkeypatch.setattr(Training, "_iterate", breaking)
    first = swept(*GIVEN)
    assert first.code == 1
    assert first.err == "error: dance_grpo.trial-3 seed 101: OSError: no (see error.txt)\n"
    assert "dance_grpo: the final is not finished; 1 of its runs are missing" in first.out
    del broken[refused]
    runs = began(monkeypatch)
    result = swept(*GIVEN)
    assert result.code == 0, result.err
    assert runs == [refused]
    assert "dance_grpo: trial 1 wins the final, reward 0.6 on" in result.out
    assert "; excluded because training diverged: trial 2" in result.out
    assert finals(result)["state"].tolist() == ["finished"] * 4 + ["diverged"] + ["finished"] * 4


def test_finals_are_tracked(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each run of the final is a child beside the trials, with its reward."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr("benchmarks.sweeping.plots.write_figures", lambda *_: [])
    judge(monkeypatch, {(0, 101): 0.25, (1, 101): 0.75}, lambda _: 0.5)
    given = ("--trials", 2, "--pruner", "none", "--finalists", 2, "--final-seeds", 1)
    result = Swept(world, tmp_path)(*ONE, *given, budget=1)
    assert (result.code, result.err) == (0, "")
    client = MlflowClient(tracking_uri=f"sqlite:///{result.folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], 'tags.phase = "final"')
    (parent,) = client.search_runs([experiment.experiment_id], 'tags.phase = "sweep" AND tags.trial IS NULL')
    assert {run.data.tags["mlflow.parentRunId"] for run in runs} == {parent.info.run_id}
    assert {run.info.status for run in (*runs, parent)} == {"FINISHED"}
    found = {run.data.tags["trial"]: run.data.metrics["eval/held_out/accuracy"] for run in runs}
    assert found == {"0": pytest.approx(0.25), "1": pytest.approx(0.75)}
    assert {(run.data.tags["method"], run.data.tags["seed"], run.data.tags["state"]) for run in runs} == {
        ("dance_grpo", "101", "finished")
    }
    assert "finals.csv" in {entry.path for entry in client.list_artifacts(parent.info.run_id)}


def plan(*given: str) -> Plan:
    asked = ("--methods", "flow_grpo", "--params", "noise", *given)
    return make_plan(options("").parse_args(asked), "study", "sqlite:///unused.db", "")


def test_finalists_are_the_best_complete_trials_that_differ() -> None:
    """Pruned and failed trials are not among them, and a point that was tried twice would only run twice."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="maximize")
    values = [(0.3, 0.5), (0.4, 0.9), (0.5, 0.7), (0.4, 0.9), (0.6, 0.7), (0.7, 0.2)]
    space: dict[str, BaseDistribution] = {"noise": FloatDistribution(0.2, 1.3)}
    for noise, reward in values:
        study.add_trial(create_trial(params={"noise": noise}, distributions=space, value=reward))
    for state, reached in ((TrialState.PRUNED, {3: 0.99}), (TrialState.FAIL, {})):
        study.add_trial(
            create_trial(
                state=state,
                params={"noise": 0.9},
                distributions=space,
                intermediate_values=reached,
                user_attrs={"error": "the loss is nan"} if state == TrialState.FAIL else {},
            )
        )
    study.add_trial(create_trial(params={"noise": 1.0}, distributions=space, value=0.99))
    eight = plan("--trials", "8", "--finalists", "3")  # the ninth is beyond what the sweep asks for
    found = [entry.trial.number for entry in finalists_of(eight, study, "flow_grpo")]
    assert found == [1, 2, 4]
    many = finalists_of(plan("--trials", "9", "--finalists", "9"), study, "flow_grpo")
    assert [entry.trial.number for entry in many] == [8, 1, 2, 4, 0, 5]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("--finalists", 1), "--finalists is 1; give at least 2, or omit it for no final"),
        (("--finalists", -3), "--finalists is -3; give at least 2"),
        (("--final-seeds", 3), "--final-seeds is 3 but there is no final; give --finalists as well"),
        (("--finalists", 2, "--final-seeds", 0), "--final-seeds is 0; give at least 1"),
        (("--finalists", 5, "--trials", 4), "--finalists is 5 and dance_grpo has 4 trials; give fewer"),
    ],
)
def test_a_final_that_cannot_be_is_refused(swept: Swept, given: tuple[object, ...], message: str) -> None:
    result = swept(*ONE, *given)
    assert result.code == 2
    assert result.err.startswith(f"error: {message}")
    assert not result.folder.exists()


def earlier(described: dict[str, Any], method: str, kl_weight: float) -> dict[str, Any]:
    """A description as a version wrote it whose methods had a `kl_weight`, and whose runs fewer fields."""
    values = {
        **described["methods"][method],
        "kl_weight": kl_weight,
        "distillation": None,
        "reference": "a paper",
    }
    del values["outcome_weight"]
    evaluation = {name: value for name, value in described["run"]["evaluation"].items() if name != "batch"}
    run = {**described["run"], "evaluation": evaluation}
    del run["charge_prm"]
    return {**described, "methods": {method: values}, "run": run}


def test_a_study_of_an_earlier_version_is_compared_in_todays_fields() -> None:
    set_ = ("--set", "flow_grpo.distillation={weight: 0.01, strength: 0.0}")
    now = plan(*set_).described("flow_grpo")
    assert differing_settings(earlier(now, "flow_grpo", 0.01), now) == []
    assert differing_settings(earlier(now, "flow_grpo", 0.02), now) == [
        "methods.flow_grpo.distillation.weight"
    ]
    assert "methods.flow_grpo.distillation" in differing_settings(earlier(now, "flow_grpo", 0.0), now)
    # What the study lacks had its default then: today's value is another one.
    charged = plan(*set_, "--budget-unit", "tflops", "--charge-prm").described("flow_grpo")
    then = earlier(charged, "flow_grpo", 0.01)
    assert differing_settings(then, charged) == ["run.charge_prm"]
    # A description that today's settings cannot read differs, and is no crash.
    unknown = {**now, "run": {**now["run"], "gone": 1}}
    assert differing_settings(unknown, now) == ["run.gone"]


def test_a_study_of_an_earlier_version_is_gone_on_with(swept: Swept) -> None:
    assert swept(*ONE, "--trials", 1, budget=1).code == 0
    study = optuna.load_study(study_name="s/dance_grpo", storage=f"sqlite:///{swept.folder}/out.db")
    described = study.user_attrs["settings"]
    study.set_user_attr("settings", earlier(described, "dance_grpo", 0.0))
    result = swept(*ONE, "--trials", 1, budget=1)
    assert result.code == 0, result.err
    study.set_user_attr("settings", earlier(described, "dance_grpo", 0.5))
    other = swept(*ONE, "--trials", 1, budget=1)
    assert other.code == 2
    assert "with other settings: methods.dance_grpo.distillation" in other.err
