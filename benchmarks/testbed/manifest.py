"""Checksums and documented figures of the shipped weights."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

NAME = "manifest.json"
#: Tolerance between a figure measured again and the documented one: machines round differently.
TOLERANCE = 0.02


def checksums(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below `folder` except the manifest, by relative path."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != NAME)
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files
    }


def write(folder: Path, recipe: dict[str, object], figures: dict[str, float]) -> None:
    """Writes the manifest of the files in `folder`."""
    content = {"recipe": recipe, "measured": figures, "sha256": checksums(folder)}
    (folder / NAME).write_text(json.dumps(content, indent=2) + "\n")


def read(folder: Path) -> dict[str, dict[str, str]]:
    """The manifest.

    Raises:
        ValueError: there is none, or it is damaged.
    """
    path = folder / NAME
    if not path.is_file():
        raise ValueError(
            f"no testbed weights at {str(folder)!r}; make them with `python -m benchmarks.testbed build`"
        )
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{str(path)!r} is not valid JSON: {error}") from error
    if not isinstance(content, dict) or not {"measured", "sha256"} <= set(content):
        raise ValueError(
            f"{str(path)!r} is not a manifest: it needs 'measured' and 'sha256'; build the testbed again"
        )
    return content


def file_problems(folder: Path) -> list[str]:
    """Files that are missing, changed or not in the manifest; empty if all is well."""
    documented, found = read(folder)["sha256"], checksums(folder)
    problems = [f"{name} is missing" for name in documented if name not in found]
    problems += [f"{name} is not in the manifest" for name in found if name not in documented]
    changed = [name for name in documented if name in found and found[name] != documented[name]]
    return problems + [f"{name} differs from its checksum" for name in changed]


def figure_problems(folder: Path, figures: dict[str, float]) -> list[str]:
    """Figures that differ from the documented ones by more than `TOLERANCE`."""
    documented = read(folder)["measured"]
    return [
        f"{name} measures {value:.4f}, documented as {float(documented[name]):.4f}"
        for name, value in figures.items()
        if abs(value - float(documented[name])) > TOLERANCE
    ]
