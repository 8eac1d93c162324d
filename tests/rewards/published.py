"""Tiny random models on disk in their published formats: nothing is downloaded."""

from __future__ import annotations

import json
import re
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast, Qwen2VLConfig, Qwen2VLModel

WORDS = ("a", "red", "ball", "dog", "runs")


def write_clip(folder: Path, side: int = 32, width: int = 16) -> Path:
    """A CLIP model with a byte-pair tokenizer of a few words and preprocessing to `side` pixels."""
    folder.mkdir(parents=True)
    letters = sorted({letter for word in WORDS for letter in word} | {"s", "t"})
    tokens = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    special = {"bos_token": tokens[0], "eos_token": tokens[1], "unk_token": tokens[1], "pad_token": tokens[1]}
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, **special})
    )
    (folder / "special_tokens_map.json").write_text(json.dumps(special))
    processor = {
        "image_processor_type": "CLIPImageProcessor",
        "size": {"shortest_edge": side},
        "crop_size": {"height": side, "width": side},
        "image_mean": [0.48, 0.46, 0.41],
        "image_std": [0.27, 0.26, 0.28],
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    layers = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config={
            **layers,
            "vocab_size": len(tokens),
            "max_position_embeddings": 24,
            "eos_token_id": 1,
            "bos_token_id": 0,
            "pad_token_id": 1,
            "projection_dim": width,
        },
        vision_config={**layers, "image_size": side, "patch_size": 8, "projection_dim": width},
        projection_dim=width,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = CLIPModel(config)
        for parameter in model.parameters():  # larger than the initial ones, so that inputs matter
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    return folder


def write_head(file: Path, width: int = 16) -> dict[str, torch.Tensor]:
    """An aesthetic head as it is published: a pickled state with the dropouts' numbers left out."""
    generator = torch.Generator().manual_seed(1)
    state, before = {}, width
    for place, after in ((0, 12), (2, 8), (4, 6), (6, 4), (7, 1)):
        state[f"layers.{place}.weight"] = torch.randn(after, before, generator=generator) / before**0.5
        state[f"layers.{place}.bias"] = torch.randn(after, generator=generator)
        before = after
    torch.save(state, file)
    return state


def write_qwen2vl(folder: Path) -> Qwen2VLModel:
    """A tiny Qwen2-VL: configuration, byte-level tokenizer and weights, under the names of transformers 4.45."""
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    special += [f"<|{name}|>" for name in ("vision_start", "vision_end", "image_pad", "video_pad")]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    core.add_special_tokens(special)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, pad_token=special[0])
    tokenizer.save_pretrained(folder)
    ids = dict(zip(special, tokenizer.convert_tokens_to_ids(special), strict=True))
    config = Qwen2VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]},
        },
        vision_config={"depth": 2, "embed_dim": 32, "num_heads": 2, "mlp_ratio": 1, "hidden_size": 32},
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
    )
    config.save_pretrained(folder)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = Qwen2VLModel(config)
        for parameter in model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.15)
    return model.eval()


def old_names(model: Qwen2VLModel) -> dict[str, torch.Tensor]:
    """A model's state under the names of transformers 4.45."""
    return {
        re.sub("^language_model", "model", name): value.clone() for name, value in model.state_dict().items()
    }


#: Short instructions in the published form: each token once, one place for the prompt.
VIDEO_TEMPLATE = (
    'DETAILED_PROMPT_WITH_SPECIAL_TOKEN = """\nQ <|VQ_reward|>\nM <|MQ_reward|>\n'
    'T {text_prompt}: <|TA_reward|>\n"""\n'
)
FRAME_TEMPLATE = (
    'INSTRUCTION = """\nRate {text_prompt}\n"""\nprompt_with_special_token = """\nNow: <|Reward|>\n"""\n'
)


def grown(model: Qwen2VLModel, tokens: int) -> Qwen2VLModel:
    """With rows for more tokens."""
    rows = torch.randn(tokens, 32, generator=torch.Generator().manual_seed(5)) * 0.15
    embed = model.language_model.embed_tokens
    embed.weight = torch.nn.Parameter(torch.cat([embed.weight.data, rows]))
    return model


def video_config(base: Path, rank: int = 3, alpha: float = 12.0) -> dict[str, object]:
    """The content of a model_config.json."""
    parts = (("mean", 0.5), ("std", 2.0))
    return {
        "data_config": {"fps": 2.0, "num_frames": None, "max_frame_pixels": 4 * 28 * 28},
        "model_config": {"model_name_or_path": str(base), "output_dim": 1, "reward_token": "special"},
        "peft_lora_config": {"lora_r": rank, "lora_alpha": alpha, "use_rslora": False},
        "inference_config": {f"{name}_{part}": value for name in ("VQ", "MQ", "TA") for part, value in parts},
    }


def write_video_reward(folder: Path) -> Path:
    """A VideoReward checkpoint without adapters."""
    model = grown(write_qwen2vl(folder / "base"), 3)
    (folder / "checkpoint-1").mkdir()
    state = {f"base_model.model.{name}": value for name, value in old_names(model).items()}
    head = torch.randn(1, 32, generator=torch.Generator().manual_seed(1))
    torch.save({**state, "base_model.model.rm_head.weight": head}, folder / "checkpoint-1" / "model.pth")
    (folder / "model_config.json").write_text(json.dumps(video_config(folder / "base")))
    (folder / "prompt_template.py").write_text(VIDEO_TEMPLATE)
    return folder


def frame_head() -> torch.nn.Sequential:
    """HPSv3's head, smaller."""
    with torch.random.fork_rng():
        torch.manual_seed(2)
        return torch.nn.Sequential(
            torch.nn.Linear(32, 20),
            torch.nn.ReLU(),
            torch.nn.Dropout(0.05),
            torch.nn.Linear(20, 16),
            torch.nn.ReLU(),
            torch.nn.Linear(16, 2),
        ).eval()


def write_hpsv3(folder: Path) -> Path:
    """HPSv3's checkpoint: one safetensors file under the old names, with a head of three layers."""
    model = grown(write_qwen2vl(folder / "base"), 1)
    state = {**old_names(model), "lm_head.weight": torch.zeros(3, 3)}
    state |= {f"rm_head.{name}": value for name, value in frame_head().state_dict().items()}
    save_file({name: value.contiguous() for name, value in state.items()}, folder / "HPSv3.safetensors")
    (folder / "data_collator_qwen.py").write_text(FRAME_TEMPLATE)
    return folder
