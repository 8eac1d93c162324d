"""A sweep as data: what is searched, how, and on which prompts and seeds; the same in every process."""

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

#: Objective -> its description and direction.
OBJECTIVES: Mapping[str, tuple[str, Literal["maximize", "minimize"]]] = {
    "reward": ("headline reward on the judging prompts at the end of the budget", "maximize"),
    "kl": ("KL to the base model in nats per video (diagnostic/kl_to_base)", "minimize"),
}
#: Search -> what it does.
SEARCHES: Mapping[str, str] = {
    "tpe": "tree-structured Parzen estimator",
    "random": "independent draws",
    "grid": "every combination of a few values, for a heat map",
}
#: Pruner -> when it stops a trial early.
PRUNERS: Mapping[str, str] = {
    "median": "worse than the median of the finished trials at the same share of the budget",
    "wilcoxon": "worse than the best trial, seed by seed (Wilcoxon's signed-rank test); needs --seeds 4 or more",
    "none": "never",
}
#: Intermediate values are compared at this many fractions of the budget: 0.1, 0.2, ..., 1.
MARKS = 10
#: No trial is pruned before this many have finished, or before this many tenths of the budget.
STARTUP_TRIALS, WARMUP_MARKS = 5, 3
#: With fewer seeds the signed-rank test's p cannot fall below its threshold of 0.1: 1 / 2^3 > 0.1.
WILCOXON_SEEDS = 4
#: Number of training prompts evaluated besides the judging ones.
TRAIN_PROMPTS = 4
FIRST_SEED = 100
#: Fields of a run that a sweep's description has elsewhere, or not at all.
_APART = {"command", "methods", "method_settings", "prompts"}


def split_prompts(train: Sequence[str]) -> tuple[list[str], list[str]]:
    """Splits the training prompts into those that trials train on and those that judge them: one of every three.

    Its position rotates with every three and every dozen, so that in lists made as products of words, like the
    testbed's, no word falls entirely on one side. Held-out prompts are in neither part: no trial sees them.

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
    """Everything a sweep depends on.

    Attributes:
        study: its name in the storage.
        storage: URL of the storage.
        run: the run that `benchmarks.run` would do with the same options: unchanged methods on all training prompts.
        base: the same for trials: on tuning seeds and prompts.
        spaces: method -> its parameters.
        trials: total number per method.
        objectives: names of `OBJECTIVES`; the first, the reward, chooses the best trial.
        search: name of `SEARCHES`.
        pruner: name of `PRUNERS`.
        search_seed: seed of the search itself.
        finalists: trials of each method that the final trains again; 0 for no final.
        final_seeds: number of further seeds used there.
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
        """The tuned methods, each with its own study."""
        return self.base.methods

    def method(self, name: str, values: Mapping[str, Any]) -> Method:
        """A method with a trial's values.

        Args:
            name: the method's.
            values: parameter -> value; other fields are unchanged.

        Raises:
            SettingsError: they do not fit.
        """
        space = self.spaces[name]
        changes = {entry.field: values[entry.name] for entry in space if entry.name in values}
        return variant(self.base.method_settings[name], changes, name)

    def settings(self, name: str, values: Mapping[str, Any]) -> RunSettings:
        """A trial's run; arguments and errors as in `method`."""
        return self.base.of_methods([self.method(name, values)])

    def current(self, method: str) -> dict[str, Any] | None:
        """The method's own values by parameter name, for the first trial; None if they lie outside the space."""
        flat = flatten(self.base.method_settings[method])
        values = {parameter.name: flat[parameter.field] for parameter in self.spaces[method]}
        inside = all(parameter.contains(values[parameter.name]) for parameter in self.spaces[method])
        return values if inside else None

    def grid(self, method: str) -> dict[str, list[Any]]:
        """Parameter -> its values in a grid."""
        return {parameter.name: parameter.grid() for parameter in self.spaces[method]}

    def trials_of(self, method: str) -> int:
        """Number of trials of one method; for a grid, at most its number of points."""
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
        """The training seeds of the final: those following the trials' own."""
        return range(self.seeds.stop, self.seeds.stop + self.final_seeds)

    @property
    def final_seeds_text(self) -> str:
        """ "seeds 101, 102, 103"."""
        return _seeds_text(self.final_seed_range)

    @property
    def directions(self) -> list[Literal["maximize", "minimize"]]:
        """Directions of the objectives, for Optuna."""
        return [OBJECTIVES[name][1] for name in self.objectives]

    def sampler(self, method: str, number: int) -> BaseSampler:
        """Proposes the values of a trial; seeded by the preceding trials, so that a resumed sweep continues alike.

        Args:
            method: whose study it is.
            number: number of trials started before.
        """
        if self.search == "grid":
            return GridSampler(self.grid(method), seed=self.search_seed)
        seed = derived_seed(self.search_seed, "search", method, number) % 2**32
        return RandomSampler(seed=seed) if self.search == "random" else TPESampler(seed=seed)

    def make_pruner(self) -> BasePruner:
        """The pruner."""
        if self.pruner == "median":
            return MedianPruner(n_startup_trials=STARTUP_TRIALS, n_warmup_steps=WARMUP_MARKS)
        return WilcoxonPruner() if self.pruner == "wilcoxon" else NopPruner()

    def described(self, method: str | None = None) -> dict[str, Any]:
        """The sweep as plain data, for files and the study: everything its results depend on.

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


#: Settings that may differ between machines sharing a study: locations, and settings that affect no result.
_LOCAL = {"model", "outcome_model", "process_reward", "preset", "micro_batch", "checkpoint_every"}


def differing_settings(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """Dotted names of the differences between two descriptions of a sweep, except those that are allowed.

    Args:
        first: a study's description, from any version that can still be read.
        second: the current description.
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
    """A description from an earlier version in the current fields; missing fields have their defaults.

    One that can no longer be read is returned unchanged, and therefore differs.
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
    """A run as used in trials: on tuning seeds and some of the training prompts, judged by the others.

    Args:
        run: without a sweep.
        seeds, first_seed: training seeds of a trial.
        every: iterations between evaluations; None for the run's own.
        kl: whether the KL to the base model is an objective: then diagnostics are drawn.

    Raises:
        SettingsError: there are too few prompts, or no diagnostics to take the KL from.
    """
    usual = run.evaluation
    if kl and usual.diagnostic_prompts == 0:
        raise SettingsError("evaluation.diagnostic_prompts is 0, but objective kl needs at least 1")
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
    """Silences Optuna's log lines and its warnings about experimental features."""
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
