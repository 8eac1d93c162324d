"""How much noise a step injects: the diffusion coefficient g(t) and the standard deviation of a step.

Every g leaves the marginals of the probability-flow ODE unchanged in continuous time, because the drift
carries the matching score term (see docs/theory.md). The kinds differ in where along the path they inject
their noise.
"""

import math
from typing import Any, Literal, get_args

import torch
from pydantic import BaseModel, ConfigDict, model_validator

NoiseKind = Literal["zero", "constant", "flow_grpo", "linear", "memoryless", "angle"]

# The only level of these kinds, or their default.
_FIXED_LEVEL = {"zero": 0.0, "memoryless": 1.0}
_DEFAULT_LEVEL = {**_FIXED_LEVEL, "linear": 1.0}


class Noise(BaseModel):
    """The noise schedule of a sampler, as data.

    The kinds:

    - ``zero``: g = 0, the probability-flow ODE. Level is 0.
    - ``constant``: g = level (DanceGRPO, arXiv 2505.07818; Euphonium, arXiv 2602.04928).
    - ``flow_grpo``: g = level * sqrt(t / (1 - t)) (Flow-GRPO, arXiv 2505.05470).
    - ``linear``: g = level * sigma_1 * t, level 1 by default (Flow-GRPO's public Wan script).
    - ``memoryless``: g = sqrt(2 t / (1 - t)), which makes X_1 and X_0 independent (Adjoint Matching,
      arXiv 2409.08861). Level is 1: any other multiple is ``flow_grpo`` with level * sqrt(2).
    - ``angle``: std = sigma_next * sin(level * pi / 2), whatever the step size (Flow-CPS, arXiv
      2509.05952).

    ``flow_grpo`` and ``memoryless`` diverge at t = 1 and are bounded by 1 - t >= 1 - sigma_1, the published
    value at the first step. The bound replaces the published equality test on floats, which misses a first
    sigma of 0.99999994.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: NoiseKind
    level: float = math.nan

    @model_validator(mode="before")
    @classmethod
    def _fill_level(cls, data: Any) -> Any:
        if not isinstance(data, dict) or data.get("level") is not None:
            return data
        kind = data.get("kind")
        if kind in _DEFAULT_LEVEL:
            return {**data, "level": _DEFAULT_LEVEL[kind]}
        if kind in get_args(NoiseKind):
            raise ValueError(f"noise.level is missing for kind {kind!r}: give the level, for example 0.25")
        return data

    @model_validator(mode="after")
    def _check_level(self) -> "Noise":
        if not (math.isfinite(self.level) and self.level >= 0):
            raise ValueError(f"noise.level = {self.level}: give a finite number >= 0")
        fixed = _FIXED_LEVEL.get(self.kind)
        if fixed is not None and self.level != fixed:
            raise ValueError(
                f"noise.level = {self.level} for kind {self.kind!r}, whose level is {fixed:g}: leave it out, "
                "or choose kind 'constant' or 'flow_grpo' to set one"
            )
        if self.kind == "angle" and self.level >= 2:
            raise ValueError(
                f"noise.level = {self.level} for kind 'angle': give a level in [0, 2), 1 is all noise"
            )
        return self


def step_std(noise: Noise, sigmas: torch.Tensor) -> torch.Tensor:
    """Standard deviation that each step injects, sqrt(D) included.

    Args:
        noise: the noise schedule.
        sigmas: float64, shape (N + 1,), strictly decreasing.

    Returns:
        float64, shape (N,): g(sigma_i) * sqrt(sigma_i - sigma_{i+1}), or the std itself for kind ``angle``.
    """
    if noise.kind == "angle":
        return sigmas[1:] * math.sin(noise.level * math.pi / 2)
    return diffusion_coefficient(noise, sigmas) * (sigmas[:-1] - sigmas[1:]).sqrt()


def diffusion_coefficient(noise: Noise, sigmas: torch.Tensor) -> torch.Tensor:
    """The diffusion coefficient g at the start of each step: float64, shape (N,).

    For kind ``angle`` this is the g that gives the same std over the same step, std / sqrt(D).
    """
    t = sigmas[:-1]
    match noise.kind:
        case "zero" | "constant":
            return torch.full_like(t, noise.level)
        case "linear":
            return noise.level * sigmas[1] * t
        case "flow_grpo" | "memoryless":
            level = math.sqrt(2.0) if noise.kind == "memoryless" else noise.level
            return level * (t / (1 - t).clamp(min=float(1 - sigmas[1]))).sqrt()
        case "angle":
            return step_std(noise, sigmas) / (t - sigmas[1:]).sqrt()
