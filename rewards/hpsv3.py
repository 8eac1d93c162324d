"""HPSv3 (arXiv 2508.03789): human preference of single frames, averaged over the video."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from rewards.pretrained import TOKENIZER_FILES, origin, pretrained, required
from rewards.provenance import fingerprint
from rewards.qwen2vl import Backbone, constant, normalised, renamed, resized
from rewards.scoring import Clips, Scorer
from rewards.suites.model import SuiteError

TOKEN = "<|Reward|>"
#: Pixels of a frame, as in the published preprocessing.
_PIXELS = 256 * 28 * 28
_FILE, _INSTRUCTION, _REQUEST = "data_collator_qwen.py", "INSTRUCTION", "prompt_with_special_token"


class HPSv3(Scorer):
    """Mean preference, and the model's own uncertainty of it, over evenly spaced frames.

    Args:
        model: folder or hub id with HPSv3.safetensors.
        template: hpsv3/dataset/data_collator_qwen.py of the repository, which is read and not run; None for the one in
            `model`.
        base: Qwen2-VL's configuration and tokenizer.
        frames: how many.
        dtype: of the network; its head is float32.
    """

    names = ("mean", "uncertainty")
    differentiable = True

    def __init__(
        self,
        model: str = "MizzenAI/HPSv3",
        template: str | None = None,
        base: str = "Qwen/Qwen2-VL-7B-Instruct",
        frames: int = 4,
        dtype: str = "bfloat16",
    ) -> None:
        if frames < 1:
            raise ValueError(f"frames is {frames}; give at least 1")
        folder = pretrained(model, "HPSv3", "model", ("*.safetensors", "*.py"))
        weights = required(folder, "HPSv3.safetensors", "HPSv3")
        file = Path(template) if template else folder / _FILE
        if not file.is_file():
            raise SuiteError(
                f"HPSv3: no instruction at {str(file)!r}; download hpsv3/dataset/{_FILE} from "
                "github.com/MizzenAI/HPSv3 and name it as option 'template'"
            )
        self._text = constant(file, _INSTRUCTION) + constant(file, _REQUEST)
        shown = pretrained(base, "HPSv3's base model", "base", TOKENIZER_FILES)
        body, head = renamed(load_file(weights))
        self.head = _head(head)
        self.backbone = Backbone(shown, body, (TOKEN,), getattr(torch, dtype))
        self.count = frames
        self._origin = {**origin(model, folder), "base": base}

    @property
    def provenance(self) -> Mapping[str, Any]:
        """The checkpoint and its frames."""
        weights = fingerprint(self.backbone.model)
        return {**self._origin, "weights": weights, "frames": self.count, "positions": "sequential"}

    def refusal(self, clips: Clips) -> str | None:
        """A prompt with the reward token."""
        odd = [prompt for prompt in clips.prompts if TOKEN in prompt]
        return f"prompt {odd[0]!r} contains a reward token" if odd else None

    def __call__(self, clips: Clips) -> Mapping[str, Tensor]:
        """(B,) of each."""
        frames = resized(clips.frames(self.count).flatten(0, 1).float(), _PIXELS, _PIXELS)
        seen = [frame.expand(2, -1, -1, -1) for frame in normalised(frames).unsqueeze(1)]
        texts = [
            self._text.replace("{text_prompt}", prompt) for prompt in clips.prompts for _ in range(self.count)
        ]
        values = self.head(self.backbone.at_rewards(seen, texts, video=False)[:, 0].float())  # (B frames, 2)
        mean = values.unflatten(0, (len(clips), self.count)).mean(dim=1)
        return dict(zip(self.names, mean.unbind(dim=1), strict=True))


def _head(state: Mapping[str, Tensor]) -> nn.Sequential:
    """Three linear layers, with rectifiers between them; dropout does nothing here."""
    if set(state) != {f"{place}.{part}" for place in (0, 3, 5) for part in ("weight", "bias")}:
        raise SuiteError(
            f"HPSv3: the weights have the head {', '.join(sorted(state))}, which is not the published one"
        )
    layers: list[nn.Module] = []
    for place in (0, 3, 5):
        weight = state[f"{place}.weight"].float()
        layer = nn.Linear(weight.shape[1], weight.shape[0])
        layer.load_state_dict({"weight": weight, "bias": state[f"{place}.bias"].float()})
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers[:-1]).requires_grad_(False).eval()
