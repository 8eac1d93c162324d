"""The command line that the modules of this package share: `RUN [RUN ...]`, and errors in one line."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NoReturn

from analysis.records import RecordError
from analysis.schema import SETTINGS_FILE


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}; see `{self.prog} --help`\n")


def command(
    module: str, description: str, work: Callable[[argparse.Namespace, Path], str], method: bool = False
) -> Callable[..., int]:
    """A `main(arguments=None)` that does the work, given the options and an output folder, and prints what it returns.

    Its exit code is 2, with one line on standard error, where that cannot be done. Options are `runs`, `baseline`, and
    `method` where one is asked for.
    """

    def main(arguments: Sequence[str] | None = None) -> int:
        parser = _Parser(prog=f"python -m {module}", description=description, allow_abbrev=False)
        folder = "folder given to benchmarks.run as --output; there may be several"
        parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help=folder)
        where = "where figures and tables go (the run's own folder; must be named for several runs)"
        parser.add_argument("--output", type=Path, metavar="DIR", help=where)
        who = (
            "the method to compare with (the one that the run named, else flow_grpo, dance_grpo or the first)"
        )
        parser.add_argument("--baseline", metavar="METHOD", help=who)
        if method:
            parser.add_argument("--method", required=True, metavar="METHOD", help="the method asked about")
        options = parser.parse_args(arguments)
        try:
            printed = work(options, output_folder(options.runs, options.output))
        except RecordError as error:
            sys.stderr.write(f"error: {error}\n")
            return 2
        sys.stdout.write(printed if printed.endswith("\n") else f"{printed}\n")
        return 0

    return main


def output_folder(runs: Sequence[Path], given: Path | None) -> Path:
    """Where the results of these runs go. Raises `RecordError` where that must be named, or is taken."""
    if given is None and len(runs) > 1:
        raise RecordError(f"{len(runs)} runs are combined: name a folder for the result with --output")
    output = runs[0] if given is None else given
    if output.exists() and not output.is_dir():
        raise RecordError(f"--output {output} is a file; name a folder")
    if len(runs) > 1 and (output / SETTINGS_FILE).is_file():
        raise RecordError(
            f"--output {output} holds a run, whose own report this would replace; name another folder"
        )
    return output


def closest(name: str, known: Iterable[str]) -> str:
    """`did you mean 'x'?` where something is near, and all known names otherwise."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"there are {', '.join(names)}"
