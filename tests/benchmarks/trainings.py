"""Every method at a size that a test can afford, in the benchmark's own loop."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from benchmarks.session import Session
from benchmarks.task import Training
from samplers.pipeline import PipelinePolicy
from tests.methods.small import Small, opened, small_method
from tests.world import world_settings


class SmallSession(Session):
    """A session whose policies are copies of one in memory."""

    def policy(self) -> PipelinePolicy:
        return opened(self.settings.model.parent).copy()


@dataclass
class SmallTraining(Small):
    """A small method, and the training that runs it."""

    training: Training


def make(world: Path, folder: Path, name: str, *settings: str, weights: str = "lora") -> SmallTraining:
    """A method of the catalogue with settings of its own, such as "objective.clip_range=0.1"."""
    shared = opened(world)
    resolved = world_settings(world, ["dance_grpo"], weights={"kind": weights, "rank": 2, "alpha": 4})
    resolved = resolved.of_methods([small_method(name, *settings)])
    training = Training(SmallSession(resolved, shared.accelerator, shared.suite), folder, name, 0)
    return SmallTraining(shared, training.learner, training.process_reward, training)
