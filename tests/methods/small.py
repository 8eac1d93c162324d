"""Every method at a size that a test can afford, on the tiny world."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor

from benchmarks.session import Session
from benchmarks.task import Training
from methods import CATALOG
from methods.experience import Draw, Experience, collect
from methods.method import Method
from methods.seeding import generator
from methods.update import Learner
from rewards.base import OutcomeReward, ProcessReward
from samplers import Sampler
from samplers.pipeline import PipelinePolicy
from tests.world import world_settings

NUM_STEPS = 4
PROMPTS = ("a small red ball moving left", "a large blue ball moving up")
#: `--set` texts that make `euphonium_published` distil what guides its rollouts, towards a target that moves with it.
MOVING = (
    "guidance_decay=0.93",
    "process.credit=next_state",
    "distillation={weight: 1.0, decay: 0.93, anchor: policy}",
)


@cache
def opened(world: Path) -> tuple[Session, PipelinePolicy]:
    """The world's rewards and base model, loaded once."""
    session = Session.open(world_settings(world, ["dance_grpo"]))
    return session, session.policy()


class SmallSession(Session):
    """A session whose policies are copies of one in memory: reading the folder is most of a small test's time."""

    def policy(self) -> PipelinePolicy:
        policy = copy.copy(opened(self.settings.model.parent)[1])
        policy.transformer = copy.deepcopy(policy.transformer)
        return policy


def assignments(name: str, *more: str) -> list[str]:
    """`--set` texts that make `name` small, distilling as the catalogue says, whatever the testbed's presets say.

    Guidance of rollouts begins at step 1, so that step 0 shows what is without it.
    """
    small = [f"sampler.num_steps={NUM_STEPS}", "optimiser.learning_rate=0.01"]
    method = CATALOG[name]
    if method.sampler.guidance is not None:
        small.append("sampler.guidance.start=1")
    if method.distillation is not None:
        small += [f"distillation.{field}={value}" for field, value in method.distillation]
    return [f"{name}.{text}" for text in (*small, *more)]


@dataclass
class Small:
    """One method, ready to draw rollouts and learn from them."""

    training: Training

    @property
    def method(self) -> Method:
        return self.training.method

    @property
    def policy(self) -> PipelinePolicy:
        return self.training.policy

    @property
    def learner(self) -> Learner:
        return self.training.learner

    @property
    def process_reward(self) -> ProcessReward | None:
        return self.training.process_reward

    def sampler(self, iteration: int = 0) -> Sampler:
        return Sampler(self.method.sampler_at(iteration)).at_iteration(
            iteration, generator(self.training.seed, "window", iteration)
        )

    def collect(self, iteration: int = 0, prompts: tuple[str, ...] = PROMPTS, first: int = 0) -> Experience:
        return collect(
            self.policy,
            self.sampler(iteration),
            self.method,
            Draw(self.training.seed, iteration, prompts, first),
            self.learner.rewards,
        )

    def update(self, experience: Experience, iteration: int = 0) -> dict[str, float]:
        shuffle = generator(self.training.seed, "shuffle", iteration)
        return self.learner.update(experience, self.sampler(iteration), iteration, shuffle)

    def iterate(self, iterations: int) -> Iterator[tuple[Experience, dict[str, float]]]:
        for iteration in range(iterations):
            experience = self.collect(iteration)
            yield experience, self.update(experience, iteration)

    def gradient(self) -> dict[str, Tensor]:
        """Of the last optimiser step, by parameter."""
        named = self.policy.transformer.named_parameters()
        return {name: p.grad.clone() for name, p in named if p.requires_grad and p.grad is not None}


def make(
    world: Path,
    folder: Path,
    name: str,
    *settings: str,
    weights: str = "lora",
    micro_batch: int = 512,
    seed: int = 0,
    rewards: Mapping[str, OutcomeReward] | None = None,
    decoding: bool = True,
    accelerator: Accelerator | None = None,
) -> Small:
    """A method of the catalogue with `--set` texts of its own fields, e.g. "clip_range=0.1".

    Without `decoding`, videos are blank: where rewards say nothing of them.
    """
    resolved = world_settings(
        world,
        [name],
        assignments(name, *settings),
        weights={"kind": weights, "rank": 2, "alpha": 4},
        micro_batch=micro_batch,
    )
    shared = opened(world)[0]
    session = SmallSession(resolved, accelerator or shared.accelerator, shared.suite)
    training = Training(session, folder, name, seed)
    learner = training.learner
    if rewards is not None:
        learner.rewards = dataclasses.replace(learner.rewards, outcomes=rewards)
    if not decoding:
        learner.rewards = dataclasses.replace(learner.rewards, decode=blank)
    return Small(training)


def blank(latents: Tensor) -> Tensor:
    """A decoder that nobody waits for."""
    return torch.zeros(len(latents), 1, 3, 1, 1)


def constant(videos: Tensor, prompts: object) -> Tensor:
    """A reward that says nothing, at a value that no binary fraction equals."""
    return torch.full((len(videos),), 0.1)


@cache
def constant_rewards() -> dict[str, OutcomeReward]:
    """The suite's names, every reward equal."""
    return {"caption_match": constant, "motion_quality": constant}


def move(small: Small, size: float) -> None:
    """Moves the trained weights at random from where they are."""
    numbers = torch.Generator().manual_seed(7)
    state = small.learner.weights.state_dict()
    small.learner.weights.load_state_dict(
        {name: tensor + size * torch.randn(tensor.shape, generator=numbers) for name, tensor in state.items()}
    )
