"""The testbed's video transformer and text encoder, pretrained by flow matching on partly mislabelled captions."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from diffusers import AutoencoderKLWan, WanPipeline, WanTransformer3DModel
from diffusers.training_utils import EMAModel
from rich.progress import track
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

from benchmarks.testbed.recipe import Recipe
from benchmarks.testbed.scenes import all_prompts, sample_scenes
from benchmarks.testbed.tokenizer import new_tokenizer
from benchmarks.testbed.train_vae import LATENT_CHANNELS, to_model_range
from rewards.fitting import Schedule, optimise

TEXT_DIM = 48


def new_text_encoder(tokenizer: PreTrainedTokenizerFast) -> UMT5EncoderModel:
    """An untrained one-layer UMT5 encoder for the captions' few words."""
    return UMT5EncoderModel(
        UMT5Config(
            vocab_size=len(tokenizer),
            d_model=TEXT_DIM,
            d_kv=12,
            d_ff=96,
            num_layers=1,
            num_heads=4,
            dropout_rate=0.0,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )


def new_transformer() -> WanTransformer3DModel:
    """An untrained Wan transformer: 12 tokens of 2 x 2 latent patches, four blocks."""
    return WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=4,
        attention_head_dim=24,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        text_dim=TEXT_DIM,
        freq_dim=64,
        ffn_dim=288,
        num_layers=4,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
        rope_max_seq_len=32,
    )


class _TextAndVideo(nn.Module):
    """Both trained parts, so that one exponential average covers them."""

    def __init__(self, text_encoder: UMT5EncoderModel, transformer: WanTransformer3DModel) -> None:
        super().__init__()
        self.text_encoder = text_encoder
        self.transformer = transformer

    def velocity(self, x: Tensor, sigma: Tensor, tokens: dict[str, Tensor], which: Tensor) -> Tensor:
        """Velocity for latents `x`, each under the caption `which` of those tokenized."""
        embeds = self.text_encoder(**tokens).last_hidden_state * tokens["attention_mask"].unsqueeze(-1)
        return self.transformer(x, sigma * 1000, embeds[which], return_dict=False)[0]


@dataclass(frozen=True)
class _Stage:
    """One stage of training: how, on which captions, from which seeds."""

    schedule: Schedule
    wrong: dict[str, float]
    scene_seed: int
    draw_seed: int
    title: str


def _pretraining(recipe: Recipe) -> _Stage:
    return _Stage(recipe.transformer, recipe.wrong, recipe.seed + 2, recipe.seed + 3, "transformer")


def _polishing(recipe: Recipe) -> _Stage:
    return _Stage(
        recipe.polish, recipe.wrong_polish, recipe.seed + 6, recipe.seed + 7, "transformer, better captions"
    )


@torch.no_grad()
def encode_dataset(vae: AutoencoderKLWan, recipe: Recipe, stage: _Stage) -> tuple[Tensor, list[str]]:
    """Normalised latents (V, C, F', H', W') of the training scenes and their partly wrong captions."""
    generator = torch.Generator().manual_seed(stage.scene_seed)
    mean, std = (
        torch.tensor(values).view(1, -1, 1, 1, 1)
        for values in (vae.config.latents_mean, vae.config.latents_std)
    )
    latents, captions = [], []
    for _ in track(range(recipe.videos // 512), description="encoding scenes"):
        scenes = sample_scenes(512, generator)
        latents.append((vae.encode(to_model_range(scenes.videos)).latent_dist.mode() - mean) / std)
        captions += scenes.captions(stage.wrong, generator)
    return torch.cat(latents), captions


def pretrain(
    vae: AutoencoderKLWan, recipe: Recipe
) -> tuple[PreTrainedTokenizerFast, UMT5EncoderModel, WanTransformer3DModel, dict[str, float]]:
    """Trains text encoder and transformer from nothing.

    Returns:
        The tokenizer, text encoder and transformer (exponential averages), and the final loss.
    """
    tokenizer = new_tokenizer()
    torch.manual_seed(recipe.seed)  # for the layers' own initialisation, which takes no generator
    text_encoder, transformer = new_text_encoder(tokenizer), new_transformer()
    loss = _fit(vae, tokenizer, _TextAndVideo(text_encoder, transformer), recipe, _pretraining(recipe))
    return tokenizer, text_encoder, transformer, {"pretraining_loss": loss}


def polish(pipeline: WanPipeline, recipe: Recipe) -> dict[str, float]:
    """Trains a pipeline's text encoder and transformer further, in place, on better captions; the final loss."""
    model = _TextAndVideo(pipeline.text_encoder, pipeline.transformer).train().requires_grad_(True)
    return {"polishing_loss": _fit(pipeline.vae, pipeline.tokenizer, model, recipe, _polishing(recipe))}


def _fit(
    vae: AutoencoderKLWan,
    tokenizer: PreTrainedTokenizerFast,
    model: _TextAndVideo,
    recipe: Recipe,
    stage: _Stage,
) -> float:
    """Flow matching, E |v - (e - x0)|^2, with noise levels drawn under the shift that sampling uses.

    Leaves the exponential average of the weights in `model`, and returns the final loss.
    """
    latents, captions = encode_dataset(vae, recipe, stage)
    prompts = [*all_prompts(), ""]
    position = {prompt: i for i, prompt in enumerate(prompts)}
    said = torch.tensor([position[caption] for caption in captions])
    length = recipe.max_sequence_length
    encoded = tokenizer(prompts, padding="max_length", max_length=length, return_tensors="pt")
    tokens = {name: encoded[name] for name in ("input_ids", "attention_mask")}
    average = EMAModel(model.parameters(), decay=recipe.ema)
    generator = torch.Generator().manual_seed(stage.draw_seed)
    batch = stage.schedule.batch

    def loss_at(_: int) -> Tensor:
        chosen = torch.randint(len(latents), (batch,), generator=generator)
        dropped = torch.rand(batch, generator=generator) < recipe.dropped
        caption = torch.where(dropped, len(prompts) - 1, said[chosen])
        uniform = torch.rand(batch, generator=generator)
        sigma = recipe.shift * uniform / (1 + (recipe.shift - 1) * uniform)
        clean = latents[chosen]
        noise = torch.randn(clean.shape, generator=generator)
        level = sigma.view(-1, 1, 1, 1, 1)
        velocity = model.velocity((1 - level) * clean + level * noise, sigma, tokens, caption)
        return (velocity - (noise - clean)).square().mean()

    loss = optimise(
        model.parameters(), stage.schedule, loss_at, lambda _: average.step(model.parameters()), stage.title
    )
    average.copy_to(model.parameters())
    model.eval()
    return loss
