"""Figures: distinct without colour, the same for the same records, and right in what they draw."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from analysis import style
from analysis.convergence import SPANS, convergence
from analysis.costs import cumulative_costs
from analysis.curves import final_values
from analysis.plots.convergence import speed_figure
from analysis.plots.panels import HIGHLIGHTED, OTHER, band_note, footer, handles, line, looks
from analysis.plots.rewards import reward_curves, training_curves, training_metrics
from analysis.records import load_run
from tests.analysis.synthetic import Plan, write_run


def test_colours_are_fixed_and_distinct() -> None:
    names = ["euphonium", "flow_grpo", "dance_grpo", "mine", "other"]
    look = style.looks(names)
    assert look["dance_grpo"] == style.looks(["dance_grpo"])["dance_grpo"]
    assert len({(entry.colour, entry.marker, entry.line) for entry in look.values()}) == len(names) + 1
    many = style.looks([f"m{place}" for place in range(30)])
    assert len({(entry.colour, entry.marker, entry.line) for entry in many.values()}) == 31


def test_figures_are_reproducible(small_run: Path, tmp_path: Path) -> None:
    run = load_run(small_run)
    first, second = (
        style.save(reward_curves(run, "held_out", "tflops"), tmp_path / name, "rewards") for name in "ab"
    )
    assert [file.read_bytes() for file in first] == [file.read_bytes() for file in second]


def test_files_of_a_figure_have_the_same_proportions(small_run: Path, tmp_path: Path) -> None:
    drawn = reward_curves(load_run(small_run), "held_out", "iterations")
    width, height = drawn.get_size_inches()
    png, svg = style.save(drawn, tmp_path, "rewards")
    with Image.open(png) as image:
        assert image.size == (round(width * style.DPI), int(height * style.DPI))
    assert f'width="{72 * width:.0f}pt"' in svg.read_text()[:2000]


def test_lines_are_the_means_over_seeds_in_each_unit(whole_run: Path) -> None:
    run = load_run(whole_run)
    costs = cumulative_costs(run)
    ends = costs[costs["iteration"] == 30].groupby("method")
    for unit in ("iterations", "tflops"):
        drawn = reward_curves(run, "held_out", unit)
        lines = {line.get_label(): line for line in drawn.axes[0].get_lines()}
        for method in run.methods:
            x = lines[method].get_xdata()
            assert np.isclose(x[-1], ends[unit].mean()[method])
            assert len(x) == 7


def test_bands_are_ranges_with_few_seeds_and_intervals_with_more(whole_run: Path, tmp_path: Path) -> None:
    few = load_run(whole_run)
    assert "from the lowest to the highest seed" in band_note(few)
    more = load_run(write_run(tmp_path, Plan(seeds=5, rewards=("accuracy",), with_samples=False)))
    assert "its 95 % interval" in band_note(more)
    assert footer(more).startswith(
        "Suite shapes, budget 30 iterations a run, 5 seeds a method (15 of 15 runs"
    )


def test_speed_ups_are_drawn_with_their_intervals(whole_run: Path) -> None:
    run = load_run(whole_run)
    found = convergence(run)
    drawn = speed_figure(run, found)
    assert [axes.get_title(loc="left") for axes in drawn.axes] == list(SPANS)
    entry = found.speed("euphonium", "tflops")
    assert entry is not None
    lines = [line.get_xdata() for line in drawn.axes[0].get_lines()]
    assert any(np.allclose(x, [entry.ratio.low, entry.ratio.high]) for x in lines if len(x) == 2)
    assert any(np.allclose(x, entry.ratio.value) for x in lines if len(x) == 1)


def test_of_many_methods_the_baseline_and_the_best_have_colours(tmp_path: Path) -> None:
    methods = ("dance_grpo", *(f"method_{place}" for place in range(8)))
    plan = Plan(methods, iterations=20, every=10, with_samples=False, rewards=("accuracy",))
    run = load_run(write_run(tmp_path, plan))
    ends = final_values(run).query("split == 'held_out'").groupby("method")["final"].mean()
    best = [name for name in ends.sort_values(ascending=False).index if name != "dance_grpo"]
    coloured = {name for name, look in looks(run).items() if look != OTHER} - {"base"}
    assert coloured == {"dance_grpo", *best[: HIGHLIGHTED - 1]}
    labels = [handle.get_label() for handle in handles(run, base=True)]
    assert set(labels) == {*coloured, "other methods", "base model"}
    assert len(labels) == HIGHLIGHTED + 2


def test_labels_of_a_legend_fit_its_figure() -> None:
    short, long = ([line("x" * length)] * 9 for length in (8, 40))
    assert style.legend_columns(short, 10.0) == style.LABELS_A_ROW
    assert style.legend_columns(long, 10.0) == 2
    assert style.legend_columns(long, 2.0) == 1


def test_inner_panels_repeat_no_axis_label(whole_run: Path) -> None:
    drawn = reward_curves(load_run(whole_run), "held_out", "iterations")
    labels = [axes.get_xlabel() for axes in drawn.axes if axes.get_title(loc="left")]
    assert labels == ["", "", "", *["iterations"] * 4]


def test_training_shows_the_recorded_metrics_by_their_names(tmp_path: Path) -> None:
    run = load_run(write_run(tmp_path, Plan(rewards=("accuracy",), with_samples=False)))
    shown = training_metrics(run)
    assert {"gradient_norm", "policy_loss", "reward/process"} <= set(shown)
    drawn = training_curves(run)
    assert drawn is not None
    titles = [axes.get_title(loc="left") for axes in drawn.axes]
    assert "gradient norm before clipping" in titles
    assert not any("diagnostic" in title for title in titles)
