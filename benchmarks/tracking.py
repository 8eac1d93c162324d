"""MLflow as a view of the records: one experiment, a parent run for the benchmark, a child for each (method, seed).

A sweep has a parent, too, and a child for each trial (`benchmarks.sweeping.tracking`).

The records on disk are authoritative. Workers write them; a thread of the main process copies new rows to MLflow, so
a slow or absent tracking server neither slows nor stops training.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.schema import BASE, CHARGED, SAMPLES_FILE, SETTINGS_FILE, SUMMED, run_folder
from benchmarks.records import read_rows, read_status, replace_text, resume_command
from benchmarks.settings import RunSettings
from benchmarks.views import View, benchmark_views
from methods.method import flatten
from rewards.suites import suite_named

logger = logging.getLogger(__name__)

EXPERIMENT = "video-alignment-bench"
#: The benchmark's MLflow runs and what has been copied, for resuming.
STATE_FILE = "tracking.json"
#: Seconds to wait for the store at the end of a benchmark; MLflow itself may retry for minutes.
PATIENCE = 60.0
#: Bytes: trained weights up to this size become an artifact; larger ones stay only in the run's folder.
LARGEST_MODEL = 500_000_000
#: Error codes for which a retry is pointless.
_REFUSALS = ("INVALID_PARAMETER_VALUE", "PERMISSION_DENIED", "ENDPOINT_NOT_FOUND", "NOT_IMPLEMENTED")
#: MLflow takes at most this many metrics, and this many parameters, in one call.
_METRICS, _PARAMS = 1000, 100


@dataclass
class Child:
    """What has been sent for one (method, seed).

    Attributes:
        run_id: its run in the store.
        iterations, evaluations: the last ones that were sent.
        ended: whether everything was sent.
        started: creation time of its run in milliseconds; its metrics' times count from there.
    """

    run_id: str
    iterations: int = -1
    evaluations: int = -1
    ended: bool = False
    started: int = field(default_factory=lambda: int(time.time() * 1000))


def charged_until(ledger: pd.DataFrame) -> pd.DataFrame:
    """Amount charged to a run up to each iteration: columns iteration, quantity, value."""
    charged = ledger[ledger["component"].isin(CHARGED)]
    each = charged.pivot_table(index="iteration", columns="quantity", values="value", aggfunc="sum")
    total = each.fillna(0).cumsum()
    units = [name for name in SUMMED if name in total]
    return total[units].reset_index().melt("iteration", var_name="quantity", value_name="value")


def by_gflops(means: pd.DataFrame, spent: pd.DataFrame) -> tuple[pd.Series, pd.DataFrame]:
    """Keys and rows of evaluations with the 10^9 operations charged so far as step, instead of the iteration.

    MLflow's charts use the step as axis, so these compare methods at equal compute.
    """
    tflops = spent[spent["quantity"] == "tflops"].set_index("iteration")["value"]
    rows = means[means["iteration"].isin(tflops.index) | (means["iteration"] == 0)]
    steps = rows["iteration"].map(lambda iteration: round(1000 * tflops.get(iteration, 0.0)))
    keys = "eval_by_gflops/" + rows["split"] + "/" + rows["reward"]
    return keys, rows.assign(iteration=steps)


class Mirror(ABC):
    """Copies the records below a folder to MLflow: a parent run, and child runs below it.

    Args:
        output: the folder.
        every: seconds between copies.
    """

    def __init__(self, output: Path, every: float) -> None:
        self.output, self.every = output, every
        self._client: Any = None
        self._experiment = ""
        self._parent = ""
        self._draft = ""
        self._children: dict[tuple[str, int], Child] = {}
        self._problem = ""
        self._ending = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def _remedy(self) -> str:
        """How to send runs that the store is missing."""
        return f"`{resume_command(self.output)}` sends the rest"

    @abstractmethod
    def _parent_tags(self) -> dict[str, str]:
        """Tags of the parent run."""

    @abstractmethod
    def _begin(self) -> None:
        """Adds children and parameters to the parent `_draft`; after a failure, adds what is still missing."""

    @abstractmethod
    def _views(self) -> Sequence[View]:
        """Saved views for MLflow's page of runs."""

    @abstractmethod
    def _sync_all(self) -> None:
        """Copies what is new."""

    @abstractmethod
    def _close(self) -> None:
        """Copies the rest and closes all runs."""

    def start(self) -> None:
        """Starts copying in the background."""
        # Before the thread: importing in two threads at once can see modules half made.
        import mlflow

        assert mlflow
        # A server that is gone is asked again every few seconds by the thread: MLflow's own minutes of trying would
        # only keep it from noticing that the server is back, or that the run has ended.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
        for noisy in ("alembic", "mlflow", "urllib3"):
            logging.getLogger(noisy).setLevel(logging.CRITICAL)  # what fails is told by `finish`, in a line
        self._thread = threading.Thread(target=self._work, name="tracking", daemon=True)
        self._thread.start()

    def finish(self, patience: float | None = None) -> str:
        """Copies the rest, attaches files to the runs and closes them.

        Args:
            patience: seconds to wait for the store; None for `PATIENCE`.

        Returns:
            A problem to report, or nothing.
        """
        if self._thread is None:
            return ""
        self._ending.set()
        self._thread.join(PATIENCE if patience is None else patience)
        if self._thread.is_alive():
            self._problem = self._problem or "the tracking store does not answer"
        if not self._problem:
            return ""
        left = sum(not child.ended for child in self._children.values())
        unsent = f"{left} of {len(self._children)} runs were" if self._children else "nothing was"
        complete = f"the records in {self.output} are complete, and {self._remedy}"
        return f"MLflow: {self._problem}; {unsent} not fully sent; {complete}"

    def _work(self) -> None:
        """The thread: copies every few seconds until told to stop, then once more."""
        while not self._ending.wait(self.every if self._parent or self._problem else 0.0):
            self._attempt(self._sync_all)
        self._attempt(self._close)

    def _attempt(self, action: Callable[[], None]) -> None:
        """Connects if necessary, then acts; a failure is kept for reporting, and everything is retried."""
        try:
            if not self._parent:
                self._connect()
                self._remember()
            try:
                action()
            finally:
                self._remember()  # what was sent before a failure is not sent again by a later call
            self._problem = ""
        except Exception as error:  # noqa: BLE001 - whatever a store raises, tracking must not end a run
            text = re.sub(r"://[^/@\s]+@", "://", " ".join(str(error).split()))  # without a URI's password
            self._problem = f"{type(error).__name__}: {text[:300]}"

    def _remember(self) -> None:
        """Records which runs the store has and what was sent."""
        replace_text(self.output / STATE_FILE, self._state() + "\n")

    def _connect(self) -> None:
        """Opens the store and the benchmark's runs in it: those of an earlier call, or new ones."""
        from mlflow import MlflowClient

        uri = os.environ.get("MLFLOW_TRACKING_URI")
        local = f"sqlite:///{(self.output / 'mlflow.db').resolve()}"
        self._client = MlflowClient(tracking_uri=uri or local)
        path = self.output / STATE_FILE
        state = json.loads(path.read_text()) if path.is_file() else {}
        if state.get("store") != self._store_name() or not self._reopen(state):
            self._create(None if uri else (self.output / "mlartifacts").resolve().as_uri())

    @staticmethod
    def _store_name() -> str:
        """A name that identifies the store, without a password from its URI."""
        uri = os.environ.get("MLFLOW_TRACKING_URI")
        return hashlib.sha256(uri.encode()).hexdigest()[:16] if uri else "in the output folder"

    def _state(self) -> str:
        """State for `_reopen`."""
        children = [[method, seed, asdict(child)] for (method, seed), child in self._children.items()]
        state = {"store": self._store_name(), "parent": self._parent, "children": children}
        return json.dumps(state, indent=1)

    def _reopen(self, state: dict[str, Any]) -> bool:
        """Continues the runs of an earlier call; False if the store no longer has them."""
        from mlflow.exceptions import MlflowException

        children = {(method, seed): Child(**values) for method, seed, values in state["children"]}
        unfinished = [child.run_id for child in children.values() if not child.ended]
        try:
            for run_id in (state["parent"], *unfinished):
                self._client.update_run(run_id, status="RUNNING")
            self._experiment = self._client.get_run(state["parent"]).info.experiment_id
        except MlflowException as error:
            if error.error_code not in (
                "RESOURCE_DOES_NOT_EXIST",
                "INVALID_STATE",
                "INVALID_PARAMETER_VALUE",
            ):
                raise
            return False
        self._parent, self._children = state["parent"], children
        return True

    def _create(self, artifacts: str | None) -> None:
        """Creates the parent run and its contents; after a failure, creates what is still missing."""
        found = self._client.get_experiment_by_name(EXPERIMENT)
        self._experiment = (
            found.experiment_id
            if found
            else self._client.create_experiment(EXPERIMENT, artifact_location=artifacts)
        )
        self._save_views(found.tags if found else {})
        if not self._draft:
            self._draft = self._client.create_run(
                self._experiment, run_name=self.output.name, tags=self._parent_tags()
            ).info.run_id
        self._begin()
        self._parent = self._draft

    def _save_views(self, there: Mapping[str, str]) -> None:
        """Saves the views for MLflow's page; without support for views, the store still has the runs.

        Args:
            there: the experiment's tags. An existing view is kept, as the user may have changed it.
        """
        from mlflow.exceptions import MlflowException

        for name, value in (view.tag() for view in self._views()):
            if name in there:
                continue
            try:
                self._client.set_experiment_tag(self._experiment, name, value)
            except MlflowException as error:
                if error.error_code not in _REFUSALS:
                    raise
                logger.info("the tracking store keeps no saved views: %s", error)
                return

    def _create_child(self, name: str, tags: dict[str, str]) -> str:
        """Creates one run below the parent; returns its id."""
        below = {**tags, "mlflow.parentRunId": self._parent or self._draft}
        return str(self._client.create_run(self._experiment, run_name=name, tags=below).info.run_id)

    def _params(self, run_id: str, values: dict[str, Any]) -> None:
        from mlflow.entities import Param

        params = [Param(name, str(value)[:6000]) for name, value in values.items()]
        for start in range(0, len(params), _PARAMS):
            self._client.log_batch(run_id, params=params[start : start + _PARAMS])

    def _copy(self, child: Child, folder: Path, complete: bool, prefix: str = "") -> None:
        """Copies the rows of one (method, seed) that MLflow does not have yet.

        Args:
            child: what has been sent.
            folder: the (method, seed)'s.
            complete: whether the newest iteration's rows are complete; otherwise it waits for the next one.
            prefix: of the metrics' names.
        """
        iterations = read_rows(folder, "iterations")
        evaluations = read_rows(folder, "evaluations")
        spent = charged_until(read_rows(folder, "ledger"))
        clock = iterations[iterations["metric"] == "seconds"].set_index("iteration")["value"]
        iterations, evaluations, spent = (
            # A store takes equal metrics of one time for one: so it is the time of training, and not of sending.
            rows.assign(time=rows["iteration"].map(clock).fillna(0.0))
            for rows in (iterations, evaluations, spent)
        )
        if not complete:
            newest = iterations["iteration"].max() if len(iterations) else 0
            iterations = iterations[iterations["iteration"] < newest]
            evaluations = evaluations[evaluations["iteration"] < newest]
        iterations = iterations[iterations["iteration"] > child.iterations]
        if len(iterations):
            self._metrics(child, f"{prefix}train/" + iterations["metric"], iterations)
            new = spent[spent["iteration"].isin(iterations["iteration"])]
            self._metrics(child, f"{prefix}cost/" + new["quantity"], new)
            child.iterations = int(iterations["iteration"].max())
        evaluations = evaluations[evaluations["iteration"] > child.evaluations]
        if len(evaluations):
            means = (
                evaluations.groupby(["iteration", "time", "split", "reward"])["value"].mean().reset_index()
            )
            self._metrics(child, f"{prefix}eval/" + means["split"] + "/" + means["reward"], means)
            keys, rows = by_gflops(means, spent)
            self._metrics(child, prefix + keys, rows)
            child.evaluations = int(evaluations["iteration"].max())

    def _metrics(self, child: Child, keys: Iterable[str], rows: pd.DataFrame) -> None:
        """Logs rows; rows sent again because their arrival was not confirmed are stored only once."""
        from mlflow.entities import Metric

        run_id = child.run_id
        metrics = [
            Metric(key, float(value), child.started + round(1000 * seconds), int(step))
            for key, value, seconds, step in zip(
                keys, rows["value"], rows["time"], rows["iteration"], strict=True
            )
        ]
        for start in range(0, len(metrics), _METRICS):
            self._client.log_batch(run_id, metrics=metrics[start : start + _METRICS])


class Tracker(Mirror):
    """Copies a benchmark's records to MLflow.

    Args:
        settings: the run's settings.
        output: the benchmark's folder.
        runs: every (method, seed).
        every: seconds between copies.
    """

    def __init__(
        self, settings: RunSettings, output: Path, runs: Sequence[tuple[str, int]], every: float = 5.0
    ) -> None:
        super().__init__(output, every)
        self.settings, self.runs = settings, runs
        #: Planned runs that will not be made, since an earlier look settled the question.
        self.spared: set[tuple[str, int]] = set()

    def _parent_tags(self) -> dict[str, str]:
        return self._tags("benchmark")

    def _begin(self) -> None:
        for method, seed in [(BASE, 0), *self.runs]:
            if (method, seed) not in self._children:
                name = BASE if method == BASE else f"{method} seed {seed}"
                phase = self._tags("train" if method != BASE else BASE)
                tags = {**phase, "method": method, "seed": str(seed)}
                self._children[method, seed] = Child(self._create_child(name, tags))
        for (method, seed), child in self._children.items():
            if method != BASE:
                self._params(child.run_id, {**flatten(self.settings.method_settings[method]), "seed": seed})
        shared = {**flatten(self.settings), "budget": self.settings.budget_text}
        apart = {"method_settings", "prompts.train", "prompts.held_out", "command", "budget_unit"}
        self._params(self._draft, {name: value for name, value in shared.items() if name not in apart})
        self._inputs("training", self.settings.prompts.train)
        self._inputs("evaluation", self.settings.prompts.held_out)

    def _views(self) -> Sequence[View]:
        return benchmark_views(suite_named(self.settings.suite))

    def _tags(self, phase: str) -> dict[str, str]:
        return {
            "phase": phase,
            "suite": suite_named(self.settings.suite).name,
            "preset": self.settings.preset,
        }

    def _inputs(self, context: str, prompts: Sequence[str]) -> None:
        """Logs prompts as a dataset input of the benchmark."""
        from mlflow.data.pandas_dataset import from_pandas
        from mlflow.entities import DatasetInput, InputTag

        frame = pd.DataFrame({"prompt": list(prompts)})
        dataset = from_pandas(frame, name=f"{suite_named(self.settings.suite).name} prompts, {context}")
        tags = [InputTag("mlflow.data.context", context)]
        self._client.log_inputs(self._draft, [DatasetInput(dataset._to_mlflow_entity(), tags)])

    def _sync_all(self) -> None:
        for run, child in self._children.items():
            self._sync(run, child)

    def _sync(self, run: tuple[str, int], child: Child, whole: bool = False) -> None:
        """Copies the rows that MLflow does not have yet.

        In a running run the newest iteration waits for the next one, as its rows may be incomplete.
        """
        if child.ended:
            return
        folder = run_folder(self.output, *run)
        status = read_status(folder)  # before the rows, so that a finished run's last rows are never missed
        if status is None:
            return  # not begun: a benchmark of a hundred runs would else spend its time on empty tables
        finished = status.status == "finished"
        self._copy(child, folder, finished or whole)
        if finished:
            self._client.set_terminated(child.run_id, "FINISHED")
            child.ended = True

    def _hang(self, run: tuple[str, int], child: Child) -> None:
        """Attaches a run's files to it."""
        folder = run_folder(self.output, *run)
        for name in ("samples.gif", SAMPLES_FILE, "error.txt"):
            if (folder / name).is_file():
                self._client.log_artifact(child.run_id, str(folder / name))
        weights = folder / "checkpoint" / "weights.safetensors"
        if weights.is_file() and weights.stat().st_size <= LARGEST_MODEL:
            self._client.log_artifact(child.run_id, str(weights), "model")

    def _close(self) -> None:
        """Copies the rest, attaches the report to the parent, and closes unfinished runs."""
        states = set()
        for run in self.spared & self._children.keys():
            self._client.delete_run(self._children[run].run_id)
            del self._children[run]
        for run, child in self._children.items():
            self._sync(run, child, whole=True)
            status = read_status(run_folder(self.output, *run))
            state = "FINISHED" if child.ended else "KILLED"
            if status is not None and status.status == "failed":
                state = "FAILED"
            if not child.ended:
                self._client.set_terminated(child.run_id, state)
            self._hang(run, child)
            states.add(state)
        for name in (SETTINGS_FILE, "report.html"):
            if (self.output / name).is_file():
                self._client.log_artifact(self._parent, str(self.output / name))
        for name in ("figures", "tables", "records"):
            if (self.output / name).is_dir():
                self._client.log_artifacts(self._parent, str(self.output / name), name)
        worst = next(state for state in ("FAILED", "KILLED", "FINISHED") if state in states)
        self._client.set_terminated(self._parent, worst)
