"""Accuracy of rendered text: what a text reader finds in frames, against what the prompt quotes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor

from rewards.scoring import Clips, Scorer

_QUOTED = re.compile(r'"([^"]+)"|“([^”]+)”')


class TextAccuracy(Scorer):
    """1 minus the edit distance between the text that was asked for and the text that is read, by its length.

    Case, spaces and punctuation do not count; a distance beyond the text's length gives 0. Averaged over frames. The
    text is the prompt's fact `text`, or else what the prompt quotes.

    Args:
        frames: evenly spaced frames that are read.
    """

    def __init__(self, frames: int = 4) -> None:
        if frames < 1:
            raise ValueError(f"frames is {frames}; give at least 1")
        try:
            from rapidocr import RapidOCR
        except ImportError as error:
            raise ImportError(
                "reading text needs RapidOCR: pip install 'video-alignment-bench[ocr]'"
            ) from error
        self._reader: Any = RapidOCR(params={"Global.log_level": "error"})
        self._frames = frames

    @property
    def provenance(self) -> Mapping[str, Any]:
        """The reader, which brings its own models."""
        return {"model": f"RapidOCR {version('rapidocr')}", "frames": self._frames}

    def refusal(self, clips: Clips) -> str | None:
        """A prompt that asks for no text."""
        for row, prompt in enumerate(clips.prompts):
            if not wanted(clips, row):
                return f"prompt {prompt!r} quotes no text, and has no fact `text`"
        return None

    def __call__(self, clips: Clips) -> Mapping[str, Tensor]:
        """(B,) accuracies in [0, 1]."""
        frames = (clips.frames(self._frames).detach().clamp(0, 1) * 255).round().to("cpu", torch.uint8)
        values = []
        for row, video in enumerate(frames.permute(0, 1, 3, 4, 2).contiguous().numpy()):
            text = wanted(clips, row)
            read = [letters(" ".join(self._reader(frame[..., ::-1]).txts or ())) for frame in video]
            values.append(sum(max(0.0, 1 - distance(text, found) / len(text)) for found in read) / len(read))
        return {"score": torch.tensor(values)}


def wanted(clips: Clips, row: int) -> str:
    """The letters and digits that a clip should show; empty if none are asked for."""
    fact = clips.fact(row, "text")
    quoted = " ".join(first or second for first, second in _QUOTED.findall(clips.prompts[row]))
    return letters(str(fact) if fact else quoted)


def letters(text: str) -> str:
    """Letters and digits alone, in lower case."""
    return "".join(character for character in text.casefold() if character.isalnum())


def distance(first: str, second: str) -> int:
    """Levenshtein's: insertions, deletions and replacements from one text to the other."""
    above = list(range(len(second) + 1))
    for i, one in enumerate(first, 1):
        row = [i]
        for j, other in enumerate(second, 1):
            row.append(min(above[j] + 1, row[-1] + 1, above[j - 1] + (one != other)))
        above = row
    return above[-1]
