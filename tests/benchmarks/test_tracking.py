"""MLflow as a view of the records: what a researcher finds in the store, and that no store can harm a run."""

from __future__ import annotations

import json
import shutil
import threading
import time
from pathlib import Path

import pandas as pd
import pytest
import yaml
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import PERMISSION_DENIED

from analysis.schema import BASE, CHARGED, Status
from benchmarks.records import Recorder
from benchmarks.settings import RunSettings
from benchmarks.task import Training
from benchmarks.tracking import EXPERIMENT, STATE_FILE, Tracker, by_gflops, charged_until
from benchmarks.views import TAG
from tests.benchmarks.harness import Bench, Result, interrupt
from tests.benchmarks.saved_views import runs_of, saved_views
from tests.world import world_settings

REFUSED = "http://127.0.0.1:9"
"""An address at which nothing listens."""


def store_in(folder: Path) -> MlflowClient:
    return MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}")


def runs_in(client: MlflowClient) -> list[Run]:
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id]))


def parents_in(client: MlflowClient) -> list[Run]:
    return [run for run in runs_in(client) if "mlflow.parentRunId" not in run.data.tags]


def children_in(client: MlflowClient) -> dict[tuple[str, int], Run]:
    children = [run for run in runs_in(client) if "mlflow.parentRunId" in run.data.tags]
    found = {(run.data.tags["method"], int(run.data.tags["seed"])): run for run in children}
    assert len(found) == len(children)
    return found


def history(client: MlflowClient, run: Run, metric: str) -> list[tuple[int, float]]:
    return sorted((entry.step, entry.value) for entry in client.get_metric_history(run.info.run_id, metric))


def artifacts(client: MlflowClient, run: Run, folder: str | None = None) -> set[str]:
    return {entry.path for entry in client.list_artifacts(run.info.run_id, folder)}


def test_a_parent_and_a_child_for_each_run(whole: Result) -> None:
    client = store_in(whole.folder)
    (parent,) = parents_in(client)
    children = children_in(client)
    assert children.keys() == {
        (BASE, 0),
        *((method, seed) for seed in (0, 1) for method in ("euphonium", "dance_grpo")),
    }
    for (method, seed), run in children.items():
        tags = run.data.tags
        assert tags["mlflow.parentRunId"] == parent.info.run_id
        assert (tags["suite"], tags["preset"]) == ("shapes", "default")
        assert tags["phase"] == ("base" if method == BASE else "train")
        assert run.info.run_name == (BASE if method == BASE else f"{method} seed {seed}")
    assert parent.data.tags["phase"] == "benchmark"
    assert {run.info.status for run in (parent, *children.values())} == {"FINISHED"}


def test_parameters(whole: Result) -> None:
    client = store_in(whole.folder)
    (parent,) = parents_in(client)
    shared = parent.data.params
    assert shared["suite"] == "shapes"
    assert shared["budget"] == "2 iterations"
    assert shared["prompts_per_iteration"] == "2"
    assert shared["evaluation.samples_per_prompt"] == "2"
    assert not [name for name in shared if name.startswith(("prompts.", "method_settings"))]
    children = children_in(client)
    assert children["euphonium", 1].data.params["objective.clip_range"] == "0.002"
    assert children["euphonium", 1].data.params["seed"] == "1"
    assert children["euphonium", 1].data.params["sampler.noise.kind"] == "flow_grpo"
    assert children["euphonium", 1].data.params["distillation.anchor"] == "base"
    assert children["dance_grpo", 0].data.params["process"] == "None"


def test_metrics_are_those_of_the_records(whole: Result) -> None:
    client = store_in(whole.folder)
    children = children_in(client)
    iterations = pd.read_parquet(whole.folder / "records" / "iterations.parquet")
    for (method, seed, metric), rows in iterations.groupby(["method", "seed", "metric"]):
        expected = sorted(zip(rows["iteration"], rows["value"], strict=True))
        assert history(client, children[method, seed], f"train/{metric}") == expected
    evaluations = whole.rows("evaluations")
    means = evaluations.groupby(["method", "seed", "split", "reward", "iteration"])["value"].mean()
    for (method, seed, split, reward), values in means.groupby(level=[0, 1, 2, 3]):
        expected = [(int(step), value) for step, value in zip(values.index.levels[4], values, strict=False)]
        found = history(client, children[method, seed], f"eval/{split}/{reward}")
        assert [value for _, value in found] == pytest.approx([value for _, value in expected], abs=1e-12)
        assert [step for step, _ in found] == sorted(values.index.get_level_values("iteration"))
    assert (
        len(children[BASE, 0].data.metrics) == 2 * 14
    )  # 7 rewards on 2 splits, by iteration and by operations


def test_what_was_charged_is_a_metric(whole: Result) -> None:
    client = store_in(whole.folder)
    child = children_in(client)["euphonium", 1]
    ledger = whole.rows("ledger").query("method == 'euphonium' and seed == 1 and quantity == 'tflops'")
    each = ledger[ledger["component"].isin(CHARGED)].groupby("iteration")["value"].sum()
    assert [value for _, value in history(client, child, "cost/tflops")] == pytest.approx(list(each.cumsum()))
    assert history(client, child, "cost/videos") == [(1, 4.0), (2, 8.0)]
    assert history(client, child, "eval_by_gflops/held_out/accuracy")


def test_evaluations_lie_on_an_axis_of_compute_too() -> None:
    """The step is what the method was charged until then, so that charts compare methods at equal compute."""
    rows = [(k, c, "tflops", v) for k in (1, 2, 3) for c, v in (("rollout", 0.05), ("update", 0.1 * k))]
    rows += [(2, "evaluation", "tflops", 9.0), (0, "evaluation", "tflops", 9.0)]
    ledger = pd.DataFrame(rows, columns=["iteration", "component", "quantity", "value"])
    means = pd.DataFrame(
        {"iteration": [0, 2, 3], "split": "held_out", "reward": "accuracy", "value": [0.1, 0.2, 0.3]}
    )
    keys, placed = by_gflops(means, charged_until(ledger))
    assert set(keys) == {"eval_by_gflops/held_out/accuracy"}
    assert list(placed["iteration"]) == [0, 400, 750]
    assert list(placed["value"]) == [0.1, 0.2, 0.3]


def test_prompts_are_inputs_and_models_are_artifacts(whole: Result) -> None:
    client = store_in(whole.folder)
    (parent,) = parents_in(client)
    inputs = {
        tag.value: json.loads(entry.dataset.profile)["num_rows"]
        for entry in client.get_run(parent.info.run_id).inputs.dataset_inputs
        for tag in entry.tags
    }
    settings = yaml.safe_load((whole.folder / "settings.yaml").read_text())
    assert inputs == {
        "training": len(settings["prompts"]["train"]),
        "evaluation": len(settings["prompts"]["held_out"]),
    }
    child = children_in(client)["dance_grpo", 0]
    assert artifacts(client, child, "model") == {"model/weights.safetensors"}


def test_views_are_saved_of_the_runs_that_there_are(whole: Result) -> None:
    """Every method and seed is shown, and all columns and charts have something to show."""
    client = store_in(whole.folder)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    views = saved_views(experiment)
    assert views.keys() == {"shapes-final", "shapes-curves"}
    trained = {run.info.run_id for (method, _), run in children_in(client).items() if method != BASE}
    for view in views.values():
        assert {run.info.run_id for run in runs_of(client, experiment, view)} == trained
    first, *_, last = runs_of(client, experiment, views["shapes-final"])
    assert (first.data.tags["method"], last.data.tags["method"]) == ("dance_grpo", "euphonium")
    assert [chart["metricKey"] for chart in views["shapes-curves"]["compareRunCharts"]] == [
        "eval_by_gflops/held_out/accuracy",
        "eval/held_out/accuracy",
        "train/diagnostic/kl_to_base",
    ]


def test_a_view_that_somebody_changed_stays(
    settings: RunSettings, output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = store_in(tmp_path / "store")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", client.tracking_uri)
    experiment = client.create_experiment(EXPERIMENT)
    client.set_experiment_tag(experiment, f"{TAG}shapes-curves", "mine")
    recorded(output, "euphonium", "finished", 2, 2)
    tracker = Tracker(settings, output, settings.runs())
    tracker.start()
    assert tracker.finish() == ""
    tags = client.get_experiment(experiment).tags
    assert tags[f"{TAG}shapes-curves"] == "mine"
    assert f"{TAG}shapes-final" in tags


def test_a_store_that_keeps_no_views_gets_the_runs(
    settings: RunSettings, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise MlflowException("not yours", error_code=PERMISSION_DENIED)

    monkeypatch.setattr(MlflowClient, "set_experiment_tag", refuse)
    recorded(output, "euphonium", "finished", 2, 2)
    tracker = Tracker(settings, output, settings.runs())
    tracker.start()
    assert tracker.finish() == ""
    client = store_in(output)
    assert history(client, children_in(client)["euphonium", 0], "train/loss") == [(1, 0.1), (2, 0.2)]


def test_artifacts(whole: Result) -> None:
    client = store_in(whole.folder)
    (parent,) = parents_in(client)
    assert artifacts(client, parent) == {"settings.yaml", "report.html", "figures", "tables", "records"}
    assert {"figures/rewards_held_out.png", "figures/videos.gif"} <= artifacts(client, parent, "figures")
    assert "tables/final.csv" in artifacts(client, parent, "tables")
    for (method, _), run in children_in(client).items():
        assert artifacts(client, run) == {
            "samples.gif",
            "samples.npz",
            *(["model"] if method != BASE else []),
        }


@pytest.fixture
def settings(world: Path) -> RunSettings:
    return world_settings(world, ["euphonium", "dance_grpo"])


@pytest.fixture
def output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_store: Path) -> Path:
    """A benchmark's folder, and beside it another store."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)  # a store other than the run's own may keep artifacts in the working folder
    for name in ("out", "store"):
        (tmp_path / name).mkdir()
        shutil.copy(empty_store, tmp_path / name)
    return tmp_path / "out"


def recorded(output: Path, method: str, status: str, iterations: int, evaluated: int) -> Recorder:
    """A run's records as workers write them."""
    recorder = Recorder(output, method, 0)
    for iteration in range(1, iterations + 1):
        recorder.iteration(iteration, {"loss": iteration / 10})
    for iteration in range(1, evaluated + 1):
        recorder.evaluation(iteration, [("held_out", "p", k, "accuracy", iteration + k) for k in (0, 1)])
    recorder.status = Status(method, 0, status, iterations)  # type: ignore[arg-type]
    recorder.save_status()
    return recorder


def wait_for(client: MlflowClient, key: tuple[str, int], metric: str, steps: int) -> list[tuple[int, float]]:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        found = history(client, children_in(client)[key], metric)
        if len(found) >= steps:
            break
        time.sleep(0.05)
    return found


def test_what_is_recorded_appears_while_training_goes_on(settings: RunSettings, output: Path) -> None:
    """The newest iteration waits until the next one begins: until then its rows may be half written."""
    tracker = Tracker(settings, output, settings.runs(), every=0.05)
    recorder = recorded(output, "euphonium", "running", 3, 3)
    tracker.start()
    deadline = time.monotonic() + 20
    while not (output / STATE_FILE).exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    client = store_in(output)
    key = ("euphonium", 0)
    assert wait_for(client, key, "train/loss", 2) == [(1, 0.1), (2, 0.2)]
    assert wait_for(client, key, "eval/held_out/accuracy", 2) == [(1, 1.5), (2, 2.5)]
    assert children_in(client)[key].info.status == "RUNNING"
    recorder.iteration(4, {"loss": 0.4})
    assert wait_for(client, key, "train/loss", 3)[-1] == (3, 0.3)
    assert wait_for(client, key, "eval/held_out/accuracy", 3)[-1] == (3, 3.5)
    assert tracker.finish() == ""
    assert history(client, children_in(client)[key], "train/loss")[-1] == (4, 0.4)


def test_how_runs_ended(settings: RunSettings, output: Path) -> None:
    """Finished, failed, and killed on the way."""
    three = RunSettings(**{**settings.model_dump(), "seeds": 2})
    recorded(output, BASE, "finished", 0, 0)
    recorded(output, "euphonium", "finished", 2, 2)
    failed = recorded(output, "dance_grpo", "failed", 2, 1)
    (failed.folder / "error.txt").write_text("Traceback")
    tracker = Tracker(three, output, three.runs())
    tracker.start()
    assert tracker.finish() == ""
    client = store_in(output)
    children = children_in(client)
    found = {key: run.info.status for key, run in children.items()}
    assert found == {
        (BASE, 0): "FINISHED",
        ("euphonium", 0): "FINISHED",
        ("dance_grpo", 0): "FAILED",
        ("euphonium", 1): "KILLED",
        ("dance_grpo", 1): "KILLED",
    }
    (parent,) = parents_in(client)
    assert parent.info.status == "FAILED"
    assert artifacts(client, children["dance_grpo", 0]) == {"error.txt"}
    assert history(client, children["dance_grpo", 0], "train/loss") == [(1, 0.1), (2, 0.2)]


def test_the_environment_names_the_store(
    settings: RunSettings, output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Benchmarks share one experiment of it, each with a parent of its own."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'store' / 'mlflow.db'}")
    other = tmp_path / "other"
    other.mkdir()
    for folder in (output, other):
        recorded(folder, "euphonium", "finished", 2, 2)
        tracker = Tracker(settings, folder, settings.runs())
        tracker.start()
        assert tracker.finish() == ""
    assert not (other / "mlflow.db").exists()
    parents = parents_in(store_in(tmp_path / "store"))
    assert {run.info.run_name for run in parents} == {"out", "other"}


def test_a_resumed_benchmark_goes_on_with_its_runs(tracked: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    given = ("--methods", "euphonium,dance_grpo")
    changes = {"budget": 3, "checkpoint_every": 2}
    with monkeypatch.context() as patch:
        interrupt(patch, Training, "_iterate", 6)  # the second method's third iteration
        killed = tracked(*given, **changes)
    assert killed.code == 130
    client = store_in(killed.folder)
    (parent,) = parents_in(client)
    before = children_in(client)
    assert before["euphonium", 0].info.status == "FINISHED"
    assert before["dance_grpo", 0].info.status == parent.info.status == "KILLED"
    assert [step for step, _ in history(client, before["dance_grpo", 0], "train/loss")] == [1, 2]
    resumed = tracked.resume()
    assert (resumed.code, resumed.err) == (0, "")
    (again,) = parents_in(client)
    assert again.info.run_id == parent.info.run_id
    after = children_in(client)
    assert {key: run.info.run_id for key, run in after.items()} == {
        key: run.info.run_id for key, run in before.items()
    }
    assert {run.info.status for run in (again, *after.values())} == {"FINISHED"}
    for method in ("euphonium", "dance_grpo"):
        for metric in ("train/loss", "eval/held_out/accuracy"):
            assert [step for step, _ in history(client, after[method, 0], metric)] == [1, 2, 3]


def test_a_failed_run_that_is_resumed_runs_again(settings: RunSettings, output: Path) -> None:
    recorded(output, "euphonium", "failed", 2, 2)
    for status, steps in (("failed", [1, 2]), ("finished", [1, 2, 3])):
        if status == "finished":
            recorder = Recorder(output, "euphonium", 0)
            recorder.iteration(3, {"loss": 0.3})
            recorder.status.status = "finished"
            recorder.save_status()
        tracker = Tracker(settings, output, settings.runs())
        tracker.start()
        assert tracker.finish() == ""
        child = children_in(store_in(output))["euphonium", 0]
        assert child.info.status == status.upper()
        assert [step for step, _ in history(store_in(output), child, "train/loss")] == steps


def test_runs_that_the_store_has_no_more_are_made_anew(settings: RunSettings, output: Path) -> None:
    recorded(output, "euphonium", "finished", 2, 2)
    for _ in range(2):
        tracker = Tracker(settings, output, settings.runs())
        tracker.start()
        assert tracker.finish() == ""
        client = store_in(output)
        assert len(parents_in(client)) == 1
        assert history(client, children_in(client)["euphonium", 0], "train/loss") == [(1, 0.1), (2, 0.2)]
        for run in runs_in(client):
            client.delete_run(run.info.run_id)


def test_another_store_gets_all_of_it(
    settings: RunSettings, output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Resumed with MLFLOW_TRACKING_URI set: nothing of the first store is known there."""
    recorded(output, "euphonium", "finished", 2, 2)
    for folder in (output, tmp_path / "store"):
        tracker = Tracker(settings, output, settings.runs())
        tracker.start()
        assert tracker.finish() == ""
        child = children_in(store_in(folder))["euphonium", 0]
        assert history(store_in(folder), child, "train/loss") == [(1, 0.1), (2, 0.2)]
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'store' / 'mlflow.db'}")


def test_passwords_stay_out_of_the_folder(
    settings: RunSettings, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    tracker = Tracker(settings, output, settings.runs())
    assert "secret" not in tracker._state()
    tracker.start()
    assert "secret" not in tracker.finish()


@pytest.mark.parametrize("uri", [REFUSED, "nonsense://store"])
def test_a_store_out_of_reach_stops_nothing(
    tracked: Bench, monkeypatch: pytest.MonkeyPatch, uri: str
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    result = tracked("--methods", "dance_grpo", budget=1)
    assert result.code == 0
    (line,) = result.err.splitlines()
    assert line.startswith("warning: MLflow: ")
    resume = f"python -m benchmarks.run --resume --output {result.folder}"
    assert line.endswith(f"are complete, and `{resume}` sends the rest")
    assert set(result.runs()["status"]) == {"finished"}


def test_a_store_that_never_answers_is_not_waited_for(
    tracked: Bench, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """MLflow goes on trying a database that cannot be opened, or a server that is gone, for minutes."""
    released = threading.Event()
    request.addfinalizer(released.set)
    monkeypatch.setattr("mlflow.MlflowClient", lambda **_: released.wait(60))
    monkeypatch.setattr("benchmarks.tracking.PATIENCE", 0.5)
    result = tracked("--methods", "dance_grpo", budget=1)
    assert result.code == 0
    (line,) = result.err.splitlines()
    assert line.startswith("warning: MLflow: the tracking store does not answer")
    resume = f"python -m benchmarks.run --resume --output {result.folder}"
    assert line.endswith(f"are complete, and `{resume}` sends the rest")
    assert set(result.runs()["status"]) == {"finished"}


def test_a_store_that_comes_back_is_caught_up(
    settings: RunSettings, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failure on the way is made good, and then there is nothing to tell."""
    recorded(output, "euphonium", "finished", 3, 3)
    send, calls = MlflowClient.log_batch, []

    def flaky(self: MlflowClient, *arguments: object, **options: object) -> object:
        calls.append(len(calls))
        if len(calls) in (1, 3):
            raise ConnectionError("reset by peer")
        return send(self, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(MlflowClient, "log_batch", flaky)
    tracker = Tracker(settings, output, settings.runs(), every=0.05)
    tracker.start()
    deadline = time.monotonic() + 20
    while len(calls) < 4 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert tracker.finish() == ""
    client = store_in(output)
    assert len(parents_in(client)) == 1
    child = children_in(client)["euphonium", 0]
    assert history(client, child, "train/loss") == [(1, 0.1), (2, 0.2), (3, 0.3)]
