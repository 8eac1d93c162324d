"""Registries by name: the project's own entries and those added by other installed packages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import TypeVar

Entry = TypeVar("Entry")


class PluginError(ValueError):
    """Another package's entry cannot be used; names the package."""


class Registry(Mapping[str, Entry]):
    """Name -> entry, including entries of other packages.

    They are loaded when the registry is first read, not when it is created, so that a package can import this one to
    define its entries.

    Args:
        group: entry points of this group (`importlib.metadata`) are added under their names.
        own: the project's entries.

    Reading raises:
        PluginError: an entry cannot be loaded, or its name is taken.
    """

    def __init__(self, group: str, own: Mapping[str, Entry]) -> None:
        self._group, self._own = group, dict(own)
        self._all: dict[str, Entry] | None = None

    def __getitem__(self, name: str) -> Entry:
        return self._entries()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries())

    def __len__(self) -> int:
        return len(self._entries())

    def _entries(self) -> dict[str, Entry]:
        if self._all is None:
            found = dict(self._own)
            for point in entry_points(group=self._group):
                if point.name in found:
                    raise PluginError(f"{_named(point)} is called {point.name!r}, and that name is taken")
                try:
                    found[point.name] = point.load()
                except Exception as error:  # whatever another package's import may raise
                    raise PluginError(
                        f"{_named(point)} cannot be loaded: {type(error).__name__}: {error}"
                    ) from error
            self._all = found
        return self._all


def _named(point: EntryPoint) -> str:
    return f"entry point {point.value!r} of {point.dist.name if point.dist else 'an unknown package'}"
