"""A table as strings, and the ways in which one is written: Markdown, CSV, LaTeX and plain text."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from tabulate import tabulate

_LATEX = str.maketrans(
    {"×": r"$\times$", "−": "-", "→": r"$\to$", "±": r"$\pm$", "–": "--", "%": r"\%", "_": r"\_", "&": r"\&"}
)

_STACK = r"\shortstack[l]{{{}}}"


@dataclass(frozen=True)
class TextTable:
    """A table as strings: cells may hold line breaks. `columns` and each of `rows` have the same length."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""

    @property
    def width(self) -> int:
        """Characters that a terminal needs for it, with three between columns and two at each side."""
        cells = zip(self.columns, *self.rows, strict=True)
        return sum(max(len(line) for cell in column for line in cell.split("\n")) + 3 for column in cells) + 1


def to_markdown(table: TextTable) -> str:
    """A table as Markdown, its note below it."""
    rows = [
        [cell.replace("|", "\\|").replace("\n", "<br>") for cell in row]
        for row in (table.columns, *table.rows)
    ]
    grid = "\n".join([_line(rows[0]), _line(["---"] * len(rows[0])), *map(_line, rows[1:])])
    return "\n".join([f"### {table.title}", "", grid, *(["", table.note] if table.note else []), ""])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def to_latex(table: TextTable) -> str:
    """A table as a LaTeX `table` environment (booktabs), its note in the caption."""
    escaped = [[cell.translate(_LATEX) for cell in row] for row in (table.columns, *table.rows)]
    rows = [
        [_STACK.format(cell.replace("\n", r" \\ ")) if "\n" in cell else cell for cell in row]
        for row in escaped
    ]
    frame = pd.DataFrame(rows[1:], columns=rows[0])
    caption = f"{table.title}. {table.note}".strip().translate(_LATEX)
    return str(
        frame.style.hide(axis="index").to_latex(
            hrules=True, caption=caption, column_format="l" * len(rows[0])
        )
    )


def to_text(table: TextTable) -> str:
    """A table in plain text with aligned columns, its title above and its note below."""
    grid = tabulate(table.rows, headers=table.columns, tablefmt="simple", disable_numparse=True)
    note = ["", *textwrap.wrap(table.note, 100)] if table.note else []
    return "\n".join([table.title, "", *(line.rstrip() for line in grid.split("\n")), *note, ""])


def write_table(folder: Path, name: str, frame: pd.DataFrame, texts: Sequence[TextTable]) -> None:
    """Write `frame` (numbers, tidy) as `name.csv` and `texts` (as they are read) as `name.md` and `name.tex`."""
    folder.mkdir(parents=True, exist_ok=True)
    frame.to_csv(folder / f"{name}.csv", index=frame.index.name is not None, float_format="%.6g")
    shown = [table for table in texts if table.rows]
    for ending, written in (("md", to_markdown), ("tex", to_latex)):
        (folder / f"{name}.{ending}").write_text("\n".join(map(written, shown)), encoding="utf-8")
