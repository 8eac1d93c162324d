"""Makes preference data from a base model's own samples: `python -m benchmarks.preferences --help`.

`python -m rewards.train_prm` trains a process reward model on it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from rich.progress import track

from benchmarks.commandline import Parser
from benchmarks.ledger import UsageMeter
from benchmarks.presets import DEFAULT_PRESET
from benchmarks.resolve import read_config, resolve
from benchmarks.session import Session
from benchmarks.settings import VIDEO_HELP, RunSettings, parse_geometry
from benchmarks.workers import quieten
from methods.seeding import generator
from rewards.base import OutcomeReward, RewardError, scored
from rewards.cost import Cost
from rewards.preferences import PreferenceData
from rewards.provenance import Provenance
from samplers import build
from samplers.pipeline import PipelinePolicy

#: Component name in the ledger for drawing preference data.
SAMPLING = "preferences"


def sample_preferences(
    policy: PipelinePolicy,
    rewards: Mapping[str, OutcomeReward],
    weights: Mapping[str, float],
    prompts: Sequence[str],
    per_prompt: int,
    num_steps: int,
    shift: float,
    seed: int,
    at_once: int | None = None,
) -> PreferenceData:
    """Draws samples of the base model with the ODE sampler and scores them with the training rewards.

    Args:
        policy: the base model.
        rewards: outcome rewards.
        weights: reward -> weight in the score.
        prompts: training prompts only, so that the process reward does not leak held-out ones.
        per_prompt: samples of each prompt.
        num_steps, shift: of the sampler.
        seed: of the initial noise.
        at_once: samples drawn, decoded and scored at a time; None for all of a prompt.
    """
    sampler = build("ode", num_steps=num_steps, shift=shift)
    meter = UsageMeter(policy.device)
    latents, scores = [], []
    size = min(at_once or per_prompt, per_prompt)
    for prompt in track(prompts, description="sampling preferences"):
        for first in range(0, per_prompt, size):
            members = range(first, min(first + size, per_prompt))
            batch = [prompt] * len(members)
            noise = policy.initial_noise([generator(seed, "preference", prompt, k) for k in members])
            condition = policy.encode(batch)
            counts = {"videos": len(batch), "nfe": len(batch) * num_steps * condition.branches}
            with meter(SAMPLING, len(batch), **counts):
                final = sampler.rollout(policy, noise, condition, keep="final").final
                videos = policy.decode(final)
                score = sum(
                    weights[name] * scored(name, reward, videos, batch, 0) for name, reward in rewards.items()
                )
            latents.append(final.cpu())
            scores.append(torch.as_tensor(score).cpu())
    used = {quantity: amount for (_, quantity), amount in meter.take().items()}
    description: dict[str, str | int | float] = {
        "sampler": "ode",
        "num_steps": num_steps,
        "shift": shift,
        "samples_per_prompt": per_prompt,
        "seed": seed,
        "score": " + ".join(f"{weight:g} {name}" for name, weight in weights.items()),
    }
    return PreferenceData(
        torch.cat(latents),
        torch.cat(scores),
        torch.arange(len(prompts)).repeat_interleave(per_prompt),
        {name: tensor.cpu() for name, tensor in policy.encode(list(prompts)).text.items()},
        tuple(prompts),
        Provenance.of(policy.pipeline),
        description,
        Cost(**used),
    )


def _arguments() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m benchmarks.preferences", description=__doc__)
    add = parser.add_argument
    add("--preset", help=f"defaults to start from ({DEFAULT_PRESET})")
    add("--config", type=Path, metavar="FILE.yaml", help="settings of the run that the data are for")
    add(
        "--model",
        type=Path,
        metavar="MODEL",
        help="base model: folder of a diffusers pipeline, or its id on the hub",
    )
    add("--suite", help="suite whose training rewards give the scores")
    add("--outcome-model", type=Path, metavar="PATH", help="learned outcome reward model")
    add("--prompts", type=Path, help="text file with one prompt per line (the run's training prompts)")
    add("--video", metavar="FxHxW", help=VIDEO_HELP)
    add("--samples-per-prompt", type=int, default=128, help="(%(default)s)")
    add("--num-steps", type=int, help="ODE steps (as the run evaluates with)")
    add("--shift", type=float, help="timestep shift (as the run evaluates with)")
    add("--seed", type=int, default=0, help="(%(default)s)")
    add("--output", type=Path, required=True, help="safetensors file to write")
    return parser


def _settings(given: argparse.Namespace) -> RunSettings:
    """The run that the data are for: its model, videos, guidance, suite and execution."""
    named = ("model", "suite", "outcome_model")
    flags = {name: getattr(given, name) for name in named if getattr(given, name) is not None}
    if given.video is not None:
        flags["video"] = vars(parse_geometry(given.video))
    return resolve(given.preset, read_config(given.config) if given.config else {}, flags, [], "")


def _prompts(given: argparse.Namespace, settings: RunSettings) -> tuple[str, ...]:
    """The prompts of the file, or those that the run trains on."""
    if given.prompts is None:
        return settings.prompts.train
    lines = [line.strip() for line in given.prompts.read_text(encoding="utf-8").split("\n")]
    prompts = tuple(dict.fromkeys(filter(None, lines)))
    if not prompts:
        raise ValueError(f"{given.prompts} holds no prompts; give one per line")
    return prompts


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    given = _arguments().parse_args(arguments)
    quieten()
    try:
        if given.output.exists():
            raise ValueError(f"{given.output} exists; choose another --output")
        if given.samples_per_prompt < 2:
            raise ValueError(f"--samples-per-prompt is {given.samples_per_prompt}; a pair needs at least 2")
        settings = _settings(given)
        session, prompts = Session.open(settings), _prompts(given, settings)
        data = sample_preferences(
            session.policy(prompts),
            session.suite.training,
            session.suite.suite.training,
            prompts,
            given.samples_per_prompt,
            settings.evaluation.num_steps if given.num_steps is None else given.num_steps,
            settings.evaluation.shift if given.shift is None else given.shift,
            given.seed,
            settings.rollout_batch,
        )
        data.save(given.output)
    except (ValueError, OSError, RewardError) as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
