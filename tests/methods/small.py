"""Every method at a size that a test can afford, on the tiny world."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import torch
import yaml
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor

from methods import CATALOG
from methods.batches import Transitions
from methods.experience import Draw, Experience
from methods.guiding import Rewards
from methods.method import Method
from methods.naming import changed
from methods.objectives.clipped_ratio import transitions
from methods.refreshing import Refresher
from methods.terms import step_advantages
from methods.update import Learner
from methods.weights import WeightSettings
from rewards.base import OutcomeReward
from rewards.process import LatentProcessReward
from rewards.provenance import Provenance
from rewards.suites import LoadedSuite, load_suite
from samplers import Sampler
from samplers.loading import load_policy
from samplers.pipeline import PipelinePolicy
from tests.geometry import GEOMETRY

NUM_STEPS = 4
PROMPTS = ("a small red ball moving left", "a large blue ball moving up")
#: `--set` texts that make `euphonium_published` distil what guides its rollouts, towards a target that moves with it.
MOVING = (
    "guidance_decay=0.93",
    "process.credit=next_state",
    "distillation={weight: 1.0, decay: 0.93, anchor: policy}",
)


#: What does not fit so few steps and so small groups otherwise.
SMALL: dict[str, dict[str, object]] = {
    "mix_grpo": {"sampler.window": {"kind": "sliding", "count": 2, "stop": 3}},
    "flow_dppo": {"sampler.window": {"kind": "random", "count": 2, "stop": 3, "contiguous": False}},
    "dance_grpo_hunyuan": {"best_of": {"best": 1, "worst": 0}},
    "refl": {"objective.last": 2, "objective.scale": 1.0},
}


def plain(method: Method) -> bool:
    """Whether a method is the clipped ratio of all samples over all of the steps, each with noise."""
    return (
        method.objective.kind == "clipped_ratio"
        and method.objective.step_weight == "equal"
        and method.sampler.window.kind == "all"
        and method.sampler.density == "gaussian"
        and method.best_of is None
    )


def one_of_each(kind: Callable[[Method], Hashable]) -> list[str]:
    """The first method of the catalogue of every kind: where others of the kind would run the same code."""
    found: dict[Hashable, str] = {}
    for name, method in CATALOG.items():
        found.setdefault(kind(method), name)
    return list(found.values())


#: The methods that others are variants of.
PLAIN = [name for name, method in CATALOG.items() if plain(method)]


@dataclass
class World:
    """The tiny world's base model, rewards and accelerator, loaded once."""

    folder: Path
    policy: PipelinePolicy
    suite: LoadedSuite
    accelerator: Accelerator

    def copy(self) -> PipelinePolicy:
        """The base model; reading its folder is most of a small test's time."""
        policy = copy.copy(self.policy)
        policy.denoiser = copy.deepcopy(policy.denoiser)
        return policy

    def process_reward(self, method: Method) -> LatentProcessReward | None:
        if not method.needs_process_reward:
            return None
        expected = Provenance.of(self.policy.pipeline)
        return LatentProcessReward.load(method.process_model or self.folder / "process_reward", expected)


@contextmanager
def half_precision() -> Iterator[Accelerator]:
    """An accelerator in bfloat16; accelerate allows one precision a process, so its record is put aside."""
    state = AcceleratorState._shared_state
    kept = dict(state)
    state.clear()
    try:
        yield Accelerator(cpu=True, mixed_precision="bf16")
    finally:
        state.clear()
        state.update(kept)


@cache
def opened(world: Path) -> World:
    """The world, read from its folder."""
    policy = load_policy(world / "pipeline", GEOMETRY)
    return World(world, policy, load_suite("shapes", world / "outcome"), Accelerator(cpu=True))


def small_method(name: str, *settings: str) -> Method:
    """A method of the catalogue, small, with settings such as "objective.clip_range=0.1".

    Guidance of rollouts begins at step 1, so that step 0 shows what is without it.
    """
    method = CATALOG[name]
    changes: dict[str, object] = {
        "sampler.num_steps": NUM_STEPS,
        "sampler.shift": 3.0,
        "group_size": 2,
        "updates_per_rollout": 1,
        "optimiser.learning_rate": 0.01,
    }
    if method.sampler.guidance is not None:
        changes["sampler.guidance.start"] = 1
    changes |= SMALL.get(name, {})
    for text in settings:
        field, _, value = text.partition("=")
        changes = {known: kept for known, kept in changes.items() if not f"{known}.".startswith(f"{field}.")}
        changes[field] = yaml.safe_load(value)
    return changed(method, changes, name)


@dataclass
class Small:
    """One method, ready to draw rollouts and learn from them."""

    world: World
    learner: Learner
    process_reward: LatentProcessReward | None

    @property
    def method(self) -> Method:
        return self.learner.method

    @property
    def policy(self) -> PipelinePolicy:
        return self.learner.policy

    @property
    def suite(self) -> LoadedSuite:
        return self.world.suite

    @cached_property
    def refresher(self) -> Refresher:
        """What trains the process reward on."""
        assert self.process_reward is not None
        assert self.method.process_refresh is not None
        weights = self.suite.suite.training
        return Refresher(self.process_reward, self.method.process_refresh, weights, self.method.sampler.shift)

    def sampler(self, iteration: int = 0) -> Sampler:
        return self.learner.sampler(iteration)

    def collect(self, iteration: int = 0, prompts: tuple[str, ...] = PROMPTS, first: int = 0) -> Experience:
        return self.learner.collect(Draw(self.learner.seed, iteration, prompts, first))

    def update(self, experience: Experience) -> dict[str, float]:
        return self.learner.update(experience)

    def iterate(self, iterations: int) -> Iterator[tuple[Experience, dict[str, float]]]:
        for iteration in range(iterations):
            experience = self.collect(iteration)
            yield experience, self.update(experience)

    def gradient(self) -> dict[str, Tensor]:
        """Of the last optimiser step, by parameter."""
        named = self.policy.transformer.named_parameters()
        return {name: p.grad.clone() for name, p in named if p.requires_grad and p.grad is not None}


def make(
    world: Path,
    name: str,
    *settings: str,
    weights: str = "lora",
    micro_batch: int = 512,
    rollout_batch: int | None = None,
    seed: int = 0,
    rewards: Mapping[str, OutcomeReward] | None = None,
    decoding: bool = True,
    accelerator: Accelerator | None = None,
) -> Small:
    """A method of the catalogue; see `small_method`.

    Without `decoding`, videos are blank: where rewards say nothing of them.
    """
    shared, method = opened(world), small_method(name, *settings)
    process, policy = shared.process_reward(method), shared.copy()
    suite = shared.suite
    rewarded = Rewards(suite.training, suite.suite.training, process, policy.decode)
    if rewards is not None:
        rewarded = dataclasses.replace(rewarded, outcomes=rewards)
    if not decoding:
        rewarded = dataclasses.replace(rewarded, decode=blank)
    learner = Learner.of(
        policy,
        method,
        rewarded,
        accelerator or shared.accelerator,
        seed,
        WeightSettings.model_validate({"kind": weights, "rank": 2, "alpha": 4}),
        reference=True,
        micro_batch=micro_batch,
        rollout_batch=rollout_batch,
    )
    return Small(shared, learner, process)


def pairs_of(small: Small, experience: Experience) -> Transitions:
    """The rows of some rollouts of a method that trains on their steps, with their advantages."""
    advantages = step_advantages(experience, small.method, small.learner.terms)
    return transitions(experience, advantages)


def at_iteration(experience: Experience, iteration: int) -> Experience:
    """The same rollouts, as if they had been drawn in another iteration."""
    draw = dataclasses.replace(experience.draw, iteration=iteration)
    return dataclasses.replace(experience, draw=draw)


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
