"""VideoReward of VideoAlign (arXiv 2501.13918): visual quality, motion quality and text alignment of a video."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from rewards.pretrained import MODEL_FILES, TOKENIZER_FILES, origin, pretrained, required
from rewards.provenance import fingerprint
from rewards.qwen2vl import Backbone, State, constant, merged_lora, normalised, renamed, resized
from rewards.scoring import Clips, Scorer
from rewards.suites.model import SuiteError

TOKENS = ("<|VQ_reward|>", "<|MQ_reward|>", "<|TA_reward|>")
#: File and name of the published instruction, in the repository github.com/KwaiVGI/VideoAlign.
_TEMPLATE_FILE, _TEMPLATE = "prompt_template.py", "DETAILED_PROMPT_WITH_SPECIAL_TOKEN"
#: Frames are at least so large, and are sampled at least so many, as in the published preprocessing.
_LEAST_PIXELS, _LEAST_FRAMES = 128 * 28 * 28, 4


class VideoReward(Scorer):
    """VQ, MQ and TA, each minus its mean and divided by its deviation over the published validation data.

    Args:
        model: folder or hub id of the published checkpoint: model_config.json, and checkpoint-N/ with model.pth, or
            with adapter_model.safetensors and non_lora_state_dict.pth.
        template: the repository's prompt_template.py, which is read and not run; None for the one in `model`.
        base: Qwen2-VL's configuration, tokenizer and, for adapters, weights; None for what model_config.json names.
        dtype: of the network.
    """

    names = ("VQ", "MQ", "TA")
    differentiable = True

    def __init__(
        self,
        model: str = "KwaiVGI/VideoReward",
        template: str | None = None,
        base: str | None = None,
        dtype: str = "bfloat16",
    ) -> None:
        what = "VideoReward"
        folder = pretrained(model, what, "model", ("*.json", "*.pth", "*.safetensors"))
        config = json.loads(required(folder, "model_config.json", what).read_text())
        file = Path(template) if template else folder / _TEMPLATE_FILE
        if not file.is_file():
            raise SuiteError(
                f"{what}: no instruction at {str(file)!r}; download {_TEMPLATE_FILE} from "
                "github.com/KwaiVGI/VideoAlign and name it as option 'template'"
            )
        self._text = constant(file, _TEMPLATE)
        named = base or config["model_config"]["model_name_or_path"]
        state, needs_base = _published(folder)
        files = MODEL_FILES if needs_base else TOKENIZER_FILES
        shown = pretrained(named, f"{what}'s base model", "base", files)
        if needs_base:
            state = {**_base(shown), **state}
        body, head = renamed(merged_lora(state, _scale(config["peft_lora_config"])))
        weight = head.get("weight")
        if weight is None or config["model_config"].get("reward_token") != "special":
            raise SuiteError(
                f"{what}: {str(folder)!r} has no rm_head.weight, or its reward_token is not 'special'"
            )
        # The published code casts the whole model, and with it the frequencies, in training and in inference.
        self.backbone = Backbone(
            shown, body, TOKENS, getattr(torch, dtype), frequencies=getattr(torch, dtype)
        )
        self.head = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
        self.head.load_state_dict({"weight": weight})
        self.head.to(getattr(torch, dtype)).requires_grad_(False)
        self._norm = config.get("inference_config") or {}
        data = config["data_config"]
        self._fps, self._most = float(data.get("fps") or 2), int(data["max_frame_pixels"])
        self._count = data.get("num_frames")
        self._origin = {**origin(model, folder), "base": str(named)}

    @property
    def provenance(self) -> Mapping[str, Any]:
        """The checkpoint, its frames and its normalisation."""
        frames = f"{self._count}" if self._count else f"{self._fps:g} a second, at least {_LEAST_FRAMES}"
        return {
            **self._origin,
            "weights": fingerprint(self.backbone.model),
            "frames": frames,
            "normalisation": self._norm or "none",
            "positions": "sequential",
        }

    def refusal(self, clips: Clips) -> str | None:
        """Too few frames, or a prompt with a reward token."""
        if clips.videos.shape[1] < _LEAST_FRAMES:
            return f"videos have {clips.videos.shape[1]} frames; VideoReward needs at least {_LEAST_FRAMES}"
        odd = [prompt for prompt in clips.prompts if any(token in prompt for token in TOKENS)]
        return f"prompt {odd[0]!r} contains a reward token" if odd else None

    def __call__(self, clips: Clips) -> Mapping[str, Tensor]:
        """(B,) of each."""
        frames = clips.frames(self._frames(clips.videos.shape[1], clips.fps))
        seen = [normalised(resized(video, _LEAST_PIXELS, self._most)) for video in frames.float()]
        texts = [self._text.replace("{text_prompt}", prompt) for prompt in clips.prompts]
        logits = self.head(self.backbone.at_rewards(seen, texts, video=True)).float()  # (B, 3, outputs)
        values = logits.diagonal(dim1=1, dim2=2) if logits.shape[2] == 3 else logits[..., 0]
        return {name: self._normalised(name, values[:, i]) for i, name in enumerate(self.names)}

    def _normalised(self, name: str, values: Tensor) -> Tensor:
        if not self._norm:
            return values
        return (values - self._norm[f"{name}_mean"]) / self._norm[f"{name}_std"]

    def _frames(self, total: int, fps: float) -> int:
        """How many frames are looked at: an even number."""
        if self._count:
            return min(round(self._count / 2) * 2, total // 2 * 2)
        wanted = min(max(total / fps * self._fps, _LEAST_FRAMES), total // 2 * 2)
        return round(wanted / 2) * 2


def _published(folder: Path) -> tuple[State, bool]:
    """The latest checkpoint's weights, and whether they lack the base model's."""
    found = [path for path in folder.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]
    place = max(found, key=lambda path: int(path.name.split("-")[1]), default=folder)
    if (place / "model.pth").is_file():
        return torch.load(place / "model.pth", map_location="cpu", weights_only=True), False
    adapters, others = place / "adapter_model.safetensors", place / "non_lora_state_dict.pth"
    if not adapters.is_file() or not others.is_file():
        raise SuiteError(
            f"VideoReward: {str(folder)!r} has no checkpoint-N/model.pth; run `hf download KwaiVGI/VideoReward` and "
            "give the folder as option 'model'"
        )
    return {**load_file(adapters), **torch.load(others, map_location="cpu", weights_only=True)}, True


def _base(folder: Path) -> State:
    """The base model's weights, under the names of the published checkpoint."""
    state: State = {}
    for file in sorted(folder.glob("*.safetensors")):
        state |= {f"base_model.model.{name}": value for name, value in load_file(file).items()}
    if not state:
        raise SuiteError(
            f"VideoReward: its base model in {str(folder)!r} has no *.safetensors; download it whole"
        )
    return state


def _scale(lora: Mapping[str, Any]) -> float:
    rank, alpha = float(lora.get("lora_r", 16)), float(lora.get("lora_alpha", 32))
    return alpha / rank**0.5 if lora.get("use_rslora") else alpha / rank
