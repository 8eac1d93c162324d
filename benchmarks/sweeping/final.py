"""The final: each method's best trials again, on seeds that the search did not see; these alone choose the winner.

The finalists are the methods of one benchmark in the folder `finals`, whose records `analysis` reads.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.schema import BASE, run_folder
from benchmarks.records import read_status
from benchmarks.resolve import write_settings
from benchmarks.run import Benchmark
from benchmarks.settings import RunSettings
from benchmarks.sweeping.choosing import Finalist
from benchmarks.sweeping.display import shown_values
from benchmarks.sweeping.plan import Plan
from benchmarks.workers import ERROR_FILE, Failure
from rewards.suites import suite_named

FINALS_FOLDER = "finals"
#: Iterations between evaluations that no budget reaches: only the last iteration is evaluated.
AT_THE_END = 1_000_000_000
#: Errors of a training that diverged: it would diverge again, and its trial is out of the final.
_DIVERGED = ("FloatingPointError", "NonFiniteError")


def final_settings(plan: Plan, finalists: Sequence[Finalist]) -> RunSettings:
    """The final as one run: what the trials had, on other seeds, with the finalists for methods."""
    methods = [
        plan.method(entry.method, entry.trial.params).model_copy(update={"name": entry.name})
        for entry in finalists
    ]
    evaluation = plan.base.evaluation.model_copy(update={"every": AT_THE_END, "diagnostic_prompts": 0})
    seeds = plan.final_seed_range
    return plan.base.of_methods(methods).replace(
        seeds=len(seeds), first_seed=seeds.start, evaluation=evaluation
    )


@dataclass(frozen=True)
class Run:
    """One finalist with one seed of the final.

    Attributes:
        seed: which.
        state: "waiting", "running", "finished", "diverged", or "failed" by an error that may be mended.
        reward: headline reward on the judged prompts at the end; None of one that has not finished.
        cost: unit -> what training used.
    """

    seed: int
    state: str
    reward: float | None
    cost: Mapping[str, float]


@dataclass(frozen=True)
class Entry:
    """A finalist and its runs, one a seed of the final."""

    finalist: Finalist
    runs: tuple[Run, ...]

    @property
    def mean(self) -> float | None:
        """Mean reward over the final's seeds alone; None unless all of them finished.

        The score of the search is left out: it is why a trial is a finalist, and so it is flattered.
        """
        rewards = [run.reward for run in self.runs if run.reward is not None]
        return float(np.mean(rewards)) if len(rewards) == len(self.runs) else None


@dataclass(frozen=True)
class Verdict:
    """What the final says of one method.

    Attributes:
        entries: the finalists, in the order that the search had them in.
    """

    entries: tuple[Entry, ...]

    @property
    def missing(self) -> int:
        """Runs that are still to do; there is no winner before."""
        return sum(run.state not in ("finished", "diverged") for entry in self.entries for run in entry.runs)

    @property
    def ranking(self) -> list[tuple[Finalist, float]]:
        """Finalists with their means, the highest first; at equal means the search decides."""
        means = [(entry.finalist, entry.mean) for entry in self.entries]
        return sorted(
            ((finalist, mean) for finalist, mean in means if mean is not None), key=lambda pair: -pair[1]
        )

    @property
    def winner(self) -> Finalist | None:
        """The finalist with the highest mean; None as long as runs are missing, and where none has finished."""
        return self.ranking[0][0] if self.ranking and not self.missing else None

    def line(self, method: str, seeds: str) -> str:
        """The verdict for people.

        Args:
            method: whose it is.
            seeds: of the final, as "seeds 101, 102".
        """
        if not self.entries:
            return f"{method}: no trial is complete, and there is no final"
        if self.missing:
            return f"{method}: the final is not over, {self.missing} of its runs are missing"
        if not self.ranking:
            return f"{method}: the final has no winner, for the training of every finalist diverged"
        (winner, mean), *others = self.ranking
        behind = [f"trial {entry.trial.number} {value:.4g} ({entry.searched:.4g})" for entry, value in others]
        out = [f"trial {entry.finalist.trial.number}" for entry in self.entries if entry.mean is None]
        parts = [
            f"{method}: trial {winner.trial.number} wins the final, reward {mean:.4g} on average over {seeds} and "
            f"{winner.searched:.4g} in the search",
            shown_values(winner.trial.params),
            f"behind it {', '.join(behind)}" if behind else "",
            f"out, for training diverged: {', '.join(out)}" if out else "",
        ]
        return "; ".join(filter(None, parts))


class Final(Benchmark):
    """Trains the finalists, in a folder below the sweep's.

    Args:
        plan: the sweep.
        finalists: of all methods.
        output: the sweep's folder.
        workers: runs side by side.
    """

    def __init__(self, plan: Plan, finalists: Sequence[Finalist], output: Path, workers: int) -> None:
        super().__init__(final_settings(plan, finalists), output / FINALS_FOLDER, workers, resume=True)
        self.plan, self.finalists, self.shared = plan, finalists, output / "base"

    def train(self) -> list[Failure]:
        """Trains what is missing; returns the runs that failed by an error that may be mended."""
        self._prepare()
        failures = self._train(self.runs)
        for run in self.runs:
            if self._state(*run) == "finished":  # nothing goes on from there
                shutil.rmtree(run_folder(self.output, *run) / "checkpoint", ignore_errors=True)
        return [failure for failure in failures if self._state(failure.method, failure.seed) != "diverged"]

    def verdicts(self) -> dict[str, Verdict]:
        """What the records say so far, for each method."""
        seeds = self.plan.final_seed_range
        entries = [Entry(one, tuple(self._run_of(one, seed) for seed in seeds)) for one in self.finalists]
        return {
            method: Verdict(tuple(entry for entry in entries if entry.finalist.method == method))
            for method in self.plan.methods
        }

    def _waiting(self, runs: Sequence[tuple[str, int]]) -> list[tuple[str, int]]:
        return [run for run in super()._waiting(runs) if self._state(*run) != "diverged"]

    def _prepare(self) -> None:
        """Writes the settings, which more trials may have changed, and takes over the base model's evaluation."""
        write_settings(self.settings, self.output)
        known = run_folder(self.shared, BASE, 0)
        status = read_status(known)
        if status is not None and status.status == "finished":
            shutil.copytree(known, run_folder(self.output, BASE, 0), dirs_exist_ok=True)

    def _state(self, method: str, seed: int) -> str:
        return run_state(run_folder(self.output, method, seed))

    def _run_of(self, finalist: Finalist, seed: int) -> Run:
        from benchmarks.sweeping.trial import cost_of, headline_values

        state = self._state(finalist.name, seed)
        if state == "waiting":
            return Run(seed, state, None, {})
        folder = run_folder(self.output, finalist.name, seed)
        values = headline_values(folder, suite_named(self.settings.suite).headline)
        reward = values[max(values)] if state == "finished" else None
        return Run(seed, state, reward, cost_of(self.output, [(finalist.name, seed)]))


def run_state(folder: Path) -> str:
    """How a run of the final stands: its status, and "diverged" of one that failed since its training diverged."""
    status = read_status(folder)
    if status is None:
        return "waiting"
    if status.status == "failed" and (folder / ERROR_FILE).is_file():
        last = (folder / ERROR_FILE).read_text(encoding="utf-8").rstrip().rpartition("\n")[2]
        if last.partition(":")[0].rpartition(".")[2] in _DIVERGED:
            return "diverged"
    return status.status


def finals_table(plan: Plan, verdicts: Mapping[str, Verdict]) -> pd.DataFrame:
    """All runs of the final: one row a finalist and seed."""
    parameters = dict.fromkeys(parameter.name for space in plan.spaces.values() for parameter in space)
    rows = [
        {
            "method": entry.finalist.method,
            "trial": entry.finalist.trial.number,
            "seed": run.seed,
            "state": run.state,
            "reward": run.reward,
            "search_reward": entry.finalist.searched,
            **{name: entry.finalist.trial.params.get(name) for name in parameters},
            "iterations": run.cost.get("iterations"),
            "tflops": run.cost.get("tflops"),
        }
        for verdict in verdicts.values()
        for entry in verdict.entries
        for run in entry.runs
    ]
    return pd.DataFrame(rows)
