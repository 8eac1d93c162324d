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
from benchmarks.settings import VIDEO_HELP, parse_geometry
from benchmarks.testbed import NUM_STEPS, SHIFT, WEIGHTS
from benchmarks.testbed.scenes import prompt_split
from methods.seeding import generator
from rewards.base import OutcomeReward, RewardError, scored
from rewards.cost import Cost
from rewards.preferences import PreferenceData
from rewards.provenance import Provenance
from rewards.suites import SUITES, load_suite
from samplers import build
from samplers.loading import load_policy
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
    """
    sampler = build("ode", num_steps=num_steps, shift=shift)
    meter = UsageMeter(policy.device)
    latents, scores = [], []
    for prompt in track(prompts, description="sampling preferences"):
        batch = [prompt] * per_prompt
        noise = policy.initial_noise([generator(seed, "preference", prompt, k) for k in range(per_prompt)])
        condition = policy.encode(batch)
        counts = {"videos": per_prompt, "nfe": per_prompt * num_steps * condition.branches}
        with meter(SAMPLING, per_prompt, **counts):
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
    parser.add_argument(
        "--model", type=Path, default=WEIGHTS / "pipeline", help="diffusers pipeline folder (testbed)"
    )
    parser.add_argument(
        "--suite", default="shapes", help=f"suite whose training rewards give the scores: {', '.join(SUITES)}"
    )
    parser.add_argument(
        "--outcome-model", type=Path, default=WEIGHTS / "outcome", help="learned outcome model (testbed)"
    )
    parser.add_argument(
        "--prompts", type=Path, help="text file with one prompt per line (the testbed's training prompts)"
    )
    parser.add_argument("--video", default="9x32x32", help=VIDEO_HELP)
    parser.add_argument("--samples-per-prompt", type=int, default=128, help="(%(default)s)")
    parser.add_argument("--num-steps", type=int, default=NUM_STEPS, help="ODE steps (%(default)s)")
    parser.add_argument("--shift", type=float, default=SHIFT, help="timestep shift (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(%(default)s)")
    parser.add_argument("--output", type=Path, required=True, help="safetensors file to write")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    given = _arguments().parse_args(arguments)
    try:
        if given.output.exists():
            raise ValueError(f"{given.output} exists; choose another --output")
        if given.samples_per_prompt < 2:
            raise ValueError(f"--samples-per-prompt is {given.samples_per_prompt}; a pair needs at least 2")
        lines = given.prompts.read_text(encoding="utf-8").split("\n") if given.prompts else prompt_split()[0]
        prompts = [line.strip() for line in lines if line.strip()]
        if not prompts:
            raise ValueError(f"{given.prompts} holds no prompts; give one per line")
        suite = load_suite(given.suite, given.outcome_model)
        policy = load_policy(given.model, parse_geometry(given.video))
        data = sample_preferences(
            policy,
            suite.training,
            suite.suite.training,
            prompts,
            given.samples_per_prompt,
            given.num_steps,
            given.shift,
            given.seed,
        )
        data.save(given.output)
    except (ValueError, OSError, RewardError) as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
