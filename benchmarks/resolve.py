"""From a command line and a configuration file to `RunSettings`: preset, then file, then flags, then `--set`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from benchmarks.presets import PRESETS, Preset
from benchmarks.settings import RunSettings, SettingsError
from methods import earlier
from methods.catalog import CATALOG, method_named
from methods.method import Method
from methods.naming import changed, closest, explain
from rewards.suites import suite_named

#: In `--set` and `method_settings`: every method of the run.
EVERY = "all"
#: An entry of `method_settings` with all of these is a whole method, whatever its name.
_REQUIRED = {name for name, field in Method.model_fields.items() if field.is_required()}


def read_fields(path: Path, kind: str, model: type[BaseModel], holding: str) -> dict[str, Any]:
    """A YAML file with fields of a model, whose values are not looked at yet.

    Args:
        path: the file.
        kind: what to call it in errors.
        model: which fields there are.
        holding: what its mapping holds ("of settings"), for the error where it is none.

    Raises:
        SettingsError: the file is missing, is no YAML mapping, or has an unknown field.
    """
    named = f"{kind} {str(path)!r}"
    if not path.is_file():
        raise SettingsError(f"{named} does not exist")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingsError(f"{named} is no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise SettingsError(f"{named} holds no mapping {holding}")
    for name in content:
        if name not in model.model_fields:
            raise SettingsError(f"{named}: unknown field {name!r}; {closest(str(name), model.model_fields)}")
    return content


def read_config(path: Path) -> dict[str, Any]:
    """A YAML file with fields of `RunSettings`; the `settings.yaml` of an earlier run is one.

    Raises:
        SettingsError: the file is missing, is no YAML mapping, or has an unknown field.
    """
    content = read_fields(path, "config file", RunSettings, "of settings")
    if isinstance(content.get("suite"), dict):
        content["suite"] = content["suite"].get("name")  # as a run's own settings.yaml has it
    return content


def parse_assignment(text: str) -> tuple[str, str, Any]:
    """ "euphonium.sampler.guidance.strength=0.5" as method, field and value (read as YAML).

    Raises:
        SettingsError: it is not of that form.
    """
    name, equals, value = text.partition("=")
    method, dot, field = name.strip().partition(".")
    if not equals or not dot or not field:
        raise SettingsError(f"--set is {text!r}; give method.field=value, such as euphonium.group_size=12")
    if field == "name":
        raise SettingsError(f"--set is {text!r}; a method's name is no setting")
    try:
        return method, field, yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise SettingsError(f"--set is {text!r}; {value!r} is no YAML value") from error


def _preset(name: str) -> Preset:
    if name not in PRESETS:
        raise SettingsError(f"unknown preset {name!r}; {closest(str(name), PRESETS)}")
    return PRESETS[name]


def nested(changes: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as dotted names, ready for `changed`."""
    flat: dict[str, Any] = {}
    for name, value in changes.items():
        if isinstance(value, dict):
            flat |= nested(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _as_written(name: str, configured: Mapping[str, Any]) -> Method:
    """A method of which all is given. A field that its file does not know yet has the default that it had then."""
    changed(
        next(iter(CATALOG.values())), nested(configured), name
    )  # names what is misspelt, and what is near
    return Method.model_validate(configured)


def _method(
    name: str,
    preset: Preset,
    every: Mapping[str, Any],
    configured: Mapping[str, Any],
    assigned: Sequence[tuple[str, Any]],
) -> Method:
    """One method: published settings, then the preset's, the file's and the command line's changes, in that order.

    Args:
        name: its name in the run; the catalogue's, unless the file names a `base` or has all its fields.
        preset: the preset.
        every: the file's entry for every method.
        configured: the file's entry for this one.
        assigned: (field, value) of the command line.
    """
    configured = dict(configured)
    whole = configured.keys() >= _REQUIRED  # as a run's own settings.yaml has it
    if whole:
        configured = earlier.translated(configured)
    base = configured.pop("base", name)
    method = _as_written(name, configured) if whole else method_named(base)
    ordered: list[tuple[str, Any]] = []
    if not whole:
        ordered += [*preset.every_method.items(), *preset.per_method.get(base, {}).items()]
    changes: dict[str, Any] = {}
    for field, value in [*ordered, *nested(every).items(), *nested(configured).items(), *assigned]:
        # A later change of a part replaces earlier ones of what it holds; a part comes before what it holds.
        changes = {other: kept for other, kept in changes.items() if not f"{other}.".startswith(f"{field}.")}
        changes[field] = value
    return changed(method, {**changes, "name": name}, name)


def _merged(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with some changed; of a part (such as `evaluation`) only the fields that are named."""
    merged = dict(values)
    for name, value in changes.items():
        kept = merged.get(name)
        merged[name] = {**kept, **value} if isinstance(kept, dict) and isinstance(value, dict) else value
    return merged


def _names(values: Mapping[str, Any]) -> list[str]:
    """The methods' names.

    Raises:
        SettingsError: they are no list of names.
    """
    names = values["methods"]
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise SettingsError(f"methods is {names!r}; give a list of names, such as [euphonium, dance_grpo]")
    return list(names)


def _configured(configured: Any, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The file's `method_settings`.

    Raises:
        SettingsError: it is no mapping of mappings, or names a method that does not exist.
    """
    if not isinstance(configured, dict):
        raise SettingsError(f"method_settings is {configured!r}; give a mapping from a method to its fields")
    for name, fields in configured.items():
        if not isinstance(fields, dict):
            raise SettingsError(f"method_settings.{name} is {fields!r}; give a mapping from field to value")
        known = [EVERY, *names, *CATALOG]
        # A file may hold more methods than run, such as the settings.yaml of a run of which some are repeated.
        if name not in known and not {"base", "name"} & fields.keys():
            raise SettingsError(f"method_settings names method {name!r}; {closest(str(name), known)}")
    return configured


def resolve(
    preset_name: str,
    config: Mapping[str, Any],
    flags: Mapping[str, Any],
    assignments: Sequence[str],
    command: str,
) -> RunSettings:
    """Resolved settings.

    Args:
        preset_name: a name of `PRESETS`.
        config: what `read_config` gave, or nothing.
        flags: fields of `RunSettings` given on the command line.
        assignments: the texts of `--set`.
        command: the command line, to be recorded.

    Raises:
        SettingsError: naming field, value and remedy.
    """
    preset = _preset(preset_name)
    try:
        values = _merged(_merged(preset.run, config), flags)
        values |= {"preset": preset_name, "command": command}
        if not isinstance(values["suite"], str):
            raise SettingsError(f"suite is {values['suite']!r}; give a suite's name")
        suite_named(values["suite"])
        names = _names(values)
        configured = _configured(values.pop("method_settings", {}), names)
        assigned = [parse_assignment(text) for text in assignments]
        for method, _, _ in assigned:
            if method != EVERY and method not in names:
                raise SettingsError(
                    f"--set names method {method!r}, which does not run; {closest(method, names)}"
                )
        values["method_settings"] = {
            name: _method(
                name,
                preset,
                configured.get(EVERY, {}),
                configured.get(name, {}),
                [(field, value) for method, field, value in assigned if method in (EVERY, name)],
            )
            for name in names
        }
        return RunSettings(**values)
    except ValidationError as error:
        raise SettingsError(explain(error)) from error
    except ValueError as error:
        raise SettingsError(str(error)) from error


def catalogue() -> list[tuple[str, str]]:
    """(name, reference) of every method, for `--help`."""
    return [(method.name, method.reference) for method in CATALOG.values()]
