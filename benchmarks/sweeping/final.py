"""The final: reruns each method's best trials on seeds unseen in the search; only these decide the winner.

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
#: An evaluation interval beyond any budget, so that only the last iteration is evaluated.
AT_THE_END = 1_000_000_000
#: Errors of diverged training: it would diverge again, so its trial is out of the final.
_DIVERGED = ("FloatingPointError", "NonFiniteError")


def final_settings(plan: Plan, finalists: Sequence[Finalist]) -> RunSettings:
    """The final as one run: the trials' settings on other seeds, with the finalists as methods."""
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
        state: "waiting", "running", "finished", "diverged", or "failed" with an error that can be fixed.
        reward: final headline reward on the judging prompts; None if it has not finished.
        cost: unit -> amount used in training.
    """

    seed: int
    state: str
    reward: float | None
    cost: Mapping[str, float]


@dataclass(frozen=True)
class Entry:
    """A finalist and its runs, one per seed of the final."""

    finalist: Finalist
    runs: tuple[Run, ...]

    @property
    def mean(self) -> float | None:
        """Mean reward over the final's seeds only; None unless all have finished.

        The score of the search is left out: it selected the finalists and is therefore biased upwards.
        """
        rewards = [run.reward for run in self.runs if run.reward is not None]
        return float(np.mean(rewards)) if len(rewards) == len(self.runs) else None


@dataclass(frozen=True)
class Verdict:
    """The final's result for one method.

    Attributes:
        entries: the finalists, in the order of the search.
    """

    entries: tuple[Entry, ...]

    @property
    def missing(self) -> int:
        """Runs still to be done; there is no winner before."""
        return sum(run.state not in ("finished", "diverged") for entry in self.entries for run in entry.runs)

    @property
    def ranking(self) -> list[tuple[Finalist, float]]:
        """Finalists with their means, highest first; the search breaks ties."""
        means = [(entry.finalist, entry.mean) for entry in self.entries]
        return sorted(
            ((finalist, mean) for finalist, mean in means if mean is not None), key=lambda pair: -pair[1]
        )

    @property
    def winner(self) -> Finalist | None:
        """The finalist with the highest mean; None while runs are missing, or if none has finished."""
        return self.ranking[0][0] if self.ranking and not self.missing else None

    def line(self, method: str, seeds: str) -> str:
        """The result as text.

        Args:
            method: the method's name.
            seeds: the final's seeds, as "seeds 101, 102".
        """
        if not self.entries:
            return f"{method}: no trial is complete, so there is no final"
        if self.missing:
            return f"{method}: the final is not finished; {self.missing} of its runs are missing"
        if not self.ranking:
            return f"{method}: the final has no winner, because the training of every finalist diverged"
        (winner, mean), *others = self.ranking
        behind = [f"trial {entry.trial.number} {value:.4g} ({entry.searched:.4g})" for entry, value in others]
        out = [f"trial {entry.finalist.trial.number}" for entry in self.entries if entry.mean is None]
        parts = [
            f"{method}: trial {winner.trial.number} wins the final, reward {mean:.4g} on average over {seeds} and "
            f"{winner.searched:.4g} in the search",
            shown_values(winner.trial.params),
            f"behind it {', '.join(behind)}" if behind else "",
            f"excluded because training diverged: {', '.join(out)}" if out else "",
        ]
        return "; ".join(filter(None, parts))


class Final(Benchmark):
    """Trains the finalists, in a folder below the sweep's.

    Args:
        plan: the sweep.
        finalists: the finalists of all methods.
        output: the sweep's folder.
        workers: parallel runs.
    """

    def __init__(self, plan: Plan, finalists: Sequence[Finalist], output: Path, workers: int) -> None:
        super().__init__(final_settings(plan, finalists), output / FINALS_FOLDER, workers, resume=True)
        self.plan, self.finalists, self.shared = plan, finalists, output / "base"

    def train(self) -> list[Failure]:
        """Trains the missing runs; returns those that failed with an error that can be fixed."""
        self._prepare()
        failures = self._train(self.runs)
        for run in self.runs:
            if self._state(*run) == "finished":  # it will not be resumed
                shutil.rmtree(run_folder(self.output, *run) / "checkpoint", ignore_errors=True)
        return [failure for failure in failures if self._state(failure.method, failure.seed) != "diverged"]

    def verdicts(self) -> dict[str, Verdict]:
        """The results so far, for each method."""
        seeds = self.plan.final_seed_range
        entries = [Entry(one, tuple(self._run_of(one, seed) for seed in seeds)) for one in self.finalists]
        return {
            method: Verdict(tuple(entry for entry in entries if entry.finalist.method == method))
            for method in self.plan.methods
        }

    def _waiting(self, runs: Sequence[tuple[str, int]]) -> list[tuple[str, int]]:
        return [run for run in super()._waiting(runs) if self._state(*run) != "diverged"]

    def _prepare(self) -> None:
        """Writes the settings, which further trials may have changed, and copies the base model's evaluation."""
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
    """Status of a run of the final, with "diverged" for a run that failed because its training diverged."""
    status = read_status(folder)
    if status is None:
        return "waiting"
    if status.status == "failed" and (folder / ERROR_FILE).is_file():
        last = (folder / ERROR_FILE).read_text(encoding="utf-8").rstrip().rpartition("\n")[2]
        if last.partition(":")[0].rpartition(".")[2] in _DIVERGED:
            return "diverged"
    return status.status


def finals_table(plan: Plan, verdicts: Mapping[str, Verdict]) -> pd.DataFrame:
    """All runs of the final: one row per finalist and seed."""
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
