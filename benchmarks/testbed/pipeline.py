"""Assembles the testbed's parts into a diffusers `WanPipeline` directory."""

from __future__ import annotations

from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, WanPipeline, WanTransformer3DModel
from transformers import PreTrainedTokenizerFast, UMT5EncoderModel

from benchmarks.testbed.recipe import Recipe


def assemble(
    recipe: Recipe,
    tokenizer: PreTrainedTokenizerFast,
    text_encoder: UMT5EncoderModel,
    transformer: WanTransformer3DModel,
    vae: AutoencoderKLWan,
) -> WanPipeline:
    """The complete pipeline, ready for `save_pretrained`."""
    return WanPipeline(
        tokenizer=tokenizer,
        text_encoder=text_encoder,
        transformer=transformer,
        vae=vae,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=recipe.shift),
    )
