"""Exact measurement and the programmatic rewards, on renderings whose contents are known."""

import itertools
import re

import pytest
import torch
import torch.nn.functional as F

from benchmarks.testbed.scenes import all_prompts, render, sample_scenes
from rewards.diversity import Diversity
from rewards.shapes import ATTRIBUTES, Attributes, measure, parse_caption
from rewards.shapes.attributes import COLOURS, MOTIONS, SIZES, disc
from rewards.shapes.held_out import AttributeAccuracy
from rewards.shapes.measurement import centroids, foreground
from rewards.shapes.quality import MotionQuality


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


COUNT = 150
SCENES = sample_scenes(COUNT, generator())
CAPTIONS = SCENES.captions()
CLEAN = SCENES.videos


def blurred(videos: torch.Tensor) -> torch.Tensor:
    return F.avg_pool2d(videos.flatten(0, 1), 3, 1, 1).view_as(videos)


def noisy(videos: torch.Tensor, level: float = 0.05) -> torch.Tensor:
    return videos + level * torch.randn(videos.shape, generator=generator(1))


def test_measurement_is_exact_on_clean_renderings_of_every_caption():
    count = 8
    grid = torch.cartesian_prod(*[torch.arange(len(words)) for words in ATTRIBUTES.values()])
    labels = dict(zip(ATTRIBUTES, grid.repeat_interleave(count, dim=0).T, strict=True))
    found = measure(render(labels, generator(2))).labels
    for attribute, expected in labels.items():
        assert torch.equal(found[attribute], expected)


@pytest.mark.parametrize(
    ("name", "spoil"), [("blur", blurred), ("noise", noisy), ("dim", lambda videos: 0.9 * videos)]
)
def test_measurement_bears_a_slight_disturbance(name, spoil):
    found = measure(spoil(CLEAN)).labels
    for attribute, expected in SCENES.labels.items():
        assert (found[attribute] == expected).float().mean() > 0.995


@pytest.mark.parametrize(
    ("attribute", "axis", "swapped"),
    [
        ("colour", 2, {"red": "blue", "blue": "red", "green": "green"}),  # the channels reversed
        ("motion", 3, {"up": "down", "down": "up", "left": "left", "right": "right"}),
        ("motion", 4, {"up": "up", "down": "down", "left": "right", "right": "left"}),
        ("motion", 1, {"up": "down", "down": "up", "left": "right", "right": "left"}),  # played backwards
    ],
)
def test_measurement_follows_a_video_that_is_mirrored(attribute, axis, swapped):
    words = ATTRIBUTES[attribute]
    true, found = (
        [words[label] for label in labels[attribute].tolist()]
        for labels in (SCENES.labels, measure(CLEAN.flip(axis)).labels)
    )
    assert all(seen == swapped[shown] for shown, seen in zip(true, found, strict=True) if shown in swapped)


@pytest.mark.parametrize("shade", [0.0, 0.2, 0.5, 1.0])
def test_a_blank_video_shows_nothing(shade):
    found = measure(torch.full((2, 9, 3, 32, 32), shade))
    assert all((labels == -1).all() for labels in found.labels.values())
    assert all((match == 0).all() for match in found.matches(CAPTIONS[:2]).values())


def test_a_frozen_video_shows_no_motion_and_all_the_rest():
    found = measure(CLEAN[:, 4:5].expand_as(CLEAN)).labels
    assert (found["motion"] == -1).all()
    assert (found["colour"] == SCENES.labels["colour"]).all()
    assert (found["size"] == SCENES.labels["size"]).float().mean() > 0.95


def test_an_object_seen_in_fewer_than_half_of_the_frames_is_not_seen():
    gone = CLEAN.clone()
    gone[:, 4:] = 0.2
    assert (measure(gone).labels["colour"] == -1).all()
    gone[:, 4] = CLEAN[:, 4]
    assert (measure(gone).labels["colour"] == SCENES.labels["colour"]).all()


def test_a_measurement_does_not_depend_on_the_batch():
    together = measure(CLEAN).labels
    for row in (0, 17, COUNT - 1):
        alone = measure(CLEAN[row : row + 1]).labels
        assert all(int(alone[name]) == int(together[name][row]) for name in ATTRIBUTES)


@pytest.mark.parametrize("shape", [(9, 3, 32, 32), (2, 3, 9, 32, 32), (1, 9, 1, 32, 32)])
def test_what_is_no_batch_of_videos_is_refused(shape):
    with pytest.raises(ValueError, match=r"expected \(B, F, 3, H, W\) in \[0, 1\]"):
        measure(torch.zeros(shape))


def test_the_centre_and_area_of_a_disc():
    rows, columns = (torch.arange(32.0) for _ in range(2))
    mask = disc(rows[:, None] - 12.25, columns[None, :] - 20.5, 5.0)
    row, column, area = (float(value) for value in centroids(mask[None, None]))
    assert (row, column) == pytest.approx((12.25, 20.5), abs=0.03)
    assert area == pytest.approx(torch.pi * 25, rel=0.02)


def test_the_foreground_is_what_has_colour():
    mask = foreground(CLEAN)
    assert mask.min() == 0
    assert mask.max() == 1
    grey = torch.rand(1, 1, 1, 8, 8, generator=generator()).expand(1, 2, 3, 8, 8)
    assert (foreground(grey) == 0).all()


def test_captions_are_read_back():
    for caption in all_prompts():
        assert parse_caption(caption).caption == caption
        assert parse_caption(f"  {caption.upper()}\n").caption == caption
    assert parse_caption("a small red ball moving left") == Attributes("small", "red", "left")
    assert len({parse_caption(caption) for caption in all_prompts()}) == len(SIZES) * len(COLOURS) * len(
        MOTIONS
    )


@pytest.mark.parametrize(
    ("caption", "message"),
    [
        ("", "is not of the form"),
        ("a cat", "prompt 'a cat' is not of the form 'a <size> <colour> ball moving <direction>'"),
        ("a small red ball moving left quickly", "is not of the form"),
        ("the small red ball moving left", "is not of the form"),
        ("a small red cube moving left", "is not of the form"),
        ("a red small ball moving left", "size is 'red'; the shapes world knows small, medium, large"),
        (
            "a small pink ball moving left",
            "colour is 'pink'; the shapes world knows red, green, blue, yellow",
        ),
        ("a small red ball moving home", "motion is 'home'; the shapes world knows left, right, up, down"),
    ],
)
def test_a_caption_of_another_world_is_refused(caption, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        parse_caption(caption)


def test_accuracy_is_one_on_what_the_caption_says_and_zero_on_what_it_does_not():
    for attribute in (*ATTRIBUTES, None):
        assert (AttributeAccuracy(attribute)(CLEAN, CAPTIONS) == 1).all()
    for attribute, words in ATTRIBUTES.items():
        lies = []
        for caption in CAPTIONS:
            said = {name: parse_caption(caption).word(name) for name in ATTRIBUTES}
            said[attribute] = words[(words.index(said[attribute]) + 1) % len(words)]
            lies.append(Attributes(**said).caption)
        assert (AttributeAccuracy(attribute)(CLEAN, lies) == 0).all()
        torch.testing.assert_close(AttributeAccuracy()(CLEAN, lies), torch.full((COUNT,), 2 / 3))
        for other in set(ATTRIBUTES) - {attribute}:
            assert (AttributeAccuracy(other)(CLEAN, lies) == 1).all()


@pytest.mark.parametrize("count", [2, 12, 40])
def test_diversity_of_one_video_repeated_is_exactly_zero(count):
    for video in CLEAN[:10]:
        assert (Diversity()(video.expand(count, -1, -1, -1, -1), ["p"] * count) == 0).all()


def test_diversity_is_the_mean_distance_to_the_prompts_other_videos():
    prompts = ["p", "q", "p", "p", "q", "alone"]
    found = Diversity()(CLEAN[:6], prompts)
    small = F.avg_pool2d(CLEAN[:6].flatten(0, 1), 4).unflatten(0, (6, 9)).double()
    for row, prompt in enumerate(prompts):
        others = [i for i, other in enumerate(prompts) if other == prompt and i != row]
        distances = [(small[row] - small[i]).square().mean().sqrt() for i in others]
        expected = float(torch.stack(distances).mean()) if others else 0.0
        assert float(found[row]) == pytest.approx(expected, rel=1e-4, abs=1e-7)
    assert (found[:5] > 0.01).all()
    assert found[5] == 0


def test_diversity_does_not_see_other_prompts():
    prompts = ["p"] * 30 + ["q"] * 30
    together = Diversity()(CLEAN[:60], prompts)
    torch.testing.assert_close(together[:30], Diversity()(CLEAN[:30], ["p"] * 30), rtol=1e-6, atol=1e-7)
    order = torch.randperm(60, generator=generator(5))
    shuffled = Diversity()(CLEAN[order], [prompts[i] for i in order])
    torch.testing.assert_close(shuffled, together[order], rtol=1e-5, atol=1e-7)


def quality(videos: torch.Tensor) -> torch.Tensor:
    return MotionQuality()(videos, [""] * len(videos))


def test_clean_renderings_have_a_high_quality():
    found = quality(CLEAN)
    assert found.mean() > 0.93
    assert found.min() > 0.85
    assert found.max() <= 1


SPOILED = {
    "noise": torch.rand(CLEAN.shape, generator=generator(3)),
    "shuffled frames": CLEAN[:, [4, 0, 8, 2, 6, 1, 7, 3, 5]],
    "frozen, then jumping": CLEAN[:, [0, 0, 0, 8, 8, 8, 0, 0, 0]],
    "nothing to see": torch.full_like(CLEAN, 0.2),
    "flicker": (CLEAN + 0.4 * torch.tensor([0, 1] * 4 + [0]).view(1, 9, 1, 1, 1)).clamp(0, 1),
    "a ball that comes and goes": torch.where(
        torch.tensor([1, 0] * 4 + [1]).view(1, 9, 1, 1, 1) == 1, CLEAN, torch.full_like(CLEAN, 0.2)
    ),
}


@pytest.mark.parametrize("what", SPOILED)
def test_spoiled_videos_have_a_low_quality(what):
    found = quality(SPOILED[what])
    assert found.mean() < 0.25
    assert (found < quality(CLEAN) - 0.3).all()
    assert found.min() >= 0


def pulsating(radii: list[float], drift: float = 0.0) -> torch.Tensor:
    """One red ball on black, its radius as given, its centre moving by `drift` pixels a frame."""
    grid = torch.arange(32.0)
    frames = [disc(grid[:, None] - 15.5, grid[None, :] - 12 - drift * i, r) for i, r in enumerate(radii)]
    return torch.stack(frames)[None, :, None] * torch.tensor([0.9, 0.1, 0.1]).view(1, 1, 3, 1, 1)


def test_a_pulsating_ball_costs_quality_and_a_drifting_one_does_not():
    assert quality(pulsating([5.0] * 9)) > 0.99
    assert quality(pulsating([5.0] * 9, drift=0.5)) > 0.95
    areas = torch.tensor([3.0, 6.0] * 4 + [3.0]).square()
    expected = torch.exp(-areas.std() / areas.mean())
    torch.testing.assert_close(quality(pulsating([3.0, 6.0] * 4 + [3.0]))[0], expected, atol=0.03, rtol=0)


def test_quality_falls_with_the_disturbance():
    for disturb in (
        lambda size: CLEAN + size * torch.rand(COUNT, 9, 1, 1, 1, generator=generator(4)),
        lambda size: noisy(CLEAN, size),
    ):
        means = [float(quality(disturb(size).clamp(0, 1)).mean()) for size in (0.0, 0.02, 0.1, 0.3)]
        assert all(one > two + 0.01 for one, two in itertools.pairwise(means))


def test_quality_of_a_frame_without_ground_is_a_number():
    """A policy may paint the whole frame: no ground is left to flicker, and 0 / 0 would stop the run."""
    painted = torch.zeros(2, 9, 3, 32, 32)
    painted[0, :, 0], painted[1, ::2, 0], painted[1, 1::2, 1] = 0.9, 0.9, 0.8
    assert torch.isfinite(quality(painted)).all()


@pytest.mark.parametrize("frames", [1, 2])
def test_quality_of_too_few_frames_to_see_motion_in_is_refused(frames):
    with pytest.raises(ValueError, match=f"videos have {frames} frames?; motion quality needs at least 3"):
        quality(CLEAN[:, :frames])
