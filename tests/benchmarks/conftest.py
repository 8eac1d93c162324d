"""The tiny world, and `python -m benchmarks.run` on it: in this process, in an empty folder, its output captured."""

from __future__ import annotations

import gc
import os
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock
from mlflow import MlflowClient

from analysis import report
from tests.benchmarks.harness import Bench, Result, quick


@pytest.fixture(scope="session", autouse=True)
def _quick_collection(world: Path) -> None:
    """Each benchmark collects garbage when a run ends: what the libraries made when they were imported is none."""
    import mlflow.store.tracking.sqlalchemy_store
    import torch._dynamo

    assert mlflow
    assert torch
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def whole(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Result:
    """One complete run, report and MLflow included, of two methods and two seeds; read it, leave it as it is.

    Workers of pytest-xdist share it: the first that asks makes it.
    """
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    note = shared / "whole.pickle"
    with FileLock(shared / "whole.lock"):
        if not note.is_file():
            note.write_bytes(pickle.dumps(whole_run(world, tmp_path_factory.mktemp("whole"))))
    result: Result = pickle.loads(note.read_bytes())
    assert result.code == 0, result.err
    return result


def whole_run(world: Path, folder: Path) -> Result:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        bench = Bench(world, folder)
        changed = (
            "--set",
            "euphonium.objective.clip_range=0.002",
            "--set",
            "all.objective.train_fraction=0.8",
        )
        # Guided rollouts and a process term beside the guided target: records hold all that a method can have.
        parts = ("--set", "euphonium.sampler.guidance.strength=4", "--set", "euphonium.process.weight=0.5")
        return bench("--methods", "euphonium,dance_grpo", *changed, *parts, seeds=2)


@pytest.fixture
def full_bench(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """The whole program, report and tracking included: about 8 s a run."""
    place = tmp_path / "place"
    place.mkdir()
    monkeypatch.chdir(place)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    bench = Bench(world, tmp_path)
    yield bench
    bench.close()


@pytest.fixture
def reporting(full_bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """The program with its report page, without figures and MLflow: about 1 s a run."""
    write_report = report.write_report
    quick(monkeypatch)
    monkeypatch.setattr("analysis.report.write_report", write_report)
    monkeypatch.setattr("analysis.report._figures", lambda *_: {})
    return full_bench


@pytest.fixture
def bench(full_bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """The program without figures, report page and MLflow: about 1 s a run."""
    quick(monkeypatch)
    return full_bench


@pytest.fixture
def tracked(full_bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """The program with MLflow, without the report."""
    monkeypatch.setattr("analysis.report.write_report", lambda folder: folder / "report.html")
    return full_bench


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database without runs: making one takes MLflow seconds, copying it none."""
    folder = tmp_path_factory.mktemp("store")
    MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}").search_experiments()
    return folder / "mlflow.db"
