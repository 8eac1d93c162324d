"""The page of a report: sections of tables and figures, rendered to one self-contained HTML file."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from analysis import text
from analysis.answer import Answer
from analysis.plots.panels import looks
from analysis.plots.training import training_metrics
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
    """A heading, a sentence or two on what is below it, and tables and figures; left out when it has neither."""

    title: str
    parts: Sequence[Part]
    intro: str = ""
    dense: bool = False


def kind(part: Part) -> str:
    """Which of the three a part is, for the template."""
    if isinstance(part, TextTable):
        return "table"
    return "picture" if isinstance(part, Picture) else "folded"


def filled(parts: Sequence[Part | None]) -> list[Part]:
    """Without what is missing: tables that have no row, folds that have no part."""
    kept: list[Part] = []
    for part in parts:
        if isinstance(part, Folded):
            part = Folded(part.summary, tuple(filled(part.parts)))
        if isinstance(part, Picture) or (part and (part.rows if isinstance(part, TextTable) else part.parts)):
            kept.append(part)
    return kept


def render(run: Records, found: Answer, sections: Sequence[Section], missing: Sequence[str]) -> str:
    """The whole page. Sections without parts are left out."""
    environment = Environment(
        loader=PackageLoader("analysis"), undefined=StrictUndefined, autoescape=True, trim_blocks=True
    )
    environment.lstrip_blocks = True
    environment.filters["kind"] = kind
    settings = {name: value for name, value in run.settings.items() if name != "command"}
    return environment.get_template("report.html").render(
        run=run,
        answer=found,
        sections=[section for section in sections if section.parts or section.intro],
        missing=missing,
        command=str(run.settings.get("command", "")),
        settings=yaml.safe_dump(settings, sort_keys=False, allow_unicode=True, width=100),
        rewards=_glossary(run),
        metrics=_metrics(run),
        looks=looks(run),
    )


def _metrics(run: Records) -> list[tuple[str, str]]:
    shown = set(training_metrics(run))
    return [(entry["title"], entry["meaning"]) for name, entry in text.METRICS.items() if name in shown]


def _glossary(run: Records) -> list[tuple[str, str, str]]:
    """(name, role, meaning) of each reward that the suite lists or the records hold."""
    entries = []
    for name in dict.fromkeys([*run.rewards, *run.suite.held_out, *run.suite.training]):
        roles = {"untrained": "not trained on", "other": "not in the suite"}
        role = roles.get(run.suite.role(name)) or f"trained on, weight {run.suite.training[name]:g}"
        headline = "; answers the question" if name == run.suite.headline else ""
        meaning = run.suite.descriptions.get(name, "No description was recorded with this run.")
        entries.append((text.reward_name(name), role + headline, meaning))
    return entries
