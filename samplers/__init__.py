"""Samplers for flow-matching models under RL: the guided SDE family, its kernels and closed forms.

There is one loop, and settings are data:

    sampler = build("euphonium", num_steps=16, shift=5.0)
    trajectory = sampler.rollout(policy, noise, condition, generator=generator, reward=process_reward)

The package stands alone. It needs torch, numpy and pydantic, and diffusers only if you pass one of its schedulers.
The mathematics is in docs/theory.md.
"""

from samplers.checks import NonFiniteError
from samplers.guidance import (
    GradientReward,
    Guidance,
    Reward,
    reward_value,
    reward_value_and_gradient,
    shape_gradient,
)
from samplers.noise import Noise, diffusion_coefficient
from samplers.policy import GaussianPolicy, Policy
from samplers.presets import PRESETS, build
from samplers.randomness import draw_noise
from samplers.rollout import clean_estimate, reward_at_clean
from samplers.sampler import Sampler
from samplers.schedules import explicit_sigmas, scheduler_sigmas, sigma_schedule
from samplers.settings import SamplerSettings
from samplers.trajectory import Trajectory
from samplers.transition import Transition
from samplers.windows import Window

__all__ = [
    "PRESETS",
    "GaussianPolicy",
    "GradientReward",
    "Guidance",
    "Noise",
    "NonFiniteError",
    "Policy",
    "Reward",
    "Sampler",
    "SamplerSettings",
    "Trajectory",
    "Transition",
    "Window",
    "build",
    "clean_estimate",
    "diffusion_coefficient",
    "draw_noise",
    "explicit_sigmas",
    "reward_at_clean",
    "reward_value",
    "reward_value_and_gradient",
    "scheduler_sigmas",
    "shape_gradient",
    "sigma_schedule",
]
