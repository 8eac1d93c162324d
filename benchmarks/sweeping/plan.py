"""A sweep as data: what is searched, how, on which prompts and seeds; the same in every process that works on it."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import optuna
from optuna.pruners import BasePruner, MedianPruner, NopPruner, WilcoxonPruner
from optuna.samplers import BaseSampler, GridSampler, RandomSampler, TPESampler
from pydantic import ValidationError

from benchmarks.resolve import nested
from benchmarks.settings import Prompts, RunSettings, SettingsError, variant
from benchmarks.sweeping.space import Parameter
from methods.method import Method, flatten
from methods.seeding import derived_seed

#: Objective -> what is optimised, and in which direction.
OBJECTIVES: Mapping[str, tuple[str, Literal["maximize", "minimize"]]] = {
    "reward": ("headline reward on the judged prompts at the budget", "maximize"),
    "kl": ("KL to the base model in nats a video (diagnostic/kl_to_base)", "minimize"),
}
#: Search -> what it does.
SEARCHES: Mapping[str, str] = {
    "tpe": "tree-structured Parzen estimator",
    "random": "independent draws",
    "grid": "every combination of a few values, for a heat map",
}
#: Pruner -> when it ends a trial early.
PRUNERS: Mapping[str, str] = {
    "median": "worse than the median of the finished trials at the same share of the budget",
    "wilcoxon": "worse than the best trial, seed by seed (Wilcoxon's signed-rank test); needs --seeds 4 or more",
    "none": "never",
}
#: Intermediate values are compared at these many shares of the budget: 0.1, 0.2, ..., 1.
MARKS = 10
#: No trial is pruned before so many have finished, nor before this many tenths of the budget.
STARTUP_TRIALS, WARMUP_MARKS = 5, 3
#: Fewer seeds than these cannot make the signed-rank test's p fall below its threshold of 0.1: 1 / 2^3 > 0.1.
WILCOXON_SEEDS = 4
#: Prompts that are trained on and evaluated beside the judged ones, to see both.
TRAIN_PROMPTS = 4
FIRST_SEED = 100
#: Fields of a run that a sweep's description has in other places, or not at all.
_APART = {"command", "methods", "method_settings", "prompts"}


def split_prompts(train: Sequence[str]) -> tuple[list[str], list[str]]:
    """Training prompts as those that trials train on, and those that judge them: one of each three in a row.

    Its place moves on with every three and every dozen, so that lists made as products of words, as the testbed's is,
    do not put all of one word on one side. Held-out prompts are in neither part: no trial sees them.

    Raises:
        SettingsError: there are too few to split.
    """
    judged = [text for i, text in enumerate(train) if (i + i // 3 + i // 12) % 3 == 2]
    trained = [text for text in train if text not in judged]
    if not judged:
        raise SettingsError(
            f"prompts.train has {len(train)} prompts; a sweep needs at least 3, a third of them to judge"
        )
    return trained, judged


@dataclass(frozen=True)
class Plan:
    """Everything that a sweep depends on.

    Attributes:
        study: its name in the storage.
        storage: URL of the storage.
        run: what `benchmarks.run` would do with the same options: the methods as they are, on all training prompts.
        base: the same for trials: on tuning seeds and prompts.
        spaces: method -> its parameters.
        trials: how many for each method, in all.
        objectives: names of `OBJECTIVES`; the first, the reward, chooses the best trial.
        search: name of `SEARCHES`.
        pruner: name of `PRUNERS`.
        search_seed: of the search's own draws.
        finalists: trials of each method that the final trains again; 0 for no final.
        final_seeds: on how many further seeds.
    """

    study: str
    storage: str
    run: RunSettings
    base: RunSettings
    spaces: Mapping[str, tuple[Parameter, ...]]
    trials: int
    objectives: tuple[str, ...]
    search: str
    pruner: str
    search_seed: int
    finalists: int = 0
    final_seeds: int = 0

    @property
    def methods(self) -> tuple[str, ...]:
        """What is tuned, each in a study of its own."""
        return self.base.methods

    def method(self, name: str, values: Mapping[str, Any]) -> Method:
        """A method as a trial has it.

        Args:
            name: the method's.
            values: parameter -> value; what is missing stays as it is.

        Raises:
            SettingsError: they do not fit.
        """
        space = self.spaces[name]
        changes = {entry.field: values[entry.name] for entry in space if entry.name in values}
        return variant(self.base.method_settings[name], changes, name)

    def settings(self, name: str, values: Mapping[str, Any]) -> RunSettings:
        """A trial's run; arguments and errors are those of `method`."""
        return self.base.of_methods([self.method(name, values)])

    def current(self, method: str) -> dict[str, Any] | None:
        """The method's own values by parameter name: what the first trial tries. None where the space lacks them."""
        flat = flatten(self.base.method_settings[method])
        values = {parameter.name: flat[parameter.field] for parameter in self.spaces[method]}
        inside = all(parameter.contains(values[parameter.name]) for parameter in self.spaces[method])
        return values if inside else None

    def grid(self, method: str) -> dict[str, list[Any]]:
        """Parameter -> its values in a grid."""
        return {parameter.name: parameter.grid() for parameter in self.spaces[method]}

    def trials_of(self, method: str) -> int:
        """Trials of one method: a grid has no more than its points."""
        if self.search != "grid":
            return self.trials
        return min(self.trials, math.prod(len(values) for values in self.grid(method).values()))

    @property
    def seeds(self) -> range:
        """The training seeds of every trial."""
        return self.base.seed_range

    @property
    def seeds_text(self) -> str:
        """ "seed 100", or "seeds 100, 101"."""
        return _seeds_text(self.seeds)

    @property
    def final_seed_range(self) -> range:
        """The training seeds of the final: those right after the trials' own."""
        return range(self.seeds.stop, self.seeds.stop + self.final_seeds)

    @property
    def final_seeds_text(self) -> str:
        """ "seeds 101, 102, 103"."""
        return _seeds_text(self.final_seed_range)

    @property
    def directions(self) -> list[Literal["maximize", "minimize"]]:
        """Of the objectives, as Optuna has them."""
        return [OBJECTIVES[name][1] for name in self.objectives]

    def sampler(self, method: str, number: int) -> BaseSampler:
        """What proposes the values of a trial; seeded by the trials before it, so that a resumed sweep goes on alike.

        Args:
            method: whose study it is.
            number: trials that were begun before.
        """
        if self.search == "grid":
            return GridSampler(self.grid(method), seed=self.search_seed)
        seed = derived_seed(self.search_seed, "search", method, number) % 2**32
        return RandomSampler(seed=seed) if self.search == "random" else TPESampler(seed=seed)

    def make_pruner(self) -> BasePruner:
        """What ends trials early."""
        if self.pruner == "median":
            return MedianPruner(n_startup_trials=STARTUP_TRIALS, n_warmup_steps=WARMUP_MARKS)
        return WilcoxonPruner() if self.pruner == "wilcoxon" else NopPruner()

    def described(self, method: str | None = None) -> dict[str, Any]:
        """The sweep as plain data, for files and for the study: all that its results depend on.

        Args:
            method: the one whose study it is; None for all.
        """
        names = [method] if method else self.methods
        return {
            "objectives": list(self.objectives),
            "search": self.search,
            "search_seed": self.search_seed,
            "pruner": self.pruner,
            "parameters": {
                name: {parameter.name: parameter.text for parameter in self.spaces[name]} for name in names
            },
            "methods": {name: self.base.method_settings[name].model_dump(mode="json") for name in names},
            "run": self.base.model_dump(mode="json", exclude=_APART),
            "prompts": {
                "trained_on": list(self.base.prompts.train),
                "judged": list(self.base.prompts.held_out),
            },
        }


def _seeds_text(seeds: range) -> str:
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"


#: Settings that may differ between the machines that share a study: where things lie, and what changes no result.
_LOCAL = {"model", "outcome_model", "process_reward", "preset", "micro_batch", "checkpoint_every"}


def differing_settings(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """Dotted names of what differs between two descriptions of a sweep; what may differ is left out.

    Args:
        first: what a study holds; of any version that today's settings can read.
        second: what is to be done.
    """
    one, other = nested(_as_of_today(first)), nested(second)
    names = dict.fromkeys(itertools.chain(one, other))
    return [
        name for name in names if one.get(name, _ABSENT) != other.get(name, _ABSENT) and not _may_differ(name)
    ]


def _may_differ(name: str) -> bool:
    part, _, field = name.partition(".")
    return (part == "run" and field in _LOCAL) or (part == "methods" and field.endswith(".reference"))


def _as_of_today(described: Mapping[str, Any]) -> Mapping[str, Any]:
    """A description of an earlier version in today's fields; those that it lacks have their defaults.

    One that today's settings cannot read is left as it is, and differs.
    """
    prompts = described["prompts"]
    whole = {
        **described["run"],
        "methods": list(described["methods"]),
        "method_settings": described["methods"],
        "prompts": {"train": prompts["trained_on"], "held_out": prompts["judged"]},
    }
    try:
        run = RunSettings.model_validate(whole)
    except ValidationError:
        return described
    methods = {name: method.model_dump(mode="json") for name, method in run.method_settings.items()}
    return {**described, "methods": methods, "run": run.model_dump(mode="json", exclude=_APART)}


_ABSENT = object()


def for_trials(run: RunSettings, seeds: int, first_seed: int, every: int | None, kl: bool) -> RunSettings:
    """A run as trials do it: on tuning seeds, on some of the training prompts, judged by the others.

    Args:
        run: without a sweep.
        seeds, first_seed: training seeds of a trial.
        every: iterations between evaluations; None for what the run has.
        kl: whether the KL to the base model is an objective: then diagnostics are drawn.

    Raises:
        SettingsError: there are too few prompts, or no diagnostics to take the KL from.
    """
    usual = run.evaluation
    if kl and usual.diagnostic_prompts == 0:
        raise SettingsError("evaluation.diagnostic_prompts is 0, and the objective kl needs at least 1")
    train, judged = split_prompts(run.prompts.train)
    changes = {
        "train_prompts": min(TRAIN_PROMPTS, usual.train_prompts),
        "diagnostic_prompts": usual.diagnostic_prompts if kl else 0,
        "every": every or usual.every,
        "early_until": 0,  # trials compare at tenths of the budget, and need no denser beginning
    }
    return run.replace(
        seeds=seeds,
        first_seed=first_seed,
        prompts=Prompts(train=tuple(train), held_out=tuple(judged)),
        prompts_per_iteration=min(run.prompts_per_iteration, len(train)),
        evaluation=usual.model_copy(update=changes),
    )


def quiet() -> None:
    """Keeps Optuna's own lines out of ours, and its warnings of what it may still change."""
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
