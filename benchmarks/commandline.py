"""What the command lines of this package share: options that set fields of a run, and how errors are reported."""

from __future__ import annotations

import argparse
import logging
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from analysis.schema import UNITS
from benchmarks.launching import TERMINATED, Terminated, is_first_here
from benchmarks.presets import DEFAULT_PRESET, PRESETS
from benchmarks.resolve import read_config, recipes, resolve
from benchmarks.settings import VIDEO_HELP, RunSettings, SettingsError, parse_geometry
from methods.catalog import CATALOG


class Parser(argparse.ArgumentParser):
    """An argument parser that reports errors in one line, `error: ...`, with exit code 2.

    Options cannot be abbreviated: `--seed 3` would otherwise mean `--seeds 3`, three runs instead of one.
    """

    def __init__(self, **options: Any) -> None:
        layout = argparse.RawDescriptionHelpFormatter
        super().__init__(allow_abbrev=False, formatter_class=layout, **options)

    def error(self, message: str) -> NoReturn:
        """Ends the program."""
        self.exit(2, f"error: {message}; see `{self.prog} --help`\n" if is_first_here() else None)


def known_names() -> str:
    """The presets, recipes and methods, for the end of a help text."""
    presets = "\n".join(f"  {name:10s} {preset.summary}" for name, preset in PRESETS.items())
    shipped = "\n".join(f"  {name}" for name in recipes())
    methods = "\n".join(f"  {method.name:20s} {method.reference}" for method in CATALOG.values())
    return f"presets:\n{presets}\n\nrecipes, for --config:\n{shipped}\n\nmethods:\n{methods}"


def add_methods(parser: argparse.ArgumentParser) -> None:
    """Adds the option that names the methods."""
    parser.add_argument(
        "--methods",
        metavar="A,B,...",
        help="methods to train, by name, comma-separated; 'all' for the catalogue",
    )


def add_settings(
    parser: argparse.ArgumentParser,
    seeds: str = "number of training seeds per method",
    count: Callable[[str], Any] = int,
    first_seed: str = "first training seed (0); tune on other seeds than you report",
    config: str = "settings file, or a recipe's name; an earlier run's settings.yaml repeats it",
) -> None:
    """Adds the options that set fields of `RunSettings`, except for methods.

    Args:
        parser: gets the options.
        seeds, first_seed, config: help texts of these options.
        count: reads the number of seeds.
    """
    add = parser.add_argument
    add("--preset", help=f"defaults to start from ({DEFAULT_PRESET}); see below")
    add("--seeds", type=count, metavar="N", help=seeds)
    add("--first-seed", type=int, metavar="N", help=first_seed)
    add("--budget", type=float, metavar="X", help="budget of each (method, seed), in --budget-unit")
    add(
        "--budget-unit",
        choices=tuple(UNITS),
        help="; ".join(f"{unit}: {words.counts}" for unit, words in UNITS.items()),
    )
    add(
        "--charge-prm",
        action="store_true",
        default=None,
        help="charge the training of the process reward to the budget of methods that use it",
    )
    add("--suite", help="reward suite: a shipped name, or the path of a suite file")
    add(
        "--model",
        type=Path,
        metavar="MODEL",
        help="base model: folder of a diffusers pipeline, or its id on the hub, owner/name@revision",
    )
    add("--process-reward", type=Path, metavar="PATH", help="process reward model, made by rewards.train_prm")
    add("--outcome-model", type=Path, metavar="PATH", help="learned outcome reward model")
    add("--video", metavar="FxHxW", help=VIDEO_HELP)
    add(
        "--weights",
        choices=("lora", "full"),
        help="trained weights: LoRA adapters through peft, or all weights",
    )
    add("--precision", choices=("no", "bf16"), help="mixed precision of the policy's network (accelerate)")
    add(
        "--set",
        action="append",
        default=[],
        metavar="METHOD.FIELD=VALUE",
        help="change a method's field, e.g. euphonium.sampler.guidance.strength=0.5; METHOD 'all' changes every one",
    )
    add("--config", type=Path, metavar="FILE.yaml", help=config)


def add_running(parser: argparse.ArgumentParser, resume: str = "the run") -> None:
    """Adds the options for how a benchmark runs; none of them changes a result.

    Args:
        parser: gets the options.
        resume: name of what is resumed.
    """
    add = parser.add_argument
    add("--workers", type=int, metavar="N", help="runs in parallel (one per GPU, or per CPU core)")
    add("--output", type=Path, metavar="DIR", help="output folder (results/<date and time>)")
    add("--resume", action="store_true", help=f"continue {resume} in --output from its last checkpoints")


def add_launching(parser: argparse.ArgumentParser) -> None:
    """Adds the options for where the runs of a benchmark train."""
    add = parser.add_argument
    add(
        "--launcher",
        choices=("local", "slurm"),
        default="local",
        help="local: worker processes of this machine; slurm: one job of an array for each run",
    )
    add(
        "--slurm",
        action="append",
        default=[],
        metavar="NAME=VALUE,...",
        help="options of the jobs, e.g. partition=gpu,time=12:00:00,gpus_per_node=1; cluster=local tries them here",
    )


def comma_separated(text: str) -> list[str]:
    """The names in "a, b"."""
    return [name.strip() for name in text.split(",") if name.strip()]


def settings_flags(given: argparse.Namespace) -> dict[str, Any]:
    """Fields of `RunSettings` given on the command line; options have the fields' names."""
    fields = RunSettings.model_fields.keys() - {"preset"}
    flags = {name: value for name, value in vars(given).items() if name in fields and value is not None}
    if "methods" in flags:
        flags["methods"] = comma_separated(flags["methods"])
    if "video" in flags:
        flags["video"] = vars(parse_geometry(flags["video"]))
    if "weights" in flags:
        flags["weights"] = {"kind": flags["weights"]}
    return flags


def settings_of(given: argparse.Namespace, command: str) -> RunSettings:
    """The run specified by a command line: preset, then file, then options, then `--set`.

    Raises:
        SettingsError: naming field, value and remedy.
    """
    config = read_config(given.config) if given.config else {}
    return resolve(given.preset, config, settings_flags(given), given.set, command)


def run_program(
    arguments: Callable[[], argparse.ArgumentParser],
    typed: list[str] | None,
    action: Callable[[argparse.Namespace, str], int],
    interrupted: str,
) -> int:
    """Runs a command line and returns its exit code.

    Args:
        arguments: makes the command line, whose help lists the catalogue.
        typed: its arguments; None for those of the process.
        action: called with the options and the command as typed; returns the exit code.
        interrupted: message on interruption.

    Returns:
        The action's own code, 2 for an error the user can fix, 130 for an interruption, 143 for SIGTERM.
    """
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    words = sys.argv[1:] if typed is None else typed

    def program() -> int:
        parser = arguments()
        return action(parser.parse_args(words), shlex.join([*parser.prog.split(), *words]))

    return exit_code(program, interrupted, once=True)


def exit_code(action: Callable[[], int], interrupted: str, once: bool = False) -> int:
    """Runs an action and reports errors that the user can fix in one line.

    Args:
        action: returns the exit code.
        interrupted: message on interruption.
        once: whether several processes all have the same errors, which one of them reports.

    Returns:
        The action's own code, 2 for an error the user can fix, 130 for an interruption, 143 for SIGTERM.
    """
    from methods.registry import PluginError
    from methods.weights import WeightsError
    from rewards.base import RewardError
    from rewards.provenance import ProvenanceError
    from rewards.suites import SuiteError
    from samplers.families import ModelError

    try:
        return action()
    except (
        *(SettingsError, PluginError, WeightsError),
        *(ModelError, ProvenanceError, SuiteError, RewardError),
    ) as error:
        if is_first_here() or not once:
            sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        return 2
    except KeyboardInterrupt as error:
        sys.stderr.write(f"interrupted; {interrupted}\n")
        return TERMINATED if isinstance(error, Terminated) else 130
