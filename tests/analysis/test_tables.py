"""Tables: numbers against their own computation, and what a reader sees of them."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest

from analysis.records import load_run
from analysis.tables.final import final_table, format_table
from analysis.tables.runs import methods_table, status_table
from analysis.tables.text_table import TextTable, to_latex, to_markdown, to_text, write_table


def test_final_table_is_tidy_and_right(whole_run: Path) -> None:
    run = load_run(whole_run)
    table = final_table(run)
    assert len(table) == 2 * 4 * 7
    row = table.set_index(["split", "method", "reward"]).loc[("held_out", "euphonium", "accuracy")]
    records = run.evaluations
    here = (records["split"] == "held_out") & (records["reward"] == "accuracy")
    base = records[here & (records["method"] == "base")]["value"].mean()
    ended = records[here & (records["method"] == "euphonium") & (records["iteration"] == 30)]["value"].mean()
    assert (row["base"], row["final"], row["gain"]) == pytest.approx((base, ended, ended - base))
    assert row["low"] < row["gain"] < row["high"]
    assert (row["seeds"], row["iterations"], row["role"]) == (3, 30, "untrained")
    assert row["seconds"] > 0


def test_a_table_too_wide_for_the_terminal_leaves_out_the_last_rewards(whole_run: Path) -> None:
    table = final_table(load_run(whole_run))
    wide = format_table(table)
    assert wide.columns[:2] == ("method", "accuracy")
    assert [row[0] for row in wide.rows] == ["base", "euphonium", "flow_grpo", "dance_grpo"]
    assert re.fullmatch(r"0\.\d{3} → 0\.\d{3}\n\+0\.\d{3} ± 0\.\d{3}", wide.rows[1][1])
    assert wide.rows[1][-2] == "3"
    assert wide.rows[0][-2:] == ("–", "–")
    narrow = format_table(table, "train", width=80)
    assert narrow.width <= 80
    kept = len(narrow.columns)
    assert narrow.columns == (*wide.columns[: kept - 2], "seeds", "time")
    assert narrow.note.endswith(
        f"For want of width without {', '.join(wide.columns[kept - 2 : -3])} and {wide.columns[-3]}."
    )
    assert [row[:2] for row in narrow.rows] == [row[:2] for row in format_table(table, "train").rows]
    few = format_table(table[table["reward"] == "accuracy"], width=80)
    assert few.columns == ("method", "accuracy", "seeds", "time")
    with pytest.raises(ValueError, match="split must be one of"):
        format_table(table, "test")


def test_markdown_escapes_what_would_break_a_row(broken_run: Path) -> None:
    text = to_markdown(status_table(load_run(broken_run)))
    assert "| flow_grpo | 1 | failed | 10 |" in text
    assert "RewardError" in text
    assert "a \\| b<br>c" in to_markdown(TextTable("", ("x",), (("a | b\nc",),)))


def test_plain_text_aligns_cells_of_several_lines() -> None:
    table = TextTable("Title", ("name", "value"), (("a", "1.5\n+0.1"), ("bc", "2")), "A note.")
    lines = to_text(table).split("\n")
    assert lines[0] == "Title"
    assert [line.split() for line in lines[2:7]] == [
        ["name", "value"],
        ["------", "-------"],
        ["a", "1.5"],
        ["+0.1"],
        ["bc", "2"],
    ]
    assert len({line.index(cell) for line, cell in zip(lines[4:7], ("1.5", "+0.1", "2"), strict=True)}) == 1
    assert lines[-2:] == ["A note.", ""]
    assert not any(line.endswith(" ") for line in lines)


def test_a_table_is_written_as_numbers_and_as_text(tmp_path: Path) -> None:
    folder = tmp_path / "tables"
    texts = [TextTable("T", ("x",), (("1.2",),)), TextTable("No rows", ("x",), ())]
    write_table(folder, "one", pd.DataFrame({"x": [1.23456789]}), texts)
    assert pd.read_csv(folder / "one.csv")["x"].tolist() == [1.23457]
    assert (folder / "one.md").read_text().startswith("### T\n\n| x |")
    assert "No rows" not in (folder / "one.md").read_text()
    assert {file.name for file in folder.iterdir()} == {"one.csv", "one.md", "one.tex"}


def test_latex_is_a_table_of_its_own(whole_run: Path) -> None:
    run = load_run(whole_run)
    latex = to_latex(format_table(final_table(run)))
    assert latex.startswith("\\begin{table}\n")
    assert latex.rstrip().endswith("\\end{table}")
    for name in ("table", "tabular"):
        assert latex.count(f"\\begin{{{name}}}") == latex.count(f"\\end{{{name}}}") == 1
    assert latex.count("\\toprule") == latex.count("\\midrule") == latex.count("\\bottomrule") == 1
    assert "\\caption{Final rewards on held-out prompts. " in latex
    depth = [latex[:place].count("{") - latex[:place].count("}") for place in range(len(latex))]
    assert min(depth) == 0
    assert latex.count("{") == latex.count("}")
    # A row a method, all with as many cells as the table has columns.
    columns = len(format_table(final_table(run)).columns)
    body = latex.split("\\midrule")[1].split("\\bottomrule")[0].strip()
    rows = re.split(r"\\\\\n(?!\s*\\shortstack)", body)
    assert len(rows) == 4
    assert all(len(re.findall(r"(?<!\\)&", row)) == columns - 1 for row in rows)
    assert "flow\\_grpo" in latex
    assert not re.search(r"(?<!\\)[_%#]", latex)
    assert latex.isascii()


def test_latex_escapes_what_it_would_read() -> None:
    table = TextTable("A & B_c", ("50 %", "x"), (("a_b & c", "1×\n−2 # $3 {σ}"),), "~ ^ \\ |ρ − 1|")
    latex = to_latex(table)
    assert "A \\& B\\_c" in latex
    assert "50 \\%" in latex
    assert "a\\_b \\& c" in latex
    assert "\\shortstack[l]{1$\\times$ \\\\ $-$2 \\# \\$3 \\{$\\sigma$\\}}" in latex
    assert "\\textasciitilde{} \\textasciicircum{} \\textbackslash{}" in latex


def test_methods_table_holds_exactly_what_differs(whole_run: Path) -> None:
    frame, table = methods_table(load_run(whole_run))
    assert frame.index.tolist() == ["sampler.guidance.strength"]
    assert frame.loc["sampler.guidance.strength"].tolist() == [12.0, None, None]
    assert table.columns == ("field", "euphonium", "flow_grpo", "dance_grpo")
    assert table.rows == (("sampler.guidance.strength", "12", "none", "none"),)
