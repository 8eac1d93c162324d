"""A benchmark run's settings: one frozen record, resolved once at the entry point and saved with the results."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from analysis.schema import BASE, Asked, BudgetUnit, default_baseline, in_words
from benchmarks.execution import Execution
from methods.method import Method
from methods.naming import changed, closest, explain
from methods.weights import WeightSettings
from samplers.condition import Geometry
from samplers.pipeline import Scales

VIDEO_HELP = "videos to generate, FRAMESxHEIGHTxWIDTH in pixels (9x32x32)"
#: Reserved method names: the untrained model's, and the one for all methods in `--set`.
RESERVED = (BASE, "all")
#: The settings of a method, of whatever kind.
AnyMethod = TypeVar("AnyMethod", bound=BaseModel)


class SettingsError(ValueError):
    """Settings cannot be used; one line names the field, the value and the remedy."""


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Prompts(_Settings):
    """Prompts for RL training, and prompts used only in evaluation."""

    train: tuple[str, ...] = Field(min_length=1)
    held_out: tuple[str, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _apart(self) -> Prompts:
        shared = sorted(set(self.train) & set(self.held_out))
        if shared:
            raise ValueError(f"prompt {shared[0]!r} is both a training and a held-out prompt")
        for prompt in (*self.train, *self.held_out):
            if not prompt.strip() or len(prompt.splitlines()) > 1:
                raise ValueError(f"prompt {prompt!r} is empty or spans several lines")
            if (*self.train, *self.held_out).count(prompt) > 1:
                raise ValueError(f"prompt {prompt!r} is listed twice")
        return self


class Evaluation(_Settings):
    """Evaluation on fixed prompts and fixed noise, with the ODE sampler and no reward model.

    Attributes:
        every: iterations between evaluations; the last iteration is always evaluated.
        early_every, early_until: iterations between evaluations up to iteration `early_until`, when fast methods
            overtake slow ones; these come without diagnostics.
        train_prompts: number of training prompts, evenly spaced in their list.
        samples_per_prompt: videos of each training or held-out prompt.
        final_samples_per_prompt: the same for the base model and for the end of a run, whose noise is part of every
            result: a multiple of `samples_per_prompt`, the first of them those of any other evaluation; None for as
            many as on the way.
        num_steps, shift: of the ODE sampler.
        seed: of the noise; the same for every method and training seed.
        batch: videos generated at a time.
        diagnostic_prompts: training prompts that diagnostics (KL to the base model, guided against unguided rollouts,
            accuracy of the process reward) draw rollouts for at each evaluation; 0 leaves diagnostics out.
    """

    every: int = Field(default=10, ge=1)
    early_every: int = Field(default=2, ge=1)
    early_until: int = Field(default=0, ge=0)
    train_prompts: int = Field(default=12, ge=1)
    samples_per_prompt: int = Field(default=12, ge=2)
    final_samples_per_prompt: int | None = Field(default=None, ge=2)
    num_steps: int = Field(default=8, ge=1)
    shift: float = Field(default=3.0, gt=0)
    seed: int = 20_260_101
    batch: int = Field(default=144, ge=1)
    diagnostic_prompts: int = Field(default=4, ge=0)

    @model_validator(mode="after")
    def _whole_rounds(self) -> Evaluation:
        final, each = self.final_samples_per_prompt, self.samples_per_prompt
        if final is not None and final % each:
            raise ValueError(
                f"final_samples_per_prompt is {final}: give a multiple of samples_per_prompt, which is {each}, or null "
                "for as many"
            )
        return self

    def samples(self, final: bool) -> int:
        """Videos of each prompt: of the base model and at the end of a run (`final`), or on the way."""
        return (final and self.final_samples_per_prompt) or self.samples_per_prompt

    def due(self, done: int) -> bool:
        """Whether to evaluate the policy after `done` iterations, apart from the end."""
        return done % self.every == 0 or (done <= self.early_until and done % self.early_every == 0)

    def diagnosed(self, done: int) -> bool:
        """Whether the evaluation after `done` iterations includes diagnostics, apart from the end."""
        return self.diagnostic_prompts > 0 and done % self.every == 0


class Question(_Settings):
    """The primary question of a run, named before it begins; everything else that is reported is secondary.

    Attributes:
        asks: "speed", which method learns faster than the baseline over the whole curve, or "final", which ends higher.
        baseline: the method to compare with; None for flow_grpo, else dance_grpo, else the run's first method.
    """

    asks: Asked = "speed"
    baseline: str | None = None


class RunSettings(_Settings):
    """Everything a run depends on.

    Attributes:
        command: the command line behind these settings.
        preset: the preset they started from.
        methods: names of the methods, in the order of the tables.
        method_settings: name -> all its settings.
        seeds: number of training seeds per method.
        first_seed: the first seed; tuning and results use different seeds.
        question: the primary question, and the baseline that it is about.
        looks: numbers of seeds after which the primary question is looked at, the last being `seeds`; training stops at
            the first look that settles it. Empty for a fixed number of seeds.
        budget, budget_unit: budget of each (method, seed); units are explained in `analysis.schema.UNITS`.
        charge_prm: whether methods that use a process reward pay for its training out of their budget.
        suite: the reward suite: a shipped one's name, or the path of a suite file.
        model: base model, a diffusers pipeline: its folder, or an id on the hub such as owner/name@revision.
        outcome_model: folder of the learned outcome model.
        process_reward: folder of the process reward model.
        video: size of the videos.
        guidance_scale: classifier-free guidance inside the velocity; 1 turns it off.
        guidance_scale_2: the same below the boundary of a pipeline with two networks (Wan 2.2 A14B); None for the same.
        embedded_guidance: scale given to a network distilled with guidance (HunyuanVideo); None for the family's own.
        negative_prompt: prompt of the unconditional branch of classifier-free guidance.
        prompts: training and held-out prompts.
        prompts_per_iteration: prompts in one batch of rollouts, over all processes.
        weights: which weights are trained.
        evaluation: how policies are evaluated.
        checkpoint_every: iterations between checkpoints.
        micro_batch: rows in one pass of an update; results do not depend on it.
        rollout_batch: videos of an iteration drawn, decoded and scored at a time; None for all. Bounds memory.
        precision: accelerate's mixed precision of the policy's network.
        execution: how the model is held and run.
    """

    command: str = ""
    preset: str
    methods: tuple[str, ...] = Field(min_length=1)
    method_settings: dict[str, Method]
    seeds: int = Field(ge=1)
    first_seed: int = Field(default=0, ge=0)
    question: Question = Question()
    looks: tuple[int, ...] = ()
    budget: float = Field(allow_inf_nan=False)
    budget_unit: BudgetUnit = "iterations"
    charge_prm: bool = False
    suite: str
    model: Path
    outcome_model: Path
    process_reward: Path
    video: Geometry = Geometry()
    guidance_scale: float = Field(default=1.0, ge=1)
    guidance_scale_2: float | None = Field(default=None, ge=1)
    embedded_guidance: float | None = Field(default=None, ge=0)
    negative_prompt: str = ""
    prompts: Prompts
    prompts_per_iteration: int = Field(default=8, ge=1)
    weights: WeightSettings = WeightSettings()
    evaluation: Evaluation = Evaluation()
    checkpoint_every: int = Field(default=10, ge=1)
    micro_batch: int = Field(default=512, ge=1)
    rollout_batch: int | None = Field(default=None, ge=1)
    precision: Literal["no", "bf16"] = "no"
    execution: Execution = Execution()

    @model_validator(mode="after")
    def _affordable(self) -> RunSettings:
        if self.budget_unit == "iterations" and (self.budget < 1 or self.budget != int(self.budget)):
            raise ValueError(f"budget is {self.budget:g}: give a whole number of iterations, at least 1")
        if self.budget <= 0:
            raise ValueError(f"budget is {self.budget:g} {self.budget_unit}: give a number above 0")
        if self.charge_prm and self.budget_unit == "iterations":
            raise ValueError(
                "charge_prm: training a process reward takes no iterations of the policy; choose a budget_unit of "
                "videos, nfe, tflops or seconds"
            )
        return self

    @model_validator(mode="after")
    def _answerable(self) -> RunSettings:
        baseline = self.question.baseline
        if baseline is not None and baseline not in self.methods:
            raise ValueError(
                f"question.baseline is {baseline!r}, which is not trained; {closest(baseline, self.methods)}"
            )
        if self.looks and (
            self.looks[0] < 2 or self.looks[-1] != self.seeds or list(self.looks) != sorted(set(self.looks))
        ):
            raise ValueError(
                f"looks is {list(self.looks)}: give growing numbers of seeds, 2 or more, that end with seeds "
                f"({self.seeds})"
            )
        if self.looks and len(self.methods) < 2:
            raise ValueError(
                "looks: adding seeds until the answer is known needs a second method to compare with"
            )
        return self

    @model_validator(mode="after")
    def _consistent(self) -> RunSettings:
        if set(self.methods) != set(self.method_settings):
            raise ValueError(
                f"methods {self.methods} and method_settings {tuple(self.method_settings)} differ"
            )
        if len(set(self.methods)) != len(self.methods):
            raise ValueError(f"methods {self.methods} name a method twice")
        for name in self.methods:
            if not re.fullmatch(r"[A-Za-z0-9][\w.+-]*", name) or name in RESERVED:
                raise ValueError(
                    f"method name {name!r}: give letters, digits, _ . + or -, for it names a folder, and none of "
                    f"{', '.join(RESERVED)}"
                )
        if self.prompts_per_iteration > len(self.prompts.train):
            raise ValueError(
                f"prompts_per_iteration is {self.prompts_per_iteration}; there are {len(self.prompts.train)} "
                "training prompts"
            )
        return self

    @classmethod
    def checked(cls, **fields: Any) -> Self:
        """Settings with these fields.

        Raises:
            SettingsError: naming field, value and what is wrong.
        """
        try:
            return cls(**fields)
        except ValidationError as error:
            raise SettingsError(explain(error)) from error

    def replace(self, **changes: Any) -> Self:
        """These settings with some fields changed, validated again.

        Raises:
            SettingsError: naming field, value and what is wrong.
        """
        return self.checked(**{**dict(self), **changes})

    def of_methods(self, methods: Sequence[Method]) -> Self:
        """The same run with other methods, in the given order.

        Raises:
            SettingsError: two share a name, or a name cannot be a folder name.
        """
        named = {method.name: method for method in methods}
        return self.replace(methods=tuple(method.name for method in methods), method_settings=named)

    @property
    def scales(self) -> Scales:
        """The guidance scales of a velocity."""
        return Scales(self.guidance_scale, self.guidance_scale_2, self.embedded_guidance)

    @property
    def budget_text(self) -> str:
        """The budget of each (method, seed) as text: "30 iterations", "1.5 TFLOP"."""
        return in_words(self.budget, self.budget_unit)

    @property
    def seed_range(self) -> range:
        """The training seeds."""
        return range(self.first_seed, self.first_seed + self.seeds)

    def runs(self, seeds: int | None = None) -> list[tuple[str, int]]:
        """Every (method, seed), seeds outermost, so that an interrupted benchmark still compares like with like."""
        return [(method, seed) for seed in self.seed_range[:seeds] for method in self.methods]

    def dump(self, suite: dict[str, Any]) -> str:
        """YAML that `--config` reads back; `suite` describes the suite for the analysis, which does not load torch."""
        content = self.model_dump(mode="json")
        content["suite"] = suite
        if len(self.methods) > 1:  # named before the run, whatever later versions would choose
            content["question"]["baseline"] = self.question.baseline or default_baseline(self.methods)
        return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=110)


def variant(method: AnyMethod, changes: Mapping[str, Any], name: str) -> AnyMethod:
    """A method with some fields changed.

    Args:
        method: stays as it is.
        changes: dotted field -> value, one after another.
        name: the variant's.

    Raises:
        SettingsError: no such field (names the closest match), or an invalid value.
    """
    try:
        return changed(method, {**changes, "name": name}, name)
    except ValueError as error:
        raise SettingsError(str(error)) from error


def parse_geometry(text: str) -> Geometry:
    """ "9x32x32" as frames, height and width.

    Raises:
        SettingsError: it is not of that form.
    """
    parts = text.lower().split("x")
    if len(parts) != 3 or not all(part.isdigit() and int(part) > 0 for part in parts):
        raise SettingsError(f"video is {text!r}; give FRAMESxHEIGHTxWIDTH, such as 9x32x32")
    return Geometry(*(int(part) for part in parts))
