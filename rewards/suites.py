"""Suites: the training rewards with their weights, and the held-out rewards that judge."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, model_validator

from rewards.base import OutcomeReward
from rewards.caption_match import CaptionMatch, VideoWordModel
from rewards.shapes.held_out import AttributeAccuracy, Diversity
from rewards.shapes.quality import MotionQuality


class SuiteError(ValueError):
    """A suite does not exist or cannot be loaded."""


class Suite(BaseModel):
    """A named set of rewards.

    Attributes:
        name: its name.
        training: outcome reward -> weight in the loss.
        held_out: rewards used only for evaluation.
        headline: the held-out reward that answers the question.
        descriptions: reward -> one-line description for reports.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    training: dict[str, float]
    held_out: tuple[str, ...]
    headline: str
    descriptions: dict[str, str]

    @model_validator(mode="after")
    def _check(self) -> Suite:
        overlap = set(self.training) & set(self.held_out)
        if overlap:
            raise ValueError(f"rewards {sorted(overlap)} are both training and held-out rewards")
        if self.headline not in self.held_out:
            raise ValueError(f"headline {self.headline!r} is not among the held-out rewards {self.held_out}")
        unknown = [name for name in (*self.training, *self.held_out) if name not in REWARDS]
        if unknown:
            raise ValueError(f"rewards {unknown} are not in REWARDS; known: {', '.join(sorted(REWARDS))}")
        return self


def _caption_match(outcome_model: Path) -> OutcomeReward:
    if not (outcome_model / "config.json").is_file():
        raise SuiteError(f"no outcome model at {str(outcome_model)!r}: name its folder with --outcome-model")
    return CaptionMatch(VideoWordModel.load(outcome_model))


#: Reward -> factory, given the folder of the learned outcome model. Add new rewards here.
REWARDS: dict[str, Callable[[Path], OutcomeReward]] = {
    "caption_match": _caption_match,
    "motion_quality": lambda _: MotionQuality(),
    "accuracy": lambda _: AttributeAccuracy(),
    "size_accuracy": lambda _: AttributeAccuracy("size"),
    "colour_accuracy": lambda _: AttributeAccuracy("colour"),
    "motion_accuracy": lambda _: AttributeAccuracy("motion"),
    "diversity": lambda _: Diversity(),
}

#: Name -> suite. Add new suites here.
SUITES: dict[str, Suite] = {
    "shapes": Suite(
        name="shapes",
        training={"caption_match": 1.0, "motion_quality": 0.25},
        held_out=("accuracy", "size_accuracy", "colour_accuracy", "motion_accuracy", "diversity"),
        headline="accuracy",
        descriptions={
            "caption_match": "learned video model: mean probability that the video shows the caption's words",
            "motion_quality": "steady object, even motion, still background (programmatic, ignores the caption)",
            "accuracy": "share of size, colour and motion measured to be as the caption says",
            "size_accuracy": "best-matching disc has the caption's size",
            "colour_accuracy": "measured hue is the caption's colour",
            "motion_accuracy": "tracked direction is the caption's",
            "diversity": "pixel distance between videos of one prompt; falls when the policy collapses",
        },
    ),
}


@dataclass(frozen=True)
class LoadedSuite:
    """A suite with its rewards ready to call."""

    suite: Suite
    training: Mapping[str, OutcomeReward]
    held_out: Mapping[str, OutcomeReward]

    @property
    def all(self) -> dict[str, OutcomeReward]:
        """Every reward, the training ones first."""
        return {**self.training, **self.held_out}


def suite_named(name: str) -> Suite:
    """The suite of that name.

    Raises:
        SuiteError: no such suite; names the closest match.
    """
    if name not in SUITES:
        near = difflib.get_close_matches(name, SUITES, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(sorted(SUITES))}"
        raise SuiteError(f"unknown suite {name!r}; {hint}")
    return SUITES[name]


def load_suite(name: str, outcome_model: Path) -> LoadedSuite:
    """Loads a suite's rewards.

    Args:
        name: a name of `SUITES`.
        outcome_model: folder of the learned outcome model.

    Raises:
        SuiteError: no such suite, or no outcome model in that folder.
    """
    suite = suite_named(name)
    training = {reward: REWARDS[reward](outcome_model) for reward in suite.training}
    held_out = {reward: REWARDS[reward](outcome_model) for reward in suite.held_out}
    return LoadedSuite(suite, training, held_out)
