"""Tiny pipelines of every family, with random weights: the real classes, the real structure, a few channels."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers import (
    AutoencoderKLHunyuanVideo,
    AutoencoderKLHunyuanVideo15,
    AutoencoderKLLTXVideo,
    AutoencoderKLWan,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    HunyuanVideo15Pipeline,
    HunyuanVideo15Transformer3DModel,
    HunyuanVideoPipeline,
    HunyuanVideoTransformer3DModel,
    LTXPipeline,
    LTXVideoTransformer3DModel,
    WanPipeline,
    WanTransformer3DModel,
)
from diffusers.guiders import ClassifierFreeGuidance
from diffusers.pipelines.hunyuan_video.pipeline_hunyuan_video import DEFAULT_PROMPT_TEMPLATE
from torch import Tensor, nn
from transformers import (
    ByT5Tokenizer,
    CLIPTextConfig,
    CLIPTextModel,
    LlamaConfig,
    LlamaModel,
    Qwen2_5_VLTextConfig,
    Qwen2_5_VLTextModel,
    T5Config,
    T5EncoderModel,
    UMT5Config,
    UMT5EncoderModel,
)

from samplers.condition import Geometry
from samplers.families.ltx import DECODE_NOISE, DECODE_TIMESTEP
from samplers.pipeline import PipelinePolicy, Scales
from tests.families.tokenizers import PROMPTS, word_tokenizer

TEXT = 24
"""Width of encoded prompts."""


@dataclass(frozen=True)
class Variant:
    """A tiny pipeline, and what tests need to know of it.

    Attributes:
        build: makes it, from torch's global generator.
        geometry: videos of few tokens; height and width differ, so that swapping them shows.
        guided: scales of classifier-free guidance.
        shrink: cuts lengths of text that the pipeline has as attributes.
    """

    build: Callable[[], DiffusionPipeline]
    geometry: Geometry
    guided: Scales = field(default_factory=lambda: Scales(4.0))
    shrink: Callable[[Any], None] = lambda pipeline: None


def euler(**settings: Any) -> FlowMatchEulerDiscreteScheduler:
    return FlowMatchEulerDiscreteScheduler(**settings)


def loud(encoder: nn.Module) -> nn.Module:
    """Text encoders begin with weights so small that prompts would hardly differ."""
    with torch.no_grad():
        for parameter in encoder.parameters():
            if parameter.ndim == 2:
                parameter.normal_(std=parameter.shape[1] ** -0.5)
    return encoder


def t5(kind: type[Any], config: type[Any], vocabulary: int) -> Any:
    sizes = {"d_model": TEXT, "d_kv": 6, "d_ff": 32, "num_layers": 1, "num_heads": 4, "dropout_rate": 0.0}
    return loud(kind(config(vocab_size=vocabulary, pad_token_id=0, eos_token_id=1, **sizes)))


def wan_vae(residual: bool) -> AutoencoderKLWan:
    """Wan 2.1's form of stride 8, or that of TI2V-5B with residual blocks and patches, of stride 16."""
    channels = 6 if residual else 4
    patched = {"patch_size": 2, "in_channels": 12, "out_channels": 12, "is_residual": True}
    return AutoencoderKLWan(
        base_dim=4,
        decoder_base_dim=4,
        z_dim=channels,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        attn_scales=[],
        temperal_downsample=[False, True, True],
        latents_mean=[0.1 * i for i in range(channels)],
        latents_std=[0.5 + 0.25 * i for i in range(channels)],
        scale_factor_temporal=4,
        scale_factor_spatial=16 if residual else 8,
        **(patched if residual else {}),
    )


def wan_network(channels: int) -> WanTransformer3DModel:
    return WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=channels,
        out_channels=channels,
        text_dim=TEXT,
        freq_dim=16,
        ffn_dim=32,
        num_layers=2,
        cross_attn_norm=True,
        rope_max_seq_len=16,
    )


def wan(residual: bool = False, **settings: Any) -> DiffusionPipeline:
    vae, tokenizer = wan_vae(residual), word_tokenizer(length=12)
    channels = vae.config.z_dim
    second = {"transformer_2": wan_network(channels)} if "boundary_ratio" in settings else {}
    return WanPipeline(
        tokenizer=tokenizer,
        text_encoder=t5(UMT5EncoderModel, UMT5Config, len(tokenizer)),
        transformer=wan_network(channels),
        vae=vae,
        scheduler=euler(shift=5.0),
        **second,
        **settings,
    )


def llama(vocabulary: int) -> LlamaModel:
    """Its third last hidden state is read."""
    return loud(
        LlamaModel(
            LlamaConfig(
                vocab_size=vocabulary,
                hidden_size=TEXT,
                intermediate_size=32,
                num_hidden_layers=3,
                num_attention_heads=2,
                num_key_value_heads=2,
                pad_token_id=0,
            )
        )
    )


def clip(vocabulary: int) -> CLIPTextModel:
    return loud(
        CLIPTextModel(
            CLIPTextConfig(
                vocab_size=vocabulary,
                hidden_size=16,
                intermediate_size=32,
                num_hidden_layers=1,
                num_attention_heads=2,
                max_position_embeddings=77,
                pad_token_id=0,
                bos_token_id=3,
                eos_token_id=1,
            )
        )
    )


def hunyuan_video() -> DiffusionPipeline:
    before, _ = DEFAULT_PROMPT_TEMPLATE["template"].split("{}")
    tokenizer = word_tokenizer(length=512, before=before, tokens=DEFAULT_PROMPT_TEMPLATE["crop_start"])
    short = word_tokenizer(length=77)
    vae = AutoencoderKLHunyuanVideo(
        latent_channels=4,
        block_out_channels=(4, 4, 4, 4),
        layers_per_block=1,
        norm_num_groups=2,
        scaling_factor=0.476986,
    )
    transformer = HunyuanVideoTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=12,
        num_layers=2,
        num_single_layers=2,
        num_refiner_layers=1,
        mlp_ratio=2.0,
        guidance_embeds=True,
        text_embed_dim=TEXT,
        pooled_projection_dim=16,
        rope_axes_dim=(4, 4, 4),
    )
    return HunyuanVideoPipeline(
        text_encoder=llama(len(tokenizer)),
        tokenizer=tokenizer,
        transformer=transformer,
        vae=vae,
        scheduler=euler(shift=7.0),
        text_encoder_2=clip(len(short)),
        tokenizer_2=short,
    )


def qwen(vocabulary: int) -> Qwen2_5_VLTextModel:
    """Its third last hidden state is read."""
    return loud(
        Qwen2_5_VLTextModel(
            Qwen2_5_VLTextConfig(
                vocab_size=vocabulary,
                hidden_size=TEXT,
                intermediate_size=32,
                num_hidden_layers=3,
                num_attention_heads=2,
                num_key_value_heads=2,
                rope_scaling={"type": "default", "rope_type": "default", "mrope_section": [2, 2, 2]},
                pad_token_id=0,
                bos_token_id=3,
                eos_token_id=1,
            )
        )
    )


def hunyuan_video15() -> DiffusionPipeline:
    vae = AutoencoderKLHunyuanVideo15(
        latent_channels=4, block_out_channels=(4, 4, 8, 8, 8), layers_per_block=1, scaling_factor=1.03682
    )
    transformer = HunyuanVideo15Transformer3DModel(
        in_channels=9,  # latents, conditioning frame, mask
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=12,
        num_layers=2,
        num_refiner_layers=1,
        mlp_ratio=2.0,
        text_embed_dim=TEXT,
        text_embed_2_dim=TEXT,
        image_embed_dim=8,
        rope_axes_dim=(4, 4, 4),
    )
    parts: dict[str, Any] = {
        "transformer": transformer,
        "vae": vae,
        "scheduler": euler(shift=5.0),
        "text_encoder_2": t5(T5EncoderModel, T5Config, 384),
        "tokenizer_2": ByT5Tokenizer(),
        "guider": ClassifierFreeGuidance(guidance_scale=6.0),
    }
    pipeline = HunyuanVideo15Pipeline(text_encoder=None, tokenizer=None, **parts)
    message, tokens = pipeline.system_message, pipeline.prompt_template_encode_start_idx
    tokenizer = word_tokenizer(length=2048, before=message, tokens=tokens)
    tokenizer.chat_template = (
        "{% for message in messages %}{{ message['content'] }} {% endfor %}"
        "{% if add_generation_prompt %}assistant{% endif %}"
    )
    pipeline.register_modules(text_encoder=qwen(len(tokenizer)), tokenizer=tokenizer)
    return pipeline


def shrink_hunyuan_video15(pipeline: Any) -> None:
    """2000 tokens of text would be most of a test's time."""
    pipeline.tokenizer_max_length = 12
    pipeline.tokenizer_2_max_length = 16
    pipeline.vision_num_semantic_tokens = 3


def ltx(timed: bool) -> DiffusionPipeline:
    """With a plain decoder (LTX-Video 0.9.0), or one that is given a time and injects noise (0.9.1)."""
    tokenizer = word_tokenizer(length=128)
    vae = AutoencoderKLLTXVideo(
        latent_channels=6,
        block_out_channels=(4, 4, 4),
        down_block_types=("LTXVideoDownBlock3D",) * 3,
        decoder_block_out_channels=(8, 8, 8),
        layers_per_block=(1, 1, 1, 1),
        decoder_layers_per_block=(1, 1, 1, 1),
        spatio_temporal_scaling=(True, True, False),
        decoder_spatio_temporal_scaling=(True, True, False),
        decoder_inject_noise=(timed, timed, False, False),
        downsample_type=("conv", "conv", "conv"),
        upsample_residual=(timed,) * 3,
        upsample_factor=(1, 1, 1),
        timestep_conditioning=timed,
        scaling_factor=0.8,
        decoder_causal=False,
    )
    vae.latents_mean.normal_(std=0.3)
    vae.latents_std.uniform_(0.5, 1.5)
    with torch.no_grad():  # zero before training
        for name, parameter in vae.decoder.named_parameters():
            if "per_channel_scale" in name:
                parameter.normal_()
    transformer = LTXVideoTransformer3DModel(
        in_channels=6,
        out_channels=6,
        num_attention_heads=2,
        attention_head_dim=12,
        cross_attention_dim=24,
        num_layers=2,
        caption_channels=TEXT,
    )
    scheduler = euler(
        use_dynamic_shifting=True,
        base_shift=0.95,
        max_shift=2.05,
        base_image_seq_len=1024,
        max_image_seq_len=4096,
        shift_terminal=0.1,
    )
    return LTXPipeline(
        scheduler=scheduler,
        vae=vae,
        text_encoder=t5(T5EncoderModel, T5Config, len(tokenizer)),
        tokenizer=tokenizer,
        transformer=transformer,
    )


#: Name -> tiny pipeline. A new family adds its own here, and every test of this folder runs on it.
VARIANTS: dict[str, Variant] = {
    "wan21": Variant(wan, Geometry(5, 16, 32)),
    "wan22_a14b": Variant(lambda: wan(boundary_ratio=0.875), Geometry(5, 16, 32), Scales(4.0, free_2=2.5)),
    "wan22_ti2v_5b": Variant(lambda: wan(residual=True, expand_timesteps=True), Geometry(5, 32, 64)),
    "hunyuan_video": Variant(hunyuan_video, Geometry(5, 16, 32)),
    "hunyuan_video15": Variant(hunyuan_video15, Geometry(5, 32, 64), shrink=shrink_hunyuan_video15),
    "ltx": Variant(lambda: ltx(timed=False), Geometry(5, 32, 64)),
    "ltx_timed": Variant(lambda: ltx(timed=True), Geometry(5, 32, 64)),
}


def built(name: str) -> DiffusionPipeline:
    """The pipeline of a variant, always with the same weights."""
    with torch.random.fork_rng():
        torch.manual_seed(list(VARIANTS).index(name))
        return VARIANTS[name].build()


def with_copied_networks(policy: PipelinePolicy) -> PipelinePolicy:
    """The same policy with networks of its own, to be trained."""
    other = copy.copy(policy)
    other.denoiser = copy.deepcopy(policy.denoiser)
    return other


def start_noise(policy: PipelinePolicy, count: int) -> Tensor:
    return policy.initial_noise([torch.Generator().manual_seed(i) for i in range(count)])


def by_diffusers(
    policy: PipelinePolicy, start: Tensor, num_steps: int, output_type: str = "latent"
) -> Tensor:
    """What the pipeline's own call makes of a noise, at the policy's scales: latents, or videos (B, F, 3, H, W)."""
    pipeline, scales = policy.pipeline, policy.scales
    options = OWN_OPTIONS[policy.family.pipeline](pipeline, scales)
    packs = hasattr(pipeline, "_pack_latents")
    with torch.random.fork_rng():
        torch.manual_seed(0)  # and the generators: LTX-Video's decoder draws noise from both
        frames = pipeline(
            prompt=list(PROMPTS[: len(start)]),
            negative_prompt=[policy.negative_prompt] * len(start),
            **options,
            num_frames=policy.geometry.num_frames,
            height=policy.geometry.height,
            width=policy.geometry.width,
            num_inference_steps=num_steps,
            latents=pipeline._pack_latents(start) if packs else start.clone(),
            generator=[torch.Generator().manual_seed(0) for _ in start],
            output_type=output_type,
        ).frames
    if output_type == "latent" and packs:
        return pipeline._unpack_latents(frames, *start.shape[2:])
    return frames


def wan_options(pipeline: Any, scales: Scales) -> dict[str, Any]:
    return {
        "guidance_scale": scales.free,
        "guidance_scale_2": scales.free_2,
        "max_sequence_length": pipeline.tokenizer.model_max_length,
    }


def hunyuan_video_options(pipeline: Any, scales: Scales) -> dict[str, Any]:
    embedded = {} if scales.embedded is None else {"guidance_scale": scales.embedded}
    return {"true_cfg_scale": scales.free, **embedded}


def hunyuan_video15_options(pipeline: Any, scales: Scales) -> dict[str, Any]:
    pipeline.guider = ClassifierFreeGuidance(guidance_scale=scales.free)
    return {}


def ltx_options(pipeline: Any, scales: Scales) -> dict[str, Any]:
    decoder = {"decode_timestep": DECODE_TIMESTEP, "decode_noise_scale": DECODE_NOISE}
    return {"guidance_scale": scales.free, **decoder}


#: Pipeline -> what its call takes besides prompts, sizes and noise, for a policy's scales.
OWN_OPTIONS: dict[str, Callable[[Any, Scales], dict[str, Any]]] = {
    "WanPipeline": wan_options,
    "HunyuanVideoPipeline": hunyuan_video_options,
    "HunyuanVideo15Pipeline": hunyuan_video15_options,
    "LTXPipeline": ltx_options,
}
