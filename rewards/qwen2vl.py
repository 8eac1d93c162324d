"""Reward models on Qwen2-VL: published weights on transformers 5, pixels to patches, hidden states at reward tokens.

The published models were trained with transformers 4.45 and a forward of their own that passes no position ids to the
language model, whose text positions are then sequential: 0, 1, 2, ... for all three axes. Transformers 5 computes
multimodal positions in its own forward, so the language model is called here without that.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoTokenizer, Qwen2VLConfig, Qwen2VLModel

from rewards.suites.model import SuiteError

State = dict[str, Tensor]

#: Qwen2-VL's chat format around one picture or video and a text.
_CHAT = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "<|im_start|>user\n<|vision_start|>{seen}<|vision_end|>{text}<|im_end|>\n<|im_start|>assistant\n"
)
_IMAGE, _VIDEO = "<|image_pad|>", "<|video_pad|>"
_PEFT = "base_model.model."


def merged_lora(state: Mapping[str, Tensor], scale: float) -> State:
    """A PEFT model's state as that of the plain model: adapters merged, wrappers' names removed.

    Args:
        state: names begin with `base_model.model.`, those of adapted layers end with `base_layer.weight`,
            `lora_A.default.weight` and `lora_B.default.weight`; or those of a plain model.
        scale: alpha / rank, or alpha / sqrt(rank) with rsLoRA.

    Raises:
        ValueError: an adapter lacks its other half or its layer.
    """
    plain: State = {}
    halves: dict[str, dict[str, Tensor]] = {}
    for name, value in state.items():
        name = name.removeprefix(_PEFT)
        found = re.fullmatch(r"(.+)\.lora_(A|B)(\.default)?\.weight", name)
        if found:
            halves.setdefault(found[1], {})[found[2]] = value
        elif ".lora_" in name:
            raise ValueError(f"{name!r} is an adapter of a kind that is not merged here")
        elif ".original_module." not in name:
            plain[name.replace(".base_layer.", ".").replace(".modules_to_save.default.", ".")] = value
    for layer, pair in halves.items():
        if set(pair) != {"A", "B"} or f"{layer}.weight" not in plain:
            raise ValueError(f"the adapter of {layer!r} is not whole, or its layer is missing")
        weight = plain[f"{layer}.weight"]
        change = scale * (pair["B"].float() @ pair["A"].float())
        plain[f"{layer}.weight"] = (weight.float() + change).to(weight.dtype)
    return plain


def renamed(state: Mapping[str, Tensor]) -> tuple[State, State]:
    """The body's weights under the names of transformers 5, and the reward head's."""
    body: State = {}
    head: State = {}
    for name, value in state.items():
        if name.startswith("rm_head."):
            head[name.removeprefix("rm_head.")] = value
        elif name.startswith("model."):
            body[f"language_model.{name.removeprefix('model.')}"] = value
        elif not name.startswith("lm_head."):
            body[name] = value  # visual.
    return body, head


class Backbone(nn.Module):
    """Qwen2-VL without its language head, and a tokenizer with reward tokens.

    Args:
        folder: Qwen2-VL's configuration and tokenizer.
        state: weights under transformers 5's names.
        tokens: the reward tokens, added to the tokenizer in this order.
        dtype: of the network.
        frequencies: what the rotary frequencies are rounded to.

    Raises:
        SuiteError: the weights are not those of the configuration, or of the tokenizer with these tokens.
    """

    def __init__(
        self,
        folder: Path,
        state: State,
        tokens: Sequence[str],
        dtype: torch.dtype,
        frequencies: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.tokenizer = AutoTokenizer.from_pretrained(
            str(folder), local_files_only=True, padding_side="right"
        )
        self.tokenizer.add_special_tokens({"additional_special_tokens": list(tokens)})
        self.rewards = self.tokenizer.convert_tokens_to_ids(list(tokens))
        config = Qwen2VLConfig.from_pretrained(str(folder), local_files_only=True)
        rows = len(state.get("language_model.embed_tokens.weight", ()))
        if rows <= max(self.rewards):
            raise SuiteError(
                f"the weights embed {rows} tokens, and the tokenizer in {str(folder)!r} has {len(self.tokenizer)} with "
                f"{', '.join(tokens)}: name the model that they were made from"
            )
        config.text_config.vocab_size = rows
        with torch.device("meta"):
            self.model = Qwen2VLModel(config)
        self._load(state, dtype, frequencies)
        self.requires_grad_(False).eval()

    def _load(self, state: State, dtype: torch.dtype, frequencies: torch.dtype) -> None:
        """Takes the weights without a second copy; buffers that no file holds are computed anew."""
        state = {name: value.to(dtype) for name, value in state.items()}
        try:
            self.model.load_state_dict(state, strict=True, assign=True)
        except RuntimeError as error:
            line = " ".join(str(error).split())
            raise SuiteError(
                f"the weights are not those of the model in its configuration: {line[:300]}"
            ) from error
        fresh = Qwen2VLModel._from_config(_smallest(self.model.config))
        for name, buffer in fresh.named_buffers():
            owner, _, leaf = name.rpartition(".")
            setattr(
                self.model.get_submodule(owner),
                leaf,
                nn.Buffer(buffer.to(frequencies).float(), persistent=False),
            )

    def patches(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Frames as the vision tower reads them.

        Args:
            frames: (T, 3, H, W) normalised, with T even, H and W multiples of patch size times merge size.

        Returns:
            (t h w, 3 * 2 * patch * patch) patches, the merged ones side by side, and (1, 3) their grid.
        """
        vision = self.model.config.vision_config
        size, merge, times = vision.patch_size, vision.spatial_merge_size, vision.temporal_patch_size
        t, h, w = frames.shape[0] // times, frames.shape[2] // size, frames.shape[3] // size
        blocks = frames.reshape(t, times, 3, h // merge, merge, size, w // merge, merge, size)
        flat = blocks.permute(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(t * h * w, -1)
        return flat, torch.tensor([[t, h, w]], device=frames.device)

    def at_rewards(self, seen: Sequence[Tensor], texts: Sequence[str], video: bool) -> Tensor:
        """(B, tokens, D) last hidden states at the reward tokens.

        Args:
            seen: B normalised (T, 3, H, W) clips, as `patches` reads them.
            texts: B instructions, each with every reward token once.
            video: whether they are videos or pictures.

        Raises:
            ValueError: a text lacks a reward token, or has one twice.
        """
        pad, device = _VIDEO if video else _IMAGE, seen[0].device
        pairs = [self.patches(clip) for clip in seen]
        merge = self.model.config.vision_config.spatial_merge_size**2
        counts = [int(grid.prod()) // merge for _, grid in pairs]
        written = [
            _CHAT.replace("{seen}", pad * count).replace("{text}", text)
            for count, text in zip(counts, texts, strict=True)
        ]
        tokens = self.tokenizer(written, padding=True, return_tensors="pt", add_special_tokens=False).to(
            device
        )
        ids = tokens["input_ids"]
        places = torch.stack([ids == token for token in self.rewards], dim=1)  # (B, tokens, L)
        if not (places.sum(dim=-1) == 1).all():
            raise ValueError("a text has a reward token twice, or not at all; does the prompt contain one?")
        pixels = torch.cat([patches for patches, _ in pairs]).to(self.model.dtype)
        grids = torch.cat([grid for _, grid in pairs])
        features = torch.cat(self.model.get_video_features(pixels, grids).pooler_output)
        embeds = self.model.language_model.embed_tokens(ids)
        where = (ids == self.tokenizer.convert_tokens_to_ids(pad))[..., None].expand_as(embeds)
        embeds = embeds.masked_scatter(where, features.to(embeds.dtype))
        hidden = self.model.language_model(
            inputs_embeds=embeds,
            attention_mask=tokens["attention_mask"],
            position_ids=torch.arange(ids.shape[1], device=device).expand(3, len(ids), -1),
            use_cache=False,
        ).last_hidden_state
        return torch.einsum("btl,bld->btd", places.to(hidden.dtype), hidden)


def _smallest(config: Qwen2VLConfig) -> Qwen2VLConfig:
    """The same dimensions of attention, with one layer and token: its buffers are the model's."""
    small = Qwen2VLConfig.from_dict(config.to_dict())
    small.text_config.vocab_size, small.text_config.num_hidden_layers = 1, 1
    small.text_config.layer_types, small.text_config.pad_token_id = small.text_config.layer_types[:1], None
    small.text_config.intermediate_size = 1
    small.vision_config.depth = 1
    return small


def resized(frames: Tensor, least: int, most: int, factor: int = 28) -> Tensor:
    """(T, 3, H, W) frames with sides that are multiples of `factor` and from `least` to `most` pixels in all.

    The sides of Qwen2-VL's `smart_resize`; a bicubic, antialiased kernel without rounding to bytes.
    """
    height, width = frames.shape[-2:]
    sides = [max(factor, round(side / factor) * factor) for side in (height, width)]
    if math.prod(sides) > most:
        shrink = math.sqrt(height * width / most)
        sides = [max(factor, math.floor(side / shrink / factor) * factor) for side in (height, width)]
    elif math.prod(sides) < least:
        grow = math.sqrt(least / (height * width))
        sides = [math.ceil(side * grow / factor) * factor for side in (height, width)]
    if sides == [height, width]:
        return frames
    return F.interpolate(frames, sides, mode="bicubic", antialias=True).clamp(0, 1)


def normalised(frames: Tensor) -> Tensor:
    """(..., 3, H, W) in [0, 1] with CLIP's mean and deviation, which Qwen2-VL uses."""
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073], device=frames.device).view(3, 1, 1)
    deviation = torch.tensor([0.26862954, 0.26130258, 0.27577711], device=frames.device).view(3, 1, 1)
    return (frames - mean) / deviation


def constant(file: Path, name: str) -> str:
    """A text assigned to a name in a Python file, which is read and not run.

    Raises:
        ValueError: there is none.
    """
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and any(
            isinstance(t, ast.Name) and t.id == name for t in node.targets
        ):
            value: Any = ast.literal_eval(node.value)
            if isinstance(value, str):
                return value
    raise ValueError(f"{str(file)!r} assigns no text to {name}")
