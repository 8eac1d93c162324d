"""Seeds until the answer is known: planned looks at a growing number of seeds, and when to stop."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from analysis.schema import LOOKS_FILE
from benchmarks.records import replace_text
from benchmarks.settings import RunSettings, SettingsError

#: What `--until` may name.
UNTIL = ("decided",)


@dataclass(frozen=True)
class TakenLook:
    """What one look found.

    Attributes:
        number: which of the planned looks, from 1.
        seeds: trained of each method.
        decided: whether the primary question is answered for every method.
        answer: the primary sentence of the answer.
    """

    number: int
    seeds: int
    decided: bool
    answer: str


def parse_seeds(text: str) -> tuple[int, int] | int:
    """ "5" as 5 seeds, and "5..20" as 5 to 20 of them.

    Raises:
        SettingsError: it is neither.
    """
    parts = text.split("..")
    if len(parts) > 2 or not all(part.strip().isdigit() for part in parts):
        raise SettingsError(
            f"--seeds is {text!r}; give a number such as 5, or with --until a range such as 5..20"
        )
    numbers = [int(part) for part in parts]
    return numbers[0] if len(numbers) == 1 else (numbers[0], numbers[1])


def seeds_option(text: str) -> tuple[int, int] | int:
    """`parse_seeds` for a command line, which prints what is wrong in its own way."""
    try:
        return parse_seeds(text)
    except SettingsError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def planned_looks(fewest: int, most: int) -> tuple[int, ...]:
    """Looks after every `fewest` seeds and at `most`: 5 to 20 are 5, 10, 15, 20.

    Raises:
        SettingsError: the range is none, or begins with a single seed, which has no spread.
    """
    if not 2 <= fewest < most:
        raise SettingsError(f"--seeds is {fewest}..{most}; give a range that grows and begins with 2 or more")
    return (*range(fewest, most, fewest), most)


def take_look(settings: RunSettings, output: Path, number: int) -> TakenLook:
    """Answers the primary question from the seeds of a look and records the look.

    Args:
        settings: the run's, with looks.
        output: the benchmark's folder, with the consolidated records of the look's seeds.
        number: which look, from 1.
    """
    from analysis.answer import answer
    from analysis.convergence import convergence
    from analysis.records import load_run
    from analysis.statistics.sequential import look_confidences

    confidences = look_confidences(settings.looks)
    file = output / LOOKS_FILE
    rows = [
        {"look": place, "seeds": settings.looks[place - 1], "confidence": confidences[place - 1]}
        for place in range(1, number + 1)
    ]
    replace_text(file, pd.DataFrame(rows).to_csv(index=False))
    run = load_run(output)
    found = answer(run, convergence(run))
    return TakenLook(number, settings.looks[number - 1], found.decided, found.primary)
