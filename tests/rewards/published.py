"""Tiny random models on disk in their published formats: nothing is downloaded."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from transformers import CLIPConfig, CLIPModel

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
