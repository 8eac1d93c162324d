"""Weights that a run leaves behind, as somebody else loads them: with diffusers alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import WanPipeline, WanTransformer3DModel
from huggingface_hub import ModelCard
from torch import Tensor

from benchmarks.adapters import WEIGHTS_FOLDER
from methods.weights import TrainedWeights, WeightSettings
from samplers.pipeline import PipelinePolicy
from tests.benchmarks.harness import Bench, Result
from tests.world import world_policy

METHOD = "dance_grpo"
PROMPTS = ["a small red ball moving left"] * 3


@pytest.fixture
def run(bench: Bench) -> Callable[..., Result]:
    def made(kind: str) -> Result:
        weights = {"kind": kind, "rank": 2, "alpha": 6}
        faster = ("--set", "all.optimiser.learning_rate=0.02")
        result = bench(*faster, methods=[METHOD], weights=weights, output=kind)
        assert result.code == 0, result.err
        return result

    return made


def velocity(policy: PipelinePolicy) -> Tensor:
    """At three noise levels, from fixed noise."""
    x = policy.initial_noise([torch.Generator().manual_seed(i) for i in range(3)])
    with torch.no_grad():
        return policy.velocity(x, torch.tensor([0.9, 0.5, 0.1]), policy.encode(PROMPTS))


def trained(world: Path, result: Result, kind: str) -> Tensor:
    """Of the run's own checkpoint."""
    policy = world_policy(world)
    weights = TrainedWeights(policy, WeightSettings(kind=kind, rank=2, alpha=6), 0, reference=False)
    weights.load_state_dict(result.weights(METHOD))
    return velocity(policy)


def lora(world: Path, folder: Path) -> WanPipeline:
    pipeline = WanPipeline.from_pretrained(world / "pipeline")
    pipeline.load_lora_weights(folder)
    return pipeline


def full(world: Path, folder: Path) -> WanPipeline:
    transformer = WanTransformer3DModel.from_pretrained(folder, subfolder="transformer")
    return WanPipeline.from_pretrained(world / "pipeline", transformer=transformer)


@pytest.mark.parametrize(("kind", "loaded"), [("lora", lora), ("full", full)])
def test_diffusers_loads_the_trained_policy(
    world: Path, run: Callable[..., Result], kind: str, loaded: Callable[[Path, Path], Any]
) -> None:
    result = run(kind)
    folder = result.folder / "runs" / f"{METHOD}-seed0" / WEIGHTS_FOLDER
    policy = world_policy(world)
    found, expected = (
        velocity(PipelinePolicy(loaded(world, folder), policy.geometry)),
        trained(world, result, kind),
    )
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
    assert (expected - velocity(policy)).abs().max() > 1e-3  # training moved it


def test_the_card_names_run_method_budget_rewards_and_how_to_load(run: Callable[..., Result]) -> None:
    folder = run("lora").folder / "runs" / f"{METHOD}-seed0" / WEIGHTS_FOLDER
    card = ModelCard.load(folder / "README.md")
    assert card.data.library_name == "diffusers"
    assert "lora" in card.data.tags
    for said in (
        METHOD,
        "seed 0",
        "| budget | 2 iterations |",
        "1 caption_match + 0.25 motion_quality",
        "rank 2, alpha 6",
    ):
        assert said in card.text
    code = card.text.split("```python\n")[1].split("```")[0]
    compile(code, "card", "exec")
    assert 'pipe.load_lora_weights(".")' in code
    assert "| accuracy on held-out prompts | 0." in card.text
