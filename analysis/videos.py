"""Sample videos side by side: the base model and each method are rows, prompts are columns, noise is shared.

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

    labels: tuple[str, ...]
    prompts: tuple[str, ...]
    videos: NDArray[np.uint8]


def arrange(samples: Sequence[Samples], max_prompts: int = 6) -> SampleGrid | None:
    """Put the samples of several models in one grid of the prompts that all have; None when there are none.

    Samples for the same prompt are matched in order of occurrence, which is their noise. At most
    `max_prompts` columns are kept, spread over the prompts.
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
    labels = ("base model" if one.method == BASE else f"{one.method}\nseed {one.seed}" for one in samples)
    return SampleGrid(tuple(labels), tuple(prompt for prompt, _ in rows), videos)


def _places(prompts: Sequence[str]) -> dict[tuple[str, int], int]:
    """(prompt, how often it came before) -> its place."""
    return {(prompt, prompts[:place].count(prompt)): place for place, prompt in enumerate(prompts)}


def _spread(count: int, most: int) -> list[int]:
    """At most so many places, from the first to the last."""
    return [int(place) for place in np.linspace(0, count - 1, min(most, count)).round()]


def enlarge(video: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    """Repeat pixels by the largest whole factor (1 at least) at which `video` (..., height, width, 3) still fits."""
    factor = max(1, min(height // video.shape[-3], width // video.shape[-2]))
    return video.repeat(factor, axis=-3).repeat(factor, axis=-2)


def animation_frames(grid: SampleGrid) -> list[Image.Image]:
    """The grid as one image per frame, a video up to 160 pixels high where a page holds that."""
    models, prompts, frames = grid.videos.shape[:3]
    share = (PAGE - CAPTION) // prompts - GAP
    videos = enlarge(grid.videos, share, min(max(PAGE // models - GAP, 32), 160))
    height, width = videos.shape[3:5]
    pitch = max(height, 2 * LINE) + GAP
    x = [MARGIN + CAPTION + column * (width + GAP) for column in range(prompts)]
    y = [MARGIN + HEADER + row * pitch for row in range(models)]
    empty = Image.new("RGB", (x[-1] + width + MARGIN, y[-1] + height + MARGIN), "white")
    for place, prompt in zip(x, grid.prompts, strict=True):
        _write(empty, (place, MARGIN), "\n".join(textwrap.wrap(prompt, 19)), width, "la")
    for place, label in zip(y, grid.labels, strict=True):
        _write(empty, (MARGIN, place + height // 2), label, CAPTION - GAP, "lm")
    images = [empty.copy() for _ in range(frames)]
    for row, column, frame in np.ndindex(models, prompts, frames):
        images[frame].paste(Image.fromarray(videos[row, column, frame]), (x[column], y[row]))
    return images


def contact_sheet(grid: SampleGrid, max_frames: int = 4, max_prompts: int = 3) -> Image.Image:
    """Some of the grid on one still, for paper: in place of each video a strip of its frames."""
    frames, columns = _spread(grid.videos.shape[2], max_frames), _spread(len(grid.prompts), max_prompts)
    chosen = grid.videos[:, columns][:, :, frames]
    apart = np.pad(chosen, [(0, 0)] * 4 + [(0, 1), (0, 0)], constant_values=255)  # a white line after each
    models, prompts, _, height, _, colours = apart.shape
    strips = apart.swapaxes(2, 3).reshape(models, prompts, 1, height, -1, colours)
    return animation_frames(SampleGrid(grid.labels, tuple(grid.prompts[c] for c in columns), strips))[0]


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
