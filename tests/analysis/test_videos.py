"""Sample videos side by side: matched by prompt and noise, enlarged without smoothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from analysis import videos
from analysis.records import Samples


def _samples(method: str, prompts: list[str], value: int) -> Samples:
    videos_ = np.full((len(prompts), 3, 16, 16, 3), value, dtype=np.uint8)
    videos_ += np.arange(len(prompts), dtype=np.uint8)[:, None, None, None, None]
    videos_ += 30 * np.arange(3, dtype=np.uint8)[:, None, None, None]  # equal frames are stored as one
    return Samples(method, 0, videos_, tuple(prompts))


def test_samples_are_matched_by_prompt_and_noise() -> None:
    grid = videos.arrange([_samples("base", ["a", "a", "b"], 10), _samples("m", ["b", "a", "a", "c"], 50)])
    assert grid is not None
    assert grid.prompts == ("a", "a", "b")
    assert grid.videos[0, :, 0, 0, 0, 0].tolist() == [10, 11, 12]
    assert grid.videos[1, :, 0, 0, 0, 0].tolist() == [51, 52, 50]


def test_samples_that_do_not_go_together() -> None:
    assert videos.arrange([]) is None
    assert videos.arrange([_samples("base", ["a"], 0), _samples("m", ["b"], 0)]) is None
    other = Samples("m", 0, np.zeros((1, 5, 16, 16, 3), np.uint8), ("a",))
    with pytest.raises(ValueError, match="made with different models"):
        videos.arrange([_samples("base", ["a"], 0), other])


def test_pixels_are_enlarged_by_a_whole_factor() -> None:
    video = np.arange(2 * 4 * 5 * 3, dtype=np.uint8).reshape(2, 4, 5, 3)
    large = videos.enlarge(video, 17, 17)
    assert large.shape == (2, 12, 15, 3)
    assert (large[:, ::3, ::3] == video).all()
    assert videos.enlarge(video, 2, 2).shape == video.shape


@pytest.mark.parametrize("suffix", [".webp", ".gif"])
def test_animation_loops_over_all_frames(tmp_path: Path, suffix: str) -> None:
    grid = videos.arrange([_samples("base", ["a", "b"], 10), _samples("m", ["a", "b"], 99)])
    assert grid is not None
    file = videos.save_animation(videos.animation_frames(grid), tmp_path / f"grid{suffix}")
    with Image.open(file) as image:
        assert image.n_frames == 3
        assert image.info["loop"] == 0
    with pytest.raises(ValueError, match=r"\.webp or \.gif"):
        videos.save_animation(videos.animation_frames(grid), tmp_path / "grid.mp4")


def test_stills_hold_every_model_and_prompt_at_a_readable_size() -> None:
    prompts = ["a small red ball moving left", "b", "c"]
    grid = videos.arrange([_samples("base", prompts, 10), _samples("mine", prompts, 99)])
    assert grid is not None
    sheet = np.asarray(videos.contact_sheet(grid))
    assert sheet.shape[1] <= videos.PAGE
    for value in (10, 99):
        first = np.argwhere((sheet == value).all(axis=2))
        height, width = first.max(axis=0) - first.min(axis=0) + 1
        assert min(height, width) >= 64  # 16 pixels, enlarged at least fourfold
