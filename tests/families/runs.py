"""Short trainings of tiny pipelines through the benchmark's own loop, in one process or in several.

`python -m tests.families.runs WORLD OUTPUT COUNT NAME=FOLDER ...` trains each pipeline in COUNT gloo processes.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.multiprocessing

from benchmarks import session as sessions
from benchmarks.adapters import WEIGHTS_FOLDER
from benchmarks.session import Session
from benchmarks.settings import RunSettings
from benchmarks.task import Training
from rewards.process import LatentProcessReward, cut_denoiser
from rewards.provenance import Provenance
from samplers.loading import load_policy
from samplers.pipeline import PipelinePolicy
from tests.benchmarks.processes import in_group
from tests.families.pipelines import VARIANTS
from tests.methods.small import small_method
from tests.world import world_settings

METHOD = "euphonium"
"""Trained on the decoder's videos and pulled towards a target that a process reward guides: all that a family gives."""

PROMPTS = ["a small red ball moving left", "a large blue ball moving up", "a medium green ball moving down"]


def settings_of(world: Path, name: str, folder: Path, process: Path, iterations: int = 2) -> RunSettings:
    """A run of one method on a tiny pipeline, with the testbed's rewards."""
    made = world_settings(
        world,
        ["dance_grpo"],
        model=folder,
        process_reward=process,
        video=vars(VARIANTS[name].geometry),
        guidance_scale=VARIANTS[name].guided.free,
        guidance_scale_2=VARIANTS[name].guided.free_2,
        budget=iterations,
        prompts={"train": PROMPTS[:2], "held_out": PROMPTS[2:]},
        prompts_per_iteration=2,
        checkpoint_every=1,
        evaluation={
            "every": 9,
            "train_prompts": 1,
            "samples_per_prompt": 2,
            "num_steps": 2,
            "diagnostic_prompts": 0,
        },
    )
    changes = ("optimiser.learning_rate=0.01", "objective.train_fraction=1.0", "average.every=1")
    return made.of_methods([small_method(METHOD, *changes)])


def save_process_reward(name: str, folder: Path, where: Path) -> Path:
    """A process reward of random readout for a tiny pipeline."""
    policy = load_policy(folder, VARIANTS[name].geometry)
    VARIANTS[name].shrink(policy.pipeline)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        process = LatentProcessReward(cut_denoiser(policy.plain, 1))
        torch.nn.init.normal_(process.query)
    process.save(where, Provenance.of(policy.pipeline), {})
    return where


def shrunk(name: str) -> Any:
    """In this context loaded pipelines have short texts, as the variant asks."""

    def loading(*given: Any, **named: Any) -> PipelinePolicy:
        policy = load_policy(*given, **named)
        VARIANTS[name].shrink(policy.pipeline)
        return PipelinePolicy(policy.pipeline, policy.geometry, policy.scales, prompts=policy.prompts)

    return mock.patch.object(sessions, "load_policy", loading)


def train(settings: RunSettings, name: str, output: Path) -> Training:
    """The whole loop of one run, from its last checkpoint if it has one."""
    with shrunk(name):
        training = Training(Session.open(settings), output, METHOD, seed=0)
        training.run(lambda _: None)
    return training


def gradients(training: Training) -> list[torch.Tensor]:
    """Of the last update, clipped."""
    return [parameter.grad for parameter in training.learner.weights.parameters]


def weights_folder(output: Path) -> Path:
    """Where the run leaves its weights."""
    return output / "runs" / f"{METHOD}-seed0" / WEIGHTS_FOLDER


def work(world: Path, output: Path, folders: dict[str, Path]) -> None:
    """One of several processes."""
    for name, folder in folders.items():
        training = train(settings_of(world, name, folder, output / name / "process", 1), name, output / name)
        if training.session.accelerator.is_main_process:
            torch.save(gradients(training), output / name / "gradients.pt")


def main(arguments: list[str]) -> None:
    """Trains in several processes."""
    world, output, count, *named = arguments
    folders = {name: Path(folder) for name, _, folder in (entry.partition("=") for entry in named)}
    in_group(work, (Path(world), Path(output), folders), int(count))


if __name__ == "__main__":
    main(sys.argv[1:])
