"""A learned video model that scores how well a video matches its caption: the testbed's stand-in for a VLM judge."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rewards.suites.model import SuiteError

#: Words of a caption that describe nothing visible.
STOP_WORDS = frozenset({"a", "ball", "moving"})


class VideoWordModel(nn.Module):
    """For each word of a vocabulary, the logit that a video shows it.

    A small 3-D convolutional network over frames resized to `side` pixels.

    Args:
        vocabulary: the words, in the order of the output.
        side: height and width that frames are resized to.
        width: channels of the first layer.
    """

    def __init__(self, vocabulary: Sequence[str], side: int = 32, width: int = 24) -> None:
        super().__init__()
        self.vocabulary = tuple(vocabulary)
        self.side = side
        self.width = width
        layers: list[nn.Module] = []
        channels = 3
        for factor, stride in ((1, (1, 2, 2)), (2, (2, 2, 2)), (3, (2, 2, 2))):
            layers += [
                nn.Conv3d(channels, factor * width, kernel_size=3, stride=stride, padding=1),
                nn.GroupNorm(8, factor * width),
                nn.SiLU(),
            ]
            channels = factor * width
        self.features = nn.Sequential(*layers)
        self.head = nn.Sequential(
            nn.Linear(2 * channels, channels), nn.SiLU(), nn.Linear(channels, len(self.vocabulary))
        )

    def forward(self, videos: Tensor) -> Tensor:
        """(B, F, 3, H, W) videos in [0, 1] to (B, words) logits."""
        frames = videos.flatten(0, 1)
        if frames.shape[-2:] != (self.side, self.side):
            frames = F.interpolate(frames, (self.side, self.side), mode="bilinear", antialias=True)
        pixels = frames.unflatten(0, videos.shape[:2]).transpose(1, 2) * 2 - 1
        features = self.features(pixels).flatten(2)
        return self.head(torch.cat([features.mean(dim=2), features.amax(dim=2)], dim=1))

    def words_of(self, prompt: str) -> list[int]:
        """Positions in the vocabulary of the words that `prompt` asserts.

        Raises:
            ValueError: a word is neither in the vocabulary nor a stop word, or no word is asserted.
        """
        words = [word for word in prompt.strip().lower().split() if word not in STOP_WORDS]
        unknown = [word for word in words if word not in self.vocabulary]
        if unknown or not words:
            raise ValueError(
                f"prompt {prompt!r}: this outcome model was not trained on {', '.join(unknown) or 'an empty prompt'}; "
                f"it knows {', '.join(self.vocabulary)}"
            )
        return [self.vocabulary.index(word) for word in words]

    def asserted(self, prompts: Sequence[str]) -> Tensor:
        """(B, words) weights, 1 / n on each of the n words that a prompt asserts."""
        weights = torch.zeros(len(prompts), len(self.vocabulary))
        for row, prompt in enumerate(prompts):
            words = self.words_of(prompt)
            weights[row, words] = 1 / len(words)
        return weights

    def save(self, folder: Path, provenance: dict[str, Any]) -> None:
        """Writes `config.json` and `model.safetensors`."""
        folder.mkdir(parents=True, exist_ok=True)
        config = {"vocabulary": list(self.vocabulary), "side": self.side, "width": self.width}
        (folder / "config.json").write_text(json.dumps({**config, "provenance": provenance}, indent=2) + "\n")
        save_file(self.state_dict(), folder / "model.safetensors")

    @classmethod
    def load(cls, folder: Path) -> VideoWordModel:
        """Loads a model written by `save`, in evaluation mode and frozen."""
        config = json.loads((folder / "config.json").read_text())
        model = cls(config["vocabulary"], config["side"], config["width"])
        model.load_state_dict(load_file(folder / "model.safetensors"))
        return model.requires_grad_(False).eval()


class CaptionMatch:
    """Mean probability that the video shows the words of its caption, in [0, 1]."""

    def __init__(self, model: VideoWordModel) -> None:
        self.model = model

    def __call__(self, videos: Tensor, prompts: Sequence[str]) -> Tensor:
        """(B, F, 3, H, W) videos in [0, 1] and B prompts to (B,) scores, differentiable in the videos."""
        weights = self.model.asserted(prompts).to(videos.device)
        return (self.model(videos).sigmoid() * weights).sum(dim=1)


def load_caption_match(folder: Path) -> CaptionMatch:
    """The score of the model in a folder.

    Raises:
        SuiteError: the folder holds none.
    """
    if not (Path(folder) / "config.json").is_file():
        raise SuiteError(f"no outcome model at {str(folder)!r}: name its folder with --outcome-model")
    return CaptionMatch(VideoWordModel.load(Path(folder)))
