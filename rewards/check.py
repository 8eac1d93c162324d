"""Loads every scorer of a suite and scores synthetic clips: `python -m rewards.check SUITE`.

Prints ranges, correlations, seconds and memory, before a run spends a day on a reward that is broken.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tabulate import tabulate
from torch import Tensor

from rewards.suites import LoadedSuite, SuiteError, load_suite
from rewards.suites.loading import LoadedScorer
from rewards.synthetic import KINDS, clip


@dataclass(frozen=True)
class Checked:
    """What a suite gave for the clips.

    Attributes:
        kinds: of each clip.
        values: reward -> (B,) float32, for rewards whose scorer works.
        seconds: scorer -> seconds a clip.
        memory: scorer -> most memory in MB that scoring added: of the GPU, or of the process.
        problems: scorer -> why it does not work.
    """

    kinds: tuple[str, ...]
    values: Mapping[str, Tensor]
    seconds: Mapping[str, float]
    memory: Mapping[str, float]
    problems: Mapping[str, str]


def check_suite(
    suite: LoadedSuite, prompts: Sequence[str], frames: int, height: int, width: int, device: torch.device
) -> Checked:
    """Scores clips of every kind, one of each kind for every prompt."""
    kinds = tuple(kind for kind in KINDS for _ in prompts)
    videos = torch.stack(
        [clip(kind, place, frames, height, width) for kind in KINDS for place in range(len(prompts))]
    ).to(device)
    asked = [*prompts] * len(KINDS)
    values: dict[str, Tensor] = {}
    seconds, memory, problems = {}, {}, {}
    for name, loaded in suite.scorers.items():
        before, started = _memory(device, reset=True), time.perf_counter()
        try:
            with torch.no_grad():
                values |= _named(loaded, videos, asked)
        except Exception as error:  # noqa: BLE001 - whatever a scorer raises is what this program reports
            problems[name] = f"{type(error).__name__}: {' '.join(str(error).split())}"
            continue
        seconds[name] = (time.perf_counter() - started) / len(kinds)
        memory[name] = _memory(device) - before
    return Checked(kinds, values, seconds, memory, problems)


def _named(loaded: LoadedScorer, videos: Tensor, prompts: Sequence[str]) -> dict[str, Tensor]:
    """Reward -> (B,) checked values."""
    scores = loaded.scores(videos, prompts)
    for name, value in scores.items():
        if value.shape != (len(prompts),) or not torch.isfinite(value.float()).all():
            raise ValueError(f"{name} is {tuple(value.shape)} with values that are not all finite")
    return {reward: scores[score].float().cpu() for reward, score in loaded.rewards.items()}


def _memory(device: torch.device, reset: bool = False) -> float:
    """Most memory so far, in MB; on a GPU since the last reset, and what is held now when resetting."""
    if device.type == "cuda":
        if reset:
            torch.cuda.reset_peak_memory_stats(device)
            return torch.cuda.memory_allocated(device) / 2**20
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def report(suite: LoadedSuite, checked: Checked) -> str:
    """The tables, and what looks wrong."""
    rows = []
    for reward, values in checked.values.items():
        by_kind = [
            np.mean([v for v, k in zip(values.tolist(), checked.kinds, strict=True) if k == kind])
            for kind in KINDS
        ]
        rows.append([reward, *by_kind, values.min().item(), values.max().item()])
    tables = [tabulate(rows, ["reward", *KINDS, "least", "most"], floatfmt=".3g")]
    varied = [reward for reward, values in checked.values.items() if values.std() > 0]
    if len(varied) > 1:
        table = np.corrcoef(torch.stack([checked.values[reward] for reward in varied]).numpy())
        rows = [[reward, *line] for reward, line in zip(varied, table.tolist(), strict=True)]
        tables.append("correlation over the clips\n" + tabulate(rows, ["", *varied], floatfmt=".2f"))
    rows = [
        [name, checked.seconds[name], checked.memory[name], *_about(loaded)]
        for name, loaded in suite.scorers.items()
        if name in checked.seconds
    ]
    tables.append(tabulate(rows, ["scorer", "s a clip", "MB added", "gradient", "device"], floatfmt=".3g"))
    notes = [f"error: scorer {name!r} failed: {problem}" for name, problem in checked.problems.items()]
    notes += [
        f"note: {reward} is the same for every clip" for reward in checked.values if reward not in varied
    ]
    return "\n\n".join([*tables, *(["\n".join(notes)] if notes else [])])


def _about(loaded: LoadedScorer) -> list[str]:
    gradient = {True: "yes", False: "no", None: "unknown"}[loaded.scorer.differentiable]
    return [gradient, loaded.entry.device or "the run's"]


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m rewards.check", description=__doc__)
    parser.add_argument("suite", help="a shipped suite's name, or the path of a suite file")
    parser.add_argument("--outcome-model", type=Path, default=Path("outcome"), help="as for a run")
    parser.add_argument(
        "--video", default="17x64x64", metavar="FxHxW", help="size of the clips (%(default)s)"
    )
    parser.add_argument(
        "--prompts", type=int, default=4, help="how many of the suite's prompts (%(default)s)"
    )
    parser.add_argument(
        "--device", default="cuda" if torch.cuda.is_available() else "cpu", help="(%(default)s)"
    )
    return parser


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code: 0 if every scorer works."""
    given = _arguments().parse_args(arguments)
    try:
        size = [int(part) for part in given.video.lower().split("x")]
        if len(size) != 3 or min(size) < 1 or given.prompts < 1:
            raise ValueError(
                f"--video is {given.video!r} and --prompts {given.prompts}; give such as 17x64x64 and 4"
            )
        frames, height, width = size
        device, suite = torch.device(given.device), load_suite(given.suite, given.outcome_model)
        suite.to(device)
    except (SuiteError, ValueError, RuntimeError) as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        return 2
    own = suite.suite.prompts
    texts = ("a dog runs on a beach", "a red car drives by", "rain on a window", "a sign that says HELLO")
    checked = check_suite(
        suite, (texts if own is None else own.train)[: given.prompts], frames, height, width, device
    )
    sys.stdout.write(report(suite, checked) + "\n")
    return 2 if checked.problems else 0


if __name__ == "__main__":
    sys.exit(main())
