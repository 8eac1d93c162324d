"""Scores of frames by CLIP models: PickScore, CLIP score and an aesthetic head, averaged over frames."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoTokenizer, CLIPModel

from rewards.pretrained import MODEL_FILES, TOKENIZER_FILES, origin, pretrained, required
from rewards.provenance import fingerprint
from rewards.scoring import Clips, Scorer
from rewards.suites.model import SuiteError


class Pixels:
    """CLIP's preprocessing as a differentiable function: shortest side, centre crop, normalisation.

    Resizes with an antialiased bicubic kernel, as the published processors do, without rounding to bytes.

    Args:
        config: content of a preprocessor_config.json.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        size, crop = config.get("size", 224), config.get("crop_size", 224)
        self.side = int(size["shortest_edge"] if isinstance(size, Mapping) else size)
        self.crop = (crop["height"], crop["width"]) if isinstance(crop, Mapping) else (int(crop), int(crop))
        self._mean = torch.tensor(config["image_mean"]).view(3, 1, 1)
        self._deviation = torch.tensor(config["image_std"]).view(3, 1, 1)

    def __call__(self, frames: Tensor) -> Tensor:
        """(N, 3, H, W) in [0, 1] to (N, 3, crop, crop)."""
        height, width = frames.shape[-2:]
        if min(height, width) != self.side:
            longer = int(self.side * max(height, width) / min(height, width))
            shape = (self.side, longer) if height <= width else (longer, self.side)
            frames = F.interpolate(frames, shape, mode="bicubic", antialias=True).clamp(0, 1)
        top, left = ((frames.shape[-2 + axis] - self.crop[axis]) // 2 for axis in (0, 1))
        frames = frames[..., top : top + self.crop[0], left : left + self.crop[1]]
        return (frames - self._mean.to(frames)) / self._deviation.to(frames)


class _Clip(Scorer):
    """A CLIP model over evenly spaced frames.

    Args:
        model: folder or hub id, with @revision to pin it.
        processor: folder or hub id of its tokenizer and preprocessing; None for the model's own.
        frames: how many.
        dtype: of the network.
    """

    differentiable = True

    def __init__(
        self, model: str, processor: str | None = None, frames: int = 8, dtype: str = "float32"
    ) -> None:
        what = type(self).__name__
        if frames < 1:
            raise ValueError(f"frames is {frames}; give at least 1")
        folder = pretrained(model, what, "model", MODEL_FILES)
        shown = folder if processor is None else pretrained(processor, what, "processor", TOKENIZER_FILES)
        required(folder, "config.json", what)
        self.pixels = Pixels(json.loads(required(shown, "preprocessor_config.json", what).read_text()))
        self.network = CLIPModel.from_pretrained(
            str(folder), dtype=getattr(torch, dtype), local_files_only=True
        )
        self.network.requires_grad_(False).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(str(shown), local_files_only=True)
        self.count = frames
        self._origin = origin(model, folder)

    @property
    def provenance(self) -> Mapping[str, Any]:
        """The model, its weights, and the frames and preprocessing."""
        return {
            **self._origin,
            "weights": fingerprint(self.network),
            "frames": self.count,
            "normalisation": f"shortest side {self.pixels.side}, bicubic; mean over frames",
        }

    def images(self, clips: Clips) -> Tensor:
        """(B, frames, D) unit embeddings of frames."""
        frames = clips.frames(self.count)
        pixels = self.pixels(frames.flatten(0, 1)).to(self.network.dtype)
        return _unit(self.network.get_image_features(pixel_values=pixels)).unflatten(0, frames.shape[:2])

    def texts(self, prompts: Sequence[str]) -> Tensor:
        """(B, D) unit embeddings; a text of more than 77 tokens is cut off, as published."""
        most = self.network.config.text_config.max_position_embeddings
        tokens = self.tokenizer(
            list(prompts), padding=True, truncation=True, max_length=most, return_tensors="pt"
        )
        tokens = {name: tokens[name].to(self.network.device) for name in ("input_ids", "attention_mask")}
        return _unit(self.network.get_text_features(**tokens))

    def cosine(self, clips: Clips) -> Tensor:
        """(B,) mean over frames of the cosine between frame and prompt."""
        return (self.images(clips) * self.texts(clips.prompts)[:, None]).sum(dim=-1).mean(dim=1)


class ClipScore(_Clip):
    """Cosine between frames and prompt, in [-1, 1] (arXiv 2104.08718, without its factor and clipping)."""

    def __init__(self, model: str = "openai/clip-vit-large-patch14", **options: Any) -> None:
        super().__init__(model, **options)

    def __call__(self, clips: Clips) -> Mapping[str, Tensor]:
        """(B,) mean cosines."""
        return {"score": self.cosine(clips)}


class PickScore(_Clip):
    """PickScore (arXiv 2305.01569): exp(logit scale) times the cosine of frames and prompt; about 16 to 25."""

    def __init__(
        self,
        model: str = "yuvalkirstain/PickScore_v1",
        processor: str = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
        **options: Any,
    ) -> None:
        super().__init__(model, processor, **options)

    def __call__(self, clips: Clips) -> Mapping[str, Tensor]:
        """(B,) mean scores."""
        return {"score": self.network.logit_scale.exp() * self.cosine(clips)}


class Aesthetic(_Clip):
    """The LAION aesthetic predictor (v2): a head on unit embeddings of CLIP ViT-L/14; about 1 to 10.

    Args:
        head: file with the head's weights, such as sac+logos+ava1-l14-linearMSE.pth of
            github.com/christophschuhmann/improved-aesthetic-predictor.
        model: the CLIP model that the head was trained on.
        options: of `ClipScore`.
    """

    def __init__(self, head: str, model: str = "openai/clip-vit-large-patch14", **options: Any) -> None:
        super().__init__(model, **options)
        self.head = _head(Path(head))
        self._file = head
        width = self.head[0].in_features
        if width != self.network.config.projection_dim:
            raise ValueError(
                f"head {head!r} reads embeddings of {width} elements, and the model's have "
                f"{self.network.config.projection_dim}: name the model that it was trained on"
            )

    def __call__(self, clips: Clips) -> Mapping[str, Tensor]:
        """(B,) mean scores of frames; the prompts are not read."""
        return {"score": self.head(self.images(clips).float()).squeeze(-1).mean(dim=1)}

    @property
    def provenance(self) -> Mapping[str, Any]:
        """Also the head's."""
        return {**super().provenance, "head": self._file, "head_weights": fingerprint(self.head)}


def _head(file: Path) -> nn.Sequential:
    """The published head: linear layers one after another, without activations; dropout does nothing here."""
    if not file.is_file():
        raise SuiteError(
            f"Aesthetic: no file {str(file)!r}; download sac+logos+ava1-l14-linearMSE.pth from "
            "github.com/christophschuhmann/improved-aesthetic-predictor and name it as option 'head'"
        )
    state = torch.load(file, map_location="cpu", weights_only=True)
    names = sorted(
        {name.rsplit(".", 1)[0] for name in state}, key=lambda name: int(name.removeprefix("layers."))
    )
    layers = []
    for name in names:
        weight = state[f"{name}.weight"]
        layer = nn.Linear(weight.shape[1], weight.shape[0])
        layer.load_state_dict({"weight": weight, "bias": state[f"{name}.bias"]})
        layers.append(layer)
    return nn.Sequential(*layers).requires_grad_(False).eval()


def _unit(output: Any) -> Tensor:
    """Embeddings of length 1; transformers 5 wraps them in an object."""
    features: Tensor = output if isinstance(output, Tensor) else output.pooler_output
    return features / features.norm(dim=-1, keepdim=True)
