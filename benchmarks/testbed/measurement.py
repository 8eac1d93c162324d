"""Measures the base model: attribute accuracies by exact measurement, as documented and verified."""

from __future__ import annotations

import torch

from benchmarks.testbed import NUM_STEPS, SHIFT
from benchmarks.testbed.scenes import NUM_FRAMES, SIDE, all_prompts, prompt_split
from methods.seeding import generator
from rewards.shapes import ATTRIBUTES, measure
from rewards.shapes.caption_match import CaptionMatch, VideoWordModel
from samplers import build
from samplers.condition import Geometry
from samplers.pipeline import PipelinePolicy

GEOMETRY = Geometry(NUM_FRAMES, SIDE, SIDE)
VIDEOS_PER_PROMPT = 16

#: The bounds of a base model with headroom: above chance by this much, and at most this.
ABOVE_CHANCE, AT_MOST = 0.15, 0.75


def measure_base(policy: PipelinePolicy, outcome: VideoWordModel, seed: int = 0) -> dict[str, float]:
    """Accuracy per attribute over all prompts, and over the held-out ones, of videos drawn with the ODE sampler.

    Also the correlation of the learned outcome reward with the measured accuracy.
    """
    sampler = build("ode", num_steps=NUM_STEPS, shift=SHIFT)
    prompts = [prompt for prompt in all_prompts() for _ in range(VIDEOS_PER_PROMPT)]
    noise = policy.initial_noise([generator(seed, "measure", i) for i in range(len(prompts))])
    videos = policy.decode(sampler.rollout(policy, noise, policy.encode(prompts), keep="final").final)
    matches = measure(videos).matches(prompts)
    accuracy = torch.stack(list(matches.values())).mean(dim=0)
    held_out = torch.tensor([prompt in set(prompt_split()[1]) for prompt in prompts])
    figures = {f"base_{attribute}_accuracy": matches[attribute].mean().item() for attribute in ATTRIBUTES}
    figures["base_accuracy"] = accuracy.mean().item()
    figures["base_accuracy_held_out_prompts"] = accuracy[held_out].mean().item()
    score = CaptionMatch(outcome)(videos, prompts)
    figures["outcome_correlation_with_accuracy"] = torch.corrcoef(torch.stack([score, accuracy]))[0, 1].item()
    return figures


def headroom_problems(figures: dict[str, float]) -> list[str]:
    """Attributes outside the bounds; empty if all is well."""
    problems = []
    for attribute, words in ATTRIBUTES.items():
        value, low = figures[f"base_{attribute}_accuracy"], 1 / len(words) + ABOVE_CHANCE
        if not low <= value <= AT_MOST:
            problems.append(f"{attribute} accuracy is {value:.3f}, outside [{low:.3f}, {AT_MOST}]")
    return problems
