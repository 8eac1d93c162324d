"""Sizes of videos: those that fit give videos of that size, down to the smallest, and others are refused."""

import dataclasses

import pytest
import torch

from samplers import build
from samplers.condition import Geometry
from samplers.families import ModelError
from samplers.pipeline import PipelinePolicy
from tests.families.pipelines import VARIANTS, start_noise
from tests.families.tokenizers import PROMPTS


def multiples(policy: PipelinePolicy) -> tuple[int, int, int]:
    """Frames beyond the first, height and width come in multiples of these."""
    time, *sides = policy.family.stride(policy.pipeline)
    patches = policy.family.patch(policy.pipeline)
    return time, sides[0] * patches[1], sides[1] * patches[2]


@pytest.mark.parametrize("larger", [False, True])
def test_videos_have_the_size_asked_for(tiny, name, larger):
    small = tiny.policy(name)
    time, height, width = multiples(small)
    geometry = Geometry(1 + 2 * time, 2 * height, width) if larger else Geometry(1, height, width)
    policy = PipelinePolicy(small.pipeline, geometry, prompts=small.prompts)
    policy.family.check(policy.pipeline, geometry)
    generators = [torch.Generator().manual_seed(i) for i in range(2)]
    sampler = build("flow_grpo", num_steps=2)
    final = sampler.rollout(policy, start_noise(policy, 2), policy.encode(PROMPTS[:2]), generators).final
    videos = policy.decode(final)
    assert videos.shape == (2, geometry.num_frames, 3, geometry.height, geometry.width)
    assert torch.isfinite(videos).all()
    assert (videos[0] - videos[1]).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("field", "which", "remedy"),
    [
        ("num_frames", 0, "this autoencoder needs a multiple of {multiple} plus 1, such as {fits}"),
        ("height", 1, "this model needs a positive multiple of {multiple}"),
        ("width", 2, "this model needs a positive multiple of {multiple}"),
    ],
)
def test_another_size_is_refused_with_the_remedy(tiny, name, field, which, remedy):
    geometry, policy = VARIANTS[name].geometry, tiny.policy(name)
    multiple, fits = multiples(policy)[which], getattr(geometry, field)
    for size in (fits + 1, fits + multiple - 1):
        expected = f"{field} is {size}; " + remedy.format(multiple=multiple, fits=fits)
        with pytest.raises(ModelError, match=expected):
            policy.family.check(policy.pipeline, dataclasses.replace(geometry, **{field: size}))
