"""One page that answers a run's question, with figures and tables: `python -m analysis.report RUN [RUN ...]`."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from analysis import plots, style, text, videos
from analysis.alignment import Alignment, alignment
from analysis.answer import answer
from analysis.commandline import command_line
from analysis.convergence import Convergence, convergence
from analysis.costs import spending, spending_frame
from analysis.curves import final_values, run_status
from analysis.export import write_exports
from analysis.guidance import accuracies, gaps
from analysis.hacking import courses
from analysis.page import Folded, Part, Picture, Section, filled, picture, render
from analysis.plots.convergence import shown_unit, write_curves
from analysis.plots.guidance import guidance_figure
from analysis.plots.hacking import distance_figure, proxy_figure
from analysis.plots.tradeoffs import tradeoffs_figure
from analysis.power import power_table
from analysis.records import Records, load_run
from analysis.schema import BASE
from analysis.tables.alignment import folded, pairs_table, summaries_table, wins_table, write_alignment
from analysis.tables.compute import budget_tables
from analysis.tables.convergence import short_speed_table, speed_table, write_convergence
from analysis.tables.final import final_table, format_table, status_table
from analysis.tables.guidance import accuracies_table, gaps_table
from analysis.tables.hacking import hacking_frame, hacking_table
from analysis.tables.methods import methods_table
from analysis.tables.text_table import write_table
from analysis.tables.tradeoffs import tradeoffs_table
from analysis.tradeoffs import at_equal_reward

FEW_PAIRED = 4
"""With more methods than this the pairs on rewards other than the headline are in tables/pairs.csv alone, and
speed-ups in other units are folded."""


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
    aligned: Alignment

    @property
    def tables(self) -> Path:
        return self.output / "tables"

    @property
    def figures(self) -> Path:
        return self.output / "figures"


def report(run: Records, output: Path, baseline: str | None = None) -> Path:
    """Write figures, tables and `report.html` of a run, or of several combined, into a folder.

    Raises:
        RecordError: the baseline was not trained.
    """
    evidence = _Evidence(run, output, convergence(run, baseline), alignment(run))
    output.mkdir(parents=True, exist_ok=True)
    pictures = _figures(evidence)
    shown, lacking = _videos(evidence)
    sections = [
        _budget(evidence),
        _final(evidence, pictures),
        _convergence(evidence, pictures),
        _hacking(evidence, pictures),
        _guidance(evidence, pictures),
        Section("Sample videos", shown),
        Section("During training", filled([pictures.get("training")])),
        _power(evidence),
        _unfinished(evidence),
        _methods(evidence),
    ]
    missing = [*run.notes, *_missing(run), *lacking]
    found = answer(run, evidence.course)
    write_exports(run, evidence.course, found, output)
    page = render(run, found, sections, missing)
    target = output / "report.html"
    target.write_text(page, encoding="utf-8")
    return target


def _figures(evidence: _Evidence) -> dict[str, Picture]:
    """Draw every figure that the records allow, as PNG and SVG; name -> its place in the page."""
    run, course, folder = evidence.run, evidence.course, evidence.figures
    drawn: dict[str, Figure | None] = {
        "proxy": proxy_figure(run),
        "distance": distance_figure(run),
        "tradeoffs": tradeoffs_figure(run),
        "guidance": guidance_figure(run),
        "training": plots.training_curves(run),
    }
    if len(final_values(run)):
        drawn["gains"] = plots.final_comparison(run)
    files = write_curves(run, course, folder)
    if files and "train" in run.splits and course.split != "train":
        unit = shown_unit(run, course.units)
        drawn["rewards_train"] = plots.reward_curves(run, "train", unit)
    for name, figure in drawn.items():
        if figure is not None:
            files[name] = style.save(figure, folder, name)[0]
    return {name: picture(file, _caption(name)) for name, file in files.items()}


CAPTIONS = {
    "gains": "Gain over the base model, by reward",
    "convergence": "Headline reward against compute, counted in each way",
    "speed_up": "Speed-up over the baseline, by range of targets",
    "rewards_train": "Rewards over training on training prompts",
    "rewards_held_out": "Rewards over training on held-out prompts",
    "proxy": "Gain on the rewards trained on, and on the headline reward",
    "distance": "Proxy gap, diversity and KL to the base model",
    "tradeoffs": "Held-out against training gain; headline reward against diversity and KL",
    "guidance": "Guided and unguided rollouts, accuracy of the process reward, shares of the gradient",
    "training": "Rewards and updates during training",
}


def _caption(name: str) -> str:
    """What a figure shows, for those who cannot see it."""
    if name in CAPTIONS:
        return CAPTIONS[name]
    kind, _, unit = name.rpartition("_")
    return f"{CAPTIONS[kind]} against {text.UNIT_AXES[unit]}"


def _budget(evidence: _Evidence) -> Section:
    spent = spending(evidence.run)
    tables = budget_tables(evidence.run, spent)
    if tables:
        write_table(evidence.tables, "budget", spending_frame(spent), tables)
    folded_tables = [Folded(table.title, (table,)) for table in tables[2:]]
    return Section("What each method used", filled([*tables[:2], *folded_tables]), dense=True)


def _final(evidence: _Evidence, pictures: Mapping[str, Picture]) -> Section:
    run, found = evidence.run, evidence.aligned
    finals = final_table(run)
    write_alignment(run, found, finals, evidence.tables)
    parts: list[Part | None] = [*(format_table(finals, split) for split in run.splits), pictures.get("gains")]
    others = [reward for reward in run.rewards if reward != run.suite.headline]
    for place, split in enumerate(run.splits):
        main = [summaries_table(found, run, split)]
        pairs, *rest = folded(pairs_table(found, run, split, run.suite.headline))
        if place == 0:
            parts += [pairs, *(Folded(table.title, (table,)) for table in rest), *main]
            main = []
        else:
            main += [pairs, *rest]
        main.append(wins_table(found, run, split))
        if len(run.methods) <= FEW_PAIRED:
            main += [pairs_table(found, run, split, reward) for reward in others]
        parts.append(Folded(f"More on {text.SPLIT_NAMES[split]}: all rewards, prompt by prompt", tuple(main)))
    return Section("Final rewards", filled(parts), dense=True)


def _convergence(evidence: _Evidence, pictures: Mapping[str, Picture]) -> Section:
    run, course = evidence.run, evidence.course
    tables = write_convergence(course, evidence.tables)
    speed: list[Part] = [*tables]
    if speed and len(run.methods) > FEW_PAIRED:
        units = dict.fromkeys([shown_unit(run, course.units), "iterations"])
        speed = [short_speed_table(course, unit) for unit in units]
        speed.append(Folded("Speed-ups in every unit", (speed_table(course),)))
    main = f"rewards_{course.split}"
    rest = tuple(entry for name, entry in pictures.items() if name.startswith(f"{main}_"))
    parts: list[Part | None] = [
        pictures.get("convergence"),
        *speed,
        pictures.get("speed_up"),
        pictures.get(main),
        pictures.get("rewards_train"),
        Folded("All rewards against other units of compute", rest),
    ]
    several = course.why_not and len(run.methods) > 1
    return Section(
        "Convergence",
        filled(parts),
        f"No speed-up is given: {course.why_not}." if several else "",
        dense=True,
    )


def _hacking(evidence: _Evidence, pictures: Mapping[str, Picture]) -> Section:
    found = courses(evidence.run)
    table = hacking_table(evidence.run, found)
    if found:
        write_table(evidence.tables, "hacking", hacking_frame(found), [table])
    intro = (
        "Does a method improve what it is trained on more than what it is meant for, does it lose again what it had "
        "gained, and how far from the base model did it walk for it?"
    )
    at_level = at_equal_reward(evidence.run, evidence.course)
    frame, level = tradeoffs_table(evidence.run, at_level)
    if at_level:
        write_table(evidence.tables, "tradeoffs", frame, [level])
    parts = filled([table, pictures.get("proxy"), pictures.get("tradeoffs"), level, pictures.get("distance")])
    return Section("Reward hacking", parts, intro if parts else "", dense=True)


def _guidance(evidence: _Evidence, pictures: Mapping[str, Picture]) -> Section:
    run = evidence.run
    gap_numbers, gap = gaps_table(gaps(run))
    numbers, accuracy = accuracies_table(accuracies(run))
    for name, frame, table in (("guidance", gap_numbers, gap), ("process_accuracy", numbers, accuracy)):
        if table.rows:
            write_table(evidence.tables, name, frame, [table])
    parts = filled([gap, pictures.get("guidance"), Folded(accuracy.title, (accuracy,))])
    return Section("What guidance does", parts, dense=True)


def _power(evidence: _Evidence) -> Section:
    title = "How many seeds it would take"
    run, course = evidence.run, evidence.course
    if len(run.methods) < 2 or not course.units:
        return Section(title, [])
    table = power_table(run, course, shown_unit(run, course.units))
    if table.rows:
        frame = pd.DataFrame(table.rows, columns=list(table.columns))
        write_table(evidence.tables, "power", frame, [table])
    return Section(title, filled([table]), "" if table.rows else table.note)


def _unfinished(evidence: _Evidence) -> Section:
    table = status_table(evidence.run)
    write_table(evidence.tables, "runs", run_status(evidence.run), [table])
    return Section(table.title, filled([replace(table, title="")]))


def _methods(evidence: _Evidence) -> Section:
    frame, table = methods_table(evidence.run)
    if table.rows:
        write_table(evidence.tables, "methods", frame, [table])
    return Section(table.title, filled([replace(table, title="")]))


def _videos(evidence: _Evidence) -> tuple[list[Picture], list[str]]:
    """Pictures of the sample videos, and sentences on those that are missing."""
    run = evidence.run
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
    moving = videos.save_animation(images, evidence.figures / "videos.webp")
    videos.save_animation(images, evidence.figures / "videos.gif")
    still = evidence.figures / "videos.png"
    videos.contact_sheet(grid).save(still)
    caption = (
        "Samples from the same noise: a row is a prompt, a column a model, the first seed of each method."
    )
    frames = "Samples from the same noise: a block is a prompt, a row a model, time runs from left to right."
    return [
        picture(moving, caption, "screen", captioned=True),
        picture(still, frames, "paper", captioned=True),
    ], lacking


def _missing(run: Records) -> list[str]:
    """What the page would show of a complete run and cannot."""
    sentences = []
    recorded = set(run.rewards)
    wanted = dict.fromkeys([run.suite.headline, *run.suite.held_out, *run.suite.training])
    absent = [text.reward_name(name) for name in wanted if name not in recorded]
    if absent:
        sentences.append(f"Not evaluated: {text.listed(absent)}.")
    for split, name in text.SPLIT_NAMES.items():
        if split not in run.splits:
            sentences.append(f"There is no evaluation on {name}.")
    if BASE not in set(run.evaluations["method"].unique()):
        sentences.append("The base model was not evaluated, so there are no gains.")
    broken = int(run.evaluations["value"].isna().sum())
    if broken:
        sentences.append(
            f"Not a number: {text.count(broken, 'evaluated value')}. Means over any of them are left blank."
        )
    status = run_status(run)
    late = status[status["counted"].astype(bool) & (status["iterations"] > status["evaluated"])]
    for _, row in late.iterrows():
        sentences.append(
            f"{row['method']} seed {row['seed']} trained for {row['iterations']:.0f} iterations and was last "
            f"evaluated at {row['evaluated']}; that evaluation stands for its end."
        )
    return sentences


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the report of one run, or of several together; exit code 2 and one line when that cannot be done."""
    return command_line(
        "analysis.report",
        "Write report.html, figures/ and tables/ of a benchmark run, or of several that can be compared.",
        lambda run, output, baseline: str(report(run, output, baseline)),
        arguments,
        baseline=True,
    )


if __name__ == "__main__":
    sys.exit(main())
