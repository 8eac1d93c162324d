"""A sweep in MLflow: a parent run, and a child for each trial and each run of the final that lie in its folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from analysis.schema import SETTINGS_FILE
from benchmarks.records import run_folder
from benchmarks.sweeping.choosing import Finalist
from benchmarks.sweeping.final import FINALS_FOLDER, run_state
from benchmarks.sweeping.plan import Plan
from benchmarks.sweeping.results import FINALS_FILE, SWEEP_FILE, TRIALS_FILE, TUNED_FILE
from benchmarks.sweeping.trial import Sheet, read_sheets
from benchmarks.tracking import Child, Mirror
from benchmarks.views import View, sweep_view
from rewards.suites import suite_named

#: State of a trial -> MLflow's status of its run.
_STATUS = {"complete": "FINISHED", "pruned": "FINISHED", "failed": "FAILED"}
#: The same for a run of the final.
_FINAL_STATUS = {"finished": "FINISHED", "diverged": "FAILED"}


class SweepTracker(Mirror):
    """Copies a sweep's records to MLflow.

    Args:
        plan: the sweep.
        output: its folder.
        every: seconds between copies.
    """

    def __init__(self, plan: Plan, output: Path, every: float = 5.0) -> None:
        super().__init__(output, every)
        self.plan = plan
        #: Whose runs in the final are copied; the sweep says so when it knows.
        self.finalists: Sequence[Finalist] = ()

    @property
    def _remedy(self) -> str:
        return "the same command sends the rest"

    def _views(self) -> list[View]:
        spaces = [[parameter.name for parameter in self.plan.spaces[method]] for method in self.plan.methods]
        return [sweep_view(self.plan.study, suite_named(self.plan.base.suite).headline, spaces)]

    def _parent_tags(self) -> dict[str, str]:
        base = self.plan.base
        return {
            "phase": "sweep",
            "study": self.plan.study,
            "suite": suite_named(base.suite).name,
            "preset": base.preset,
        }

    def _begin(self) -> None:
        described = self.plan.described()
        values: dict[str, Any] = {
            name: described[name] for name in ("objectives", "search", "search_seed", "pruner")
        }
        for method, parameters in described["parameters"].items():
            values |= {f"{method}.{name}": text for name, text in parameters.items()}
        base = self.plan.base
        values |= {
            "methods": ",".join(self.plan.methods),
            "trials": self.plan.trials,
            "seeds": ",".join(map(str, self.plan.seeds)),
            "budget": base.budget_text,
        }
        self._params(self._draft, values)

    def _sync_all(self) -> None:
        self._sync(closing=False)

    def _sync(self, closing: bool) -> None:
        """Copies what is new of every trial; of one under way the newest iteration waits for the next one."""
        for folder, sheet in read_sheets(self.output):
            ended = sheet.state in _STATUS
            children = self._of(folder, sheet)
            if all(child.ended for child in children.values()):
                continue
            for seed, child in children.items():
                prefix = "" if len(children) == 1 else f"seed{seed}/"
                self._copy(child, run_folder(folder, sheet.method, seed), ended or closing, prefix)
            run_id = next(iter(children.values())).run_id
            if ended or closing:
                self._end(run_id, sheet)
            for child in children.values():
                child.ended = ended
        for finalist in self.finalists:
            for seed in self.plan.final_seed_range:
                self._sync_final(finalist, seed, closing)

    def _sync_final(self, finalist: Finalist, seed: int, closing: bool) -> None:
        """Copies what is new of one finalist's run with one seed of the final."""
        folder = run_folder(self.output / FINALS_FOLDER, finalist.name, seed)
        key = (finalist.name, seed)
        state = run_state(folder)  # before the rows: a finished run has all of its own
        if state == "waiting" or (key in self._children and self._children[key].ended):
            return
        ended = state in _FINAL_STATUS
        if key not in self._children:
            named = {"method": finalist.method, "trial": str(finalist.trial.number), "seed": str(seed)}
            run_id = self._create_child(
                f"{finalist.method} trial {finalist.trial.number} final seed {seed}",
                {**self._parent_tags(), "phase": "final", "state": state, **named},
            )
            self._params(run_id, {**finalist.trial.params, **named})
            self._children[key] = Child(run_id)
        child = self._children[key]
        self._copy(child, folder, ended or closing)
        if ended or closing:
            self._client.set_tag(child.run_id, "state", state)
            self._client.set_terminated(child.run_id, _FINAL_STATUS.get(state, "KILLED"))
        child.ended = ended

    def _of(self, folder: Path, sheet: Sheet) -> dict[int, Child]:
        """A trial's child for each seed, all of one MLflow run, made when the trial is first seen."""
        keys = {seed: (folder.name, seed) for seed in self.plan.seeds}
        if any(key not in self._children for key in keys.values()):
            tags = {
                **self._parent_tags(),
                "method": sheet.method,
                "trial": str(sheet.number),
                "state": sheet.state,
            }
            run_id = self._create_child(f"{sheet.method} trial {sheet.number}", tags)
            self._params(run_id, {**sheet.values, "method": sheet.method, "trial": sheet.number})
            self._children |= {key: Child(run_id) for key in keys.values()}
        return {seed: self._children[key] for seed, key in keys.items()}

    def _end(self, run_id: str, sheet: Sheet) -> None:
        """Closes a trial's run with its scores."""
        for name, score in zip(self.plan.objectives, sheet.scores, strict=False):
            self._client.log_metric(run_id, f"objective/{name}", score)
        self._client.set_tag(run_id, "state", sheet.state)
        self._client.set_tag(run_id, "trial", str(sheet.number))
        self._client.set_terminated(run_id, _STATUS.get(sheet.state, "KILLED"))

    def _close(self) -> None:
        self._sync(closing=True)
        for name in (SWEEP_FILE, TRIALS_FILE, FINALS_FILE, TUNED_FILE, SETTINGS_FILE):
            if (self.output / name).is_file():
                self._client.log_artifact(self._parent, str(self.output / name))
        if (self.output / "figures").is_dir():
            self._client.log_artifacts(self._parent, str(self.output / "figures"), "figures")
        whole = all(child.ended for child in self._children.values())
        self._client.set_terminated(self._parent, "FINISHED" if whole else "KILLED")
