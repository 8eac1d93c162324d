"""Sample videos side by side: prompts are rows, the base model and each method are columns, noise is shared.

Videos are tiny (16 to 64 pixels), so each is enlarged by a whole factor without smoothing: what is seen is
what the model drew.
"""

from __future__ import annotations

import math
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
from analysis.style import INK, looks

MARGIN, GAP, CAPTION, HEADER, LINE, NAME, PAGE = 12, 10, 176, 44, 19, 100, 1120
_FONTS = Path(mpl.get_data_path()) / "fonts" / "ttf"
_GREY, _LIGHT = "#8a8a8a", "#e4e4e4"


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


def _write(
    draw: ImageDraw.ImageDraw,
    at: tuple[int, int],
    label: str,
    width: int,
    colour: str = INK,
    bold: bool = False,
    anchor: str = "la",
) -> None:
    """A line of text, smaller where it would be wider than `width`; or several lines."""
    file = _FONTS / ("DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf")
    fonts = [ImageFont.truetype(file, size) for size in range(14, 7, -1)]
    longest = max(label.split("\n"), key=len)
    font = next((font for font in fonts if font.getlength(longest) <= width), fonts[-1])
    draw.text(at, label, font=font, fill=colour, anchor=anchor)


def _colours(grid: SampleGrid) -> dict[str, str]:
    look = looks([name for name in grid.columns if name != BASE])
    return {name: INK if name == BASE else look[name].colour for name in grid.columns}


def animation_frames(grid: SampleGrid) -> list[Image.Image]:
    """The grid as one image per frame, a video 160 pixels or what a page holds."""
    share = (PAGE - CAPTION) // len(grid.columns) - GAP
    videos = enlarge(grid.videos, min(max(share, 32), 160))
    models, prompts, frames, height, width = videos.shape[:5]
    captions = [textwrap.wrap(prompt, 19) for prompt in grid.prompts]
    pitch = max(height, LINE * max(map(len, captions))) + GAP
    left = [MARGIN + CAPTION + model * (width + GAP) for model in range(models)]
    top = [MARGIN + HEADER + row * pitch for row in range(prompts)]
    sheet = Image.new("RGB", (left[-1] + width + MARGIN, top[-1] + height + MARGIN + 8), "white")
    draw, colours = ImageDraw.Draw(sheet), _colours(grid)
    for x, name, label in zip(left, grid.columns, grid.labels, strict=True):
        title, *rest = label.split("\n")
        _write(draw, (x, MARGIN), title, width, colours[name], bold=True)
        _write(draw, (x, MARGIN + LINE), "".join(rest), width)
    for y, caption in zip(top, captions, strict=True):
        _write(draw, (MARGIN, y + height // 2), "\n".join(caption), CAPTION - GAP, anchor="lm")
    images = [sheet.copy() for _ in range(frames)]
    for frame, image in enumerate(images):
        draw, y = ImageDraw.Draw(image), image.height - MARGIN
        for model, x in enumerate(left):
            for row in range(prompts):
                image.paste(Image.fromarray(videos[model, row, frame]), (x, top[row]))
            draw.rectangle((x, y, x + width - 1, y + 3), fill=_LIGHT)
            draw.rectangle((x, y, x + round((width - 1) * (frame + 1) / frames), y + 3), fill=_GREY)
    return images


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


def contact_sheet(grid: SampleGrid, max_frames: int = 4) -> Image.Image:
    """All of the grid on one still, for paper: a block a prompt, two beside each other, in it a strip a model."""
    shown = _spread(grid.frames, max_frames)
    share = ((PAGE - MARGIN) // 2 - NAME - 2 * GAP) // len(shown) - 2
    videos = enlarge(grid.videos[:, :, shown], max(share, 1))
    models, prompts, frames, height, width = videos.shape[:5]
    block, pitch = NAME + frames * (width + 2) + 2 * GAP, HEADER // 2 + models * (height + 2) + 2 * GAP
    sheet = Image.new("RGB", (MARGIN + 2 * block, MARGIN + math.ceil(prompts / 2) * pitch), "white")
    draw, colours = ImageDraw.Draw(sheet), _colours(grid)
    for row, prompt in enumerate(grid.prompts):
        left, top = MARGIN + row % 2 * block, MARGIN + row // 2 * pitch
        _write(draw, (left, top), prompt, block - GAP, bold=True)
        for model, name in enumerate(grid.columns):
            y, label = top + HEADER // 2 + model * (height + 2), "base model" if name == BASE else name
            _write(draw, (left, y + height // 2), label, NAME - GAP, colours[name], anchor="lm")
            for frame in range(frames):
                sheet.paste(
                    Image.fromarray(videos[model, row, frame]), (left + NAME + frame * (width + 2), y)
                )
    return sheet
