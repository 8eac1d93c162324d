"""Settings of a sampler: one frozen, comparable record, validated on creation."""

import math
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, field_validator, model_validator

from samplers.guidance import Guidance
from samplers.noise import Noise
from samplers.schedules import explicit_sigmas, sigma_schedule
from samplers.windows import Window

__all__ = ["Guidance", "Noise", "SamplerSettings", "Window"]


class SamplerSettings(BaseModel):
    """Everything that defines a sampler.

    Attributes:
        num_steps: steps N of a rollout.
        shift: time shift of the linear schedule (1: none). Only without an explicit ``schedule``.
        schedule: None for the shifted linear grid, or N + 1 strictly decreasing sigmas in [0, 1], the last 0.
        noise: how much noise a stochastic step injects.
        kernel: ``euler_maruyama`` for the SDE, or ``coefficient_preserving`` (Flow-CPS).
        window: which steps are stochastic; the others are ODE steps.
        guidance: reward guidance, or None.
        score_mean: the mean under which a guided sample's log-probability is computed. ``unguided``, as published,
            is the policy's own mean, so that training pulls the guidance into the network; ``guided`` is on-policy.
        log_prob_reduction: ``mean`` over the elements of a sample (all public code), or their ``sum``.
        density: definition of the log-probability: ``gaussian``, the density of the step; or ``squared_error``,
            minus the squared distance to the mean, without constants and variance (Flow-CPS as published).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_steps: int
    shift: float = 1.0
    schedule: tuple[float, ...] | None = None
    noise: Noise
    kernel: Literal["euler_maruyama", "coefficient_preserving"] = "euler_maruyama"
    window: Window = Window()
    guidance: Guidance | None = None
    score_mean: Literal["unguided", "guided"] = "unguided"
    log_prob_reduction: Literal["mean", "sum"] = "mean"
    density: Literal["gaussian", "squared_error"] = "gaussian"

    @field_validator("num_steps")
    @classmethod
    def _check_num_steps(cls, value: int) -> int:
        if value < 1:
            raise ValueError(f"num_steps = {value}: give at least 1")
        return value

    @field_validator("shift")
    @classmethod
    def _check_shift(cls, value: float) -> float:
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"shift = {value}: give a finite number > 0 (1 is no shift)")
        return value

    @model_validator(mode="after")
    def _check(self) -> "SamplerSettings":
        self._check_schedule()
        self.window.check(self.num_steps)
        if self.guidance is not None:
            self.guidance.check(self.num_steps)
            if self.guidance.strength and self.noise.level == 0:
                raise ValueError(
                    f"guidance.strength = {self.guidance.strength} without noise has no effect, its shift "
                    "is proportional to std^2: give guidance.scale (absolute) instead, or noise"
                )
        return self

    def _check_schedule(self) -> None:
        if self.schedule is None:
            return
        explicit_sigmas(self.schedule)
        if self.schedule[-1] != 0:
            raise ValueError(f"schedule ends at {self.schedule[-1]}: end at 0, or the samples keep noise")
        if len(self.schedule) != self.num_steps + 1:
            raise ValueError(
                f"schedule has {len(self.schedule)} sigmas for num_steps = {self.num_steps}: give num_steps "
                "+ 1"
            )
        if self.shift != 1.0:
            raise ValueError(
                f"shift = {self.shift} with an explicit schedule: shift it yourself, leave shift at 1"
            )

    def sigmas(self) -> torch.Tensor:
        """The sigma grid: float64, shape (num_steps + 1,)."""
        if self.schedule is None:
            return sigma_schedule(self.num_steps, self.shift)
        return explicit_sigmas(self.schedule)

    def replace(self, **changes: Any) -> "SamplerSettings":
        """These settings with some fields changed, validated again."""
        return SamplerSettings(**{**dict(self), **changes})
