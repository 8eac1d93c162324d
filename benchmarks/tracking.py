"""MLflow as a view of the records: one experiment, a parent run for the benchmark, a child for each (method, seed).

The records on disk are the truth. Workers write those; this module, in the main process, copies what is new to
MLflow, so a slow or absent tracking server neither slows nor stops training.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.records import BASE, read_rows, read_status, run_folder
from benchmarks.settings import RunSettings
from methods.method import flatten

logger = logging.getLogger(__name__)

EXPERIMENT = "video-alignment-bench"
#: MLflow takes at most this many metrics, and this many parameters, in one call.
_METRICS, _PARAMS = 1000, 100


@dataclass
class _Child:
    """What has been sent of one (method, seed)."""

    run_id: str
    iterations: int = 0
    evaluations: int = -1
    ended: bool = False


@dataclass
class Tracker:
    """Copies a benchmark's records to MLflow.

    Attributes:
        settings: the run's settings.
        output: the benchmark's folder.
        runs: every (method, seed).
        every: seconds between copies.
    """

    settings: RunSettings
    output: Path
    runs: Sequence[tuple[str, int]]
    every: float = 5.0
    _client: Any = None
    _parent: str = ""
    _children: dict[tuple[str, int], _Child] = field(default_factory=dict)
    _last: float = 0.0
    _problem: str = ""

    def start(self) -> None:
        """Opens the store and creates the parent run; a store out of reach is said once, and the run goes on."""
        from mlflow import MlflowClient

        uri = os.environ.get("MLFLOW_TRACKING_URI")
        local = uri is None
        uri = uri or f"sqlite:///{(self.output / 'mlflow.db').resolve()}"
        for noisy in ("alembic", "mlflow"):
            logging.getLogger(noisy).setLevel(logging.WARNING)
        self._client = MlflowClient(tracking_uri=uri)
        self._guarded(lambda: self._open(local))

    def _open(self, local: bool) -> None:
        found = self._client.get_experiment_by_name(EXPERIMENT)
        place = (self.output / "mlartifacts").resolve().as_uri() if local else None
        experiment = (
            found.experiment_id
            if found
            else self._client.create_experiment(EXPERIMENT, artifact_location=place)
        )
        parent = self._client.create_run(experiment, run_name=self.output.name, tags=self._tags("benchmark"))
        self._parent = parent.info.run_id
        budget = f"{self.settings.budget:g} {self.settings.budget_unit}"
        shared = {**flatten(self.settings), "budget": budget}
        apart = ("method_settings", "prompts", "command", "budget_unit")
        self._params(
            self._parent, {name: value for name, value in shared.items() if not name.startswith(apart)}
        )
        for run in [(BASE, 0), *self.runs]:
            self._children[run] = self._child(experiment, *run)

    def _child(self, experiment: str, method: str, seed: int) -> _Child:
        name = BASE if method == BASE else f"{method} seed {seed}"
        tags = {**self._tags("train" if method != BASE else BASE), "method": method, "seed": str(seed)}
        tags["mlflow.parentRunId"] = self._parent
        run = self._client.create_run(experiment, run_name=name, tags=tags)
        if method != BASE:
            self._params(run.info.run_id, {**flatten(self.settings.method_settings[method]), "seed": seed})
        return _Child(run.info.run_id)

    def _tags(self, phase: str) -> dict[str, str]:
        return {"phase": phase, "suite": self.settings.suite, "preset": self.settings.preset}

    def _params(self, run_id: str, values: dict[str, Any]) -> None:
        from mlflow.entities import Param

        params = [Param(name, str(value)[:6000]) for name, value in values.items()]
        for start in range(0, len(params), _PARAMS):
            self._client.log_batch(run_id, params=params[start : start + _PARAMS])

    def tick(self) -> None:
        """Copies what is new, if the last copy is long enough ago."""
        if time.monotonic() - self._last >= self.every:
            self.sync()

    def sync(self) -> None:
        """Copies all rows that MLflow does not have yet."""
        self._last = time.monotonic()
        if self._parent:
            self._guarded(self._sync_all)

    def _sync_all(self) -> None:
        for run, child in self._children.items():
            self._sync(run, child)

    def _sync(self, run: tuple[str, int], child: _Child) -> None:
        if child.ended:
            return
        folder = run_folder(self.output, *run)
        status = read_status(folder)  # before the rows, so that a finished run's last rows are never missed
        iterations = read_rows(folder, "iterations")
        fresh: pd.DataFrame = iterations[iterations["iteration"] > child.iterations]
        self._metrics(child.run_id, "train/" + fresh["metric"], fresh)
        if len(fresh):
            child.iterations = int(fresh["iteration"].max())
        evaluations = read_rows(folder, "evaluations")
        evaluations = evaluations[evaluations["iteration"] > child.evaluations]
        if len(evaluations):
            means = evaluations.groupby(["iteration", "split", "reward"])["value"].mean().reset_index()
            self._metrics(child.run_id, "eval/" + means["split"] + "/" + means["reward"], means)
            child.evaluations = int(evaluations["iteration"].max())
        if status is not None and status.status in ("finished", "failed"):
            self._client.set_terminated(child.run_id, "FINISHED" if status.status == "finished" else "FAILED")
            child.ended = True

    def _metrics(self, run_id: str, keys: Iterable[str], rows: pd.DataFrame) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [
            Metric(key, float(value), now, int(step))
            for key, value, step in zip(keys, rows["value"], rows["iteration"], strict=True)
        ]
        for start in range(0, len(metrics), _METRICS):
            self._client.log_batch(run_id, metrics=metrics[start : start + _METRICS])

    def finish(self) -> str:
        """Copies the rest, hangs files on the runs and closes them; returns a problem to tell, or nothing."""
        self.sync()
        if self._parent:
            self._guarded(self._close)
        return self._problem

    def _close(self) -> None:
        for run, child in self._children.items():
            folder = run_folder(self.output, *run)
            for name in ("samples.gif", "samples.npz", "error.txt"):
                if (folder / name).is_file():
                    self._client.log_artifact(child.run_id, str(folder / name))
            if not child.ended:
                self._client.set_terminated(child.run_id, "KILLED")
        for name in ("settings.yaml", "report.html"):
            if (self.output / name).is_file():
                self._client.log_artifact(self._parent, str(self.output / name))
        for name in ("figures", "tables", "records"):
            if (self.output / name).is_dir():
                self._client.log_artifacts(self._parent, str(self.output / name), name)
        failed = any(
            (status := read_status(run_folder(self.output, *run))) is None or status.status != "finished"
            for run in self.runs
        )
        self._client.set_terminated(self._parent, "FAILED" if failed else "FINISHED")

    def _guarded(self, action: Any) -> None:
        """Tracking must not end a run: a failure is logged once, and told again at the end."""
        from mlflow.exceptions import MlflowException
        from requests.exceptions import RequestException

        try:
            action()
        except (MlflowException, RequestException, OSError) as error:
            problem = (
                f"MLflow: {' '.join(str(error).split())[:300]}; the records in {self.output} are complete"
            )
            if not self._problem:
                logger.warning("%s", problem)
            self._problem = problem
