"""Settings as a reader sees them, and as parts of a variant's name."""

from __future__ import annotations

import re
from typing import Any


def shown(value: Any) -> str:
    """A setting as a reader sees it."""
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def label(value: Any) -> str:
    """A value as part of a name, which also names a folder."""
    return re.sub(r"[^\w.+-]+", "_", shown(value).lower())
