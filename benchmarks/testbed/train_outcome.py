"""Trains the testbed's outcome model: which of the vocabulary's words does a video show?"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan
from torch import Tensor

from benchmarks.testbed.recipe import Recipe
from benchmarks.testbed.scenes import Scenes, sample_scenes
from benchmarks.testbed.train_vae import to_model_range
from rewards.fitting import optimise
from rewards.shapes.attributes import ATTRIBUTES
from rewards.shapes.caption_match import VideoWordModel

VOCABULARY = tuple(word for words in ATTRIBUTES.values() for word in words)
_MOTION = slice(len(VOCABULARY) - len(ATTRIBUTES["motion"]), len(VOCABULARY))


def word_targets(scenes: Scenes) -> Tensor:
    """(B, words) 1 for each word that the scene shows."""
    hot = [F.one_hot(scenes.labels[name], len(words)) for name, words in ATTRIBUTES.items()]
    return torch.cat(hot, dim=1).float()


def corrupt(videos: Tensor, targets: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Renderings as a generator might spoil them, each video by one corruption drawn for it.

    A frozen or shuffled video shows no motion, an erased one nothing, a blend of two half of each; blur and noise
    leave what is shown.
    """
    count, frames = videos.shape[:2]
    kind = torch.randint(7, (count,), generator=generator).view(-1, 1, 1, 1, 1)
    still = videos[torch.arange(count), torch.randint(frames, (count,), generator=generator)]
    shuffled = videos[:, torch.randperm(frames, generator=generator)]
    blurred = F.avg_pool2d(videos.flatten(0, 1), 3, 1, 1).view_as(videos)
    noisy = videos + 0.15 * torch.randn(videos.shape, generator=generator)
    ground = videos.amin(dim=(2, 3, 4), keepdim=True).expand_as(videos)
    blend = 0.5 * (videos + videos.roll(1, dims=0))
    spoiled = videos
    for number, variant in enumerate(
        (still.unsqueeze(1).expand_as(videos), shuffled, ground, blend, blurred, noisy)
    ):
        spoiled = torch.where(kind == number, variant, spoiled)
    kind = kind.flatten()
    targets = targets.clone()
    targets[kind <= 1, _MOTION] = 0
    targets[kind == 2] = 0
    mixed = 0.5 * (targets + targets.roll(1, dims=0))
    return spoiled.clamp(0, 1), torch.where((kind == 3).unsqueeze(1), mixed, targets)


@torch.no_grad()
def _through_autoencoder(vae: AutoencoderKLWan, videos: Tensor, generator: torch.Generator) -> Tensor:
    """Decoded from noised latents: the artefacts that a policy's samples have."""
    latents = vae.encode(to_model_range(videos)).latent_dist.mode()
    strength = 0.6 * torch.rand(len(videos), 1, 1, 1, 1, generator=generator) * latents.std()
    decoded = vae.decode(latents + strength * torch.randn(latents.shape, generator=generator)).sample
    return ((decoded + 1) / 2).clamp(0, 1).transpose(1, 2)


def train_outcome(vae: AutoencoderKLWan, recipe: Recipe) -> tuple[VideoWordModel, dict[str, float]]:
    """Trains on clean, corrupted and autoencoded renderings.

    Returns:
        The model, frozen, and its word accuracy on clean and autoencoded scenes that it never saw.
    """
    generator = torch.Generator().manual_seed(recipe.seed + 4)
    torch.manual_seed(recipe.seed)  # for the layers' own initialisation, which takes no generator
    model = VideoWordModel(VOCABULARY)
    batch = recipe.outcome.batch

    def loss_at(_: int) -> Tensor:
        scenes = sample_scenes(batch, generator)
        videos, targets = scenes.videos, word_targets(scenes)
        third = batch // 3
        spoiled, spoiled_targets = corrupt(videos[:third], targets[:third], generator)
        decoded = _through_autoencoder(vae, videos[third : 2 * third], generator)
        videos = torch.cat([spoiled, decoded, videos[2 * third :]])
        targets = torch.cat([spoiled_targets, targets[third:]])
        return F.binary_cross_entropy_with_logits(model(videos), targets)

    optimise(model.parameters(), recipe.outcome, loss_at, title="outcome model")
    model.requires_grad_(False).eval()
    scenes = sample_scenes(512, generator)
    decoded = _through_autoencoder(vae, scenes.videos, generator)
    return model, {
        "outcome_word_accuracy_clean": _word_accuracy(model, scenes.videos, scenes),
        "outcome_word_accuracy_decoded": _word_accuracy(model, decoded, scenes),
    }


@torch.no_grad()
def _word_accuracy(model: VideoWordModel, videos: Tensor, scenes: Scenes) -> float:
    """Share of attributes whose true word gets the highest logit of that attribute's words."""
    logits = model(videos).split([len(words) for words in ATTRIBUTES.values()], dim=1)
    right = [
        (part.argmax(dim=1) == scenes.labels[name]).float()
        for name, part in zip(ATTRIBUTES, logits, strict=True)
    ]
    return torch.stack(right).mean().item()
