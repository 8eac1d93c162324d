"""The parts of a method besides its sampler, each as settings."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Settings(BaseModel):
    """Base class: frozen; no unknown fields or infinite numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class AdvantageSettings(Settings):
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


class BestOf(Settings):
    """Trains only on the best and worst of each group, by the weighted sum of the outcome rewards.

    Advantages are those within the whole group (DanceGRPO on HunyuanVideo: 4 and 4 of 24).

    Attributes:
        best, worst: samples of each group.
    """

    best: int = Field(default=4, ge=0)
    worst: int = Field(default=4, ge=0)


class WeightAverage(Settings):
    """An exponential moving average of the trained weights, evaluated and saved in their place.

    After optimiser step n, counted from 1, the average keeps min(decay, (1 + n) / (10 + n)) of itself.

    Attributes:
        decay: its limit.
        every: optimiser steps between two of its updates.
    """

    decay: float = Field(default=0.9, gt=0, lt=1)
    every: int = Field(default=1, ge=1)


class ProcessLoss(Settings):
    """The process term of Euphonium's dual reward (arXiv 2602.04928).

    Attributes:
        weight: weight of this term besides the outcome terms.
        credit: state at which step i's process reward is read: `state` x_i (the published code), `next_state`
            x_{i+1}, or their `difference`.
    """

    weight: float = Field(default=1.0, gt=0)
    credit: Literal["state", "next_state", "difference"] = "state"


class Distillation(Settings):
    """A KL, in closed form, from a reference's transition to the policy's; the reference may be guided.

    The reference is the anchor's velocity plus the guidance: v_target = v_anchor + (c / b) grad r (docs/theory.md).
    Anchored at the base model, the target stands still, and strength 0 is the KL to the base model of Flow-GRPO.
    Anchored at the policy that drew the rollouts, it moves away with every update; this is kept for ablations.

    Where and how the gradient is taken (window, normalisation, `at`) is set by `sampler.guidance`. Without it, the raw
    gradient at the state is used at every step.

    Attributes:
        weight: weight of the KL, averaged over elements and trained steps.
        decay: factor on the weight per iteration; 1 keeps it.
        anchor: the `base` model, or the `policy` that drew the rollouts. For the latter, unguided steps do not count.
        strength: strength of the target's guidance, 1 / beta; 0 for no guidance. None uses the rollouts' guidance.
    """

    weight: float = Field(gt=0)
    decay: float = Field(default=1.0, gt=0, le=1)
    anchor: Literal["base", "policy"] = "base"
    strength: float | None = Field(default=None, ge=0)


class OutcomeGuidance(Settings):
    """Guidance by the training outcome rewards, through the decoder (rewards/gradients.py).

    SPSA needs no gradient of decoder or rewards. Its estimate's norm grows with the number of latent elements N, as
    sqrt(1 + (N - 1) / directions): tune the guidance's strength for it, or set `sampler.guidance.normalisation`.

    Attributes:
        estimator: `spsa` for any reward, or `autograd`, exact, for differentiable ones.
        directions: random directions of one SPSA estimate; each costs two decodings and reward calls per sample.
        radius: how far SPSA moves the latent along each, in latent units.
    """

    estimator: Literal["spsa", "autograd"] = "spsa"
    directions: int = Field(default=8, ge=1)
    radius: float = Field(default=0.1, gt=0)


class ProcessRefresh(Settings):
    """Continues training the process reward on the policy's own videos, after each update of the policy.

    The loss is the original Bradley-Terry loss, on pairs within a group, ranked by the weighted outcome rewards.

    Attributes:
        steps: optimiser steps per iteration.
        batch: pairs per step.
        learning_rate: AdamW's.
    """

    steps: int = Field(default=4, ge=1)
    batch: int = Field(default=64, ge=1)
    learning_rate: float = Field(default=1e-4, gt=0)


class Optimiser(Settings):
    """AdamW with a limit on the gradient's norm."""

    learning_rate: float = Field(gt=0)
    weight_decay: float = Field(default=1e-4, ge=0)
    max_grad_norm: float = Field(default=1.0, gt=0)
