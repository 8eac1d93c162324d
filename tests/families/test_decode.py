"""Decoding is the pipeline's own, whatever the batch, and differentiable."""

import dataclasses
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from samplers.condition import Geometry
from samplers.pipeline import PipelinePolicy
from tests.families.pipelines import VARIANTS, by_diffusers, start_noise


@pytest.fixture
def policy(tiny, name) -> PipelinePolicy:
    return tiny.policy(name)


def close(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one, other, atol=1e-4, rtol=0)


def generated(policy: PipelinePolicy) -> tuple[Tensor, Tensor]:
    """Latents and videos of the pipeline's own calls, one at a time: HunyuanVideo 1.5 cannot decode a batch."""
    rows = start_noise(policy, 2).split(1)
    latents, videos = (
        torch.cat([by_diffusers(policy, row, 2, kind) for row in rows]).float() for kind in ("latent", "pt")
    )
    return latents, videos


def test_videos_are_those_of_the_pipeline(policy):
    latents, expected = generated(policy)
    found = policy.decode(latents)
    geometry = policy.geometry
    assert found.shape == (2, geometry.num_frames, 3, geometry.height, geometry.width)
    assert found.dtype == torch.float32
    close(found, expected)
    assert found.std() > 0.01
    assert (found[0] - found[1]).abs().max() > 0.01


@pytest.mark.parametrize("size", [1, 2, 4])
def test_a_video_is_the_same_whatever_it_is_decoded_with(tiny, policy, name, size):
    latents = start_noise(policy, 5)
    whole = policy.decode(latents)
    close(tiny.policy(name, decode_batch=size).decode(latents), whole)
    close(policy.decode(latents[3:4]), whole[3:4])


def test_decoding_draws_nothing_from_the_global_generator(policy):
    """LTX-Video's decoder injects noise: a latent must have one video, and training goes on where it was."""
    latents = start_noise(policy, 1)
    torch.manual_seed(3)
    first, state = policy.decode(latents), torch.get_rng_state()
    torch.manual_seed(4)
    assert torch.equal(policy.decode(latents), first)
    torch.manual_seed(3)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.fixture
def tiled(tiny, name) -> Iterator[PipelinePolicy]:
    """Twice as wide, in tiles of the usual size that overlap by a half."""
    small = tiny.policy(name)
    frames, height, width = dataclasses.astuple(small.geometry)
    policy = PipelinePolicy(small.pipeline, Geometry(frames, height, 2 * width), prompts=small.prompts)
    vae = policy.pipeline.vae
    before = dict(vars(vae))
    vae.enable_tiling(tile_sample_min_height=height, tile_sample_min_width=width)
    overlap = {
        "tile_sample_stride_height": height,
        "tile_sample_stride_width": width // 2,
        "tile_latent_min_height": small.latent_shape[2],
        "tile_latent_min_width": small.latent_shape[3],
        "tile_overlap_factor": 0.5,
    }
    vars(vae).update({field: value for field, value in overlap.items() if hasattr(vae, field)})
    yield policy
    vars(vae).update(before)


def test_tiles_are_those_of_the_pipeline_too(tiled):
    latents, expected = generated(tiled)
    found = tiled.decode(latents)
    close(found, expected)
    close(tiled.decode(latents[1:2]), found[1:2])
    frame = latents[:1, :, :1].clone().requires_grad_(True)  # one frame: the graph of the blending is large
    (gradient,) = torch.autograd.grad(tiled.decode(frame).mean(), frame)
    assert torch.isfinite(gradient).all()
    assert gradient.abs().amax(dim=(1, 2, 3)).min() > 0
    tiled.pipeline.vae.use_tiling = False
    assert (tiled.decode(latents) - found).abs().max() > 1e-3  # there were tiles


@pytest.mark.parametrize("name", [name for name in VARIANTS if not name.startswith("ltx")])
def test_slicing_changes_nothing_where_it_works(tiny, name):
    policy = tiny.policy(name)
    assert policy.family.slices
    latents = start_noise(policy, 3)
    expected = policy.decode(latents)
    policy.pipeline.vae.enable_slicing()
    try:
        close(policy.decode(latents), expected)
    finally:
        policy.pipeline.vae.disable_slicing()


def test_slicing_does_not_work_with_a_decoding_time(tiny):
    """If this fails, diffusers has been corrected, and LTX-Video's `slices` can be left out."""
    policy = tiny.policy("ltx_timed")
    assert not policy.family.slices
    policy.pipeline.vae.enable_slicing()
    try:
        with pytest.raises(ValueError, match="too many values to unpack"):
            policy.decode(start_noise(policy, 3))
    finally:
        policy.pipeline.vae.disable_slicing()


def test_one_decoder_takes_one_video_at_a_time(tiny):
    """If this fails, diffusers has been corrected, and HunyuanVideo 1.5's `decode_batch` can be left out."""
    policy = tiny.policy("hunyuan_video15")
    assert policy.family.decode_batch == 1
    with pytest.raises(RuntimeError, match="doesn't match the broadcast shape"):
        policy.pipeline.vae.decode(start_noise(policy, 3))


def test_the_gradient_reaches_the_latents_and_no_weight(policy):
    latents = start_noise(policy, 2).requires_grad_(True)
    videos = policy.decode(latents)
    (gradient,) = torch.autograd.grad(videos[0].mean(), latents)
    assert torch.isfinite(gradient).all()
    assert gradient[0].abs().max() > 0
    assert not gradient[1].any()
    assert not any(p.requires_grad for p in policy.pipeline.vae.parameters())
    assert not policy.decode(latents.detach()).requires_grad


def test_the_gradient_is_the_finite_difference(policy):
    latents = start_noise(policy, 1)
    leaf = latents.clone().requires_grad_(True)
    weights = torch.randn(policy.decode(latents).shape, generator=torch.Generator().manual_seed(1))
    (gradient,) = torch.autograd.grad((policy.decode(leaf) * weights).sum(), leaf)
    step = 1e-3 * gradient / gradient.norm()
    up, down = (float((policy.decode(latents + sign * step) * weights).sum()) for sign in (1, -1))
    assert (up - down) / 2e-3 == pytest.approx(float(gradient.norm()), rel=0.05)
