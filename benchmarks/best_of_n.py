"""Fine-tunes a base model on the best of its own preference videos: `python -m benchmarks.best_of_n --help`.

The rival of methods that learn a process reward from the same videos. The budget includes what the preference data
cost. Records are those of `benchmarks.run`: `python -m analysis.report RUN THIS --output BOTH` compares the two.
"""

from __future__ import annotations

import argparse
import logging
import shlex
import sys
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from benchmarks.commandline import DEFAULT_PRESET, Parser, add_settings, exit_code, settings_flags
from benchmarks.finetuning import FineTuningSettings, load_data
from benchmarks.records import resume_command
from benchmarks.resolve import EVERY, nested, parse_assignment, read_config, resolve
from benchmarks.run import Benchmark, launched, output_folder
from benchmarks.settings import SETTINGS_FILE, SettingsError
from methods.best_of_n import BestOfN
from methods.naming import changed, explain

#: Option -> the field of `BestOfN` that it sets.
_FIELDS = {
    "name": "name",
    "data": "data",
    "keep": "keep",
    "learning_rate": "optimiser.learning_rate",
    "batch": "batch",
    "steps": "steps",
    "every": "every",
}
#: What may be given beside --resume.
_WITH_RESUME = ("resume", "output", "workers")


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
    add("--batch", type=int, metavar="N", help=f"videos an optimiser step ({fields['batch'].default})")
    add("--steps", type=int, metavar="N", help=f"optimiser steps an iteration ({fields['steps'].default})")
    add(
        "--every",
        type=int,
        metavar="N",
        help="iterations between evaluations (evaluation.every of the settings)",
    )
    add(
        "--name",
        help=f"what tables call it ({fields['name'].default}); variants in one report need different names",
    )
    add_settings(
        parser,
        seeds="how many training seeds",
        config="settings file; an ordinary run's settings.yaml gives the same model, prompts and evaluation",
    )
    add("--workers", type=int, metavar="N", help="runs side by side (one a CPU core, or 1 on a GPU)")
    add("--output", type=Path, metavar="DIR", help="folder for everything (results/<date and time>)")
    add("--resume", action="store_true", help="go on with the run in --output, from its last checkpoints")
    return parser


def _earlier(config: dict[str, Any]) -> dict[str, Any]:
    """Takes the methods out of a file's settings; the fields of best-of-n fine-tuning, if the file is a run of it."""
    config.pop("methods", None)
    entries = config.pop("method_settings", None) or {}
    found = [entry for entry in entries.values() if isinstance(entry, dict) and "data" in entry]
    return dict(found[0]) if found else {}


def method(given: argparse.Namespace, earlier: dict[str, Any], every: int) -> BestOfN:
    """The method: defaults, then an earlier run's, then the options', then `--set`.

    Args:
        given: the options.
        earlier: fields of an earlier run.
        every: iterations between evaluations where nothing says how many.

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
    try:
        return changed(BestOfN(data=changes["data"]), changes, name)
    except ValueError as error:
        raise SettingsError(str(error)) from error


def settings(given: argparse.Namespace, command: str) -> FineTuningSettings:
    """The settings of a new run, or of the one to go on with.

    Raises:
        SettingsError: naming field, value and remedy.
    """
    file = _resumed_file(given) if given.resume else given.config
    config = read_config(file) if file else {}
    earlier = _earlier(config)
    if given.resume and not earlier:
        raise SettingsError(f"--resume: {str(given.output)!r} holds a run, but none of benchmarks.best_of_n")
    before = str(config.pop("command", ""))
    preset = given.preset or config.pop("preset", DEFAULT_PRESET)
    config.pop("preset", None)
    shared = resolve(preset, config, settings_flags(given), [], before if given.resume else command)
    try:
        return FineTuningSettings.of(shared, method(given, earlier, shared.evaluation.every))
    except ValidationError as error:
        raise SettingsError(explain(error)) from error


def _resumed_file(given: argparse.Namespace) -> Path:
    """The settings file of the run to go on with."""
    if given.output is None:
        raise SettingsError("--resume needs --output, the folder of the run to go on with")
    others = [
        name
        for name, value in vars(given).items()
        if name not in _WITH_RESUME and value not in (None, [], False)
    ]
    if others:
        raise SettingsError(
            "--resume goes on with the run's own settings; give only --output and --workers, not "
            f"--{others[0].replace('_', '-')}"
        )
    file: Path = given.output / SETTINGS_FILE
    if not file.is_file():
        raise SettingsError(f"--resume: {str(given.output)!r} holds no run ({SETTINGS_FILE} is missing)")
    return file


class _FineTunings(Benchmark):
    """A benchmark of best-of-n fine-tuning alone.

    Args:
        settings, output, workers, resume: the benchmark's.
    """

    def __init__(self, settings: FineTuningSettings, output: Path, workers: int | None, resume: bool) -> None:
        super().__init__(settings, output, workers, resume)
        self._own = settings

    def _check(self) -> None:
        from benchmarks.session import Session
        from benchmarks.workers import quieten

        quieten()
        load_data(self._own, Session.open(self._own).policy())


def main(given_arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code: 0, 2 for what the user can mend, 1 for a fault of this program."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    typed = sys.argv[1:] if given_arguments is None else given_arguments
    command = shlex.join(["python", "-m", "benchmarks.best_of_n", *typed])
    given = arguments().parse_args(given_arguments)
    return exit_code(lambda: _run(given, command), "nothing was written")


def _run(given: argparse.Namespace, command: str) -> int:
    if launched():
        raise SettingsError("benchmarks.best_of_n trains in one process: start it without accelerate launch")
    if given.workers is not None and given.workers < 1:
        raise SettingsError(f"--workers is {given.workers}; give at least 1")
    chosen, output = settings(given, command), output_folder(given)
    return exit_code(
        _FineTunings(chosen, output, given.workers, given.resume).run,
        f"the records so far are kept, go on with `{resume_command(output, 'best_of_n')}`",
    )


if __name__ == "__main__":
    sys.exit(main())
