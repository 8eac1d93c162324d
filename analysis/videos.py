"""Sample videos side by side: prompts are rows, the base model and each method are columns, noise is shared.

Videos are tiny (16 to 64 pixels), so each is enlarged by a whole factor without smoothing: what is seen is
what the model drew.
"""

from __future__ import annotations

import math
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
from analysis.style import looks

MARGIN, GAP, CAPTION, HEADER, LINE, NAME, PAGE = 12, 10, 176, 44, 19, 100, 1120
_FONTS = Path(mpl.get_data_path()) / "fonts" / "ttf"


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
    shape = samples[0].videos.shape[1:]
    for other in samples:
        if other.videos.shape[1:] != shape:
            raise ValueError(
                f"samples of {other.method} are {other.videos.shape[1:]} and those of {samples[0].method} "
                f"{shape} (frames, height, width, 3): they were made with different models"
            )
    keys = [_numbered(entry.prompts) for entry in samples]
    common = [key for key in keys[0] if all(key in other for other in keys)]
    if not common:
        return None
    chosen = np.unique(np.linspace(0, len(common) - 1, min(max_prompts, len(common))).round().astype(int))
    rows = [common[place] for place in chosen]
    videos = np.stack(
        [entry.videos[[key[row] for row in rows]] for entry, key in zip(samples, keys, strict=True)]
    )
    labels = tuple(
        "base model" if entry.method == BASE else f"{entry.method}\nseed {entry.seed}" for entry in samples
    )
    columns = tuple(entry.method for entry in samples)
    return SampleGrid(columns, labels, tuple(prompt for prompt, _ in rows), videos)


def _numbered(prompts: Sequence[str]) -> dict[tuple[str, int], int]:
    seen: dict[str, int] = {}
    places = {}
    for place, prompt in enumerate(prompts):
        places[prompt, seen.get(prompt, 0)] = place
        seen[prompt] = seen.get(prompt, 0) + 1
    return places


def enlarge(video: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Repeat pixels by the whole factor that brings the longer side closest below `size` (at least 1)."""
    factor = max(1, size // max(video.shape[-3:-1]))
    return video.repeat(factor, axis=-3).repeat(factor, axis=-2)


def _font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(_FONTS / ("DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"), size)


def _wrapped(caption: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    lines = [""]
    for word in caption.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def _fitted(label: str, width: int, bold: bool) -> ImageFont.FreeTypeFont:
    for size in range(14, 7, -1):
        font = _font(size, bold)
        if font.getlength(label) <= width:
            return font
    return _font(8, bold)


def _header(draw: ImageDraw.ImageDraw, grid: SampleGrid, left: Sequence[int], width: int) -> None:
    look = looks([name for name in grid.columns if name != BASE])
    for x, name, label in zip(left, grid.columns, grid.labels, strict=True):
        for place, line in enumerate(label.split("\n")):
            font = _fitted(line, width, bold=place == 0)
            colour = "#222222" if name == BASE or place else look[name].colour
            draw.text((x, MARGIN + place * LINE), line, font=font, fill=colour)


def _rows(grid: SampleGrid, height: int) -> list[int]:
    """Upper edge of each row of videos: as far apart as videos and captions need."""
    lines = max(len(_wrapped(prompt, _font(14), CAPTION - GAP)) for prompt in grid.prompts)
    pitch = max(height, lines * LINE) + GAP
    return [MARGIN + HEADER + row * pitch for row in range(len(grid.prompts))]


def _captions(draw: ImageDraw.ImageDraw, grid: SampleGrid, top: Sequence[int], height: int) -> None:
    font = _font(14)
    for y, prompt in zip(top, grid.prompts, strict=True):
        lines = _wrapped(prompt, font, CAPTION - GAP)
        start = y + (height - LINE * len(lines)) // 2
        for place, line in enumerate(lines):
            draw.text((MARGIN, start + place * LINE), line, font=font, fill="#222222")


def animation_frames(grid: SampleGrid) -> list[Image.Image]:
    """The grid as one image per frame, a video 160 pixels or what a page holds."""
    videos = enlarge(grid.videos, _share(len(grid.columns), 160))
    models, prompts, frames, height, width = videos.shape[:5]
    left = [MARGIN + CAPTION + model * (width + GAP) for model in range(models)]
    top = _rows(grid, height)
    sheet = Image.new("RGB", (left[-1] + width + MARGIN, top[-1] + height + MARGIN + 8), "white")
    draw = ImageDraw.Draw(sheet)
    _header(draw, grid, left, width)
    _captions(draw, grid, top, height)
    images = []
    for frame in range(frames):
        image = sheet.copy()
        for model in range(models):
            for row in range(prompts):
                image.paste(Image.fromarray(videos[model, row, frame]), (left[model], top[row]))
        _progress(ImageDraw.Draw(image), left, width, image.height - MARGIN, (frame + 1) / frames)
        images.append(image)
    return images


def _progress(draw: ImageDraw.ImageDraw, left: Sequence[int], width: int, y: int, share: float) -> None:
    for x in left:
        draw.rectangle((x, y, x + width - 1, y + 3), fill="#e4e4e4")
        draw.rectangle((x, y, x + round((width - 1) * share), y + 3), fill="#8a8a8a")


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


def _share(parts: int, largest: int, smallest: int = 32) -> int:
    return int(np.clip((PAGE - CAPTION) // parts - GAP, smallest, largest))


def contact_sheet(grid: SampleGrid, max_frames: int = 4) -> Image.Image:
    """All of the grid on one still, for paper: a block a prompt, two beside each other, in it a strip a model."""
    shown = np.unique(np.linspace(0, grid.frames - 1, min(max_frames, grid.frames)).round().astype(int))
    share = ((PAGE - MARGIN) // 2 - NAME - 2 * GAP) // len(shown) - 2
    videos = enlarge(grid.videos[:, :, shown], max(share, 1))
    models, prompts, frames, height, width = videos.shape[:5]
    block = NAME + frames * (width + 2) + 2 * GAP
    pitch = HEADER // 2 + models * (height + 2) + 2 * GAP
    sheet = Image.new("RGB", (MARGIN + 2 * block, MARGIN + math.ceil(prompts / 2) * pitch), "white")
    draw = ImageDraw.Draw(sheet)
    look = looks([name for name in grid.columns if name != BASE])
    for row, prompt in enumerate(grid.prompts):
        left, top = MARGIN + row % 2 * block, MARGIN + row // 2 * pitch
        draw.text((left, top), prompt, font=_fitted(prompt, block - GAP, bold=True), fill="#222222")
        for model, name in enumerate(grid.columns):
            y = top + HEADER // 2 + model * (height + 2)
            label = "base model" if name == BASE else name
            colour = "#222222" if name == BASE else look[name].colour
            font = _fitted(label, NAME - GAP, bold=False)
            draw.text((left, y + height // 2), label, font=font, fill=colour, anchor="lm")
            for frame in range(frames):
                tile = Image.fromarray(videos[model, row, frame])
                sheet.paste(tile, (left + NAME + frame * (width + 2), y))
    return sheet
