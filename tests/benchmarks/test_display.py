"""What a person sees while a benchmark runs: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from analysis.schema import BASE
from benchmarks.display import Display
from benchmarks.task import Progress
from tests.benchmarks.harness import Bench, Result


def shown(**options: object) -> str:
    """Two runs of two iterations side by side, one of them [bold]-named, drawn on a console."""
    file = io.StringIO()
    with Display(Console(file=file, width=120, **options), total=2, done=0) as display:  # type: ignore[arg-type]
        display.show(Progress(BASE, 0, 1, 1, 1.0, 0.625, status="finished"))
        for iteration in (1, 2):
            for method in ("euphonium", "[bold]"):
                display.show(Progress(method, 0, iteration, 2, iteration / 2, 0.5 + iteration / 10))
        display._bars.refresh()  # as it does ten times a second
        for method in ("euphonium", "[bold]"):
            display.show(Progress(method, 0, 2, 2, 1.0, status="finished"))
    return file.getvalue()


def test_plain_lines_where_the_output_is_no_terminal() -> None:
    lines = shown(force_terminal=False).splitlines()
    assert lines == [
        "base model evaluated: held-out headline reward 0.625",
        "25 % done, about 1 min left",
        "50 % done, about 1 min left",
        "75 % done, about 1 min left",
        "euphonium seed 0: 2 iterations done",
        "[bold] seed 0: 2 iterations done",
    ]


def test_bars_on_a_terminal() -> None:
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown(force_terminal=True))
    for word in (
        "all runs",
        "euphonium seed 0",
        "[bold] seed 0",
        "reward 0.700",
        "2/2 iterations",
        "100%",
        "left",
    ):
        assert word in text
    assert "euphonium seed 0: 2 iterations done" in text


@pytest.mark.parametrize("done", [0, 3])
def test_a_resumed_benchmark_counts_what_was_done(done: int) -> None:
    """The bar of all runs ends full, wherever the runs go on from."""
    file = io.StringIO()
    with Display(Console(file=file, width=120, force_terminal=True), total=2, done=1 + done / 5) as display:
        for iteration in range(done + 1, 6):
            display.show(Progress("euphonium", 0, iteration, 5, iteration / 5, 0.5))
        overall = display._bars.tasks[0]
    assert overall.completed == pytest.approx(2)
    assert overall.total == 2


def test_a_whole_run_prints_no_control_characters(whole: Result) -> None:
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f]", whole.out)
    finished = [line for line in whole.out.splitlines() if line.endswith("2 iterations done")]
    assert sorted(finished) == sorted(
        f"{method} seed {seed}: 2 iterations done"
        for method in ("euphonium", "dance_grpo")
        for seed in (0, 1)
    )


def test_a_folder_s_name_is_no_markup(bench: Bench) -> None:
    result = bench("--methods", "dance_grpo", output="a [red] folder", budget=1)
    assert result.code == 0
    assert "a [red] folder" in result.out.splitlines()[0]
