"""A complete tiny world with untrained weights, made in a second: pipeline, outcome model, process reward."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel

from benchmarks.resolve import resolve
from benchmarks.settings import RunSettings
from benchmarks.testbed.pipeline import assemble
from benchmarks.testbed.recipe import Recipe
from benchmarks.testbed.scenes import prompt_split
from benchmarks.testbed.tokenizer import new_tokenizer
from benchmarks.testbed.train_outcome import VOCABULARY
from benchmarks.testbed.train_transformer import TEXT_DIM, new_text_encoder
from rewards.process import LatentProcessReward, cut_denoiser
from rewards.provenance import Provenance
from rewards.shapes.caption_match import VideoWordModel
from samplers.loading import load_policy
from samplers.pipeline import PipelinePolicy
from tests.geometry import GEOMETRY


def tiny_vae(channels: int = 4) -> AutoencoderKLWan:
    """5 x 16 x 16 videos become `channels` x 2 x 2 x 2 latents."""
    return AutoencoderKLWan(
        base_dim=4,
        z_dim=channels,
        dim_mult=[1, 1, 1],
        num_res_blocks=1,
        attn_scales=[],
        temperal_downsample=[True, True],
        latents_mean=[0.0] * channels,
        latents_std=[1.0] * channels,
        patch_size=2,
        in_channels=12,
        out_channels=12,
        scale_factor_temporal=4,
        scale_factor_spatial=8,
    )


def tiny_transformer(channels: int = 4) -> WanTransformer3DModel:
    """Two blocks of width 24."""
    return WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=channels,
        out_channels=channels,
        text_dim=TEXT_DIM,
        freq_dim=16,
        ffn_dim=32,
        num_layers=2,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
        rope_max_seq_len=16,
    )


def build_world(folder: Path, seed: int = 0, channels: int = 4) -> None:
    """Writes `pipeline`, `outcome` and `process_reward` below `folder`."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        tokenizer = new_tokenizer()
        transformer = tiny_transformer(channels)
        pipeline = assemble(Recipe(), tokenizer, new_text_encoder(tokenizer), transformer, tiny_vae(channels))
        pipeline.save_pretrained(folder / "pipeline")
        VideoWordModel(VOCABULARY, side=16, width=8).save(folder / "outcome", {})
        policy = world_policy(folder)
        process = LatentProcessReward(cut_denoiser(policy.plain, 1))
        torch.nn.init.normal_(process.query)
        process.save(folder / "process_reward", Provenance.of(policy.pipeline), {})


def world_policy(folder: Path) -> PipelinePolicy:
    """The tiny pipeline as a policy."""
    return load_policy(folder / "pipeline", GEOMETRY)


HELD_OUT = 3
"""Held-out prompts of runs on the tiny world; evaluating all of the testbed's would be most of their time."""


def world_flags(folder: Path) -> dict[str, object]:
    """Fields of `RunSettings` that point at the tiny world, and small numbers."""
    return {
        "model": folder / "pipeline",
        "outcome_model": folder / "outcome",
        "process_reward": folder / "process_reward",
        "video": vars(GEOMETRY),
        "seeds": 1,
        "budget": 2,
        "budget_unit": "iterations",
        "prompts": {"train": prompt_split()[0], "held_out": prompt_split()[1][:HELD_OUT]},
        "prompts_per_iteration": 2,
        "weights": {"kind": "lora", "rank": 2, "alpha": 4},
        "evaluation": {
            "every": 1,
            "early_until": 0,
            "train_prompts": 2,
            "samples_per_prompt": 2,
            "num_steps": 2,
        },
    }


def world_settings(
    folder: Path, methods: list[str], assignments: list[str] | None = None, **flags: object
) -> RunSettings:
    """Resolved settings of a run on the tiny world."""
    given = {**world_flags(folder), "methods": methods, **flags}
    return resolve("default", {}, given, ["all.group_size=2", *(assignments or [])], "test")
