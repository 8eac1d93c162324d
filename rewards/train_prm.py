"""Trains a latent process reward model on preference data: `python -m rewards.train_prm --help`."""

from __future__ import annotations

import argparse
import logging
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from rewards.cost import Cost, FlopCounter
from rewards.fitting import Schedule, optimise
from rewards.preferences import PreferenceData
from rewards.process import LatentProcessReward, cut_denoiser
from rewards.provenance import Provenance
from samplers.condition import Text, selected
from samplers.denoiser import Denoiser

logger = logging.getLogger(__name__)

#: Noise levels at which accuracy is reported.
LEVELS = (0.0, 0.2, 0.4, 0.6, 0.75, 0.85, 0.95)


class PrmTraining(BaseModel):
    """Settings of the training.

    Attributes:
        loss: "bradley_terry" on pairs of one prompt, or "binary": above the prompt's median or not.
        blocks: number of the transformer's first blocks in the trunk.
        schedule: optimisation settings; batch size is in pairs.
        shift: noise levels are drawn uniformly and shifted by this factor, as sampling visits them.
        held_back: fraction of each prompt's samples kept for validation, if no validation data are given.
        micro_batch: latents in one pass; None for a whole batch. Bounds memory.
        seed: seed of initialisation, noise and batches.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    loss: Literal["bradley_terry", "binary"] = "bradley_terry"
    blocks: int = Field(default=2, ge=1)
    schedule: Schedule = Schedule(steps=1_500, batch=128, learning_rate=1e-3, weight_decay=0.01)
    shift: float = Field(default=3.0, gt=0)
    held_back: float = Field(default=0.1, gt=0, lt=1)
    micro_batch: int | None = Field(default=None, ge=1)
    seed: int = 0


@dataclass(frozen=True)
class _Encoded:
    """The part of an encoded prompt batch that a process reward reads."""

    text: Text


def _values(model: nn.Module, x: Tensor, sigma: Tensor, text: Text, micro_batch: int | None = None) -> Tensor:
    """(B,) values of noised latents; with micro-batches each pass is computed again for its gradient."""
    if micro_batch is None or len(x) <= micro_batch:
        return model(x, sigma, _Encoded(text))
    rows = torch.arange(len(x), device=x.device).split(micro_batch)
    parts = [(x[part], sigma[part], _Encoded(selected(text, part))) for part in rows]
    if not torch.is_grad_enabled():
        return torch.cat([model(*part) for part in parts])
    return torch.cat([checkpoint(model, *part, use_reentrant=False) for part in parts])


def _noised(clean: Tensor, sigma: Tensor, noise: Tensor) -> Tensor:
    level = sigma.view(-1, *[1] * (clean.ndim - 1))
    return (1 - level) * clean + level * noise


def noised_values(
    model: nn.Module,
    clean: Tensor,
    text: Text,
    shift: float,
    generator: torch.Generator,
    micro_batch: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Values of n pairs of samples. Both members are noised to the same random level, with different noise.

    Args:
        model: a process reward.
        clean: (2n, ...) clean latents: the first members of all pairs, then the second ones.
        text: name -> (2n, ...), their encoded prompts.
        shift: noise levels are drawn uniformly and shifted by this factor.
        generator: source of levels and noise, on the CPU.
        micro_batch: latents in one pass; None for all. Bounds memory.

    Returns:
        (n,) values of the first members, (n,) of the second ones.
    """
    uniform = torch.rand(len(clean) // 2, generator=generator)
    sigma = (shift * uniform / (1 + (shift - 1) * uniform)).to(clean.device)
    noise = torch.randn(clean.shape, generator=generator).to(clean.device)
    both = torch.cat([sigma, sigma])
    first, second = _values(model, _noised(clean, both, noise), both, text, micro_batch).chunk(2)
    return first, second


def bradley_terry_loss(first: Tensor, second: Tensor, difference: Tensor) -> Tensor:
    """Mean of -log sigmoid(value of the preferred sample - value of the other).

    Args:
        first: (n,) values of the pairs' first members.
        second: (n,) values of the second ones.
        difference: (n,) score of the first minus that of the second. For a tie the loss is the constant log 2.
    """
    return F.softplus(-(first - second) * difference.sign()).mean()


def preference_loss(
    model: nn.Module,
    data: PreferenceData,
    settings: PrmTraining,
    generator: torch.Generator,
    device: torch.device | str = "cpu",
) -> Tensor:
    """The loss of one batch of pairs, on the model's device; the data stay where they are."""
    first, second = data.pairs(settings.schedule.batch, generator)
    rows = torch.cat([first, second])
    text = {name: tensor.to(device) for name, tensor in selected(data.text, data.prompt[rows]).items()}
    clean = data.latents[rows].to(device)
    better, worse = noised_values(model, clean, text, settings.shift, generator, settings.micro_batch)
    if settings.loss == "binary":
        labels = _above_median(data)[rows].to(device)
        return F.binary_cross_entropy_with_logits(torch.cat([better, worse]), labels)
    return bradley_terry_loss(better, worse, (data.scores[first] - data.scores[second]).to(device))


def _above_median(data: PreferenceData) -> Tensor:
    """(N,) 1 if a sample scores above the median of its prompt, else 0."""
    labels = torch.zeros_like(data.scores)
    for prompt in range(len(data.prompts)):
        rows = data.prompt == prompt
        labels[rows] = (data.scores[rows] > data.scores[rows].median()).float()
    return labels


@torch.no_grad()
def accuracy_by_level(
    model: nn.Module,
    data: PreferenceData,
    generator: torch.Generator,
    pairs: int = 2048,
    micro_batch: int | None = None,
    device: torch.device | str = "cpu",
) -> dict[str, dict[str, float]]:
    """For each of `LEVELS`: share of pairs ordered correctly, and correlation with the score within prompts."""
    first, second = data.pairs(pairs, generator)
    difference = data.scores[first] - data.scores[second]
    decided = difference != 0
    result = {}
    for level in LEVELS:
        sigma = torch.full((len(data.latents),), level)
        noise = torch.randn(data.latents.shape, generator=generator)
        noised = _noised(data.latents, sigma, noise).to(device)
        text = {name: tensor.to(device) for name, tensor in selected(data.text, data.prompt).items()}
        values = _values(model, noised, sigma.to(device), text, micro_batch).cpu()
        right = (values[first] - values[second]).sign() == difference.sign()
        centred = torch.stack([_centred(values, data), _centred(data.scores, data)])
        result[f"{level:g}"] = {
            "accuracy": round(right[decided].float().mean().item(), 4),
            "correlation": round(torch.corrcoef(centred)[0, 1].item(), 4),
        }
    return result


def _centred(values: Tensor, data: PreferenceData) -> Tensor:
    counts = torch.bincount(data.prompt, minlength=len(data.prompts)).clamp_min(1)
    mean = torch.zeros(len(data.prompts)).index_add(0, data.prompt, values) / counts
    return values - mean[data.prompt]


def train_prm(
    denoiser: Denoiser,
    data: PreferenceData,
    settings: PrmTraining,
    validation: PreferenceData | None = None,
    device: torch.device | str = "cpu",
) -> tuple[LatentProcessReward, dict[str, dict[str, float]]]:
    """Trains a process reward from the base model's first blocks.

    Args:
        denoiser: the base model's networks.
        data: samples to train on.
        settings: settings of the training.
        validation: samples to validate with; None holds out some of `data`.
        device: where the model is trained; the data stay on the CPU.

    Returns:
        The frozen model and its accuracy by noise level on samples it was not trained on.

    Raises:
        ValueError: a prompt has too few samples for one training pair and one validation pair.
    """
    generator = torch.Generator().manual_seed(settings.seed)
    training, measured = (
        data.split(settings.held_back, generator) if validation is None else (data, validation)
    )
    for part, name in ((training, "training"), (measured, "held-back")):
        counts = torch.bincount(part.prompt, minlength=len(part.prompts))
        short = int(counts.argmin())
        if counts[short] < 2:
            raise ValueError(
                f"prompt {part.prompts[short]!r} has {int(counts[short])} {name} samples and needs 2; held_back is "
                f"{settings.held_back:g}: make preference data with more samples per prompt, or give others to measure "
                "with"
            )
    torch.manual_seed(settings.seed)  # for the new layers' initialisation, which takes no generator
    model = LatentProcessReward(cut_denoiser(denoiser, settings.blocks)).to(device)
    tflops = settings.schedule.steps * _step_tflops(model, training, settings, device)
    started = time.perf_counter()
    optimise(
        model.parameters(),
        settings.schedule,
        lambda _: preference_loss(model, training, settings, generator, device),
        title="process reward",
    )
    used = Cost(tflops=tflops, seconds=time.perf_counter() - started)
    model.cost = None if data.cost is None else data.cost + used
    model.requires_grad_(False).eval()
    accuracy = accuracy_by_level(model, measured, generator, micro_batch=settings.micro_batch, device=device)
    return model.cpu(), accuracy


def _step_tflops(
    model: nn.Module, data: PreferenceData, settings: PrmTraining, device: torch.device | str
) -> float:
    """Floating-point operations of one training step, measured on a step whose gradient is discarded."""
    with FlopCounter() as counter:
        preference_loss(model, data, settings, torch.Generator().manual_seed(0), device).backward()
    model.zero_grad(set_to_none=True)
    return counter.tflops


def _one_line(error: Exception) -> str:
    """An error without its line breaks, settings by their names."""
    if isinstance(error, ValidationError):
        return "; ".join(
            f"{'.'.join(map(str, item['loc']))} is {item['input']!r}: {item['msg']}"
            for item in error.errors()
        )
    return " ".join(str(error).split())


def _arguments() -> argparse.ArgumentParser:
    default = PrmTraining()
    parser = argparse.ArgumentParser(prog="python -m rewards.train_prm", description=__doc__)
    parser.add_argument(
        "--model", type=Path, required=True, help="base model: a diffusers pipeline's folder or hub id"
    )
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        help="preference data, written by `python -m benchmarks.preferences`",
    )
    parser.add_argument(
        "--validation",
        type=Path,
        help="validation data (by default a tenth of each prompt's samples in --data, which are then not trained on)",
    )
    parser.add_argument("--output", type=Path, required=True, help="folder to write the process reward to")
    parser.add_argument(
        "--loss", choices=("bradley_terry", "binary"), default=default.loss, help="(%(default)s)"
    )
    parser.add_argument(
        "--blocks", type=int, default=default.blocks, help="transformer blocks in the trunk (%(default)s)"
    )
    parser.add_argument(
        "--steps", type=int, default=default.schedule.steps, help="optimiser steps (%(default)s)"
    )
    parser.add_argument(
        "--batch", type=int, default=default.schedule.batch, help="pairs per step (%(default)s)"
    )
    parser.add_argument(
        "--lr", type=float, default=default.schedule.learning_rate, help="learning rate (%(default)s)"
    )
    parser.add_argument(
        "--micro-batch",
        type=int,
        help="latents in one pass, to bound memory (all; a batch of pairs has two each)",
    )
    parser.add_argument(
        "--device", default="cuda" if torch.cuda.is_available() else "cpu", help="(%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=default.seed, help="(%(default)s)")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    from diffusers import DiffusionPipeline

    from samplers.loading import model_folder

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    given = _arguments().parse_args(arguments)
    try:
        if given.output.is_file():
            raise ValueError(f"{given.output} is a file; choose another --output")
        if (given.output / "config.json").exists():
            raise ValueError(f"{given.output} already holds a process reward; choose another --output")
        schedule = Schedule(
            steps=given.steps,
            batch=given.batch,
            learning_rate=given.lr,
            # A short training would otherwise end during warm-up.
            warmup=max(1, min(Schedule.model_fields["warmup"].default, given.steps // 10)),
            weight_decay=0.01,
        )
        settings = PrmTraining(
            loss=given.loss,
            blocks=given.blocks,
            schedule=schedule,
            seed=given.seed,
            micro_batch=given.micro_batch,
        )
        data = PreferenceData.load(given.data)
        pipeline = DiffusionPipeline.from_pretrained(str(model_folder(given.model)), local_files_only=True)
        provenance = Provenance.of(pipeline)
        provenance.require(data.provenance, f"the preference data at {str(given.data)!r}")
        validation = None if given.validation is None else PreferenceData.load(given.validation)
        if validation is not None:
            provenance.require(validation.provenance, f"the preference data at {str(given.validation)!r}")
        model, measured = train_prm(Denoiser.of(pipeline), data, settings, validation, given.device)
    except (ValueError, OSError, FloatingPointError) as error:
        sys.stderr.write(f"error: {_one_line(error)}\n")
        return 2
    model.save(given.output, provenance, {"by_noise_level": measured, "data": data.description})
    for level, figures in measured.items():
        logger.info(
            "sigma %s: accuracy %.3f, correlation %.3f", level, figures["accuracy"], figures["correlation"]
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
