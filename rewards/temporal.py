"""Measures of motion that need no weights: flicker, smoothness, dynamic degree.

They follow the dimensions of VBench (arXiv 2311.17982), whose learned parts (RAFT, a frame interpolator) are
replaced by dense inverse search flow (Kroeger et al., ECCV 2016) from OpenCV: values are not VBench's.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rewards.scoring import Clips, Scorer

#: Share of pixels, the fastest, whose speed is the dynamic degree, as in VBench.
FASTEST = 0.05
#: Smallest side, in pixels, on which the flow's patches of 8 pixels make sense.
_SMALLEST = 16


class Flicker(Scorer):
    """1 minus the mean absolute change of a pixel from frame to frame; 1 for a still video.

    It also falls with motion, so judge it beside the dynamic degree.
    """

    differentiable = True

    def __call__(self, clips: Clips) -> Mapping[str, Tensor]:
        """(B,) steadiness in [0, 1]."""
        return {"score": 1 - clips.videos.diff(dim=1).abs().mean(dim=(1, 2, 3, 4))}

    def refusal(self, clips: Clips) -> str | None:
        """Too few frames to compare."""
        return _too_few(clips, 2)


class Flow(Scorer):
    """Smoothness and dynamic degree, from optical flow.

    smoothness: 1 minus the mean absolute difference between every inner frame and the one that flow interpolates
    from its neighbours. Motion at even speed scores near 1; so does a still video.
    dynamic_degree: mean speed of the fastest 5 % of pixels, in frame heights (or widths, if smaller) per second.
    """

    names = ("smoothness", "dynamic_degree")

    def __init__(self) -> None:
        try:
            import cv2
        except ImportError as error:
            raise ImportError(
                "optical flow needs OpenCV: pip install 'video-alignment-bench[flow]'"
            ) from error
        self._cv2: Any = cv2  # its stubs lack the optical flow

    def __call__(self, clips: Clips) -> Mapping[str, Tensor]:
        """(B,) of each."""
        scores = [self._score(_pixels(video), clips.fps) for video in clips.videos]
        return {name: torch.tensor([score[i] for score in scores]) for i, name in enumerate(self.names)}

    @property
    def provenance(self) -> Mapping[str, Any]:
        """The library and the preset of its flow."""
        return {"flow": f"OpenCV {self._cv2.__version__} DIS, medium preset"}

    def refusal(self, clips: Clips) -> str | None:
        """Too few frames, or too small ones."""
        height, width = clips.videos.shape[-2:]
        if min(height, width) < _SMALLEST:
            return f"optical flow needs frames of at least {_SMALLEST} pixels, not {height} x {width}"
        return _too_few(clips, 3)

    def _score(self, frames: NDArray[np.uint8], fps: float) -> tuple[float, float]:
        """Smoothness and dynamic degree of one video, (F, H, W, 3)."""
        flow = self._cv2.DISOpticalFlow_create(self._cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        grey = [self._cv2.cvtColor(frame, self._cv2.COLOR_RGB2GRAY) for frame in frames]
        speeds = []
        for first, second in pairwise(grey):
            speed = np.linalg.norm(flow.calc(first, second, None), axis=-1).ravel()
            fastest = max(1, round(FASTEST * speed.size))
            speeds.append(np.partition(speed, -fastest)[-fastest:].mean())
        errors = []
        for here in range(1, len(grey) - 1):
            before, after = here - 1, here + 1
            forth, back = (
                flow.calc(grey[before], grey[after], None),
                flow.calc(grey[after], grey[before], None),
            )
            between = (self._moved(frames[before], back / 2) + self._moved(frames[after], forth / 2)) / 2
            errors.append(np.abs(between - frames[here]).mean() / 255)
        side = min(frames.shape[1:3])
        return 1 - float(np.mean(errors)), float(np.mean(speeds)) * fps / side

    def _moved(self, frame: NDArray[np.uint8], by: NDArray[np.float32]) -> NDArray[np.float32]:
        """The frame's values at positions moved by (H, W, 2) pixels."""
        rows, columns = np.indices(frame.shape[:2], dtype=np.float32)
        moved: NDArray[np.float32] = self._cv2.remap(
            frame.astype(np.float32),
            columns + by[..., 0],
            rows + by[..., 1],
            self._cv2.INTER_LINEAR,
            borderMode=self._cv2.BORDER_REPLICATE,
        )
        return moved


def _pixels(video: Tensor) -> NDArray[np.uint8]:
    """(F, 3, H, W) in [0, 1] as (F, H, W, 3) bytes."""
    array: NDArray[np.uint8] = (
        (video.detach().clamp(0, 1) * 255)
        .round()
        .to("cpu", torch.uint8)
        .permute(0, 2, 3, 1)
        .contiguous()
        .numpy()
    )
    return array


def _too_few(clips: Clips, needed: int) -> str | None:
    count = clips.videos.shape[1]
    return f"videos have {count} frames; this needs at least {needed}" if count < needed else None
