"""The page of a report: sections of tables and figures, rendered to one self-contained HTML file."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from analysis import text
from analysis.answer import Answer
from analysis.plots.panels import looks
from analysis.plots.rewards import training_metrics
from analysis.records import Records
from analysis.tables.text_table import TextTable

_TYPES = {".png": "image/png", ".webp": "image/webp"}


@dataclass(frozen=True)
class Picture:
    """A figure in the page: `data` is a data URI, so that the page is one file. `where`: screen, paper or both."""

    caption: str
    data: str
    where: str = ""
    captioned: bool = False


def picture(file: Path, caption: str, where: str = "", captioned: bool = False) -> Picture:
    """A PNG or WebP file as part of the page; `captioned` writes the caption below it."""
    encoded = base64.b64encode(file.read_bytes()).decode("ascii")
    return Picture(caption, f"data:{_TYPES[file.suffix]};base64,{encoded}", where, captioned)


@dataclass(frozen=True)
class Folded:
    """Parts of a section that are shown when their `summary` is clicked."""

    summary: str
    parts: Sequence[TextTable | Picture | Folded]


Part = TextTable | Picture | Folded


@dataclass(frozen=True)
class Section:
    """A heading, a sentence or two on what is below it, and tables and figures: None is one that there is not."""

    title: str
    parts: Sequence[Part | None]
    intro: str = ""
    dense: bool = False


def filled(parts: Sequence[Part | None]) -> list[Part]:
    """Without what is missing: tables that have no row, folds that have no part."""
    whole = [Folded(part.summary, filled(part.parts)) if isinstance(part, Folded) else part for part in parts]
    return [part for part in whole if part and getattr(part, "rows", True) and getattr(part, "parts", True)]


def render(run: Records, found: Answer, sections: Sequence[Section], missing: Sequence[str]) -> str:
    """The whole page. Sections without parts are left out."""
    environment = Environment(
        loader=PackageLoader("analysis"),
        undefined=StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    shown = [replace(section, parts=filled(section.parts)) for section in sections]
    metrics = training_metrics(run)
    settings = {name: value for name, value in run.settings.items() if name != "command"}
    return environment.get_template("report.html").render(
        run=run,
        answer=found,
        sections=[section for section in shown if section.parts],
        missing=missing,
        command=str(run.settings.get("command", "")),
        settings=yaml.safe_dump(settings, sort_keys=False, allow_unicode=True, width=100),
        rewards=[_described(run, name) for name in dict.fromkeys([*run.rewards, *run.suite.listed])],
        metrics=[(of["title"], of["meaning"]) for name, of in text.METRICS.items() if name in metrics],
        looks=looks(run),
    )


def _described(run: Records, reward: str) -> tuple[str, str, str]:
    """Name, role and meaning of a reward that the suite lists or the records hold."""
    roles = {"untrained": "not trained on", "other": "not in the suite"}
    role = roles.get(run.suite.role(reward)) or f"trained on, weight {run.suite.training[reward]:g}"
    headline = "; answers the question" if reward == run.suite.headline else ""
    meaning = run.suite.descriptions.get(reward, "No description was recorded with this run.")
    return text.reward_name(reward), role + headline, meaning
