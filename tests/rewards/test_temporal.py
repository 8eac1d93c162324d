"""Measures of motion on videos whose motion is known."""

import sys

import pytest
import torch

from benchmarks.testbed.scenes import sample_scenes
from rewards.scoring import Clips
from rewards.temporal import Flicker, Flow

FRAMES, SIDE = 9, 64


def moving(positions: list[float]) -> torch.Tensor:
    """(1, F, 3, H, W): a textured, smooth blob whose centre column is given for each frame."""
    rows, columns = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    frames = []
    for position in positions:
        distance = (rows - SIDE / 2) ** 2 + (columns - position) ** 2
        frames.append(0.2 + 0.7 * torch.exp(-distance / 60))
    return torch.stack(frames)[None, :, None].expand(1, -1, 3, -1, -1).contiguous()


def even(speed: float) -> torch.Tensor:
    return moving([14 + speed * step for step in range(FRAMES)])


def jerky(speed: float) -> torch.Tensor:
    """As fast on average, but every other step back by half."""
    steps = torch.tensor([3.0, -1.0] * (FRAMES // 2)) * speed
    return moving((14 + torch.cat([torch.zeros(1), steps.cumsum(0)])).tolist())


def scores(video: torch.Tensor, fps: float = 8.0) -> dict[str, float]:
    prompts = ["a"] * len(video)
    answer = {
        **Flow()(Clips(video, prompts, fps)),
        "steadiness": Flicker()(Clips(video, prompts, fps))["score"],
    }
    return {name: values[0].item() for name, values in answer.items()}


@pytest.mark.parametrize("speed", [1.0, 2.0, 3.0])
def test_dynamic_degree_is_the_speed_of_what_moves(speed):
    """The blob covers more than a twentieth of the frame; slow motion is overestimated, as the fastest are chosen."""
    found = scores(even(speed))["dynamic_degree"]
    assert found == pytest.approx(speed * 8 / SIDE, rel=0.3)
    assert scores(even(speed), fps=16)["dynamic_degree"] == pytest.approx(2 * found)


def test_a_still_video_is_smooth_steady_and_does_not_move():
    found = scores(even(0.0))
    assert found["smoothness"] == pytest.approx(1, abs=1e-6)
    assert found["steadiness"] == pytest.approx(1, abs=1e-6)
    assert found["dynamic_degree"] == pytest.approx(0, abs=0.01)


def test_even_motion_is_smoother_than_jerks_and_noise():
    noise = torch.rand(1, FRAMES, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    found = [scores(video)["smoothness"] for video in (even(2.0), jerky(2.0), noise)]
    assert found == sorted(found, reverse=True)
    assert 1 - found[0] < 0.3 * (1 - found[1])


def test_flicker_is_the_mean_change_and_differentiable():
    video = torch.zeros(1, 4, 3, 8, 8)
    video[:, 1::2] = 0.5
    video.requires_grad_(True)
    value = Flicker()(Clips(video, ["a"]))["score"]
    assert value.tolist() == [0.5]
    value.sum().backward()
    assert video.grad is not None
    assert video.grad.abs().sum() > 0


def test_what_is_too_short_or_small_is_refused():
    short, small = torch.zeros(1, 2, 3, 32, 32), torch.zeros(1, 9, 3, 8, 32)
    assert Flow().refusal(Clips(short, ["a"])) == "videos have 2 frames; this needs at least 3"
    assert "not 8 x 32" in str(Flow().refusal(Clips(small, ["a"])))
    assert "needs at least 2" in str(Flicker().refusal(Clips(short[:, :1], ["a"])))


def test_without_opencv_the_remedy_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ImportError, match=r"pip install 'video-alignment-bench\[flow\]'"):
        Flow()


def test_smoothness_and_movement_are_a_trade_off_on_the_testbeds_own_scenes():
    """Moving balls are less smooth than stopped ones, and move more: no video has both at their best."""
    videos = sample_scenes(6, torch.Generator().manual_seed(1)).videos
    stopped = videos[:, :1].expand_as(videos)
    flow = Flow()
    moving, still = (flow(Clips(part, ["a"] * 6, 8)) for part in (videos, stopped))
    assert (still["smoothness"] > moving["smoothness"]).all()
    assert (still["dynamic_degree"] + 0.1 < moving["dynamic_degree"]).all()
