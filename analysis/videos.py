"""Sample videos side by side: prompts are rows, the base model and each method are columns, noise is shared.

Videos are tiny (16 to 64 pixels), so each is enlarged by a whole factor without smoothing: what is seen is
what the model drew.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from analysis.records import Samples
from analysis.schema import BASE
from analysis.style import INK

MARGIN, GAP, CAPTION, HEADER, LINE, PAGE = 12, 10, 176, 44, 19, 1120  # pixels
_FONT = Path(mpl.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"


@dataclass(frozen=True)
class SampleGrid:
    """Videos of several models for the same prompts: `videos` (models, prompts, frames, height, width, 3)."""

    columns: tuple[str, ...]
    labels: tuple[str, ...]
    prompts: tuple[str, ...]
    videos: NDArray[np.uint8]

    @property
    def frames(self) -> int:
        """Frames of a video."""
        return int(self.videos.shape[2])


def arrange(samples: Sequence[Samples], max_prompts: int = 6) -> SampleGrid | None:
    """Put the samples of several models in one grid of the prompts that all have; None when there are none.

    Samples for the same prompt are matched in order of occurrence, which is their noise. At most
    `max_prompts` rows are kept, spread over the prompts.
    """
    if not samples:
        return None
    for other in samples:
        shapes = other.videos.shape[1:], samples[0].videos.shape[1:]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"samples of {other.method} are {shapes[0]} and those of {samples[0].method} {shapes[1]} "
                "(frames, height, width, 3): they were made with different models"
            )
    places = [_places(entry.prompts) for entry in samples]
    common = [key for key in places[0] if all(key in other for other in places)]
    if not common:
        return None
    rows = [common[place] for place in _spread(len(common), max_prompts)]
    parts = zip(samples, places, strict=True)
    videos = np.stack([entry.videos[[place[row] for row in rows]] for entry, place in parts])
    labels = (
        "base model" if entry.method == BASE else f"{entry.method}\nseed {entry.seed}" for entry in samples
    )
    prompts = tuple(prompt for prompt, _ in rows)
    return SampleGrid(tuple(entry.method for entry in samples), tuple(labels), prompts, videos)


def _places(prompts: Sequence[str]) -> dict[tuple[str, int], int]:
    """(prompt, how often it came before) -> its place."""
    return {(prompt, prompts[:place].count(prompt)): place for place, prompt in enumerate(prompts)}


def _spread(count: int, most: int) -> list[int]:
    """At most so many places, from the first to the last."""
    return [int(place) for place in np.linspace(0, count - 1, min(most, count)).round()]


def enlarge(video: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Repeat pixels by the whole factor that brings the longer side closest below `size` (at least 1)."""
    factor = max(1, size // max(video.shape[-3:-1]))
    return video.repeat(factor, axis=-3).repeat(factor, axis=-2)


def animation_frames(grid: SampleGrid) -> list[Image.Image]:
    """The grid as one image per frame: prompts are rows, models columns, a video 160 pixels or what a page holds."""
    share = (PAGE - CAPTION) // len(grid.columns) - GAP
    videos = enlarge(grid.videos.swapaxes(0, 1), min(max(share, 32), 160))
    prompts = ["\n".join(textwrap.wrap(prompt, 19)) for prompt in grid.prompts]
    return _sheets(videos, prompts, grid.labels)


def contact_sheet(grid: SampleGrid, max_frames: int = 4, max_prompts: int = 3) -> Image.Image:
    """Some of the grid on one still, for paper: models are rows, prompts columns, in each a strip of frames."""
    frames, rows = _spread(grid.frames, max_frames), _spread(len(grid.prompts), max_prompts)
    # One white pixel between the frames of a strip.
    apart = np.pad(grid.videos[:, rows][:, :, frames], [(0, 0)] * 4 + [(0, 1), (0, 0)], constant_values=255)
    models, prompts, _, height, _, colours = apart.shape
    strips = apart.swapaxes(2, 3).reshape(models, prompts, 1, height, -1, colours)
    share = (PAGE - CAPTION) // len(rows) - GAP
    return _sheets(enlarge(strips, share), grid.labels, [grid.prompts[row] for row in rows])[0]


def _sheets(videos: NDArray[np.uint8], left: Sequence[str], top: Sequence[str]) -> list[Image.Image]:
    """An image per frame of `videos` (rows, columns, frames, height, width, 3), named at the left and above."""
    rows, columns, frames, height, width = videos.shape[:5]
    pitch = max(height, LINE * max(label.count("\n") + 1 for label in left)) + GAP
    x = [MARGIN + CAPTION + column * (width + GAP) for column in range(columns)]
    y = [MARGIN + HEADER + row * pitch for row in range(rows)]
    empty = Image.new("RGB", (x[-1] + width + MARGIN, y[-1] + height + MARGIN), "white")
    for place, label in zip(x, top, strict=True):
        _write(empty, (place, MARGIN), label, width, "la")
    for place, label in zip(y, left, strict=True):
        _write(empty, (MARGIN, place + height // 2), label, CAPTION - GAP, "lm")
    images = [empty.copy() for _ in range(frames)]
    for row, column, frame in np.ndindex(rows, columns, frames):
        images[frame].paste(Image.fromarray(videos[row, column, frame]), (x[column], y[row]))
    return images


def _write(image: Image.Image, at: tuple[int, int], label: str, width: int, anchor: str) -> None:
    """One line of text or several, smaller where it would be wider than `width`."""
    fonts = [ImageFont.truetype(_FONT, size) for size in range(14, 7, -1)]
    longest = max(label.split("\n"), key=len)
    font = next((font for font in fonts if font.getlength(longest) <= width), fonts[-1])
    ImageDraw.Draw(image).text(at, label, font=font, fill=INK, anchor=anchor)


def save_animation(images: Sequence[Image.Image], path: Path, seconds: float = 1.6) -> Path:
    """Write images as a looped WebP or GIF (by suffix) that plays in `seconds` and rests on the last one."""
    if path.suffix not in (".webp", ".gif"):
        raise ValueError(f"{path}: an animation is written as .webp or .gif")
    path.parent.mkdir(parents=True, exist_ok=True)
    step = max(60, round(1000 * seconds / len(images)))
    durations = [*[step] * (len(images) - 1), step + 500]
    options: dict[str, Any] = {"lossless": True, "quality": 60} if path.suffix == ".webp" else {}
    images[0].save(path, save_all=True, append_images=list(images[1:]), duration=durations, loop=0, **options)
    return path
