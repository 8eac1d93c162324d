"""What the command lines of this package share: the options that set fields of a run, and how errors read."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from benchmarks.budget import UNITS
from benchmarks.presets import PRESETS
from benchmarks.resolve import catalogue
from benchmarks.settings import VIDEO_HELP, SettingsError, parse_geometry

DEFAULT_PRESET = "default"


class Parser(argparse.ArgumentParser):
    """An argument parser that refuses in one line, `error: ...`, with exit code 2.

    Options cannot be shortened: `--seed 3` would otherwise mean `--seeds 3`, three runs instead of one.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        """Ends the program."""
        self.exit(2, f"error: {message}; see `{self.prog} --help`\n")


def known_names() -> str:
    """The presets and methods, for the end of a help text."""
    presets = "\n".join(f"  {name:10s} {preset.summary}" for name, preset in PRESETS.items())
    methods = "\n".join(f"  {name:20s} {reference}" for name, reference in catalogue())
    return f"presets:\n{presets}\n\nmethods:\n{methods}"


def add_settings(
    parser: argparse.ArgumentParser,
    seeds: str = "how many training seeds, for each method",
    first_seed: str = "the first of them (0); tune with others than you report",
    config: str = "settings file; an earlier run's settings.yaml repeats it",
) -> None:
    """Adds the options that set fields of `RunSettings`, methods apart.

    Args:
        parser: gets the options.
        seeds, first_seed, config: what these mean here.
    """
    add = parser.add_argument
    add("--preset", help=f"where settings begin ({DEFAULT_PRESET}); see below")
    add("--seeds", type=int, metavar="N", help=seeds)
    add("--first-seed", type=int, metavar="N", help=first_seed)
    add("--budget", type=float, metavar="X", help="how much each (method, seed) may use, in --budget-unit")
    add(
        "--budget-unit",
        choices=tuple(UNITS),
        help="; ".join(f"{unit}: {what}" for unit, what in UNITS.items()),
    )
    add(
        "--charge-prm",
        action="store_true",
        default=None,
        help="methods that use a process reward pay for its training out of their budget",
    )
    add("--suite", help="reward suite: which rewards train, and which are held out to judge")
    add("--model", type=Path, metavar="PATH", help="base model: folder of a diffusers Wan pipeline")
    add("--process-reward", type=Path, metavar="PATH", help="process reward model, made by rewards.train_prm")
    add("--outcome-model", type=Path, metavar="PATH", help="learned outcome reward model")
    add("--video", metavar="FxHxW", help=VIDEO_HELP)
    add("--weights", choices=("lora", "full"), help="trained weights: adapters through peft, or all")
    add("--precision", choices=("no", "bf16"), help="mixed precision of the policy's network (accelerate)")
    add(
        "--set",
        action="append",
        default=[],
        metavar="METHOD.FIELD=VALUE",
        help="change a method's field, e.g. euphonium.sampler.guidance.strength=0.5; METHOD 'all' changes every one",
    )
    add("--config", type=Path, metavar="FILE.yaml", help=config)


def comma_separated(text: str) -> list[str]:
    """The names in "a, b"."""
    return [name.strip() for name in text.split(",") if name.strip()]


def settings_flags(given: argparse.Namespace) -> dict[str, Any]:
    """Fields of `RunSettings` that the command line names."""
    names = (
        "seeds",
        "first_seed",
        "budget",
        "budget_unit",
        "charge_prm",
        "suite",
        "model",
        "process_reward",
        "outcome_model",
        "precision",
    )
    flags = {name: value for name in names if (value := vars(given)[name]) is not None}
    methods = vars(given).get("methods")
    if methods is not None:
        flags["methods"] = comma_separated(methods)
    if given.video is not None:
        flags["video"] = vars(parse_geometry(given.video))
    if given.weights is not None:
        flags["weights"] = {"kind": given.weights}
    return flags


def exit_code(action: Callable[[], int], interrupted: str) -> int:
    """Does what a command line is for, and turns what the user can mend into a line.

    Args:
        action: returns the exit code.
        interrupted: what to say of an interruption.

    Returns:
        The action's own code, 2 for what the user can mend, 130 for an interruption.
    """
    from rewards.base import RewardError
    from rewards.provenance import ProvenanceError
    from rewards.suites import SuiteError
    from samplers.pipeline import ModelError

    try:
        return action()
    except (SettingsError, ModelError, ProvenanceError, SuiteError, RewardError) as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write(f"interrupted; {interrupted}\n")
        return 130
