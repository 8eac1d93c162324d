"""A suite's scorers, made and ready to call."""

from __future__ import annotations

import pkgutil
import weakref
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from rewards.base import OutcomeReward
from rewards.scoring import Clips, Facts, Scorer, as_scorer
from rewards.suites.model import ScorerEntry, Suite, SuiteError
from rewards.suites.reading import suite_named

#: What a scorer's constructor may raise about its options or files.
_UNLOADABLE = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    RuntimeError,
    ImportError,
    SafetensorError,
)


class LoadedScorer:
    """A scorer as a suite calls it: in batches, on its device, once for all its scores.

    Args:
        name: the suite's entry.
        scorer: what scores.
        entry: batch and device.
        fps: frames per second of the videos.
        facts: prompt -> what is known about it.

    Raises:
        SuiteError: the scorer compares the videos of a batch, and the entry would split it.
    """

    def __init__(
        self,
        name: str,
        scorer: Scorer,
        entry: ScorerEntry,
        fps: float = 16.0,
        facts: Mapping[str, Facts] | None = None,
    ) -> None:
        if scorer.comparing and entry.batch is not None:
            raise SuiteError(f"scorer {name!r} compares the videos of a batch; omit its batch")
        self.name, self.scorer, self.entry = name, scorer, entry
        self._fps, self._facts = fps, facts or {}
        self._of: weakref.ref[Tensor] | None = None
        self._asked: tuple[Any, ...] = ()
        self._left: dict[str, Tensor] = {}

    @property
    def rewards(self) -> dict[str, str]:
        """Reward -> the scorer's own name of the score."""
        if len(self.scorer.names) == 1:
            return {self.name: self.scorer.names[0]}
        return {f"{self.name}_{score}": score for score in self.scorer.names}

    def to(self, device: torch.device) -> None:
        """Moves it to its own device, or to this one."""
        self.scorer.to(torch.device(self.entry.device or device))

    def clips(self, videos: Tensor, prompts: Sequence[str]) -> Clips:
        """Videos and prompts, with what the suite knows about them."""
        facts = tuple(self._facts.get(prompt, {}) for prompt in prompts) if self._facts else ()
        return Clips(videos, prompts, self._fps, facts)

    def score(self, name: str, videos: Tensor, prompts: Sequence[str]) -> Tensor:
        """(B,) of one score.

        The others of the same forward are kept until they are asked for, or for other videos.
        """
        if len(self.scorer.names) == 1 or videos.is_inference():
            return self.scores(videos, prompts)[name]
        asked = (tuple(prompts), videos._version, torch.is_grad_enabled())
        same = self._of is not None and self._of() is videos and self._asked == asked
        if not same or name not in self._left:
            self._left = dict(self.scores(videos, prompts))
            self._of, self._asked = weakref.ref(videos), asked
        return self._left.pop(name)

    def scores(self, videos: Tensor, prompts: Sequence[str]) -> Mapping[str, Tensor]:
        """Name -> (B,) of every score.

        Raises:
            ValueError: the clips cannot be scored; says why.
            TypeError: the answer is not what the scorer names.
        """
        return self.answers(self.clips(videos, prompts))

    def answers(self, clips: Clips) -> dict[str, Tensor]:
        """Name -> (B,) of every score, on the device of the videos; raises as `scores`."""
        if problem := self.scorer.refusal(clips):
            raise ValueError(problem)
        home = clips.videos.device
        device = home if self.entry.device is None else torch.device(self.entry.device)
        with torch.no_grad() if self.scorer.differentiable is False else nullcontext():
            parts = [self._answer(part.to(device)) for part in clips.parts(self.entry.batch)]
        if len(parts) == 1:  # the caller checks the values
            return {name: _moved(value, home) for name, value in parts[0].items()}
        for part, answer in zip(clips.parts(self.entry.batch), parts, strict=True):
            for name, values in answer.items():
                if not isinstance(values, Tensor) or values.shape != (len(part),):
                    shape = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
                    raise TypeError(f"the scorer returned {shape} for {name}; expected ({len(part)},)")
        return {name: torch.cat([part[name] for part in parts]).to(home) for name in parts[0]}

    def _answer(self, clips: Clips) -> dict[str, Tensor]:
        answer = self.scorer(clips)
        if not isinstance(answer, Mapping) or set(answer) != set(self.scorer.names):
            got = ", ".join(map(str, answer)) if isinstance(answer, Mapping) else type(answer).__name__
            raise TypeError(
                f"the scorer answered {got or 'nothing'}; expected {', '.join(self.scorer.names)}"
            )
        return dict(answer)


def _moved(value: Any, device: torch.device) -> Any:
    return value.to(device) if isinstance(value, Tensor) else value


@dataclass(frozen=True)
class Score:
    """One reward of a loaded scorer, as an `OutcomeReward`."""

    loaded: LoadedScorer
    name: str

    def __call__(self, videos: Tensor, prompts: Sequence[str]) -> Tensor:
        """(B, F, 3, H, W) videos in [0, 1] and B prompts to (B,) scores."""
        return self.loaded.score(self.name, videos, prompts)


@dataclass(frozen=True)
class LoadedSuite:
    """A suite with its rewards ready to call.

    Attributes:
        suite: what the file says.
        training, held_out: reward -> function of videos and prompts.
        scorers: entry -> scorer.
    """

    suite: Suite
    training: Mapping[str, OutcomeReward]
    held_out: Mapping[str, OutcomeReward]
    scorers: Mapping[str, LoadedScorer]

    @property
    def all(self) -> dict[str, OutcomeReward]:
        """Every reward, the training ones first."""
        return {**self.training, **self.held_out}

    def to(self, device: torch.device) -> None:
        """Moves every scorer without a device of its own."""
        for loaded in self.scorers.values():
            loaded.to(device)

    def require(self, prompts: Sequence[str], frames: int, height: int, width: int) -> None:
        """Checks, before anything is generated, that videos of these prompts and this size can be scored.

        Raises:
            SuiteError: naming the scorer and what it cannot score.
        """
        videos = torch.empty(len(prompts), frames, 3, height, width, device="meta")
        for name, loaded in self.scorers.items():
            if problem := loaded.scorer.refusal(loaded.clips(videos, tuple(prompts))):
                raise SuiteError(
                    f"suite {self.suite.name!r}: scorer {name!r} cannot score this run: {problem}"
                )

    def require_gradients(self, who: str) -> None:
        """Checks that no training reward is known to be without a gradient.

        Raises:
            SuiteError: one is; names it and who needs it.
        """
        for reward in self.training:
            entry = self.suite.entry_of(reward)
            if entry is not None and self.scorers[entry].scorer.differentiable is False:
                raise SuiteError(
                    f"{who} differentiates the training rewards, and {reward!r} of suite {self.suite.name!r} has no "
                    "gradient in the video; train with rewards that have one, or choose another method"
                )

    def provenance(self) -> dict[str, dict[str, Any]]:
        """Scorer -> how it was made and where its scores come from."""
        return {
            name: {**loaded.entry.model_dump(mode="json"), **loaded.scorer.provenance}
            for name, loaded in self.scorers.items()
        }


def load_suite(name: str, outcome_model: Path) -> LoadedSuite:
    """Loads a suite's scorers.

    Args:
        name: a shipped suite, or the path of a suite file.
        outcome_model: folder of the run's learned outcome model, for scorers that ask for it.

    Raises:
        SuiteError: no such suite, or a scorer cannot be loaded; one line names it and the remedy.
    """
    suite = suite_named(name)
    facts = {} if suite.prompts is None else suite.prompts.facts
    scorers = {
        entry: LoadedScorer(entry, as_scorer(made(entry, how, outcome_model)), how, suite.fps, facts)
        for entry, how in suite.scorers.items()
    }
    found: dict[str, OutcomeReward] = {}
    for reward in (*suite.training, *suite.held_out):
        loaded = scorers[str(suite.entry_of(reward))]
        if reward not in loaded.rewards:
            raise SuiteError(
                f"suite {suite.name!r}: there is no reward {reward!r}; scorer {loaded.name!r} gives "
                f"{', '.join(loaded.rewards)}"
            )
        found[reward] = Score(loaded, loaded.rewards[reward])
    return LoadedSuite(
        suite,
        {reward: found[reward] for reward in suite.training},
        {reward: found[reward] for reward in suite.held_out},
        scorers,
    )


def made(name: str, entry: ScorerEntry, outcome_model: Path) -> object:
    """What an entry's class or function returns.

    Raises:
        SuiteError: it cannot be imported, or does not accept its options or files.
    """
    options = {
        key: outcome_model if value == "{outcome_model}" else value for key, value in entry.options.items()
    }
    try:
        result = pkgutil.resolve_name(entry.scorer)(**options)
        as_scorer(result)
    except SuiteError:
        raise
    except _UNLOADABLE as error:
        given = "".join(f", {key} {str(value)!r}" for key, value in options.items())
        raise SuiteError(
            f"scorer {name!r} ({entry.scorer}{given}) cannot be loaded: {type(error).__name__}: "
            f"{' '.join(str(error).split())}"
        ) from error
    return result
