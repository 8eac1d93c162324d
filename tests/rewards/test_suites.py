"""Every reward and suite of the registries, tested the day it is added."""

import pytest
import torch
from pydantic import ValidationError

from benchmarks.testbed.scenes import sample_scenes
from rewards.base import scored
from rewards.suites import REWARDS, SUITES, Suite, SuiteError, load_suite, suite_named

#: Rewards that compare the videos of one prompt with each other: neighbours of other prompts must not matter to them.
COMPARING = {"diversity"}
SCENES = sample_scenes(12, torch.Generator().manual_seed(0))
CAPTIONS = [caption for caption in SCENES.captions()[:6] for _ in range(2)]
REWARD = pytest.mark.parametrize("name", REWARDS)


@pytest.fixture(scope="module")
def rewards(world):
    return {name: make(world / "outcome") for name, make in REWARDS.items()}


@REWARD
def test_a_reward_gives_one_finite_number_a_video(rewards, name):
    noise = torch.rand(12, 5, 3, 16, 16, generator=torch.Generator().manual_seed(3))
    for videos in (SCENES.videos, noise, torch.zeros_like(noise), torch.ones_like(noise)):
        values = rewards[name](videos, CAPTIONS)
        assert values.shape == (12,)
        assert values.dtype == torch.float32
        assert torch.isfinite(values).all()
        assert torch.equal(scored(name, rewards[name], videos, CAPTIONS, 1), values)


@REWARD
def test_a_reward_is_the_same_every_time_and_leaves_videos_alone(rewards, name):
    videos = SCENES.videos.clone()
    before = torch.get_rng_state()
    first, second = (rewards[name](videos, CAPTIONS) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(videos, SCENES.videos)
    assert torch.equal(torch.get_rng_state(), before)


@REWARD
def test_a_reward_tells_videos_apart(rewards, name):
    mixed = SCENES.videos.clone()
    mixed[::2] = torch.rand(6, 9, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    values = rewards[name](mixed, SCENES.captions())
    if name not in COMPARING:
        assert values.std() > 1e-4
    assert (rewards[name](mixed, CAPTIONS) - rewards[name](SCENES.videos, CAPTIONS)).abs().max() > 1e-4


@REWARD
def test_a_reward_does_not_depend_on_other_prompts_of_the_batch(rewards, name):
    together = rewards[name](SCENES.videos, CAPTIONS)
    for start in range(0, 12, 2):
        rows = slice(start, start + 2)
        pair = rewards[name](SCENES.videos[rows], CAPTIONS[rows])
        torch.testing.assert_close(pair, together[rows], atol=1e-6, rtol=1e-5)
        if name not in COMPARING:
            one = rewards[name](SCENES.videos[start : start + 1], CAPTIONS[start : start + 1])
            torch.testing.assert_close(one, together[start : start + 1], atol=1e-6, rtol=1e-5)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(2))
    shuffled = rewards[name](SCENES.videos[order], [CAPTIONS[i] for i in order])
    torch.testing.assert_close(shuffled, together[order], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", SUITES)
def test_a_suite_is_complete_and_keeps_its_judges_apart(world, name):
    suite = SUITES[name]
    assert suite.name == name
    assert suite_named(name) is suite
    assert suite.training
    assert not set(suite.training) & set(suite.held_out)
    assert suite.headline in suite.held_out
    assert set(suite.descriptions) == {*suite.training, *suite.held_out}
    assert all(weight > 0 for weight in suite.training.values())
    loaded = load_suite(name, world / "outcome")
    assert list(loaded.all) == [*suite.training, *suite.held_out]
    assert Suite.model_validate(suite.model_dump()) == suite


def test_an_unknown_suite_names_the_nearest(world):
    with pytest.raises(SuiteError, match=r"unknown suite 'shape'; did you mean 'shapes'\?"):
        load_suite("shape", world / "outcome")
    with pytest.raises(SuiteError, match="unknown suite 'zzzz'; known: shapes"):
        suite_named("zzzz")


def test_a_missing_outcome_model_is_an_error_that_says_where_to_name_it(tmp_path):
    with pytest.raises(
        SuiteError, match=r"no outcome model at '.*nowhere': name its folder with --outcome-model"
    ):
        load_suite("shapes", tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"held_out": ("accuracy", "caption_match")},
            r"rewards \['caption_match'\] are both training and held-out rewards",
        ),
        ({"headline": "motion_quality"}, "headline 'motion_quality' is not among the held-out rewards"),
        ({"training": {"beauty": 1.0}}, r"rewards \['beauty'\] are not in REWARDS; known: accuracy"),
        ({"colour": "red"}, "Extra inputs are not permitted"),
    ],
)
def test_a_suite_that_contradicts_itself_is_refused(change, message):
    with pytest.raises(ValidationError, match=message):
        Suite.model_validate({**SUITES["shapes"].model_dump(), **change})
