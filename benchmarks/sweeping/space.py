"""The search space: which fields of a method a sweep tries, and in which ranges."""

from __future__ import annotations

import json
import math
import re
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import yaml
from optuna.trial import Trial

from benchmarks.settings import SettingsError
from methods.method import Method, flatten
from methods.naming import closest, field_names, field_type

#: Default number of grid points of a continuous parameter.
GRID_POINTS = 5


@dataclass(frozen=True)
class Parameter:
    """One dimension of the search.

    Attributes:
        name: as requested; used in the study, tables and figures.
        field: dotted field of a method.
        low, high: the range, including its ends; None if there are choices.
        log: whether the scale is logarithmic.
        integer: whether only integers are tried.
        choices: values instead of a range.
        points: number of grid values along this dimension; None for the default.
        about: description for `--help`.
    """

    name: str
    field: str
    low: float | None = None
    high: float | None = None
    log: bool = False
    integer: bool = False
    choices: tuple[Any, ...] = ()
    points: int | None = None
    about: str = ""

    def suggest(self, trial: Trial) -> Any:
        """A value for one trial."""
        if self.choices:
            return trial.suggest_categorical(self.name, self.choices)
        low, high = self.limits
        if self.integer:
            return trial.suggest_int(self.name, int(low), int(high), log=self.log)
        return trial.suggest_float(self.name, low, high, log=self.log)

    def grid(self) -> list[Any]:
        """The values of a grid along this dimension."""
        if self.choices:
            return list(self.choices)
        low, high = self.limits
        count = self.points or GRID_POINTS
        if self.integer and self.points is None and high - low < 2 * GRID_POINTS:
            return list(range(int(low), int(high) + 1))
        spaced = np.geomspace(low, high, count) if self.log else np.linspace(low, high, count)
        if self.integer:
            return sorted({round(value) for value in spaced.tolist()})
        rounded = [float(f"{value:.4g}") for value in spaced.tolist()]  # 0.475, not 0.47500000000000003
        return [low, *rounded[1:-1], high] if count > 1 else [low]

    def ends(self) -> list[Any]:
        """Values to check before a sweep: the ends of the range, or every choice."""
        if self.choices:
            return list(self.choices)
        low, high = self.limits
        return [int(low), int(high)] if self.integer else [low, high]

    def contains(self, value: Any) -> bool:
        """Whether the search could propose this value."""
        if self.choices:
            return value in self.choices
        low, high = self.limits
        return isinstance(value, int | float) and low <= value <= high

    @property
    def limits(self) -> tuple[float, float]:
        """Both ends of a range."""
        assert self.low is not None  # `parse` returns a range or choices
        assert self.high is not None
        return self.low, self.high

    @property
    def text(self) -> str:
        """The parameter in the syntax of `--params`."""
        if self.choices:
            return f"{self.field}={'|'.join(json.dumps(value) for value in self.choices)}"
        options = (":log" if self.log else "") + (f":{self.points}" if self.points else "")
        return f"{self.field}={self.low!r}..{self.high!r}{options}"


def _log(name: str, field: str, low: float, high: float, about: str) -> Parameter:
    return Parameter(name, field, low, high, log=True, about=about)


#: Parameters with a short name, and their default ranges.
SHORT: Mapping[str, Parameter] = {
    entry.name: entry
    for entry in (
        _log("target", "distillation.strength", 2.0, 64.0, "guidance strength of the distillation target"),
        _log("guidance", "sampler.guidance.strength", 0.5, 64.0, "guidance strength of the rollouts"),
        # Up to the method's last step.
        Parameter("guidance_window", "sampler.guidance.start", 0, integer=True, about="first guided step"),
        Parameter(
            "guidance_decay", "guidance_decay", 0.8, 1.0, about="factor applied to the guidance per iteration"
        ),
        Parameter("noise", "sampler.noise.level", 0.2, 1.3, about="noise level of the rollouts"),
        _log("learning_rate", "optimiser.learning_rate", 1e-4, 3e-3, "learning rate"),
        _log("clip", "objective.clip_range", 1e-5, 1e-2, "clip range of the ratio"),
        _log("process_weight", "process.weight", 0.03, 3.0, "weight of the process term"),
        _log("distillation", "distillation.weight", 0.01, 3.0, "weight of the KL to the distillation target"),
        Parameter("group_size", "group_size", choices=(4, 8, 12, 16), about="videos per prompt"),
    )
}
#: Learning rates where all weights are trained.
_FULL_LEARNING_RATE = (1e-6, 1e-4)
#: Default parameters to tune; each method uses those it has.
DEFAULT_PARAMS = ("target", "guidance", "noise", "learning_rate")


def parse(text: str, method: Method, full_weights: bool) -> list[Parameter]:
    """The parameters of `--params`, for one method.

    Args:
        text: names, comma-separated, each alone (a short one) or with `=LOW..HIGH[:log][:POINTS]` or `=A|B|C`.
        method: whose fields they are.
        full_weights: whether all weights are trained, which needs other learning rates.

    Raises:
        SettingsError: an unknown name (names the closest match), an invalid range, or a name given twice.
    """
    parameters = [_parameter(part, method, full_weights) for part in _parts(text)]
    if not parameters:
        raise SettingsError(f"--params is {text!r}; give names, such as guidance,noise")
    for position, parameter in enumerate(parameters):
        if parameter.field in [earlier.field for earlier in parameters[:position]]:
            raise SettingsError(f"--params names {parameter.field} twice; give each field once")
    return parameters


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _parameter(text: str, method: Method, full_weights: bool) -> Parameter:
    name, equals, given = (part.strip() for part in text.partition("="))
    field = SHORT[name].field if name in SHORT else name
    known = [field for field in field_names(Method) if field not in ("name", "reference")]
    if field not in known:
        near = closest(name, {*SHORT, *known})
        raise SettingsError(
            f"--params names {name!r}, which is neither a short name nor a method's field; {near}"
        )
    if equals:
        return _explicit(name, field, given)
    if name not in SHORT:
        raise SettingsError(
            f"--params names {name!r} without a range; give {name}=LOW..HIGH, :log if it needs it, or A|B|C"
        )
    if name == "guidance_window":
        return replace(SHORT[name], high=method.sampler.num_steps - 1)
    if name == "learning_rate" and full_weights:
        low, high = _FULL_LEARNING_RATE
        return replace(SHORT[name], low=low, high=high)
    return SHORT[name]


def _holds_integers(field: str) -> bool:
    annotation = field_type(Method, field, "--params")
    kinds = typing.get_args(annotation) or (annotation,)
    return int in kinds and float not in kinds


_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_RANGE = re.compile(rf"({_NUMBER})\.\.({_NUMBER})((?::\w+)*)")


def _explicit(name: str, field: str, given: str) -> Parameter:
    """A parameter whose range or choices are given."""
    what = f"--params has {name}={given}"
    if ".." not in given:
        choices = tuple(_value(part, what) for part in given.split("|")) if given else ()
        if len(set(map(repr, choices))) < 2:
            raise SettingsError(f"{what}; give a range LOW..HIGH or at least two values A|B")
        return Parameter(name, field, choices=choices)
    match = _RANGE.fullmatch(given)
    if match is None:
        raise SettingsError(
            f"{what}; give LOW..HIGH as numbers, then :log and a number of grid points if wanted"
        )
    low, high = float(match[1]), float(match[2])
    options = [option for option in match[3].split(":") if option]
    points = [int(option) for option in options if option.isdigit()]
    unknown = [option for option in options if option != "log" and not option.isdigit()]
    if unknown or len(points) > 1 or 0 in points:
        raise SettingsError(f"{what}; after the range give :log, and :POINTS for a grid, not {match[3]}")
    _check_range(what, low, high, "log" in options)
    integer = _holds_integers(field)
    if integer and (low != int(low) or high != int(high)):
        raise SettingsError(f"{what}; {field} takes integers; give integer ends")
    return Parameter(name, field, low, high, "log" in options, integer, points=points[0] if points else None)


def _check_range(what: str, low: float, high: float, log: bool) -> None:
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise SettingsError(f"{what}; give a lower end below the upper one")
    if log and low <= 0:
        raise SettingsError(f"{what}; a logarithmic range must start above 0")


def _value(text: str, what: str) -> Any:
    """A choice, read as YAML."""
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise SettingsError(f"{what}; {text!r} is not a YAML value") from error
    if isinstance(value, str) and re.fullmatch(_NUMBER, value):
        return float(value)  # YAML reads 1e-4 as text
    if not isinstance(value, str | int | float | bool | None):
        raise SettingsError(f"{what}; {text!r} is not a single value")
    return value


def lacking(parameter: Parameter, method: Method) -> str:
    """Why a parameter does not apply to a method; empty if it does."""
    flat = flatten(method)
    if parameter.field not in flat:
        absent = next(name for name in _parents(parameter.field) if name in flat)
        return f"{method.name} has no {absent}"
    guidance = method.sampler.guidance
    sizes = ("sampler.guidance.strength", "sampler.guidance.scale")
    if guidance is not None and parameter.field in sizes and flat[parameter.field] is None:
        other = "scale" if guidance.strength is None else "strength"
        return f"{method.name} is guided by sampler.guidance.{other}"
    if parameter.field == "distillation.strength" and not method.distils_guidance:
        return f"{method.name} distils no guidance"
    if parameter.field == "guidance_decay" and guidance is None:
        return f"{method.name} has no sampler.guidance"
    if parameter.field == "sampler.noise.level" and method.sampler.noise.kind in ("zero", "memoryless"):
        return f"{method.name} has noise of kind {method.sampler.noise.kind}, whose level is fixed"
    return ""


def _parents(field: str) -> Iterable[str]:
    """ "a.b.c" -> "a.b", "a"."""
    while "." in field:
        field = field.rpartition(".")[0]
        yield field


#: Fields that change what an iteration costs.
_COSTLY = (
    "group_size",
    "objective.train_fraction",
    "updates_per_rollout",
    "sampler.num_steps",
    "sampler.guidance.start",
)


def caution(parameter: Parameter, method: Method, others: Sequence[Parameter], unit: str) -> str:
    """A warning about tuning a parameter: that it has no effect, or changes the compute; empty if neither.

    Args:
        parameter: the parameter.
        method: as it is.
        others: all tuned parameters.
        unit: of the budget.
    """
    tuned = [other.field for other in others]
    updates = "updates_per_rollout"
    if parameter.field == "objective.clip_range" and method.updates_per_rollout == 1 and updates not in tuned:
        return (
            f"{parameter.name} changes nothing in {method.name}: with one update per rollout the ratio is 1 and never "
            "clipped; use --set all.updates_per_rollout=2"
        )
    if parameter.field in _COSTLY and unit == "iterations":
        return (
            f"{parameter.name} changes what an iteration costs, but the budget counts iterations, so trials differ "
            "in compute; use --budget-unit tflops to equalise it"
        )
    return ""
