"""A method: a frozen, comparable record. Two methods differ only in settings, and the difference can be printed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from pydantic import BaseModel, Field, model_validator
from torch import Tensor

from methods import earlier
from methods.objectives import AnyObjective, ClippedRatio
from methods.parts import (
    AdvantageSettings,
    BestOf,
    Distillation,
    Optimiser,
    OutcomeGuidance,
    ProcessLoss,
    ProcessRefresh,
    Settings,
    WeightAverage,
)
from methods.selection import best_of_each
from samplers import Guidance, SamplerSettings


class Method(Settings):
    """Everything that defines an alignment method.

    Attributes:
        name: its name in tables.
        reference: paper and code from which the settings are taken.
        sampler: how training rollouts are drawn and scored.
        guidance_decay: factor applied to the strength of the rollouts' guidance at each iteration; 1 keeps it.
        outcome_guidance: guides (rollouts and the distillation target) with the outcome rewards; None guides with the
            process reward.
        group_size: videos per prompt, compared with one another.
        same_initial_noise: whether a group starts from the same noise, so that only the SDE's noise differs.
        best_of: trains only on the best and worst of each group; None trains on all of it.
        advantage: how rewards become advantages.
        objective: the loss and the data it is evaluated on (methods/objectives).
        outcome_weight: factor applied to the suite's weights of the outcome rewards in the loss; 0 leaves their terms
            out, so that only the process term reinforces. They are still scored and recorded.
        process: the process term of the dual reward, or None.
        process_model: folder of this method's process reward; None for the run's.
        process_refresh: continued training of the process reward on the policy's own videos; None leaves it unchanged.
        distillation: KL to a reference, guided or not; None leaves only what scoring with the unguided mean distils
            implicitly.
        updates_per_rollout: optimiser steps per batch of rollouts, each on a separate part of the samples.
        average: average of the trained weights, evaluated in their place, or None.
        optimiser: AdamW's settings.
    """

    #: Fields of earlier versions -> what replaces them.
    replaced: ClassVar[Mapping[str, str]] = {
        "kl_weight": "a KL to the base model is distillation: {weight: W, strength: 0}",
        **{name: f"it is objective.{name} now" for name in earlier.OF_OBJECTIVE},
    }

    name: str
    reference: str
    sampler: SamplerSettings
    guidance_decay: float = Field(default=1.0, gt=0, le=1)
    outcome_guidance: OutcomeGuidance | None = None
    group_size: int = Field(ge=2)
    same_initial_noise: bool
    best_of: BestOf | None = None
    advantage: AdvantageSettings = AdvantageSettings()
    objective: AnyObjective = ClippedRatio()
    outcome_weight: float = Field(default=1.0, ge=0)
    process: ProcessLoss | None = None
    process_model: Path | None = None
    process_refresh: ProcessRefresh | None = None
    distillation: Distillation | None = None
    updates_per_rollout: int = Field(default=1, ge=1)
    average: WeightAverage | None = None
    optimiser: Optimiser

    @model_validator(mode="before")
    @classmethod
    def _read_earlier_settings(cls, values: Any) -> Any:
        return earlier.translated(values) if isinstance(values, Mapping) else values

    @model_validator(mode="after")
    def _distillation_has_a_target(self) -> Method:
        if self.guidance_decay != 1.0 and self.sampler.guidance is None:
            raise ValueError(f"guidance_decay is {self.guidance_decay}, but sampler.guidance is not set")
        distillation = self.distillation
        if distillation is None:
            return self
        if distillation.anchor == "policy" and not distillation.strength and self.sampler.guidance is None:
            raise ValueError(
                "distillation.anchor is 'policy', and neither sampler.guidance nor distillation.strength is set: there "
                "is nothing to distil; give a strength, or anchor 'base' for a KL to the base model"
            )
        guidance = self.target_guidance(0)
        if guidance is not None and guidance.normalisation == "batch" and not self.reuses_gradient:
            raise ValueError(
                "sampler.guidance.normalisation is 'batch', and the distillation's gradient is taken in micro-batches: "
                "set it to 'sample' or 'none'"
            )
        return self

    @model_validator(mode="after")
    def _objective_has_what_it_reads(self) -> Method:
        if self.best_of is not None and not 1 <= self.best_of.best + self.best_of.worst <= self.group_size:
            raise ValueError(
                f"best_of keeps {self.best_of.best} and {self.best_of.worst} of group_size {self.group_size}: give at "
                "least 1 in all, and at most a group"
            )
        if self.objective.needs.density:
            return self
        kind = self.objective.kind
        if self.process is not None:
            raise ValueError(
                f"process is set, and objective {kind!r} has no loss of single steps: leave it out"
            )
        if self.distillation is not None and self.distillation.anchor == "policy":
            raise ValueError(
                f"distillation.anchor is 'policy', and objective {kind!r} does not train the rollouts' own states: "
                "anchor at 'base'"
            )
        if self.distils_guidance:
            self.sampler.replace(
                guidance=self.target_guidance(0)
            )  # refuses a strength where nothing is noised
        return self

    @model_validator(mode="after")
    def _something_reinforces(self) -> Method:
        if self.outcome_weight == 0 and self.process is None and not self.distils_guidance:
            raise ValueError(
                "outcome_weight is 0, process is not set and no guidance is distilled: no reward is left to learn "
                "from; give outcome_weight > 0, process.weight or distillation.strength"
            )
        return self

    @model_validator(mode="after")
    def _refresh_has_a_process_reward(self) -> Method:
        if self.process_refresh is not None and not self.needs_process_reward:
            raise ValueError("process_refresh is set, and nothing in this method uses a process reward")
        return self

    @model_validator(mode="after")
    def _outcome_guidance_needs_clean_guidance(self) -> Method:
        if self.outcome_guidance is None:
            return self
        if self.sampler.guidance is None:
            raise ValueError(
                "outcome_guidance is set, but sampler.guidance is not: give sampler.guidance.strength or .scale, or "
                "leave outcome_guidance out"
            )
        if self.sampler.guidance.at != "x0_hat":
            raise ValueError(
                f"outcome_guidance is set and sampler.guidance.at is {self.sampler.guidance.at!r}: outcome rewards "
                "judge clean videos only, set sampler.guidance.at to 'x0_hat'"
            )
        return self

    @property
    def guided(self) -> bool:
        """Whether a reward's gradient shifts any rollout step."""
        guidance = self.sampler.guidance
        return guidance is not None and bool(guidance.strength or guidance.scale)

    @property
    def distils_guidance(self) -> bool:
        """Whether a reward's gradient shifts the distillation target."""
        return self.target_guidance(0) is not None

    @property
    def needs_process_reward(self) -> bool:
        """Whether training this method calls a process reward model."""
        led = self.guided or self.distils_guidance
        return self.process is not None or (led and self.outcome_guidance is None)

    @property
    def needs_base(self) -> bool:
        """Whether an update evaluates the base model."""
        return self.distillation is not None and self.distillation.anchor == "base"

    @property
    def gradient_source(self) -> str | None:
        """The source of the guidance gradient: "process", "spsa" or "autograd"; None without guidance."""
        if not (self.guided or self.distils_guidance):
            return None
        return "process" if self.outcome_guidance is None else self.outcome_guidance.estimator

    @property
    def distilled_through(self) -> str | None:
        """The network an update evaluates for its targets: "base", "policy" or None."""
        guidance = self.target_guidance(0)
        if self.needs_base:
            return "base"
        clean = guidance is not None and guidance.at == "x0_hat"
        return "policy" if clean and not self.reuses_gradient else None

    @property
    def reuses_gradient(self) -> bool:
        """Whether the gradients that guided the rollouts can be reused for the distillation target.

        They can if both are taken at the same point: at x0_hat, through the same network.
        """
        if self.distillation is None or not (self.guided and self.distils_guidance):
            return False
        if not self.objective.needs.density:
            return False  # the rollouts' own states are not what is trained
        assert self.sampler.guidance is not None  # the rollouts are guided
        return self.sampler.guidance.at == "state" or self.distillation.anchor == "policy"

    def sampler_at(self, iteration: int) -> SamplerSettings:
        """The sampler's settings at an iteration (from 0), with decayed guidance."""
        guidance = self.sampler.guidance
        if guidance is None or self.guidance_decay == 1.0:
            return self.sampler
        factor = self.guidance_decay**iteration
        field = "scale" if guidance.strength is None else "strength"
        value = guidance.scale if guidance.strength is None else guidance.strength
        assert value is not None  # Guidance has exactly one of the two
        return self.sampler.replace(guidance=guidance.model_copy(update={field: value * factor}))

    def selected(self, scores: Tensor) -> Tensor:
        """(S,) positions of the trained samples, given (B,) scores with the members of a group side by side."""
        if self.best_of is None:
            return torch.arange(len(scores))
        return best_of_each(scores, self.group_size, self.best_of.best, self.best_of.worst)

    def target_guidance(self, iteration: int) -> Guidance | None:
        """How a reward's gradient shifts the distillation target at an iteration (from 0); None if it does not."""
        if self.distillation is None:
            return None
        guidance, strength = self.sampler_at(iteration).guidance, self.distillation.strength
        if strength is not None:
            shape = Guidance(strength=strength) if guidance is None else guidance
            guidance = shape.model_copy(update={"strength": strength, "scale": None})
        return guidance if guidance is not None and (guidance.strength or guidance.scale) else None

    def distillation_weight(self, iteration: int) -> float:
        """The weight of the distillation loss at an iteration (from 0); 0 if there is nothing to distil."""
        if self.distillation is None or not (self.needs_base or self.distils_guidance):
            return 0.0
        return self.distillation.weight * self.distillation.decay**iteration


def flatten(settings: BaseModel) -> dict[str, Any]:
    """Nested settings flattened to dotted names; an absent part is a single None."""
    flat: dict[str, Any] = {}
    for field in type(settings).model_fields:
        value = getattr(settings, field)
        if isinstance(value, BaseModel):
            flat.update({f"{field}.{name}": inner for name, inner in flatten(value).items()})
        else:
            flat[field] = value
    return flat


def differing(methods: Sequence[Method]) -> dict[str, tuple[Any, ...]]:
    """The fields in which methods differ, except name and reference: field -> each method's value, in order.

    If some methods lack a part, its fields are None for them.
    """
    flat = [flatten(method) for method in methods]
    fields = dict.fromkeys(field for values in flat for field in values if field not in ("name", "reference"))
    table = {field: tuple(values.get(field) for values in flat) for field in fields}
    return {field: values for field, values in table.items() if any(value != values[0] for value in values)}
