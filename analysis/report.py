"""One page that answers a run's question, with figures and tables: `python -m analysis.report RUN`."""

from __future__ import annotations

import argparse
import base64
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from analysis import plots, style, text, videos
from analysis.answer import Answer, answer
from analysis.curves import final_values, run_status, seed_means
from analysis.records import BASE, RecordError, Run, load_run
from analysis.tables import (
    TextTable,
    differences_table,
    final_table,
    format_table,
    status_table,
    write_tables,
)

_TYPES = {".png": "image/png", ".webp": "image/webp"}
SHOWN_PAIRS = 10
"""With more pairs than this the page shows those with the best method and folds the rest."""


@dataclass(frozen=True)
class Picture:
    """A figure in the page: `data` is a data URI, so that the page is one file."""

    name: str
    caption: str
    data: str


def write_report(run_dir: Path | str) -> Path:
    """Write `figures/`, `tables/` and one self-contained `report.html` into a run's folder; return its path.

    Works for a run in any state that has evaluations: what is missing is listed in the page.
    """
    run = load_run(run_dir)
    curves = seed_means(run)
    finals = final_values(run, curves)
    found = answer(run, finals)
    table = final_table(run, finals)
    splits = [format_table(table, split) for split in run.splits]
    pairs, failed = differences_table(found.differences), status_table(run)
    write_tables(table, [pairs, failed], run.path / "tables")
    pictures = _figures(run, curves, finals)
    shown, lacking = _videos(run)
    page = _page(run, found, splits, _folded(pairs, run), failed, {**pictures, **shown}, lacking)
    target = run.path / "report.html"
    target.write_text(page, encoding="utf-8")
    return target


def _folded(pairs: TextTable, run: Run) -> list[TextTable]:
    """The table whole, or where it is long the pairs with the best method and then all others."""
    title = f"{pairs.title}, {text.reward_name(run.suite.headline)}"
    if len(pairs.rows) <= SHOWN_PAIRS:
        return [replace(pairs, title=title)]
    best = pairs.rows[0][0].split(" − ")[0]
    first = tuple(row for row in pairs.rows if row[0].split(" − ")[0] == best)
    rest = tuple(row for row in pairs.rows if row not in first)
    return [replace(pairs, title=title, rows=first), replace(pairs, title="All other pairs", rows=rest)]


def _figures(run: Run, curves: pd.DataFrame, finals: pd.DataFrame) -> dict[str, Picture]:
    folder = run.path / "figures"
    drawn = {}
    if len(finals):
        drawn["gains"] = (plots.final_comparison(run, finals), "Gain over the base model, by reward")
    if (curves["iteration"] > 0).any():
        for split in run.splits:
            name = text.SPLIT_NAMES[split]
            drawn[f"rewards_{split}"] = (
                plots.reward_curves(run, split, curves),
                f"Rewards over training on {name}",
            )
    training = plots.training_curves(run)
    if training is not None:
        drawn["training"] = (training, "Rewards and updates during training")
    pictures = {}
    for name, (figure, caption) in drawn.items():
        png, _ = style.save(figure, folder, name)
        pictures[name] = Picture(name, caption, _embedded(png))
    return pictures


def _videos(run: Run) -> tuple[dict[str, Picture], list[str]]:
    """Pictures of the sample videos, and sentences on those that are missing."""
    try:
        samples = run.samples()
        grid = videos.arrange(samples)
    except ValueError as error:
        return {}, [f"Sample videos cannot be shown: {error}."]
    present = {entry.method for entry in samples}
    absent = [name for name in (BASE, *run.methods) if name not in present]
    lacking = [f"There are no sample videos of {text.listed(absent)}."] if absent else []
    if grid is None:
        return {}, lacking or ["The sample videos share no prompt, so they cannot be shown side by side."]
    folder = run.path / "figures"
    images = videos.animation_frames(grid)
    moving = videos.save_animation(images, folder / "videos.webp")
    videos.save_animation(images, folder / "videos.gif")
    still = folder / "videos.png"
    videos.contact_sheet(grid).save(still)
    caption = "Samples from the same noise: a row is a prompt, a column a model."
    pictures = {
        "videos": Picture("videos", caption, _embedded(moving)),
        "contact_sheet": Picture("contact_sheet", f"{caption} Frames from left to right.", _embedded(still)),
    }
    return pictures, lacking


def _embedded(file: Path) -> str:
    return f"data:{_TYPES[file.suffix]};base64,{base64.b64encode(file.read_bytes()).decode('ascii')}"


def _page(
    run: Run,
    found: Answer,
    splits: Sequence[TextTable],
    pairs: Sequence[TextTable],
    failed: TextTable,
    pictures: dict[str, Picture],
    lacking: Sequence[str],
) -> str:
    environment = Environment(
        loader=PackageLoader("analysis"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    settings = {name: value for name, value in run.settings.items() if name != "command"}
    return environment.get_template("report.html").render(
        run=run,
        answer=found,
        splits=splits,
        pairs=pairs,
        failed=failed,
        pictures=pictures,
        missing=[*run.notes, *_missing(run), *lacking],
        command=str(run.settings.get("command", "")),
        settings=yaml.safe_dump(settings, sort_keys=False, allow_unicode=True, width=100),
        rewards=_glossary(run),
        metrics=_metrics(run),
        looks=style.looks(run.methods),
        reward_name=text.reward_name,
        split_names=text.SPLIT_NAMES,
    )


def _missing(run: Run) -> list[str]:
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
    if BASE not in set(run.evaluations["method"].astype(str)):
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


def _metrics(run: Run) -> list[tuple[str, str]]:
    recorded = set(run.iterations["metric"].astype(str).unique())
    known = text.METRIC_DESCRIPTIONS.items()
    return [(text.metric_name(name), about) for name, about in known if name in recorded]


def _glossary(run: Run) -> list[tuple[str, str, str]]:
    """(name, role, meaning) of each reward that the suite lists or the records hold."""
    names = dict.fromkeys([*run.rewards, *run.suite.held_out, *run.suite.training])
    entries = []
    for name in names:
        role = run.suite.role(name)
        weight = f", weight {run.suite.training[name]:g}" if role == "training" else ""
        kind = {"training": f"trained on{weight}", "held-out": "held out"}.get(role, "not in the suite")
        headline = "; answers the question" if name == run.suite.headline else ""
        entries.append(
            (
                text.reward_name(name),
                kind + headline,
                text.reward_description(name, run.suite.descriptions),
            )
        )
    return entries


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the report of a run's folder; exit code 2 and one line when it cannot be read."""
    parser = argparse.ArgumentParser(
        prog="python -m analysis.report",
        description="Write report.html, figures/ and tables/ into the folder of a benchmark run.",
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="folder given to benchmarks.run as --output")
    options = parser.parse_args(arguments)
    try:
        page = write_report(options.run)
    except RecordError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    sys.stdout.write(f"{page}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
