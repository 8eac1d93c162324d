"""From a command line and a configuration file to `RunSettings`: preset, then file, then flags, then `--set`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from benchmarks.presets import PRESETS, Preset
from benchmarks.settings import RunSettings, SettingsError
from methods.catalog import CATALOG, method_named
from methods.method import Method, flatten
from methods.naming import changed, closest, explain
from rewards.suites import suite_named

#: In `--set` and `method_settings`: every method of the run.
EVERY = "all"


def read_config(path: Path) -> dict[str, Any]:
    """A YAML file with fields of `RunSettings`; the `settings.yaml` of an earlier run is one.

    Raises:
        SettingsError: the file is missing, is no YAML mapping, or has an unknown field.
    """
    if not path.is_file():
        raise SettingsError(f"config file {str(path)!r} does not exist")
    try:
        content = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise SettingsError(
            f"config file {str(path)!r} is no YAML: {' '.join(str(error).split())}"
        ) from error
    if not isinstance(content, dict):
        raise SettingsError(f"config file {str(path)!r} holds no mapping of settings")
    for name in content:
        if name not in RunSettings.model_fields:
            raise SettingsError(
                f"config file {str(path)!r}: unknown field {name!r}; {closest(name, RunSettings.model_fields)}"
            )
    if isinstance(content.get("suite"), dict):
        content["suite"] = content["suite"]["name"]  # as a run's own settings.yaml has it
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
    return method, field, yaml.safe_load(value)


def _preset(name: str) -> Preset:
    if name not in PRESETS:
        raise SettingsError(f"unknown preset {name!r}; {closest(name, PRESETS)}")
    return PRESETS[name]


def _nested(changes: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as dotted names, ready for `changed`."""
    flat: dict[str, Any] = {}
    for name, value in changes.items():
        if isinstance(value, dict):
            flat |= _nested(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _method(
    name: str, preset: Preset, configured: Mapping[str, Any], assigned: Sequence[tuple[str, str, Any]]
) -> Method:
    """One method: published settings, then the preset's, the file's and the command line's changes."""
    configured = dict(configured)
    base = configured.pop("base", name)
    method = method_named(base)
    changes = {**preset.every_method, **preset.per_method.get(base, {}), **_nested(configured), "name": name}
    for _, field, value in assigned:
        changes = {other: kept for other, kept in changes.items() if not other.startswith(f"{field}.")}
        changes[field] = value
    return changed(method, changes, name)


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
        values = {**preset.run, **config, **flags, "preset": preset_name, "command": command}
        suite_named(values["suite"])
        configured = values.pop("method_settings", {})
        names = values["methods"]
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
                configured.get(name, {}),
                [item for item in assigned if item[0] in (EVERY, name)],
            )
            for name in names
        }
        return RunSettings(**values)
    except ValidationError as error:
        raise SettingsError(explain(error)) from error
    except ValueError as error:
        raise SettingsError(str(error)) from error


def method_table(settings: RunSettings) -> dict[str, dict[str, Any]]:
    """The fields in which the run's methods differ: field -> method -> value."""
    flat = {name: flatten(method) for name, method in settings.method_settings.items()}
    fields = dict.fromkeys(field for values in flat.values() for field in values)
    return {
        field: {name: values.get(field) for name, values in flat.items()}
        for field in fields
        if field not in ("name", "reference")
        and len({repr(values.get(field)) for values in flat.values()}) > 1
    }


def catalogue() -> list[tuple[str, str]]:
    """(name, reference) of every method, for `--help`."""
    return [(method.name, method.reference) for method in CATALOG.values()]
