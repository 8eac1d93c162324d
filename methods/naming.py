"""Names given by a person: the nearest known one, and settings changed by dotted name."""

from __future__ import annotations

import copy
import difflib
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

Settings = TypeVar("Settings", bound=BaseModel)


def closest(name: str, known: Iterable[str]) -> str:
    """ "did you mean 'x'?" where something is near, and all known names otherwise."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(names)}"


def changed(settings: Settings, changes: Mapping[str, Any], owner: str) -> Settings:
    """Settings with fields replaced by dotted name, validated as a whole.

    Args:
        settings: the settings to start from; they stay as they are.
        changes: dotted field name -> value, made one after another; a part that is None is made anew from its defaults.
        owner: whose settings these are, for the error.

    Raises:
        ValueError: no such field (names the nearest), or a value that does not fit.
    """
    values = settings.model_dump()
    for name, value in changes.items():
        field_type(type(settings), name, owner)
        *parents, last = name.split(".")
        target = values
        for parent in parents:
            if target.get(parent) is None:
                target[parent] = {}
            target = target[parent]
            if not isinstance(target, dict):
                raise ValueError(
                    f"{owner}: {parent} is {target!r}, which has no {last!r}; give its fields instead"
                )
        target[last] = copy.deepcopy(value)  # a later change may be made within it
    try:
        return type(settings).model_validate(values)
    except ValidationError as error:
        raise ValueError(f"{owner}: {explain(error)}") from error


def field_type(kind: type[BaseModel], name: str, owner: str) -> Any:
    """What a settings class says a field holds.

    Args:
        kind: the class.
        name: dotted name of the field.
        owner: whose settings these are, for the error.

    Returns:
        The field's annotation, such as `int | None`.

    Raises:
        ValueError: no such field; names the nearest.
    """
    annotation: Any = None
    at: type[BaseModel] | None = kind
    walked: list[str] = []
    for part in name.split("."):
        if at is None:
            raise ValueError(f"{owner}: field {'.'.join(walked)!r} has no parts, so there is no {name!r}")
        if part not in at.model_fields:
            where = f" in {'.'.join(walked)!r}" if walked else ""
            replaced = getattr(at, "replaced", {}).get(part)
            raise ValueError(
                f"{owner}: unknown field {part!r}{where}; {replaced or closest(part, at.model_fields)}"
            )
        walked.append(part)
        annotation = at.model_fields[part].annotation
        at = _settings_class(annotation)
    return annotation


def field_names(kind: type[BaseModel], prefix: str = "") -> list[str]:
    """The dotted names of all fields of a settings class that hold values, in their order."""
    names = []
    for name, field in kind.model_fields.items():
        part = _settings_class(field.annotation)
        names += [f"{prefix}{name}"] if part is None else field_names(part, f"{prefix}{name}.")
    return names


def _settings_class(annotation: Any) -> type[BaseModel] | None:
    """The settings class that a field's annotation names, through `X | None`."""
    candidates = (
        typing.get_args(annotation)
        if typing.get_origin(annotation) in (typing.Union, types.UnionType)
        else (annotation,)
    )
    for candidate in candidates:
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


def explain(error: ValidationError) -> str:
    """A validation error as one line: field, value, what is wrong."""
    parts = []
    for item in error.errors():
        where = ".".join(str(step) for step in item["loc"])
        message = item["msg"].removeprefix("Value error, ")
        shown = "" if isinstance(item["input"], dict | BaseModel) else f" is {item['input']!r}"
        parts.append(f"{where}{shown}: {message}" if where else message)
    return "; ".join(parts)
