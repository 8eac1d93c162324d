"""A command line whose errors read as all others of this package do."""

from __future__ import annotations

import argparse
from typing import Any, NoReturn


class Parser(argparse.ArgumentParser):
    """An argument parser that refuses in one line, `error: ...`, with exit code 2.

    Options cannot be shortened: `--seed 3` would otherwise mean `--seeds 3`, three runs instead of one.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        """Ends the program."""
        self.exit(2, f"error: {message}; see `{self.prog} --help`\n")
