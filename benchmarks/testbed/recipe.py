"""The recipe's settings: every number that the shipped weights depend on."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from benchmarks.testbed import SHIFT
from rewards.fitting import Schedule
from rewards.train_prm import PrmTraining


class Recipe(BaseModel):
    """How the testbed's weights are made from scratch.

    `wrong` is the probability with which each attribute of a training caption is replaced by a uniformly
    drawn word. A perfect model of such data shows the right word with probability 1 - p + p / words: it knows
    every concept and obeys the caption only partly, which is the headroom that alignment has in real models.
    Pretraining is followed by a second stage on better captions, `wrong_polish`, as real models have it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = 0
    videos: int = 24_576
    wrong: dict[str, float] = {"size": 0.38, "colour": 0.40, "motion": 0.36}
    wrong_polish: dict[str, float] = {"size": 0.10, "colour": 0.30, "motion": 0.30}
    #: Share of captions replaced by the empty one, so that classifier-free guidance has its unconditional branch.
    dropped: float = 0.1
    vae: Schedule = Schedule(steps=1_300, batch=32, learning_rate=2e-3)
    transformer: Schedule = Schedule(steps=3_000, batch=256, learning_rate=1.5e-3)
    polish: Schedule = Schedule(steps=2_500, batch=256, learning_rate=1e-3)
    ema: float = 0.999
    #: Timestep shift of sampling, and of the distribution from which training draws its noise levels.
    shift: float = SHIFT
    max_sequence_length: int = 12
    outcome: Schedule = Schedule(steps=600, batch=64, learning_rate=2e-3)
    #: Samples of the base model per training prompt, from which the process reward learns its preferences.
    preferences_per_prompt: int = 96
    process: PrmTraining = PrmTraining()
