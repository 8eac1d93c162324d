"""Suites and their rewards: every shipped one, and files of one's own."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from pydantic import ValidationError

from benchmarks.testbed.scenes import prompt_split, sample_scenes
from rewards import suites
from rewards.base import RewardError, scored
from rewards.diversity import Diversity
from rewards.gradients import DecodedReward
from rewards.scoring import Clips, Scorer
from rewards.shapes.caption_match import CaptionMatch, VideoWordModel
from rewards.shapes.held_out import AttributeAccuracy
from rewards.shapes.quality import MotionQuality
from rewards.suites import Suite, SuiteError, load_suite, shipped, suite_named

#: Rewards that compare the videos of one prompt with each other: neighbours of other prompts must not matter to them.
COMPARING = {"diversity"}
SCENES = sample_scenes(12, torch.Generator().manual_seed(0))
CAPTIONS = [caption for caption in SCENES.captions()[:6] for _ in range(2)]
SHAPES = suite_named("shapes")
REWARD = pytest.mark.parametrize("name", [*SHAPES.training, *SHAPES.held_out])


@pytest.fixture(scope="module")
def rewards(world):
    return load_suite("shapes", world / "outcome").all


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


def test_the_shapes_suite_scores_as_its_parts_do(world, rewards):
    """Bit for bit what the classes give that the file names."""
    direct = {
        "caption_match": CaptionMatch(VideoWordModel.load(world / "outcome")),
        "motion_quality": MotionQuality(),
        "accuracy": AttributeAccuracy(),
        **{f"{name}_accuracy": AttributeAccuracy(name) for name in ("size", "colour", "motion")},
        "diversity": Diversity(),
    }
    assert list(rewards) == list(direct)
    for name, reward in direct.items():
        assert torch.equal(rewards[name](SCENES.videos, CAPTIONS), reward(SCENES.videos, CAPTIONS))


@pytest.mark.parametrize("name", shipped())
def test_a_shipped_suite_is_complete_and_keeps_its_judges_apart(name):
    suite = suite_named(name)
    assert suite.name == name
    assert set(suite.descriptions) == {*suite.training, *suite.held_out}
    assert all(weight > 0 for weight in suite.training.values())
    assert Suite.model_validate(suite.model_dump()) == suite


def test_a_suite_loads_what_it_lists(world):
    loaded = load_suite("shapes", world / "outcome")
    assert list(loaded.all) == [*SHAPES.training, *SHAPES.held_out]
    assert loaded.provenance()["size_accuracy"]["options"] == {"attribute": "size"}


def test_an_unknown_suite_names_the_nearest(world):
    with pytest.raises(SuiteError, match=r"unknown suite 'shape'; did you mean 'shapes'\?"):
        load_suite("shape", world / "outcome")
    with pytest.raises(
        SuiteError, match=r"unknown suite 'zzzz'; known: .*shapes.*a path that ends with .yaml"
    ):
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
        ({"training": {"beauty": 1.0}}, "reward 'beauty' has no scorer.*the scorers are caption_match"),
        ({"descriptions": {}}, "reward 'caption_match' has no line under descriptions"),
        ({"held_out": ("accuracy",)}, r"scorers \['colour_accuracy', .*\] give no reward"),
        ({"colour": "red"}, "Extra inputs are not permitted"),
    ],
)
def test_a_suite_that_contradicts_itself_is_refused(change, message):
    with pytest.raises(ValidationError, match=message):
        Suite.model_validate({**SHAPES.model_dump(), **change})


# Suites of one's own: files, with scorers from any module.

HERE, ACCURACY = "tests.rewards.test_suites", "rewards.shapes.held_out:AttributeAccuracy"
CALLS: list[int] = []


class Pair(Scorer):
    """Two scores from one forward: brightness and its square."""

    names = ("mean", "square")
    differentiable = True

    def __init__(self, gain: float = 1.0) -> None:
        self.gain = gain

    def __call__(self, clips: Clips):
        CALLS.append(len(clips))
        mean = self.gain * clips.videos.mean(dim=(1, 2, 3, 4))
        return {"mean": mean, "square": mean**2}

    @property
    def provenance(self):
        return {"model": "brightness"}

    def refusal(self, clips: Clips):
        odd = [prompt for prompt in clips.prompts if "?" in prompt]
        return f"prompt {odd[0]!r} is a question" if odd else None


class Facts(Scorer):
    """How many letters the fact has, and the frames per second."""

    names = ("letters", "fps")

    def __call__(self, clips: Clips):
        letters = [float(len(clips.fact(row, "text") or "")) for row in range(len(clips))]
        return {"letters": torch.tensor(letters), "fps": torch.full((len(clips),), clips.fps)}


class Rubbish(Scorer):
    def __init__(self, answer: str) -> None:
        self.answer = answer

    def __call__(self, clips: Clips):
        ones = torch.ones(len(clips))
        return {"list": [1.0], "other": {"other": ones}, "short": {"score": ones[1:]}, "none": None}[
            self.answer
        ]


def write(folder: Path, **changes: Any) -> str:
    """A suite file, some of its fields changed; None leaves a field out."""
    content: dict[str, Any] = {
        "name": "own",
        "scorers": {
            "bright": {"scorer": f"{HERE}:Pair", "options": {"gain": 2.0}, "batch": 5},
            "size": {"scorer": "rewards.shapes.held_out:AttributeAccuracy", "options": {"attribute": "size"}},
        },
        "training": {"bright_mean": 1.0, "bright_square": 0.5},
        "held_out": ["size"],
        "headline": "size",
        "descriptions": {"bright_mean": "brightness", "bright_square": "its square", "size": "size"},
    }
    content = {key: value for key, value in (content | changes).items() if value is not None}
    path = folder / "own.yaml"
    path.write_text(yaml.safe_dump(content))
    return str(path)


def test_several_scores_come_from_one_forward_in_batches(tmp_path):
    loaded = load_suite(write(tmp_path), tmp_path)
    videos = SCENES.videos
    CALLS.clear()
    mean, square = (loaded.training[f"bright_{name}"](videos, CAPTIONS) for name in ("mean", "square"))
    assert CALLS == [5, 5, 2]
    torch.testing.assert_close(mean, 2 * videos.mean(dim=(1, 2, 3, 4)))
    torch.testing.assert_close(square, mean**2)
    loaded.training["bright_square"](videos, CAPTIONS)  # asked again: nothing of the past is kept
    assert CALLS == [5, 5, 2] * 2
    assert loaded.provenance()["bright"]["model"] == "brightness"


def test_scores_of_other_videos_are_not_confused(tmp_path):
    loaded = load_suite(write(tmp_path), tmp_path)
    first, second = SCENES.videos.clone(), 1 - SCENES.videos
    loaded.training["bright_mean"](first, CAPTIONS)
    torch.testing.assert_close(
        loaded.training["bright_square"](second, CAPTIONS), (2 * second.mean(dim=(1, 2, 3, 4))) ** 2
    )
    loaded.training["bright_mean"](first, CAPTIONS)
    first.zero_()
    assert loaded.training["bright_square"](first, CAPTIONS).abs().max() == 0


def test_a_differentiable_scorer_keeps_its_gradient_through_both_scores(tmp_path):
    loaded = load_suite(write(tmp_path), tmp_path)
    decoded = DecodedReward(loaded.training, loaded.suite.training, lambda x: x, 1)
    videos = SCENES.videos.clone()
    condition = SimpleNamespace(prompts=CAPTIONS)
    _, gradient = decoded.value_and_gradient(videos, torch.zeros(12), condition)
    mean = 2 * videos.mean(dim=(1, 2, 3, 4))
    expected = (1 + 0.5 * 2 * mean) * 2 / videos[0].numel()
    torch.testing.assert_close(gradient, expected.view(-1, 1, 1, 1, 1).expand_as(videos))
    loaded.require_gradients("refl")


def test_a_training_reward_without_gradient_is_refused_for_methods_that_need_one(tmp_path):
    scorers = {
        "facts": {"scorer": f"{HERE}:Facts"},
        "size": {"scorer": "rewards.shapes.held_out:AttributeAccuracy"},
    }
    path = write(
        tmp_path,
        scorers=scorers,
        training={"facts_fps": 1.0},
        descriptions={"facts_fps": "fps", "size": "size"},
    )
    with pytest.raises(
        SuiteError, match=r"refl differentiates the training rewards, and 'facts_fps'.*no gradient"
    ):
        load_suite(path, tmp_path).require_gradients("refl")


def test_what_cannot_be_scored_is_refused_before_the_run_and_in_it(tmp_path):
    loaded = load_suite(write(tmp_path), tmp_path)
    loaded.require(CAPTIONS, 81, 480, 832)
    with pytest.raises(
        SuiteError, match=r"scorer 'bright' cannot score this run: prompt 'why\?' is a question"
    ):
        loaded.require(["why?"], 81, 480, 832)
    with pytest.raises(RewardError, match=r"reward 'bright_mean' failed at iteration 3.*is a question"):
        scored("bright_mean", loaded.training["bright_mean"], SCENES.videos[:1], ["why?"], 3)


@pytest.mark.parametrize(
    ("answer", "what"),
    [
        ("list", "answered list; expected score"),
        ("other", "answered other; expected score"),
        ("short", r"returned \(4,\) for score; expected \(5,\)"),
        ("none", "answered NoneType"),
    ],
)
def test_rubbish_stops_the_run(tmp_path, answer, what):
    scorers = {
        "bad": {"scorer": f"{HERE}:Rubbish", "options": {"answer": answer}, "batch": 5},
        "size": {"scorer": "rewards.shapes.held_out:AttributeAccuracy"},
    }
    path = write(tmp_path, scorers=scorers, training={"bad": 1.0}, descriptions={"bad": "x", "size": "y"})
    loaded = load_suite(path, tmp_path)
    with pytest.raises(RewardError, match=what):
        scored("bad", loaded.training["bad"], SCENES.videos, CAPTIONS, 1)


def test_prompts_and_facts_of_a_suite(tmp_path):
    (tmp_path / "train.jsonl").write_text('{"prompt": "a sign", "text": "STOP"}\n\n{"prompt": "a door"}\n')
    (tmp_path / "held.txt").write_text("a wall\n  a roof \n\n")
    scorers = {
        "facts": {"scorer": f"{HERE}:Facts"},
        "size": {"scorer": "rewards.shapes.held_out:AttributeAccuracy"},
    }
    path = write(
        tmp_path,
        scorers=scorers,
        training={"facts_letters": 1.0, "facts_fps": 1.0},
        descriptions={"facts_letters": "x", "facts_fps": "y", "size": "z"},
        prompts={"train": {"file": "train.jsonl"}, "held_out": {"file": "held.txt"}},
        fps=8,
    )
    loaded = load_suite(path, tmp_path)
    prompts = loaded.suite.prompts
    assert (prompts.train, prompts.held_out) == (("a sign", "a door"), ("a wall", "a roof"))
    letters = loaded.training["facts_letters"](SCENES.videos[:2], prompts.train)
    assert letters.tolist() == [4.0, 0.0]
    assert loaded.training["facts_fps"](SCENES.videos[:2], prompts.train).tolist() == [8.0, 8.0]


def test_generated_prompts(tmp_path):
    both = write(tmp_path, prompts={"generator": "benchmarks.testbed.scenes:prompt_split"})
    assert suite_named(both).prompts.train == tuple(prompt_split()[0])
    each = write(
        tmp_path,
        prompts={
            "train": ["a"],
            "held_out": {"generator": f"{HERE}:counted", "options": {"upto": 2}},
        },
    )
    assert suite_named(each).prompts.held_out == ("0 cats", "1 cats")


def counted(upto: int) -> list[str]:
    return [f"{number} cats" for number in range(upto)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "shapes"}, "name is 'shapes', as a shipped suite is called"),
        ({"headline": None}, "headline: Field required"),
        (
            {"training": {"bright": 1.0}},
            "there is no reward 'bright'; scorer 'bright' gives bright_mean, bright_square",
        ),
        ({"prompts": {"train": ["a"]}}, "prompts: give train and held_out"),
        (
            {"prompts": {"train": {"file": "no.txt"}, "held_out": ["b"]}},
            "prompts.train: .*no.txt' does not exist",
        ),
        ({"prompts": {"train": [3], "held_out": ["b"]}}, "3 is neither a text nor a mapping"),
        ({"scorers": {"bright": {"scorer": "nowhere"}, "size": {"scorer": "a:b"}}}, "scorers.bright.scorer"),
        (
            {"scorers": {"bright": {"scorer": "tests.nowhere:X"}, "size": {"scorer": "a:b"}}},
            r"scorer 'bright' \(tests.nowhere:X\) cannot be loaded: ModuleNotFoundError",
        ),
        (
            {
                "scorers": {
                    "bright": {"scorer": f"{HERE}:Pair", "options": {"loss": 1}},
                    "size": {"scorer": "a:b"},
                }
            },
            "loss '1'.* cannot be loaded: TypeError",
        ),
        (
            {
                "scorers": {
                    "bright": {"scorer": f"{HERE}:CAPTIONS"},
                    "size": {"scorer": "a:b"},
                }
            },
            "cannot be loaded: TypeError",
        ),
        (
            {
                "scorers": {
                    "bright": {"scorer": f"{HERE}:Pair"},
                    "size": {"scorer": "rewards.diversity:Diversity", "batch": 2},
                }
            },
            "'size' compares the videos of a batch; omit its batch",
        ),
    ],
)
def test_a_suite_file_that_cannot_be_used_says_why(tmp_path, changes, message):
    if "training" in changes:
        changes = {**changes, "descriptions": {"bright": "x", "size": "y"}}
    path = write(tmp_path, **changes)
    with pytest.raises(SuiteError, match=message) as error:
        load_suite(path, tmp_path)
    assert "\n" not in str(error.value)


def test_files_that_are_no_suites(tmp_path):
    for text, what in (("[1", "not readable YAML"), ("- 1", "does not hold a mapping")):
        (tmp_path / "x.yaml").write_text(text)
        with pytest.raises(SuiteError, match=what):
            suite_named(str(tmp_path / "x.yaml"))
    with pytest.raises(SuiteError, match="does not exist"):
        suite_named(str(tmp_path / "y.yaml"))


def test_only_the_testbeds_own_suites_name_it():
    folder = Path(suites.__file__).parents[1]
    naming = [
        path.relative_to(folder).as_posix()
        for path in sorted(folder.rglob("*"))
        if path.suffix in (".py", ".yaml")
        and re.search(r"testbed|rewards\.shapes", path.read_text(encoding="utf-8"))
    ]
    own = [name for name in naming if not name.startswith("shapes/")]
    assert own == ["suites/motion.yaml", "suites/shapes.yaml"]
