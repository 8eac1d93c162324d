"""A vision-language model as judge, behind any server that speaks OpenAI's chat completions."""

from __future__ import annotations

import base64
import io
import math
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from rewards.scoring import Clips, Scorer
from rewards.transport import Caller, RemoteError

#: Dimension -> question. "{prompt}" is replaced by the clip's prompt.
QUESTIONS = {
    "alignment": (
        'These frames are from one video, in order. It was to show: "{prompt}". Does the video show that, with every '
        "subject, action and detail? Answer yes or no."
    ),
    "motion": (
        "These frames are from one video, in order. Is the motion natural, smooth and physically plausible, and does "
        "something move? Answer yes or no."
    ),
    "quality": (
        "These frames are from one video, in order. Is every frame sharp, well lit and free of distortions and "
        "artefacts? Answer yes or no."
    ),
}
_ANSWERS = ("yes", "no")
#: Alternatives that servers give for a token at most.
_ALTERNATIVES = 20


class VlmJudge(Scorer):
    """Probability of "yes" to each question, from the log-probabilities of the answer's first token.

    Of p(yes) and p(no), summed over their spellings, it is p(yes) / (p(yes) + p(no)).

    Args:
        url: of the server, up to the version: http://127.0.0.1:8000/v1.
        model: the model's name there.
        questions: dimension -> question; None for `QUESTIONS`.
        frames: evenly spaced frames shown as images.
        side: longest side of a frame, in pixels; larger ones are made smaller.
        least: p(yes) + p(no) below which the answer is refused: the model did not answer the question.
        timeout: seconds to wait for an answer.
        retries: further tries after a failure that may pass.
        wait: seconds before the second try; doubled before each further one.
        concurrent: questions asked at a time.
        key: environment variable with the server's key; None for none.

    Raises:
        ValueError: an argument is out of range, or the key's variable is not set.
    """

    def __init__(
        self,
        url: str,
        model: str,
        questions: Mapping[str, str] | None = None,
        frames: int = 6,
        side: int = 512,
        least: float = 0.5,
        timeout: float = 60.0,
        retries: int = 3,
        wait: float = 1.0,
        concurrent: int = 16,
        key: str | None = None,
    ) -> None:
        if min(frames, side, concurrent) < 1 or not 0 < least <= 1:
            raise ValueError(
                f"frames is {frames}, side {side}, concurrent {concurrent}, least {least}; give at least 1, and "
                "0 < least <= 1"
            )
        if key is not None and not os.environ.get(key):
            raise ValueError(f"the environment variable {key!r}, named as the server's key, is not set")
        headers = {} if key is None else {"authorization": f"Bearer {os.environ[key]}"}
        self._caller = Caller(url, timeout, retries, wait, headers, concurrent)
        self._model, self._questions = model, dict(QUESTIONS if questions is None else questions)
        self._frames, self._side, self._least, self._concurrent = frames, side, least, concurrent
        self.names = tuple(self._questions)

    @property
    def provenance(self) -> Mapping[str, Any]:
        """The server, the model and the questions."""
        return {
            "model": self._model,
            "remote": self._caller.url,
            "frames": self._frames,
            "side": self._side,
            "questions": self._questions,
            "normalisation": "p(yes) / (p(yes) + p(no)) of the first token",
        }

    def __call__(self, clips: Clips) -> Mapping[str, Tensor]:
        """(B,) probabilities of each question.

        Raises:
            RemoteError: the server fails, or its answer is neither yes nor no or has no log-probabilities.
        """
        shown = clips.frames(self._frames).detach().cpu()
        images = [[self._image(frame) for frame in video] for video in shown]
        asked = [
            (row, question.replace("{prompt}", clips.prompts[row]))
            for question in self._questions.values()
            for row in range(len(clips))
        ]
        with ThreadPoolExecutor(self._concurrent) as pool:
            found = list(pool.map(lambda entry: self._probability(images[entry[0]], entry[1]), asked))
        return dict(zip(self.names, torch.tensor(found).split(len(clips)), strict=True))

    def _image(self, frame: Tensor) -> str:
        """A (3, H, W) frame as the data URL of a PNG."""
        pixels = (frame.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
        picture = Image.fromarray(pixels)
        picture.thumbnail((self._side, self._side), Image.Resampling.BICUBIC)
        data = io.BytesIO()
        picture.save(data, "PNG")
        return "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()

    def _probability(self, images: list[str], question: str) -> float:
        content: list[dict[str, Any]] = [
            {"type": "image_url", "image_url": {"url": image}} for image in images
        ]
        content.append({"type": "text", "text": question})
        request = {
            "model": self._model,
            "messages": [{"role": "user", "content": content}],
            "max_tokens": 1,
            "temperature": 0,
            "logprobs": True,
            "top_logprobs": _ALTERNATIVES,
        }
        return self._of_yes(self._caller.call("POST", "/chat/completions", json=request))

    def _of_yes(self, answer: Mapping[str, Any]) -> float:
        """The probability of yes in a server's answer."""
        try:
            first = answer["choices"][0]["logprobs"]["content"][0]
            alternatives = [(str(entry["token"]), entry["logprob"]) for entry in first["top_logprobs"]]
        except (KeyError, IndexError, TypeError) as error:
            raise RemoteError(
                f"{self._caller.url} gives no log-probabilities; serve {self._model!r} with logprobs and "
                f"top_logprobs ({type(error).__name__}: {error})"
            ) from error
        mass = dict.fromkeys(_ANSWERS, 0.0)
        for token, value in alternatives:
            if (
                isinstance(value, bool)
                or not isinstance(value, int | float)
                or math.isnan(value)
                or value > 1e-3
            ):
                raise RemoteError(f"{self._caller.url} gives {value!r} as the log-probability of {token!r}")
            word = token.strip("▁Ġ \n\t.,!\"'").lower()
            if word in mass:
                mass[word] += math.exp(value)
        total = sum(mass.values())
        if not self._least <= total <= 1.01:
            likely = ", ".join(repr(token) for token, _ in alternatives[:5])
            raise RemoteError(
                f"{self._model!r} at {self._caller.url} answers neither yes nor no: together they have probability "
                f"{total:.3g}, and the likeliest tokens are {likely}"
            )
        return mass["yes"] / total
