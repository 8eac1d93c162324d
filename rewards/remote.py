"""A scorer in another process or on another machine, behind `python -m rewards.serve`.

A request is the length of a JSON header in 8 bytes (big-endian), the header, and the videos' raw values in C order,
little-endian. Nothing is pickled.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from rewards.scoring import Clips, Scorer
from rewards.transport import Caller, RemoteError

#: Of the wire; a server of another one is refused.
FORMAT = 1
_PREFIX = 8
_TYPES: dict[str, np.dtype[Any]] = {"float32": np.dtype("<f4"), "uint8": np.dtype("u1")}
_Positive = Annotated[int, Field(ge=1)]


class Header(BaseModel):
    """What a request says before the videos' values.

    Attributes:
        shape: (B, F, 3, H, W).
        dtype: of the values; uint8 stands for [0, 255].
        prompts, fps, facts: of `Clips`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    shape: tuple[_Positive, _Positive, Literal[3], _Positive, _Positive]
    dtype: Literal["float32", "uint8"] = "float32"
    prompts: tuple[str, ...]
    fps: float = Field(gt=0, allow_inf_nan=False)
    facts: tuple[dict[str, Any], ...] = ()

    @classmethod
    def of(cls, clips: Clips, dtype: str = "float32") -> Self:
        """The header of some clips."""
        content = {
            "shape": tuple(clips.videos.shape),
            "dtype": dtype,
            "prompts": tuple(clips.prompts),
            "fps": clips.fps,
            "facts": tuple(map(dict, clips.facts)),
        }
        return cls.model_validate(content)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(self.prompts) != self.shape[0] or len(self.facts) not in (0, self.shape[0]):
            raise ValueError(
                f"{len(self.prompts)} prompts and {len(self.facts)} facts of {self.shape[0]} videos"
            )
        return self


def packed(clips: Clips, dtype: str) -> bytes:
    """The body of a request."""
    text = Header.of(clips, dtype).model_dump_json().encode()
    values = clips.videos.detach().cpu().float()
    if dtype == "uint8":
        values = (values.clamp(0, 1) * 255).round()
    return (
        len(text).to_bytes(_PREFIX, "big")
        + text
        + values.contiguous().numpy().astype(_TYPES[dtype]).tobytes()
    )


def unpacked(body: bytes) -> Clips:
    """The clips of a request.

    Raises:
        ValueError: it is none; says what is wrong.
    """
    length = int.from_bytes(body[:_PREFIX], "big")
    if len(body) < _PREFIX + length:
        raise ValueError(f"the body has {len(body)} bytes, and its header alone would have {length}")
    header = Header.model_validate_json(body[_PREFIX : _PREFIX + length])
    kind, values = _TYPES[header.dtype], memoryview(body)[_PREFIX + length :]
    if len(values) != math.prod(header.shape) * kind.itemsize:
        raise ValueError(f"{len(values)} bytes of videos do not make {header.shape} values of {header.dtype}")
    videos = torch.from_numpy(np.frombuffer(values, kind).astype(np.float32).reshape(header.shape))
    if header.dtype == "uint8":
        videos = videos / 255
    return Clips(videos, header.prompts, header.fps, header.facts)


def digest(body: bytes) -> str:
    """By which an answer is known to be one to this request."""
    return hashlib.blake2b(body, digest_size=16).hexdigest()


class Remote(Scorer):
    """A scorer served by `python -m rewards.serve`.

    Args:
        url: of the server.
        timeout: seconds to wait for a connection and for an answer.
        retries: further tries after a failure that may pass: no connection, no answer in time, an error of the server.
        wait: seconds before the second try; doubled before each further one.
        dtype: of the videos on the wire: "float32" scores as a local scorer would, "uint8" sends a quarter.

    Raises:
        RemoteError: the server cannot be reached, or is none.
    """

    def __init__(
        self, url: str, timeout: float = 300.0, retries: int = 3, wait: float = 1.0, dtype: str = "float32"
    ) -> None:
        if dtype not in _TYPES:
            raise ValueError(f"dtype is {dtype!r}; give one of {', '.join(_TYPES)}")
        self._caller, self._dtype = Caller(url, timeout, retries, wait), dtype
        about = self._caller.call("GET", "/about")
        names = about.get("names")
        if about.get("format") != FORMAT or not isinstance(names, list) or not names:
            raise RemoteError(
                f"{url} is no server of rewards.serve with format {FORMAT}: {json.dumps(about)[:200]}"
            )
        self.names = tuple(map(str, names))
        self.comparing = about.get("comparing") is True
        self._provenance = about.get("provenance", {})

    @property
    def provenance(self) -> Mapping[str, Any]:
        """The server's, and how it is asked."""
        return {**self._provenance, "remote": self._caller.url, "sent as": self._dtype}

    def refusal(self, clips: Clips) -> str | None:
        """The server's own, asked before the run; in the run it refuses by itself."""
        if clips.videos.device.type != "meta":
            return None
        header = Header.of(clips).model_dump(mode="json")
        answer = self._caller.call("POST", "/refusal", json=header).get("refusal")
        return None if answer is None else str(answer)

    def __call__(self, clips: Clips) -> Mapping[str, Tensor]:
        """The server's scores.

        Raises:
            RemoteError: every try failed, or the answer is no set of finite scores of these clips.
        """
        body = packed(clips, self._dtype)
        answer = self._caller.call(
            "POST", "/score", content=body, headers={"content-type": "application/octet-stream"}
        )
        if answer.get("digest") != digest(body):
            raise RemoteError(f"{self._caller.url}/score answered for other videos than it was sent")
        scores = answer.get("scores")
        if not isinstance(scores, dict) or set(scores) != set(self.names):
            got = ", ".join(map(str, scores)) if isinstance(scores, dict) else type(scores).__name__
            raise RemoteError(f"{self._caller.url}/score answered {got}; expected {', '.join(self.names)}")
        return {name: self._checked(name, scores[name], len(clips)) for name in self.names}

    def _checked(self, name: str, values: Any, count: int) -> Tensor:
        if not isinstance(values, Sequence) or len(values) != count:
            got = len(values) if isinstance(values, Sequence) else type(values).__name__
            raise RemoteError(f"{self._caller.url}/score answered {got} values of {name} for {count} videos")
        for value in values:
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise RemoteError(
                    f"{self._caller.url}/score answered {value!r} for {name}, which is no finite number"
                )
        return torch.tensor(values, dtype=torch.float32)
