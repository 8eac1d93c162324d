"""Sigma grids: the times a rollout visits, from 1 (noise) down to 0 (data), in float64."""

import copy
import math
from collections.abc import Sequence
from typing import Any

import torch


def sigma_schedule(num_steps: int, shift: float = 1.0) -> torch.Tensor:
    """Shifted linear schedule sigma = shift * u / (1 + (shift - 1) * u) with u from 1 to 0 in equal steps.

    The shift of SD3 (arXiv 2403.03206, section 5.3.2). A larger shift spends more steps at high noise. The
    grid is not the default of diffusers' flow schedulers, whose last step is far smaller: see
    `scheduler_sigmas`.

    Args:
        num_steps: number of steps N >= 1.
        shift: time shift > 0; 1 leaves the grid linear.

    Returns:
        float64, shape (N + 1,), strictly decreasing, first exactly 1 and last exactly 0.
    """
    if num_steps < 1:
        raise ValueError(f"num_steps = {num_steps}: give at least 1")
    if not (math.isfinite(shift) and shift > 0):
        raise ValueError(f"shift = {shift}: give a finite number > 0 (1 is no shift)")
    u = torch.arange(num_steps, -1, -1, dtype=torch.float64) / num_steps
    return shift * u / (1 + (shift - 1) * u)


def explicit_sigmas(values: Sequence[float] | torch.Tensor) -> torch.Tensor:
    """A given grid as float64, checked to have at least two finite, strictly decreasing values in [0, 1].

    Raises:
        ValueError: naming the first offending entry.
    """
    sigmas = torch.as_tensor(values, dtype=torch.float64).detach().cpu()
    if sigmas.ndim != 1 or len(sigmas) < 2:
        raise ValueError(f"schedule of shape {tuple(sigmas.shape)}: give at least 2 sigmas in one dimension")
    for position, value in enumerate(sigmas.tolist()):
        if not 0 <= value <= 1:
            raise ValueError(f"schedule[{position}] = {value}: sigmas lie in [0, 1], 1 is noise (not 1000)")
        if position and value >= float(sigmas[position - 1]):
            raise ValueError(
                f"schedule[{position}] = {value} is not below schedule[{position - 1}] = "
                f"{float(sigmas[position - 1])}: sigmas must decrease strictly, from noise to data"
            )
    return sigmas


def scheduler_sigmas(scheduler: Any, num_steps: int, **options: Any) -> torch.Tensor:
    """The grid that a diffusers flow-matching scheduler itself would use, as float64.

    The scheduler is copied, so its state does not change.

    Args:
        scheduler: a diffusers scheduler with ``set_timesteps`` and ``sigmas`` whose sigmas are flow times in
            [0, 1] (FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler with flow sigmas, ...).
        num_steps: number of steps N.
        options: further arguments of its ``set_timesteps``, such as ``mu`` for dynamic shifting.

    Returns:
        float64, shape (N + 1,), strictly decreasing.
    """
    own = copy.deepcopy(scheduler)
    own.set_timesteps(num_steps, **options)
    if not hasattr(own, "sigmas"):
        name = type(scheduler).__name__
        raise TypeError(f"{name} has no sigmas: give a flow-matching scheduler, or your own schedule")
    return explicit_sigmas(own.sigmas)
