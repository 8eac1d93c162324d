"""Which trials count, which is best, and which enter the final."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from benchmarks.sweeping.plan import Plan
from benchmarks.sweeping.storage import counted


@dataclass(frozen=True)
class Finalist:
    """A trial that is trained again in the final.

    Attributes:
        method: its method.
        trial: the trial, as left by the search.
    """

    method: str
    trial: FrozenTrial

    @property
    def name(self) -> str:
        """Name of its method in the final's runs: "flow_grpo.trial-12"."""
        return f"{self.method}.trial-{self.trial.number}"

    @property
    def searched(self) -> float:
        """Its reward in the search, which selected it."""
        return float(self.trial.values[0])


def trials_of(plan: Plan, study: Study, method: str) -> list[FrozenTrial]:
    """The trials that count, in order of their numbers, at most as many as the sweep asks for."""
    return [trial for trial in study.get_trials(deepcopy=False) if counted(trial)][: plan.trials_of(method)]


def are_over(plan: Plan, study: Study, method: str) -> bool:
    """Whether a method has all its trials and none is still running."""
    trials = trials_of(plan, study, method)
    return len(trials) == plan.trials_of(method) and all(trial.state.is_finished() for trial in trials)


def ranked(plan: Plan, study: Study, method: str) -> list[FrozenTrial]:
    """The complete trials, largest reward first."""
    complete = [trial for trial in trials_of(plan, study, method) if trial.state == TrialState.COMPLETE]
    return sorted(complete, key=lambda trial: -trial.values[0])


def best_trial(plan: Plan, study: Study, method: str) -> FrozenTrial | None:
    """The complete trial with the largest reward."""
    return next(iter(ranked(plan, study, method)), None)


def finalists_of(plan: Plan, study: Study, method: str) -> list[Finalist]:
    """The complete trials with the largest rewards, up to the number of finalists per method.

    Trials with equal values would repeat the same run, so only the first of them counts.
    """
    different: dict[tuple[tuple[str, Any], ...], FrozenTrial] = {}
    for trial in ranked(plan, study, method):
        different.setdefault(tuple(sorted(trial.params.items())), trial)
    return [Finalist(method, trial) for trial in list(different.values())[: plan.finalists]]
