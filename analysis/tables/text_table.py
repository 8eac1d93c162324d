"""A table as strings, and the ways in which one is written: Markdown, CSV, LaTeX and plain text."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pandas as pd
from tabulate import tabulate

from analysis.statistics import Interval
from analysis.statistics.speed import Estimate

_SYMBOLS = {"×": "times", "−": "-", "→": "to", "±": "pm", "≤": "le", "σ": "sigma", "ρ": "rho"}
_LATEX = str.maketrans(
    {sign: f"${name if name == '-' else chr(92) + name}$" for sign, name in _SYMBOLS.items()}
    | {sign: chr(92) + sign for sign in "%_&#${}"}
    | {"–": "--", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}"}
)


Entry = TypeVar("Entry")


@dataclass(frozen=True)
class TextTable:
    """A table as strings: cells may hold line breaks. `columns` and each of `rows` have the same length."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""

    @classmethod
    def of(
        cls,
        title: str,
        entries: Iterable[Entry],
        columns: Mapping[str, Callable[[Entry], str]],
        note: str = "",
    ) -> TextTable:
        """A row an entry; `columns` are headers and what stands below each for an entry."""
        rows = tuple(tuple(show(entry) for show in columns.values()) for entry in entries)
        return cls(title, tuple(columns), rows, note)

    @property
    def width(self) -> int:
        """Characters that a terminal needs for it, with three between columns and two at each side."""
        cells = zip(self.columns, *self.rows, strict=True)
        return sum(max(len(line) for cell in column for line in cell.split("\n")) + 3 for column in cells) + 1


def to_markdown(table: TextTable) -> str:
    """A table as Markdown, its note below it."""
    escaped = [
        [cell.replace("|", "\\|").replace("\n", "<br>") for cell in row]
        for row in (table.columns, *table.rows)
    ]
    lines = [f"| {' | '.join(row)} |" for row in (escaped[0], ["---"] * len(escaped[0]), *escaped[1:])]
    return "\n".join([f"### {table.title}", "", *lines, *(["", table.note] if table.note else []), ""])


def to_latex(table: TextTable) -> str:
    """A table as a LaTeX `table` environment (booktabs), its note in the caption."""
    columns, *rows = ([_latex(cell) for cell in row] for row in (table.columns, *table.rows))
    caption = f"{table.title}. {table.note}".strip().translate(_LATEX)
    style = pd.DataFrame(rows, columns=columns).style.hide(axis="index")
    return str(style.to_latex(hrules=True, caption=caption, column_format="l" * len(columns)))


def _latex(cell: str) -> str:
    lines = cell.translate(_LATEX).split("\n")
    return lines[0] if len(lines) == 1 else "\\shortstack[l]{" + r" \\ ".join(lines) + "}"


def to_text(table: TextTable) -> str:
    """A table in plain text with aligned columns, its title above and its note below."""
    grid = tabulate(table.rows, headers=table.columns, tablefmt="simple", disable_numparse=True)
    note = ["", *textwrap.wrap(table.note, 100)] if table.note else []
    return "\n".join([table.title, "", *(line.rstrip() for line in grid.split("\n")), *note, ""])


def tidy(rows: Iterable[Mapping[str, object]]) -> pd.DataFrame:
    """A frame of rows in which an interval or estimate `x` becomes the columns `x`, `x_low` and `x_high`."""
    flat: list[dict[str, object]] = []
    for row in rows:
        flat.append({})
        for name, value in row.items():
            middle = value.mean if isinstance(value, Interval) else getattr(value, "value", value)
            flat[-1][name] = middle
            if isinstance(value, Interval | Estimate):
                flat[-1] |= {f"{name}_low": value.low, f"{name}_high": value.high}
    return pd.DataFrame(flat)


def write_table(folder: Path, name: str, frame: pd.DataFrame, tables: Sequence[TextTable]) -> list[TextTable]:
    """Write `frame` (numbers, tidy) as `name.csv` and `tables` (as they are read) as `name.md` and `name.tex`.

    Returns the tables that have rows; where the frame has none nothing is written.
    """
    shown = [table for table in tables if table.rows]
    if len(frame):
        folder.mkdir(parents=True, exist_ok=True)
        frame.to_csv(folder / f"{name}.csv", index=frame.index.name is not None, float_format="%.6g")
        (folder / f"{name}.md").write_text("\n".join(map(to_markdown, shown)), encoding="utf-8")
        (folder / f"{name}.tex").write_text("\n".join(map(to_latex, shown)), encoding="utf-8")
    return shown
