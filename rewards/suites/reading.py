"""Suites by name or path, with their prompts."""

from __future__ import annotations

import difflib
import json
import pkgutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from rewards.suites.model import Suite, SuiteError

_FOLDER = Path(__file__).parent
#: Endings of a path to a suite file; anything else is a name.
_ENDINGS = (".yaml", ".yml")
#: A prompt and what is known about it.
_Entry = tuple[str, dict[str, Any]]


def shipped() -> tuple[str, ...]:
    """Names of the suites that come with the package."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.yaml")))


def suite_named(name: str) -> Suite:
    """The suite of that name, or in that file.

    Args:
        name: a shipped suite, or the path of a YAML file.

    Raises:
        SuiteError: no such suite (names the closest match), or the file is no suite (names the field).
    """
    if name.endswith(_ENDINGS):
        return _read(Path(name).resolve(), own=True)
    if name not in shipped():
        near = difflib.get_close_matches(name, shipped(), n=1, cutoff=0.4)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(shipped())}"
        raise SuiteError(f"unknown suite {name!r}; {hint} A suite of your own is a path that ends with .yaml")
    return _read(_FOLDER / f"{name}.yaml", own=False)


def _read(path: Path, own: bool) -> Suite:
    named = f"suite file {str(path)!r}"
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise SuiteError(f"{named} does not exist") from error
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise SuiteError(f"{named} is not readable YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise SuiteError(f"{named} does not hold a mapping")
    if own and content.get("name") in shipped():
        raise SuiteError(
            f"{named}: name is {content['name']!r}, as a shipped suite is called; choose another"
        )
    try:
        if "prompts" in content:
            content["prompts"] = _prompts(content["prompts"], path.parent)
        return Suite.model_validate({**content, "file": str(path) if own else None})
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise SuiteError(f"{named}: {field + ': ' if field else ''}{first['msg']}") from error
    except (OSError, ValueError, ImportError, AttributeError, yaml.YAMLError) as error:
        raise SuiteError(f"{named}: {error}") from error


def _prompts(given: Any, folder: Path) -> dict[str, Any]:
    """Training and held-out prompts and their facts, from lists, files or generators."""
    if isinstance(given, Mapping) and "generator" in given:
        made = _generated(given)
        if not isinstance(made, Sequence) or len(made) != 2:
            raise ValueError("prompts.generator: give a function that returns training and held-out prompts")
        given = dict(zip(("train", "held_out"), made, strict=True))
    if not isinstance(given, Mapping) or set(given) != {"train", "held_out"}:
        raise ValueError("prompts: give train and held_out, each a list, {file: PATH} or {generator: NAME}")
    parts = {part: _entries(given[part], folder, f"prompts.{part}") for part in ("train", "held_out")}
    facts = {text: known for entries in parts.values() for text, known in entries if known}
    return {**{part: [text for text, _ in entries] for part, entries in parts.items()}, "facts": facts}


def _entries(given: Any, folder: Path, place: str) -> list[_Entry]:
    if isinstance(given, Mapping) and set(given) == {"file"}:
        given = _lines(folder / str(given["file"]), place)
    elif isinstance(given, Mapping) and "generator" in given:
        given = _generated(given)
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise ValueError(f"{place}: give a list of prompts, {{file: PATH}} or {{generator: NAME}}")
    return [_entry(entry, place) for entry in given]


def _entry(given: Any, place: str) -> _Entry:
    if isinstance(given, str):
        return given, {}
    if isinstance(given, Mapping) and isinstance(given.get("prompt"), str):
        return given["prompt"], {name: value for name, value in given.items() if name != "prompt"}
    raise ValueError(f"{place}: {given!r} is neither a text nor a mapping with a prompt")


def _lines(path: Path, place: str) -> list[Any]:
    """One prompt per line; in a .jsonl file each line is a mapping with `prompt` and facts."""
    if not path.is_file():
        raise ValueError(f"{place}: {str(path)!r} does not exist")
    lines = [line.strip() for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
    return [json.loads(line) for line in lines] if path.suffix == ".jsonl" else lines


def _generated(given: Mapping[str, Any]) -> Any:
    return pkgutil.resolve_name(str(given["generator"]))(**given.get("options", {}))
