"""The testbed's video autoencoder: AutoencoderKLWan at Wan's own strides, 8x8 in space and 4x in time."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKLWan
from torch import Tensor

from benchmarks.testbed.recipe import Recipe
from benchmarks.testbed.scenes import sample_scenes
from rewards.fitting import optimise

LATENT_CHANNELS = 8


def new_vae() -> AutoencoderKLWan:
    """An untrained autoencoder of 1.15 M parameters: 9 x 32 x 32 RGB becomes 8 x 3 x 4 x 4 (384 elements)."""
    return AutoencoderKLWan(
        base_dim=16,
        z_dim=LATENT_CHANNELS,
        dim_mult=[1, 2, 3],
        num_res_blocks=1,
        attn_scales=[],
        temperal_downsample=[True, True],
        latents_mean=[0.0] * LATENT_CHANNELS,
        latents_std=[1.0] * LATENT_CHANNELS,
        # Two-by-two pixels enter as channels (as in Wan 2.2's autoencoder): half the resolution, a quarter of the cost.
        patch_size=2,
        in_channels=12,
        out_channels=12,
        scale_factor_temporal=4,
        scale_factor_spatial=8,
    )


def to_model_range(videos: Tensor) -> Tensor:
    """(B, F, 3, H, W) in [0, 1] to the autoencoder's (B, 3, F, H, W) in [-1, 1]."""
    return videos.transpose(1, 2) * 2 - 1


def reconstruction_loss(vae: AutoencoderKLWan, videos: Tensor, generator: torch.Generator) -> Tensor:
    """L1 + 2 L2 with the object weighted up (it covers a tenth of the frame), plus a small KL and latent noise."""
    pixels = to_model_range(videos)
    posterior = vae.encode(pixels).latent_dist
    latents = posterior.mode()
    noise = torch.randn(latents.shape, generator=generator)
    # Noise on the latents makes the decoder smooth: the policy's samples never lie exactly on the encoder's image.
    decoded = vae.decode(latents + 0.05 * latents.std().detach() * noise).sample
    error = decoded - pixels
    weight = 1 + 3 * (pixels.amax(dim=1, keepdim=True) - pixels.amin(dim=1, keepdim=True) > 0.3).float()
    return (weight * (error.abs() + 2 * error**2)).mean() + 1e-5 * (latents**2).mean()


def train_vae(recipe: Recipe) -> tuple[AutoencoderKLWan, dict[str, float]]:
    """Trains the autoencoder, and sets its latent mean and standard deviation.

    Returns:
        The autoencoder, in evaluation mode, and the figures measured on scenes that it never saw.
    """
    torch.manual_seed(recipe.seed)  # for the layers' own initialisation, which takes no generator
    vae = new_vae()
    generator = torch.Generator().manual_seed(recipe.seed + 1)
    optimise(
        vae.parameters(),
        recipe.vae,
        lambda _: reconstruction_loss(vae, sample_scenes(recipe.vae.batch, generator).videos, generator),
        title="autoencoder",
    )
    vae.eval()
    set_latent_statistics(vae, sample_scenes(512, generator).videos)
    return vae, {
        "autoencoder_mean_absolute_error": reconstruction_error(vae, sample_scenes(256, generator).videos)
    }


@torch.no_grad()
def set_latent_statistics(vae: AutoencoderKLWan, videos: Tensor) -> None:
    """Writes the latents' mean and standard deviation per channel into the configuration, as Wan keeps them."""
    latents = vae.encode(to_model_range(videos)).latent_dist.mode()
    vae.register_to_config(
        latents_mean=latents.mean(dim=(0, 2, 3, 4)).tolist(),
        latents_std=latents.std(dim=(0, 2, 3, 4)).tolist(),
    )


@torch.no_grad()
def reconstruction_error(vae: AutoencoderKLWan, videos: Tensor) -> float:
    """Mean absolute error on [-1, 1]."""
    pixels = to_model_range(videos)
    return (vae.decode(vae.encode(pixels).latent_dist.mode()).sample - pixels).abs().mean().item()
