"""One page that answers a run's question, with figures and tables: `python -m analysis.report RUN [RUN ...]`."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from analysis import style, text, videos
from analysis.alignment import alignment
from analysis.answer import answer
from analysis.combine import load_runs
from analysis.commandline import command
from analysis.convergence import Convergence, convergence
from analysis.costs import spending, spending_frame
from analysis.curves import run_status, seed_means
from analysis.export import write_exports
from analysis.guidance import accuracies, accuracies_table, gaps, gaps_table
from analysis.hacking import courses, hacking_table
from analysis.page import Folded, Part, Picture, Section, picture, render
from analysis.plots.convergence import convergence_figure, speed_figure
from analysis.plots.rewards import final_gains, reward_curves, training_curves
from analysis.power import power_table
from analysis.process_cost import process_cost_table, process_costs
from analysis.records import Records, load_run
from analysis.schema import BASE
from analysis.tables.alignment import alignment_frame, pairs_frame, pairs_table, summaries_table
from analysis.tables.compute import budget_tables
from analysis.tables.convergence import speed_frame, speed_tables
from analysis.tables.final import final_table, format_table
from analysis.tables.runs import methods_table, status_table
from analysis.tables.text_table import TextTable, write_table
from analysis.tradeoffs import at_equal_reward, tradeoffs_figure, tradeoffs_table

SHOWN_PAIRS = 10
"""With more pairs of methods than this the page folds their table."""

CAPTIONS = {
    "convergence": "Headline reward against compute, counted in each way",
    "speed_up": "Speed-up over the baseline, by range of targets",
    "rewards_train": "Rewards over training on training prompts",
    "rewards_held_out": "Rewards over training on held-out prompts",
    "gains": "Gain over the base model at the end, by reward",
    "tradeoffs": "Held-out against training gain; headline reward against diversity and KL",
    "training": "Rewards and updates during training",
}
"""What each figure shows, for those who cannot see it."""


def write_report(run_dir: Path | str) -> Path:
    """Write `figures/`, `tables/` and one self-contained `report.html` into a run's folder; return its path.

    Works for a run in any state that has evaluations: what is missing is listed in the page.
    """
    return report(load_run(run_dir), Path(run_dir))


@dataclass(frozen=True)
class _Evidence:
    """What the sections are made of, computed once."""

    run: Records
    output: Path
    course: Convergence
    pictures: Mapping[str, Picture]

    def table(self, name: str, frame: pd.DataFrame, *tables: TextTable) -> list[TextTable]:
        """Written into the folder of tables; returns those that have rows."""
        return write_table(self.output / "tables", name, frame, tables)

    def figures(self, *names: str) -> list[Picture | None]:
        """Those of these names, None where a figure was not drawn."""
        return [self.pictures.get(name) for name in names]


def report(run: Records, output: Path, baseline: str | None = None) -> Path:
    """Write figures, tables and `report.html` of a run, or of several combined, into a folder.

    Raises:
        RecordError: the baseline was not trained.
    """
    course = convergence(run, baseline)
    output.mkdir(parents=True, exist_ok=True)
    evidence = _Evidence(run, output, course, _figures(run, course, output / "figures"))
    shown, lacking = _videos(run, output / "figures")
    status, (frame, settings) = status_table(run), methods_table(run)
    sections = [
        _budget(evidence),
        _final(evidence),
        _convergence(evidence),
        _hacking(evidence),
        _guidance(evidence),
        Section("Sample videos", shown),
        Section("During training", evidence.figures("training")),
        _power(evidence),
        Section(status.title, _untitled(evidence.table("runs", run_status(run), status))),
        Section(settings.title, _untitled(evidence.table("methods", frame, settings))),
    ]
    found = answer(run, course)
    write_exports(run, course, found, output)
    target = output / "report.html"
    page = render(run, found, sections, [*run.notes, *_missing(run), *lacking])
    target.write_text(page, encoding="utf-8")
    return target


def _untitled(tables: Sequence[TextTable]) -> list[TextTable]:
    """Tables that stand alone below a heading that says the same."""
    return [replace(table, title="") for table in tables]


def _figures(run: Records, course: Convergence, folder: Path) -> dict[str, Picture]:
    """Draw every figure that the records allow, as PNG and SVG; name -> its place in the page."""
    trained = bool((seed_means(run)["iteration"] > 0).any())
    drawn = {
        "convergence": convergence_figure(run, course) if trained else None,
        "speed_up": speed_figure(run, course) if course.speeds else None,
        "gains": final_gains(run),
        "tradeoffs": tradeoffs_figure(run),
        "training": training_curves(run),
    }
    drawn |= {f"rewards_{split}": reward_curves(run, split, course.unit) for split in run.splits if trained}
    files = {name: style.save(figure, folder, name)[0] for name, figure in drawn.items() if figure}
    return {name: picture(file, CAPTIONS[name]) for name, file in files.items()}


def _budget(evidence: _Evidence) -> Section:
    spent = spending(evidence.run)
    tables = budget_tables(evidence.run, spent)
    shown = evidence.table("budget", spending_frame(spent), *tables) if tables else []
    folds = [Folded(table.title, [table]) for table in shown[2:]]
    return Section("What each method used", [*shown[:2], *folds], dense=True)


def _final(evidence: _Evidence) -> Section:
    run, found, finals = evidence.run, alignment(evidence.run), final_table(evidence.run)
    ends = evidence.table("final", finals, *(format_table(finals, split) for split in run.splits))
    summaries = [summaries_table(found, run, split) for split in run.splits]
    summaries = evidence.table("alignment", alignment_frame(found, run), *summaries)
    pairs = [pairs_table(found, run, split, reward) for split in run.splits for reward in run.rewards]
    pairs = evidence.table("pairs", pairs_frame(found), *pairs)
    where = "Pairs on the other rewards and prompts are in tables/pairs.md." if pairs else ""
    long = bool(pairs) and len(pairs[0].rows) > SHOWN_PAIRS
    shown = [Folded(pairs[0].title, pairs[:1])] if long else pairs[:1]
    return Section(
        "Final rewards",
        [*ends[:1], *evidence.figures("gains"), *ends[1:], *shown, *summaries[:1]],
        where,
        dense=True,
    )


def _convergence(evidence: _Evidence) -> Section:
    run, course = evidence.run, evidence.course
    speed = evidence.table("speed_up", speed_frame(course), *speed_tables(course))
    parts: list[Part | None] = [*evidence.figures("convergence"), *speed[:1]]
    parts.append(Folded("Speed-ups in other units", speed[1:]))
    parts += evidence.table("process_cost", *process_cost_table(process_costs(run, course)))
    parts += evidence.figures("speed_up", *(f"rewards_{split}" for split in run.splits))
    why = f"No speed-up is given: {course.why_not}." if course.why_not and len(run.methods) > 1 else ""
    return Section("Convergence", parts, why, dense=True)


def _hacking(evidence: _Evidence) -> Section:
    run = evidence.run
    tables = evidence.table("hacking", *hacking_table(run, courses(run)))
    level = evidence.table("tradeoffs", *tradeoffs_table(run, at_equal_reward(run, evidence.course)))
    intro = (
        "Does a method improve what it is trained on more than what it is meant for, does it lose again what it had "
        "gained, and how far from the base model did it go for it?"
    )
    parts = [*tables, *evidence.figures("tradeoffs"), *level]
    return Section("Reward hacking", parts, intro, dense=True)


def _guidance(evidence: _Evidence) -> Section:
    gap = evidence.table("guidance", *gaps_table(gaps(evidence.run)))
    accuracy = evidence.table("process_accuracy", *accuracies_table(accuracies(evidence.run)))
    folds = [Folded(table.title, [table]) for table in accuracy]
    return Section("What guidance does", [*gap, *folds], dense=True)


def _power(evidence: _Evidence) -> Section:
    table = power_table(evidence.course)
    frame = pd.DataFrame(table.rows, columns=list(table.columns))
    return Section("How many seeds it would take", evidence.table("power", frame, table))


def _videos(run: Records, folder: Path) -> tuple[list[Picture], list[str]]:
    """Pictures of the sample videos, and sentences on those that are missing."""
    try:
        samples = run.samples()
        grid = videos.arrange(samples)
    except ValueError as error:
        return [], [f"Sample videos cannot be shown: {error}."]
    present = {entry.method for entry in samples}
    absent = [name for name in (BASE, *run.methods) if name not in present]
    lacking = [f"There are no sample videos of {text.listed(absent)}."] if absent else []
    if grid is None:
        return [], lacking or ["The sample videos share no prompt, so they cannot be shown side by side."]
    images = videos.animation_frames(grid)
    moving, _ = (videos.save_animation(images, folder / f"videos.{ending}") for ending in ("webp", "gif"))
    videos.contact_sheet(grid).save(folder / "videos.png")
    same = "Samples from the same noise"
    caption = f"{same}: a row is a model, the first seed of each method, a column a prompt."
    frames = f"{caption} Time runs from left to right."
    still = picture(folder / "videos.png", frames, "paper", captioned=True)
    return [picture(moving, caption, "screen", captioned=True), still], lacking


def _missing(run: Records) -> Iterator[str]:
    """What the page would show of a complete run and cannot."""
    absent = [text.reward_name(name) for name in run.suite.listed if name not in run.rewards]
    if absent:
        yield f"Not evaluated: {text.listed(absent)}."
    for split in (split for split in text.SPLIT_NAMES if split not in run.splits):
        yield f"There is no evaluation on {text.SPLIT_NAMES[split]}."
    if BASE not in set(run.evaluations["method"].unique()):
        yield "The base model was not evaluated, so there are no gains."
    if broken := int(run.evaluations["value"].isna().sum()):
        yield f"Not a number: {text.count(broken, 'evaluated value')}. Means over any of them are left blank."
    status = run_status(run)
    for row in status[status["counted"] & (status["iterations"] > status["evaluated"])].itertuples():
        yield (
            f"{row.method} seed {row.seed} trained for {row.iterations} iterations and was last evaluated at "
            f"{row.evaluated}; that evaluation stands for its end."
        )


main = command(
    "analysis.report",
    "Write report.html, figures/ and tables/ of a benchmark run, or of several that can be compared.",
    lambda options, output: str(report(load_runs(options.runs), output, options.baseline)),
)


if __name__ == "__main__":
    sys.exit(main())
