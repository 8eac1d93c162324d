"""What a suite file holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator


class SuiteError(ValueError):
    """A suite does not exist or cannot be loaded."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ScorerEntry(_Part):
    """How one scorer is made and called.

    Attributes:
        scorer: "package.module:name" of a class or function that makes a `Scorer`, or a function of videos and
            prompts.
        options: its arguments. "{outcome_model}" stands for the run's --outcome-model.
        batch: clips it is given at a time; None for all of a batch of rollouts.
        device: where its networks are; None for the run's device.
    """

    scorer: str = Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_][\w.]*$")
    options: dict[str, Any] = {}
    batch: int | None = Field(default=None, ge=1)
    device: str | None = None


class SuitePrompts(_Part):
    """A suite's own prompts.

    Attributes:
        train, held_out: the texts.
        facts: prompt -> what is known about it besides its text.
    """

    train: tuple[str, ...] = Field(min_length=1)
    held_out: tuple[str, ...] = Field(min_length=1)
    facts: dict[str, dict[str, Any]] = {}


class Suite(_Part):
    """A named set of rewards.

    A reward is the score of a scorer: the entry's name if the scorer has one score, else entry_score.

    Attributes:
        name: its name.
        scorers: entry -> how the scorer is made.
        training: reward -> weight in the loss.
        held_out: rewards used only for evaluation.
        headline: the held-out reward that answers the question.
        descriptions: reward -> one-line description for reports.
        prompts: its prompts; None for those of the run.
        fps: frames per second at which videos are shown to scorers that ask.
        file: where it was read from; None for one that is shipped.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][\w.+-]*$")
    scorers: dict[str, ScorerEntry]
    training: dict[str, float] = Field(min_length=1)
    held_out: tuple[str, ...]
    headline: str
    descriptions: dict[str, str]
    prompts: SuitePrompts | None = None
    fps: float = Field(default=16.0, gt=0)
    file: Path | None = None

    @model_validator(mode="after")
    def _check(self) -> Suite:
        overlap = set(self.training) & set(self.held_out)
        if overlap:
            raise ValueError(f"rewards {sorted(overlap)} are both training and held-out rewards")
        if self.headline not in self.held_out:
            raise ValueError(f"headline {self.headline!r} is not among the held-out rewards {self.held_out}")
        for reward in (*self.training, *self.held_out):
            if self.entry_of(reward) is None:
                raise ValueError(
                    f"reward {reward!r} has no scorer; a reward is called as its scorer is, or scorer_score, and the "
                    f"scorers are {', '.join(self.scorers)}"
                )
            if not self.descriptions.get(reward):
                raise ValueError(f"reward {reward!r} has no line under descriptions")
        unused = set(self.scorers) - {self.entry_of(reward) for reward in (*self.training, *self.held_out)}
        if unused:
            raise ValueError(f"scorers {sorted(unused)} give no reward of the suite")
        return self

    def entry_of(self, reward: str) -> str | None:
        """The scorer that gives a reward; None if there is none."""
        fitting = [name for name in self.scorers if reward == name or reward.startswith(f"{name}_")]
        return max(fitting, key=len, default=None)

    def recorded(self) -> dict[str, Any]:
        """What a run's settings.yaml says of it; of a file of the user's, also how its scores are made."""
        own = set() if self.file else {"scorers", "fps", "file"}
        result = self.model_dump(mode="json", exclude={"prompts", *own})
        if self.file and self.prompts and self.prompts.facts:  # they decide scores, as options do
            result["facts"] = self.prompts.facts
        return result
