"""Names typed by a user: suggestions for unknown ones, and settings changed by dotted name."""

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
    """ "did you mean 'x'?" if there is a close match, otherwise all known names."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(names)}"


def changed(settings: Settings, changes: Mapping[str, Any], owner: str) -> Settings:
    """Settings with fields replaced by dotted name, validated as a whole.

    Args:
        settings: the settings to start from; they are not modified.
        changes: dotted field name -> value, applied in order; a part that is None is first created from its defaults.
            If a part's `kind` changes, fields that the new kind also has are kept.
        owner: whose settings these are, for the error.

    Raises:
        ValueError: no such field (names the closest match), or an invalid value.
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
        if last == "kind" and parents:
            _keep_what_fits(target, value, field_type(type(settings), ".".join(parents), owner))
        target[last] = copy.deepcopy(value)  # a later change may be made within it
    try:
        return type(settings).model_validate(values)
    except ValidationError as error:
        raise ValueError(f"{owner}: {explain(error)}") from error


def _keep_what_fits(part: dict[str, Any], kind: Any, annotation: Any) -> None:
    """Drops fields that a part no longer has after its kind changed, for kinds that are separate classes."""
    for one in _settings_classes(annotation):
        if one.model_fields["kind"].default == kind:
            for name in part.keys() - one.model_fields.keys():
                del part[name]


def field_type(kind: type[BaseModel], name: str, owner: str) -> Any:
    """The type of a field of a settings class.

    Args:
        kind: the class.
        name: dotted name of the field.
        owner: whose settings these are, for the error.

    Returns:
        The field's annotation, such as `int | None`.

    Raises:
        ValueError: no such field; names the closest match.
    """
    annotation: Any = None
    at: list[type[BaseModel]] = [kind]
    walked: list[str] = []
    for part in name.split("."):
        if not at:
            raise ValueError(f"{owner}: field {'.'.join(walked)!r} has no parts, so there is no {name!r}")
        fields = {field: known for one in at for field, known in one.model_fields.items()}
        if part not in fields:
            where = f" in {'.'.join(walked)!r}" if walked else ""
            replaced = getattr(at[0], "replaced", {}).get(part)
            raise ValueError(f"{owner}: unknown field {part!r}{where}; {replaced or closest(part, fields)}")
        walked.append(part)
        annotation = fields[part].annotation
        at = _settings_classes(annotation)
    return annotation


def field_names(kind: type[BaseModel], prefix: str = "") -> list[str]:
    """The dotted names of all fields of a settings class that hold values, in order."""
    names = []
    for name, field in kind.model_fields.items():
        parts = _settings_classes(field.annotation)
        inner = [field_name for part in parts for field_name in field_names(part, f"{prefix}{name}.")]
        names += inner or [f"{prefix}{name}"]
    return list(dict.fromkeys(names))


def _settings_classes(annotation: Any) -> list[type[BaseModel]]:
    """The settings classes in a field's annotation, including `X | None`; all those of its registry, if it has one."""
    candidates = (
        typing.get_args(annotation)
        if typing.get_origin(annotation) in (typing.Union, types.UnionType)
        else (annotation,)
    )
    for candidate in candidates:
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return list(getattr(candidate, "registry", {}).values()) or [candidate]
    return []


def explain(error: ValidationError) -> str:
    """A validation error as one line: field, value, what is wrong."""
    parts = []
    for item in error.errors():
        where = ".".join(str(step) for step in item["loc"])
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            message = "there is no such field for this kind; leave it out"
        shown = "" if isinstance(item["input"], dict | BaseModel) else f" is {item['input']!r}"
        parts.append(f"{where}{shown}: {message}" if where else message)
    return "; ".join(parts)
