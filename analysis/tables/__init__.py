"""Tables of the report: as frames of numbers, and as strings for page, terminal, Markdown and CSV."""

from analysis.tables.final import final_table, format_table, status_table
from analysis.tables.text_table import TextTable, to_markdown, to_text, write_table

__all__ = [
    "TextTable",
    "final_table",
    "format_table",
    "status_table",
    "to_markdown",
    "to_text",
    "write_table",
]
