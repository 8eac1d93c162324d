"""A method: a frozen, comparable record. Two methods differ in settings only, and the difference can be printed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from samplers import SamplerSettings


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class AdvantageSettings(_Settings):
    """Group-relative advantage, A = (r - mean of the group) / (std + eps), then clipped.

    Attributes:
        std: over each "group", or over the whole "batch" (Flow-GRPO's global std).
        unbiased: divide by n - 1 (DanceGRPO, Euphonium) or by n (Flow-GRPO).
        eps: added to the std.
        clip: largest absolute advantage.
    """

    std: Literal["group", "batch"] = "group"
    unbiased: bool = True
    eps: float = Field(default=1e-8, ge=0)
    clip: float = Field(default=5.0, gt=0)


class ProcessLoss(_Settings):
    """The process term of Euphonium's dual reward (arXiv 2602.04928).

    Attributes:
        weight: of this term beside the outcome terms.
        credit: state at which step i's process reward is read: `state` x_i (the published code), `next_state`
            x_{i+1}, or their `difference`.
    """

    weight: float = Field(default=1.0, gt=0)
    credit: Literal["state", "next_state", "difference"] = "state"


class Distillation(_Settings):
    """Explicit distillation of the guidance: KL from the guided transition to the policy's own, in closed form.

    Attributes:
        weight: of the KL, averaged over elements and over the guided steps that are trained.
        decay: factor on the weight per iteration; 1 keeps it.
    """

    weight: float = Field(gt=0)
    decay: float = Field(default=1.0, gt=0, le=1)


class OutcomeGuidance(_Settings):
    """Guidance by the outcome rewards that train, their gradient estimated (SPSA, rewards/gradients.py).

    The estimate's norm grows with the number of latent elements N, as sqrt(1 + (N - 1) / directions): tune the
    guidance's strength for it, or set `sampler.guidance.normalisation`.

    Attributes:
        directions: random directions of one estimate; each costs two decodings and reward calls a sample.
        radius: how far the latent is moved along each, in latent units.
    """

    directions: int = Field(default=8, ge=1)
    radius: float = Field(default=0.1, gt=0)


class Optimiser(_Settings):
    """AdamW with a limit on the gradient's norm."""

    learning_rate: float = Field(gt=0)
    weight_decay: float = Field(default=1e-4, ge=0)
    max_grad_norm: float = Field(default=1.0, gt=0)


class Method(_Settings):
    """Everything that defines an alignment method.

    Attributes:
        name: its name in tables.
        reference: paper and code that the settings come from.
        sampler: how training rollouts are drawn and scored.
        guidance_decay: factor on the guidance's strength per iteration; 1 keeps it.
        outcome_guidance: guide by the outcome rewards, or None to guide by the process reward.
        group_size: videos a prompt, compared with one another.
        same_initial_noise: whether a group starts from one noise, so that only the SDE's noise differs.
        train_fraction: share of the eligible steps that is trained, drawn anew for each sample.
        train_last_step: whether the step to sigma = 0 is eligible.
        advantage: how rewards become advantages.
        clip_range: e of the clipped ratio; belongs to log-probabilities averaged over elements.
        outcome_weight: factor on the suite's weights of the outcome rewards in the loss; 0 leaves their terms out, and
            the process term alone reinforces. They are scored and recorded all the same.
        process: the process term of the dual reward, or None.
        distillation: explicit distillation of the guidance, or None for what scoring with the unguided mean
            distils implicitly.
        kl_weight: of the KL to the base model, in closed form, averaged over elements.
        updates_per_rollout: optimiser steps per batch of rollouts, each on its own share of the samples.
        optimiser: AdamW's settings.
    """

    name: str
    reference: str
    sampler: SamplerSettings
    guidance_decay: float = Field(default=1.0, gt=0, le=1)
    outcome_guidance: OutcomeGuidance | None = None
    group_size: int = Field(ge=2)
    same_initial_noise: bool
    train_fraction: float = Field(default=1.0, gt=0, le=1)
    train_last_step: bool = False
    advantage: AdvantageSettings = AdvantageSettings()
    clip_range: float = Field(default=1e-4, gt=0)
    outcome_weight: float = Field(default=1.0, ge=0)
    process: ProcessLoss | None = None
    distillation: Distillation | None = None
    kl_weight: float = Field(default=0.0, ge=0)
    updates_per_rollout: int = Field(default=1, ge=1)
    optimiser: Optimiser

    @model_validator(mode="after")
    def _distillation_needs_guidance(self) -> Method:
        if self.distillation is not None and self.sampler.guidance is None:
            raise ValueError("distillation is set, but sampler.guidance is not: there is nothing to distil")
        if self.guidance_decay != 1.0 and self.sampler.guidance is None:
            raise ValueError(f"guidance_decay is {self.guidance_decay}, but sampler.guidance is not set")
        return self

    @model_validator(mode="after")
    def _something_reinforces(self) -> Method:
        if self.outcome_weight == 0 and self.process is None:
            raise ValueError(
                "outcome_weight is 0 and process is not set: no reward is left to learn from; give outcome_weight > 0 "
                "or process.weight"
            )
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
        """Whether any rollout step is moved by a reward's gradient."""
        guidance = self.sampler.guidance
        return guidance is not None and bool(guidance.strength or guidance.scale)

    @property
    def needs_process_reward(self) -> bool:
        """Whether training this method calls a process reward model."""
        return self.process is not None or (self.guided and self.outcome_guidance is None)

    def sampler_at(self, iteration: int) -> SamplerSettings:
        """The sampler's settings at an iteration (from 0), the guidance decayed."""
        guidance = self.sampler.guidance
        if guidance is None or self.guidance_decay == 1.0:
            return self.sampler
        factor = self.guidance_decay**iteration
        field = "scale" if guidance.strength is None else "strength"
        value = guidance.scale if guidance.strength is None else guidance.strength
        assert value is not None  # Guidance has exactly one of the two
        return self.sampler.replace(guidance=guidance.model_copy(update={field: value * factor}))

    def distillation_weight(self, iteration: int) -> float:
        """The weight of the distillation loss at an iteration (from 0); 0 without one."""
        if self.distillation is None or not self.guided:
            return 0.0
        return self.distillation.weight * self.distillation.decay**iteration


def flatten(settings: BaseModel) -> dict[str, Any]:
    """Nested settings as one level of dotted names; an absent part is one entry, None."""
    flat: dict[str, Any] = {}
    for field in type(settings).model_fields:
        value = getattr(settings, field)
        if isinstance(value, BaseModel):
            flat.update({f"{field}.{name}": inner for name, inner in flatten(value).items()})
        else:
            flat[field] = value
    return flat


def differing(methods: Sequence[Method]) -> dict[str, tuple[Any, ...]]:
    """The fields in which methods differ, name and reference apart: field -> each method's value, in their order.

    A field of a part that some of them lack appears with None for those.
    """
    flat = [flatten(method) for method in methods]
    fields = dict.fromkeys(field for values in flat for field in values if field not in ("name", "reference"))
    table = {field: tuple(values.get(field) for values in flat) for field in fields}
    return {field: values for field, values in table.items() if any(value != values[0] for value in values)}


def difference(first: Method, second: Method) -> dict[str, tuple[Any, ...]]:
    """The fields in which two methods differ, and both values; this print is the ablation."""
    return differing([first, second])
