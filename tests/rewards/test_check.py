"""`python -m rewards.check`: what it prints of suites that work, and of one that does not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from rewards.check import check_suite, main
from rewards.suites import load_suite
from rewards.synthetic import KINDS, clip


@pytest.mark.parametrize("kind", KINDS)
def test_synthetic_clips_are_videos_that_their_seed_decides(kind):
    video = clip(kind, 1, 9, 32, 40)
    assert video.shape == (9, 3, 32, 40)
    assert video.min() >= 0
    assert video.max() <= 1
    assert torch.equal(video, clip(kind, 1, 9, 32, 40))
    assert not torch.equal(video, clip(kind, 2, 9, 32, 40))
    assert (video.diff(dim=0).abs().max() > 0) == (kind in ("moving", "noise"))


def test_values_ranges_and_costs_of_a_suite(world):
    suite = load_suite("motion", world / "outcome")
    prompts = suite.suite.prompts.train[:3]
    checked = check_suite(suite, prompts, 9, 32, 32, torch.device("cpu"))
    assert not checked.problems
    assert set(checked.values) >= {*suite.suite.training, *suite.suite.held_out}
    speed = dict(
        zip(KINDS, checked.values["flow_dynamic_degree"].view(4, 3).mean(dim=1).tolist(), strict=True)
    )
    assert speed["still"] == pytest.approx(0, abs=0.01)
    assert speed["moving"] > 0.1
    steady = dict(zip(KINDS, checked.values["steadiness"].view(4, 3).mean(dim=1).tolist(), strict=True))
    assert steady["still"] == steady["text"] == 1
    assert steady["noise"] < 0.8
    assert all(seconds > 0 for seconds in checked.seconds.values())


def test_the_program_on_a_shipped_suite(world, capsys):
    assert (
        main(["shapes", "--outcome-model", str(world / "outcome"), "--video", "5x32x32", "--prompts", "2"])
        == 0
    )
    out = capsys.readouterr().out
    for word in ("caption_match", "still", "noise", "correlation over the clips", "s a clip", "MB added"):
        assert word in out


class Broken:
    def __call__(self, videos, prompts):
        raise RuntimeError("no\n  weights")


def test_a_scorer_that_fails_is_named_and_the_others_are_shown(tmp_path: Path, capsys):
    content = {
        "name": "own",
        "scorers": {
            "bad": {"scorer": "tests.rewards.test_check:Broken"},
            "steady": {"scorer": "rewards.temporal:Flicker"},
        },
        "training": {"bad": 1.0},
        "held_out": ["steady"],
        "headline": "steady",
        "descriptions": {"bad": "x", "steady": "y"},
    }
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(content))
    assert main([str(tmp_path / "own.yaml"), "--video", "5x16x16"]) == 2
    out = capsys.readouterr().out
    assert "error: scorer 'bad' failed: RuntimeError: no weights" in out
    assert "steady" in out


def test_what_cannot_be_loaded_is_one_line(capsys):
    assert main(["shapes"]) == 2
    assert main(["motion", "--video", "5x16"]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert "name its folder with --outcome-model" in first
    assert "--video is '5x16'" in second
