"""`python -m analysis.alignment RUN [RUN ...]`: how well each method ends, and against each other."""

from __future__ import annotations

import sys
from pathlib import Path

from analysis import style
from analysis.alignment import alignment
from analysis.commandline import command
from analysis.plots.rewards import final_comparison
from analysis.records import Records
from analysis.tables.alignment import write_alignment
from analysis.tables.final import final_table, format_table
from analysis.tables.text_table import to_text


def _report(run: Records, output: Path, _: str | None) -> str:
    finals = final_table(run)
    tables = [format_table(finals, split) for split in run.splits]
    tables += write_alignment(run, alignment(run), finals, output / "tables")
    if (finals["seeds"] > 0).any():
        style.save(final_comparison(run), output / "figures", "gains")
    return "\n".join(to_text(table) for table in tables)


main = command(
    "analysis.alignment",
    "Final rewards per dimension and prompt split, and methods against each other, with intervals over seeds.",
    _report,
    baseline=False,
)


if __name__ == "__main__":
    sys.exit(main())
