"""The shipped weights: what they claim, and that they are whole."""

import json

import pytest
import torch
from diffusers import DiffusionPipeline, WanPipeline

from benchmarks.performance import batching
from benchmarks.testbed import WEIGHTS, manifest
from benchmarks.testbed.measurement import GEOMETRY, headroom_problems
from benchmarks.testbed.scenes import all_prompts, prompt_split
from rewards.process import LatentProcessReward
from rewards.provenance import Provenance
from rewards.shapes import ATTRIBUTES, parse_caption
from rewards.shapes.caption_match import VideoWordModel
from samplers.loading import load_policy


@pytest.fixture(scope="module")
def policy():
    return load_policy(WEIGHTS / "pipeline", GEOMETRY)


def test_files_match_their_checksums():
    assert manifest.file_problems(WEIGHTS) == []


def test_weights_are_small():
    assert sum(path.stat().st_size for path in WEIGHTS.rglob("*") if path.is_file()) <= 12e6


def test_documented_headroom_lies_within_its_bounds():
    assert headroom_problems(manifest.read(WEIGHTS)["measured"]) == []


def test_headroom_bounds_are_those_promised():
    figures = {f"base_{name}_accuracy": 1 / len(words) + 0.151 for name, words in ATTRIBUTES.items()}
    assert headroom_problems(figures) == []
    for name, words in ATTRIBUTES.items():
        assert headroom_problems({**figures, f"base_{name}_accuracy": 1 / len(words) + 0.149}) != []
        assert headroom_problems({**figures, f"base_{name}_accuracy": 0.751}) != []


def test_diffusers_loads_and_runs_the_pipeline():
    pipeline = DiffusionPipeline.from_pretrained(WEIGHTS / "pipeline")
    assert isinstance(pipeline, WanPipeline)
    pipeline.set_progress_bar_config(disable=True)
    video = pipeline(
        "a large blue ball moving up",
        height=32,
        width=32,
        num_frames=9,
        num_inference_steps=4,
        guidance_scale=1.0,
        max_sequence_length=12,
        generator=torch.Generator().manual_seed(0),
        output_type="np",
    ).frames
    assert video.shape == (1, 9, 32, 32, 3)
    assert video.std() > 0.01


def test_latents_are_few(policy):
    channels, frames, height, width = policy.latent_shape
    assert channels * frames * height * width <= 800


def test_process_reward_belongs_to_the_pipeline_and_was_not_shown_held_out_prompts(policy):
    LatentProcessReward.load(WEIGHTS / "process_reward", Provenance.of(policy.pipeline))
    config = json.loads((WEIGHTS / "process_reward" / "config.json").read_text())
    levels = config["measured"]["by_noise_level"]
    assert levels["0.2"]["accuracy"] > 0.7
    assert levels["0.95"]["accuracy"] > 0.5


def test_outcome_model_knows_every_word():
    model = VideoWordModel.load(WEIGHTS / "outcome")
    for prompt in all_prompts():
        assert len(model.words_of(prompt)) == len(ATTRIBUTES)


def test_prompt_split_holds_out_combinations_but_no_word():
    train, held_out = prompt_split()
    assert len(train) >= 32
    assert not set(train) & set(held_out)
    assert sorted([*train, *held_out]) == sorted(all_prompts())
    for name, words in ATTRIBUTES.items():
        counts = [sum(parse_caption(p).word(name) == word for p in held_out) for word in words]
        assert len(set(counts)) == 1, f"{name} is held out unevenly: {counts}"
        assert {parse_caption(p).word(name) for p in train} == set(words)


def test_batched_rollout_gives_the_videos_of_single_ones(policy):
    _, _, difference = batching(policy, count=8, repeats=1)
    assert difference < 1e-4
