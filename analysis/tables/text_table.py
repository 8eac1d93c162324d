"""A table as strings, and the three ways in which one is written: Markdown, CSV and plain text."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd


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
    lines = [
        f"### {table.title}",
        "",
        _markdown_row(table.columns),
        _markdown_row(["---"] * len(table.columns)),
    ]
    lines += [_markdown_row(row) for row in table.rows]
    return "\n".join([*lines, *(["", table.note] if table.note else []), ""])


def _markdown_row(cells: Sequence[str]) -> str:
    escaped = (cell.replace("|", "\\|").replace("\n", "<br>") for cell in cells)
    return f"| {' | '.join(escaped)} |"


def to_text(table: TextTable) -> str:
    """A table in plain text with aligned columns, its title above and its note below."""
    rows = [table.columns, *table.rows]
    widths = [
        max(len(line) for row in rows for line in row[place].split("\n")) for place in range(len(rows[0]))
    ]
    lines = [table.title, ""]
    for number, row in enumerate(rows):
        parts = [cell.split("\n") for cell in row]
        for line in range(max(map(len, parts))):
            cells = [part[line] if line < len(part) else "" for part in parts]
            lines.append(
                "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()
            )
        if number == 0:
            lines.append("  ".join("-" * width for width in widths))
    lines += ["", *textwrap.wrap(table.note, 100)] if table.note else []
    return "\n".join([*lines, ""])


def write_table(folder: Path, name: str, frame: pd.DataFrame, texts: Sequence[TextTable]) -> list[Path]:
    """Write `frame` (numbers, tidy) as `name.csv` and `texts` (as they are read) as `name.md`."""
    folder.mkdir(parents=True, exist_ok=True)
    csv, markdown = folder / f"{name}.csv", folder / f"{name}.md"
    frame.to_csv(csv, index=frame.index.name is not None, float_format="%.6g")
    markdown.write_text("\n".join(to_markdown(entry) for entry in texts if entry.rows), encoding="utf-8")
    return [csv, markdown]
