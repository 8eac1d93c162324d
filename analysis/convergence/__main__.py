"""`python -m analysis.convergence RUN [RUN ...]`: who reaches the baseline's reward sooner."""

from __future__ import annotations

import sys
from pathlib import Path

from analysis.commandline import command
from analysis.convergence import convergence
from analysis.plots.convergence import write_curves
from analysis.records import Records
from analysis.tables.convergence import write_convergence
from analysis.tables.text_table import to_text


def _report(run: Records, output: Path, baseline: str | None) -> str:
    found = convergence(run, baseline)
    tables = write_convergence(found, output / "tables")
    write_curves(run, found, output / "figures")
    parts = [to_text(table) for table in tables]
    return "\n".join([*parts, f"No speed-up: {found.why_not}.\n"] if found.why_not else parts)


main = command(
    "analysis.convergence",
    "Speed-ups over a baseline in every unit of compute, with intervals over seeds.",
    _report,
)


if __name__ == "__main__":
    sys.exit(main())
