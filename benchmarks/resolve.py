"""From a command line and a configuration file to `RunSettings`: preset, then file, then flags, then `--set`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from analysis.schema import SETTINGS_FILE
from benchmarks.presets import DEFAULT_PRESET, PRESETS, Preset
from benchmarks.records import replace_text
from benchmarks.settings import Prompts, RunSettings, SettingsError, variant
from methods import earlier
from methods.catalog import CATALOG, method_named
from methods.method import Method
from methods.naming import closest, explain, field_type
from rewards.suites import suite_named

#: Beside the recipes: the prompts that they share.
RECIPE_PROMPTS = "prompts.yaml"
#: In `--set` and `method_settings`: all methods of the run.
EVERY = "all"
#: (dotted field, value), in the order of application.
Changes = list[tuple[str, Any]]


def read_fields(path: Path, kind: str, model: type[BaseModel], holding: str) -> dict[str, Any]:
    """Reads a YAML file with fields of a model, without validating their values.

    Args:
        path: the file.
        kind: what to call it in errors.
        model: the allowed fields.
        holding: content of the mapping ("of settings"), for errors.

    Raises:
        SettingsError: the file is missing, is no YAML mapping, or has an unknown field.
    """
    named = f"{kind} {str(path)!r}"
    if not path.is_file():
        raise SettingsError(f"{named} does not exist")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingsError(f"{named} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise SettingsError(f"{named} does not hold a mapping {holding}")
    for name in content:
        if name not in model.model_fields:
            raise SettingsError(f"{named}: unknown field {name!r}; {closest(str(name), model.model_fields)}")
    return content


def recipes() -> dict[str, Path]:
    """Name -> file of the shipped recipes."""
    folder = Path(__file__).parent / "recipes"
    return {file.stem: file for file in sorted(folder.glob("*.yaml")) if file.name != RECIPE_PROMPTS}


def config_file(path: Path) -> Path:
    """The file itself, or the shipped recipe of that name.

    Raises:
        SettingsError: a bare name is neither; names the closest recipe.
    """
    bare = path.suffix == "" and path.parent == Path()
    if path.is_file() or not bare:
        return path
    known = recipes()
    if path.name not in known:
        raise SettingsError(
            f"config {path.name!r} is neither a file nor a shipped recipe; {closest(path.name, known)}"
        )
    return known[path.name]


def read_config(path: Path) -> dict[str, Any]:
    """A YAML file with fields of `RunSettings`; the `settings.yaml` of an earlier run is one.

    Args:
        path: the file, or the name of a shipped recipe. Its `prompts` may be `{file: ...}`, a YAML file with the lists
            beside it.

    Raises:
        SettingsError: the file is missing, is no YAML mapping, or has an unknown field.
    """
    path = config_file(path)
    content = read_fields(path, "config file", RunSettings, "of settings")
    prompts = content.get("prompts")
    if isinstance(prompts, dict) and "file" in prompts:
        if not isinstance(prompts["file"], str) or len(prompts) > 1:
            raise SettingsError(
                f"config file {str(path)!r}: prompts is {prompts!r}; give either a file or lists of train and held_out"
            )
        content["prompts"] = read_fields(path.parent / prompts["file"], "prompts file", Prompts, "of lists")
    if isinstance(content.get("suite"), dict):  # as a run's own settings.yaml has it
        content["suite"] = _recorded_suite(content["suite"], f"config file {str(path)!r}")
    return content


def _recorded_suite(recorded: dict[str, Any], place: str) -> Any:
    """The name or path of a suite that a run recorded.

    Raises:
        SettingsError: its file has changed since, so that its scores would mean something else.
    """
    if recorded.get("file") is None:
        return recorded.get("name")
    path = str(recorded["file"])
    try:
        today = suite_named(path).recorded()
    except ValueError as error:
        raise SettingsError(f"{place}: {error}") from error
    changed = [
        name for name, value in recorded.items() if name != "descriptions" and today.get(name) != value
    ]
    if changed:
        raise SettingsError(
            f"{place}: the suite at {path!r} has changed since ({', '.join(changed)}): restore it, or name a suite "
            "for a new run with --suite"
        )
    return path


def write_settings(settings: RunSettings, folder: Path) -> None:
    """Writes a run's settings beside its records, for `read_config`; creates the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    replace_text(folder / SETTINGS_FILE, settings.dump(suite_named(settings.suite).recorded()))


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
        raise SettingsError(f"--set is {text!r}; {value!r} is not a YAML value") from error


def _preset(name: str) -> Preset:
    if name not in PRESETS:
        raise SettingsError(f"unknown preset {name!r}; {closest(str(name), PRESETS)}")
    return PRESETS[name]


def nested(
    changes: Mapping[str, Any], prefix: str = "", whole: Callable[[Mapping[str, Any]], bool] = lambda _: False
) -> dict[str, Any]:
    """Flattens nested settings to dotted names, for `variant`.

    Args:
        changes: field -> value, or a mapping of a part's fields.
        prefix: of the names.
        whole: which mappings are values rather than parts.
    """
    flat: dict[str, Any] = {}
    for name, value in changes.items():
        if isinstance(value, dict) and not whole(value):
            flat |= nested(value, f"{prefix}{name}.", whole)
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _is_whole(entry: Mapping[str, Any]) -> bool:
    """Whether an entry of `method_settings` is a complete method, as in a run's own settings.yaml."""
    return all(name in entry for name, field in Method.model_fields.items() if field.is_required())


def _as_written(name: str, entry: Mapping[str, Any]) -> Method:
    """A complete method. Fields that its file predates get the default of that time."""
    for field in nested(entry):
        field_type(Method, field, name)  # names the misspelt field and the closest match
    return Method.model_validate(entry)


def _method(
    name: str, preset: Preset, every: Mapping[str, Any], own: Mapping[str, Any], assigned: Changes
) -> Method:
    """One method: published settings, then the preset's, the file's and the command line's changes, in that order.

    Args:
        name: its name in the run; the catalogue's, unless the file names a `base` or has all its fields.
        preset: the preset.
        every: the file's entry for every method.
        own: the file's entry for this one.
        assigned: (field, value) of the command line.
    """
    layers: list[Mapping[str, Any]]
    if _is_whole(own):
        own = earlier.translated(own)
        method, layers = _as_written(name, own), []
    else:
        base = own.get("base", name)
        own = {field: value for field, value in own.items() if field != "base"}
        method, layers = method_named(base), [preset.every_method, preset.per_method.get(base, {})]
    layers += [nested(every), nested(own), *({field: value} for field, value in assigned)]
    changes: dict[str, Any] = {}
    for layer in layers:
        # Repeated changes move to the end, because replacing a part discards earlier changes within it.
        changes = {field: value for field, value in changes.items() if field not in layer} | dict(layer)
    return variant(method, changes, name)


def _merged(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with some changes; in a part (such as `evaluation`) only the named fields change."""
    merged = dict(values)
    for name, value in changes.items():
        kept = merged.get(name)
        merged[name] = {**kept, **value} if isinstance(kept, dict) and isinstance(value, dict) else value
    return merged


def _names(values: Mapping[str, Any]) -> list[str]:
    """The methods' names; "all" by itself means the whole catalogue.

    Raises:
        SettingsError: they are not a list of names.
    """
    names = values["methods"]
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise SettingsError(f"methods is {names!r}; give a list of names, such as [euphonium, dance_grpo]")
    return list(CATALOG) if list(names) == [EVERY] else list(names)


def _configured(configured: Any, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The file's `method_settings`.

    Raises:
        SettingsError: it is not a mapping of mappings, or names an unknown method.
    """
    if not isinstance(configured, dict):
        raise SettingsError(f"method_settings is {configured!r}; give a mapping from a method to its fields")
    for name, fields in configured.items():
        if not isinstance(fields, dict):
            raise SettingsError(f"method_settings.{name} is {fields!r}; give a mapping from field to value")
        known = [EVERY, *names, *CATALOG]
        # A file may hold more methods than are run, for instance when repeating part of a run from its settings.yaml.
        if name not in known and "base" not in fields and not _is_whole(fields):
            raise SettingsError(f"method_settings names method {name!r}; {closest(str(name), known)}")
    return configured


def _question(
    given: Any, flags: Mapping[str, Any], names: Sequence[str], configured: Mapping[str, Any]
) -> Any:
    """The primary question. A file's baseline need not be among the methods that the command line chose from it."""
    if not isinstance(given, Mapping) or "methods" not in flags:
        return given or {}
    chosen = flags.get("question") or {}
    baseline = given.get("baseline")
    left_out = baseline not in names and baseline in {*configured, *CATALOG}
    return {**given, "baseline": None} if left_out and "baseline" not in chosen else given


def _assigned(texts: Sequence[str], names: Sequence[str]) -> dict[str, Changes]:
    """Each method's (field, value) of `--set`, in their order."""
    found: dict[str, Changes] = {name: [] for name in names}
    for target, field, value in map(parse_assignment, texts):
        if target != EVERY and target not in found:
            raise SettingsError(
                f"--set names method {target!r}, which is not part of this run; {closest(target, names)}"
            )
        for name in names if target == EVERY else [target]:
            found[name].append((field, value))
    return found


def resolve(
    preset_name: str | None,
    config: Mapping[str, Any],
    flags: Mapping[str, Any],
    assignments: Sequence[str],
    command: str,
) -> RunSettings:
    """Resolves settings: the only place where text becomes settings.

    Args:
        preset_name: a name of `PRESETS`; None for the file's, or the default.
        config: the result of `read_config`, or empty.
        flags: fields of `RunSettings` given on the command line.
        assignments: the texts of `--set`.
        command: the command line, for the records.

    Raises:
        SettingsError: naming field, value and remedy.
    """
    name = preset_name or config.get("preset", DEFAULT_PRESET)
    preset = _preset(name)
    try:
        values = _merged(_merged(preset.run, config), flags) | {"preset": name, "command": command}
        if not isinstance(values["suite"], str):
            raise SettingsError(f"suite is {values['suite']!r}; give a suite's name, or the path of its file")
        suite = suite_named(values["suite"])
        if suite.file is not None:  # the same file for workers, and when the run is resumed from elsewhere
            values["suite"] = str(suite.file)
        given = {**config, **flags}
        if (
            suite.prompts is not None
            and "prompts" not in given
            and ("suite" in given or "prompts" not in preset.run)
        ):
            values["prompts"] = {"train": suite.prompts.train, "held_out": suite.prompts.held_out}
        names = values["methods"] = _names(values)
        configured = _configured(values.get("method_settings", {}), names)
        assigned, every = _assigned(assignments, names), configured.get(EVERY, {})
        values["question"] = _question(values.get("question"), flags, names, configured)
        values["method_settings"] = {
            name: _method(name, preset, every, configured.get(name, {}), assigned[name]) for name in names
        }
    except ValidationError as error:
        raise SettingsError(explain(error)) from error
    except ValueError as error:
        raise SettingsError(str(error)) from error
    return RunSettings.checked(**values)
