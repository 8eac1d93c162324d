"""Settings of runs and methods compared: what two of them do not share, by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

_NAMES = ("name", "reference")
"""Entries of a method's settings that describe it and change nothing."""


def flatten(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings as one level of dotted names; lists stay whole."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            flat.update({f"{name}.{inner}": entry for inner, entry in flatten(value).items()})
        else:
            flat[str(name)] = value
    return flat


def differing(entries: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """Fields in which named settings differ: one row a field, one column a name, None where it has no such field."""
    flat = {name: flatten(entry) for name, entry in entries.items()}
    fields = dict.fromkeys(field for values in flat.values() for field in values if field not in _NAMES)
    rows = {field: [values.get(field) for values in flat.values()] for field in fields}
    rows = {field: values for field, values in rows.items() if any(value != values[0] for value in values)}
    table = pd.DataFrame.from_dict(rows, orient="index", columns=list(flat), dtype=object)
    return table.rename_axis("field")
