"""Crossed designs: every level of some factors with every level of the others, and the contrasts of their cells."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, field_validator, model_validator

from benchmarks.ablating.labels import label
from benchmarks.resolve import nested

#: A level of each factor, in the design's order.
Cell = tuple[str, ...]
MAIN, INTERACTION = "main effect", "interaction"


class Crossed(BaseModel):
    """A factor of a crossed design; the first level is what the others are compared with.

    Attributes:
        about: the question.
        field, values: a field, and its values, which are the levels.
        levels: name -> its changes, dotted field -> value; one without any leaves the base as it is.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    about: str = ""
    field: str | None = None
    values: tuple[Any, ...] = ()
    levels: dict[str, dict[str, Any]] = {}

    @field_validator("levels", mode="before")
    @classmethod
    def _named(cls, data: Any) -> Any:
        """Names that YAML takes for numbers, or for true and false, are names all the same."""
        if not isinstance(data, dict):
            return data
        return {
            {True: "on", False: "off"}.get(name, str(name)) if isinstance(name, bool) else str(name): level
            for name, level in data.items()
        }

    @model_validator(mode="after")
    def _one_form(self) -> Crossed:
        if (self.field is None) != (not self.values) or bool(self.values) == bool(self.levels):
            raise ValueError("give field and values, or levels, and not both")
        if len(self.changes) < 2 or len(self.changes) < len(self.values):
            raise ValueError(f"levels are {', '.join(self.changes)}: give two or more that differ")
        return self

    @property
    def changes(self) -> dict[str, dict[str, Any]]:
        """Level -> dotted field -> value; a multiple of the base's own is one value."""
        if self.field is not None:
            return {label(value): {self.field: value} for value in self.values}
        return {
            name: nested(change, whole=lambda part: "times" in part) for name, change in self.levels.items()
        }


def crossed_cells(factors: Mapping[str, Crossed]) -> dict[Cell, dict[str, Any]]:
    """The changes of every cell, the last factor's levels changing fastest."""
    levels = [factor.changes for factor in factors.values()]
    return {
        cell: {
            field: value
            for own, level in zip(levels, cell, strict=True)
            for field, value in own[level].items()
        }
        for cell in itertools.product(*levels)
    }


def cell_name(factors: Mapping[str, Any], cell: Cell) -> str:
    """ "strength-16+credit-state"."""
    return "+".join(f"{_short(name)}-{level}" for name, level in zip(factors, cell, strict=True))


def _short(factor: str) -> str:
    return factor.rpartition(".")[2]


def shared_field(factors: Mapping[str, Crossed]) -> tuple[str, str, str] | None:
    """Two factors that change one field, or a part and a field of it, and the field; None where none do."""
    fields = {
        name: {field for change in factor.changes.values() for field in change}
        for name, factor in factors.items()
    }
    for (one, mine), (other, theirs) in itertools.combinations(fields.items(), 2):
        for first, second in itertools.product(sorted(mine), sorted(theirs)):
            if f"{first}.".startswith(f"{second}.") or f"{second}.".startswith(f"{first}."):
                return one, other, max(first, second, key=len)
    return None


@dataclass(frozen=True)
class Design:
    """A crossed design as it runs.

    Attributes:
        levels: factor -> its levels, the first of them what the others are compared with.
        abouts: factor -> its question.
        methods: cell -> the method of the run that it is; the base itself may be one.
    """

    levels: dict[str, tuple[str, ...]]
    abouts: dict[str, str]
    methods: dict[Cell, str]

    @classmethod
    def of(cls, factors: Mapping[str, Crossed], methods: Mapping[Cell, str]) -> Design:
        """The design of a file's factors."""
        levels = {name: tuple(factor.changes) for name, factor in factors.items()}
        return cls(levels, {name: factor.about for name, factor in factors.items()}, dict(methods))

    def name(self, cell: Cell) -> str:
        """What to call a cell."""
        return cell_name(self.levels, cell)

    def dump(self) -> dict[str, Any]:
        """What `load` reads."""
        return {
            "levels": {name: list(levels) for name, levels in self.levels.items()},
            "abouts": self.abouts,
            "cells": [{"levels": list(cell), "method": method} for cell, method in self.methods.items()],
        }

    @classmethod
    def load(cls, content: Mapping[str, Any]) -> Design:
        """A design that `dump` gave."""
        levels = {name: tuple(names) for name, names in content["levels"].items()}
        methods = {tuple(cell["levels"]): cell["method"] for cell in content["cells"]}
        return cls(levels, dict(content["abouts"]), methods)


@dataclass(frozen=True)
class Contrast:
    """A weighted sum of cell means whose weights sum to zero.

    Attributes:
        kind: `MAIN` or `INTERACTION`.
        levels: factor -> (level, first level) that it is about: one factor, or two.
        weights: cell -> its weight.
    """

    kind: str
    levels: dict[str, tuple[str, str]]
    weights: dict[Cell, float]

    @property
    def label(self) -> str:
        """ "strength: 16 − 0", or "strength 16 × credit state"."""
        if self.kind == MAIN:
            ((factor, (level, first)),) = self.levels.items()
            return f"{_short(factor)}: {level} − {first}"
        return " × ".join(f"{_short(factor)} {level}" for factor, (level, _) in self.levels.items())


def contrasts(design: Design) -> list[Contrast]:
    """All main effects, then all two-factor interactions, each of a level against its factor's first.

    A main effect is the difference that a level makes, and an interaction how much larger the one level's difference
    is at the other level than at that one's first: m(a, b) - m(first, b) - m(a, first) + m(first, first). Both are
    averaged over the levels of the other factors, each cell weighing alike.
    """
    names = list(design.levels)
    found = []
    for count, kind in ((1, MAIN), (2, INTERACTION)):
        for chosen in itertools.combinations(names, count):
            for levels in itertools.product(*(design.levels[name][1:] for name in chosen)):
                against = {
                    name: (level, design.levels[name][0]) for name, level in zip(chosen, levels, strict=True)
                }
                found.append(Contrast(kind, against, _weights(design, against)))
    return found


def _weights(design: Design, against: Mapping[str, tuple[str, str]]) -> dict[Cell, float]:
    """Weights of the cells that have one of both levels of every factor that is compared."""
    names = list(design.levels)
    weights: dict[Cell, float] = {}
    for cell in itertools.product(*design.levels.values()):
        own = {name: level for name, level in zip(names, cell, strict=True) if name in against}
        if all(own[name] in against[name] for name in against):
            weights[cell] = (-1.0) ** sum(own[name] == first for name, (_, first) in against.items())
    others = len(weights) / 2 ** len(against)
    return {cell: weight / others for cell, weight in weights.items()}
