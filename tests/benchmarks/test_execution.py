"""Choices of precision, memory and speed: a run's results do not depend on them, and each does what it says."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from benchmarks.execution import Execution
from benchmarks.session import Session
from samplers import build
from samplers.families import ModelError
from samplers.pipeline import PipelinePolicy
from tests.benchmarks.harness import Bench, Result
from tests.world import world_settings

METHODS = ["euphonium"]

#: Everything but the base model's precision, which rounds, and tiles, which blend.
CHOICES: dict[str, Any] = {
    "gradient_checkpointing": True,
    "vae_slicing": True,
    "decode_batch": 1,
    "offload_decoder": True,
    "trajectories": "cpu",
    "compile_blocks": True,
}


@pytest.fixture
def run(bench: Bench) -> Callable[..., Result]:
    def made(name: str, **execution: Any) -> Result:
        result = bench(methods=METHODS, execution=execution, budget=1, output=name)
        assert result.code == 0, result.err
        return result

    return made


def test_results_do_not_depend_on_how_a_model_is_run(
    run: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[object] = []
    compile_ = partial(torch.compile, backend="eager")  # whose rounding is ours
    monkeypatch.setattr(
        "torch.compile", lambda *given, **named: compiled.append(given) or compile_(*given, **named)
    )
    plain = run("plain").rows("evaluations")
    assert not compiled
    chosen = run("chosen", **CHOICES, prompt_cache=str(tmp_path / "cache")).rows("evaluations")
    pd.testing.assert_frame_equal(chosen, plain, atol=1e-4, rtol=1e-4)
    assert compiled
    assert set(CHOICES) | {"dtype", "vae_tiling", "prompt_cache"} == set(Execution.model_fields)


def policy(world: Path, **execution: Any) -> PipelinePolicy:
    return Session.open(world_settings(world, ["dance_grpo"], execution=execution)).policy()


def test_prompts_are_encoded_once_and_their_encoder_is_freed(world: Path) -> None:
    session = Session.open(world_settings(world, ["dance_grpo"]))
    first, second = session.policy(), session.policy()
    assert first.pipeline.text_encoder is None
    prompts = session.settings.prompts.train[:2]
    assert torch.equal(first.encode(prompts).embeds, second.encode(prompts).embeds)
    with pytest.raises(ModelError, match="prompt 'a prompt of another run' was not encoded before"):
        first.encode(["a prompt of another run"])


def test_a_later_run_reads_the_encoded_prompts(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = world_settings(world, ["dance_grpo"]).prompts.train[:2]
    expected = policy(world, prompt_cache=tmp_path).encode(prompts).embeds
    monkeypatch.setattr("samplers.families.wan.Wan.encode", None)
    found = policy(world, prompt_cache=tmp_path).encode(prompts).embeds
    assert torch.equal(found, expected)
    (folder,) = tmp_path.iterdir()  # of this text encoder
    damaged = sorted(folder.iterdir())[0]
    damaged.write_bytes(b"no tensors")
    with pytest.raises(
        ModelError, match="cannot be loaded: TypeError"
    ):  # it is encoded again, and there is no encoder
        policy(world, prompt_cache=tmp_path)


def test_gradient_checkpointing_keeps_less_of_a_training_pass(world: Path) -> None:
    kept = {}
    for checkpointing in (False, True):
        made = policy(world, gradient_checkpointing=checkpointing)
        made.denoiser.requires_grad_(True)
        x = made.initial_noise([torch.Generator().manual_seed(0)])
        prompt = world_settings(world, ["dance_grpo"]).prompts.train[0]
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, s=sizes: s.append(t.numel()) or t, lambda t: t
        ):
            made.velocity(x, torch.tensor([0.5]), made.encode([prompt]))
        kept[checkpointing] = sum(sizes)
    assert kept[True] < 0.5 * kept[False]


def test_trajectories_are_kept_where_they_are_asked_to_be() -> None:
    sampler = build("dance_grpo", num_steps=3)
    x = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))
    trajectory = sampler.rollout(
        lambda x, s, c: x, x, generator=torch.Generator().manual_seed(0), store="meta"
    )
    assert trajectory.states.device.type == "meta"
    assert trajectory.log_probs.device.type == "cpu"


def test_a_base_model_in_bfloat16_trains_adapters_in_float32(bench: Bench, world: Path) -> None:
    result = bench(methods=["dance_grpo"], execution={"dtype": "bfloat16"}, budget=1)
    assert result.code == 0, result.err
    assert {tensor.dtype for tensor in result.weights("dance_grpo").values()} == {torch.float32}
    assert policy(world, dtype="bfloat16").transformer.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("changes", "refusal"),
    [
        (
            {"methods": ["refl"], "execution": {"offload_decoder": True}},
            "refl: execution.offload_decoder is true",
        ),
        ({"weights": {"targets": ["to_q", "ffn.net.o.proj"]}}, "did you mean 'ffn.net.0.proj'?"),
        ({"model": "nobody/nothing"}, "model 'nobody/nothing' is no folder here and cannot be downloaded"),
        ({"guidance_scale_2": 3.0}, "guidance_scale_2 is 3, and this WanPipeline has one network"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], refusal: str
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    result = bench(**{"methods": ["dance_grpo"], **changes})
    assert result.code == 2
    assert refusal in result.err
    assert result.err.count("\n") == 1
    assert not result.folder.exists()
