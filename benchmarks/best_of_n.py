"""Fine-tunes a base model on the best of its own preference videos: `python -m benchmarks.best_of_n --help`.

The baseline for methods that learn a process reward from the same videos. The budget includes the cost of the
preference data. Records are those of `benchmarks.run`, so `python -m analysis.report RUN THIS --output BOTH` compares
the two.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.commandline import (
    Parser,
    add_launching,
    add_running,
    add_settings,
    run_program,
    settings_flags,
)
from benchmarks.finetuning import FineTuningSettings, load_data
from benchmarks.launching import launched
from benchmarks.resolve import EVERY, nested, parse_assignment, read_config, resolve
from benchmarks.run import Benchmark, carry_out, resumed_file
from benchmarks.settings import SettingsError, variant
from methods.best_of_n import BestOfN

#: Option -> the field of `BestOfN` it sets.
_FIELDS = {
    "name": "name",
    "data": "data",
    "keep": "keep",
    "learning_rate": "optimiser.learning_rate",
    "batch": "batch",
    "steps": "steps",
    "every": "every",
}


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = Parser(prog="python -m benchmarks.best_of_n", description=__doc__)
    add, fields = parser.add_argument, BestOfN.model_fields
    add(
        "--data",
        type=Path,
        metavar="FILE",
        help="preference data, written by `python -m benchmarks.preferences`",
    )
    add(
        "--keep",
        type=float,
        metavar="SHARE",
        help=f"best share of each prompt's videos ({fields['keep'].default})",
    )
    add(
        "--learning-rate",
        type=float,
        metavar="X",
        help=f"of AdamW ({fields['optimiser'].default.learning_rate:g})",
    )
    add("--batch", type=int, metavar="N", help=f"videos per optimiser step ({fields['batch'].default})")
    add("--steps", type=int, metavar="N", help=f"optimiser steps per iteration ({fields['steps'].default})")
    add(
        "--every",
        type=int,
        metavar="N",
        help="iterations between evaluations (evaluation.every of the settings)",
    )
    add(
        "--name",
        help=f"name in tables ({fields['name'].default}); variants in one report need distinct names",
    )
    add_settings(
        parser,
        seeds="number of training seeds",
        config="settings file; an ordinary run's settings.yaml gives the same model, prompts and evaluation",
    )
    add_running(parser)
    add_launching(parser)
    return parser


def _earlier(config: dict[str, Any]) -> dict[str, Any]:
    """Removes the methods from a file's settings; returns the fields of best-of-n fine-tuning, if the file has them."""
    config.pop("methods", None)
    entries = config.pop("method_settings", None) or {}
    found = [entry for entry in entries.values() if isinstance(entry, dict) and "data" in entry]
    return dict(found[0]) if found else {}


def method(given: argparse.Namespace, earlier: dict[str, Any], every: int) -> BestOfN:
    """The method: defaults, then fields of an earlier run, then the options, then `--set`.

    Args:
        given: the options.
        earlier: fields of an earlier run.
        every: iterations between evaluations, if not set otherwise.

    Raises:
        SettingsError: naming field, value and remedy.
    """
    changes: dict[str, Any] = {"every": every, **nested(earlier)}
    changes |= {
        field: value for option, field in _FIELDS.items() if (value := vars(given)[option]) is not None
    }
    if "data" not in changes:
        raise SettingsError(
            "--data is missing: give preference data, written by `python -m benchmarks.preferences`"
        )
    name = str(changes.get("name", BestOfN.model_fields["name"].default))
    for text in given.set:
        target, field, value = parse_assignment(text)
        if target not in (EVERY, name):
            raise SettingsError(f"--set is {text!r}; the only method is {name!r}")
        changes[field] = value
    return variant(BestOfN(data=Path()), changes, name)


def settings(given: argparse.Namespace, command: str) -> FineTuningSettings:
    """The settings of a new run, or of the run to resume.

    Raises:
        SettingsError: naming field, value and remedy.
    """
    file = resumed_file(given) if given.resume else given.config
    config = read_config(file) if file else {}
    earlier = _earlier(config)
    if given.resume and not earlier:
        raise SettingsError(f"--resume: {str(given.output)!r} holds a run, but not of benchmarks.best_of_n")
    if given.resume:
        command = str(config.get("command", ""))
    shared = resolve(given.preset, config, settings_flags(given), [], command)
    return FineTuningSettings.of(shared, method(given, earlier, shared.evaluation.every))


class _FineTunings(Benchmark):
    """A benchmark of best-of-n fine-tuning alone.

    Args:
        settings, output, workers, resume: the benchmark's.
    """

    settings: FineTuningSettings

    def check(self) -> None:
        """Fails, before anything is written, if model, suite or data cannot be used."""
        from benchmarks.session import Session
        from benchmarks.workers import quieten

        quieten()
        load_data(self.settings, Session.open(self.settings).policy())


def main(typed: list[str] | None = None) -> int:
    """The command line; returns the exit code: 0, 2 for an error the user can fix, 1 for a bug in this program."""
    return run_program(arguments, typed, _run, "nothing was written")


def _run(given: argparse.Namespace, command: str) -> int:
    if launched():
        raise SettingsError("benchmarks.best_of_n trains in one process: start it without accelerate launch")
    return carry_out(given, partial(_FineTunings, settings(given, command)), "best_of_n")


if __name__ == "__main__":
    sys.exit(main())
