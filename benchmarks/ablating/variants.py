"""An ablation file, and the variants of a method that it asks for."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator, model_validator

from benchmarks.ablating.crossing import Cell, Crossed, Design, cell_name, crossed_cells, shared_field
from benchmarks.ablating.labels import label, shown
from benchmarks.resolve import nested, read_fields
from benchmarks.settings import SettingsError, variant
from methods.catalog import difference
from methods.method import Method, flatten
from methods.naming import closest, explain

#: What `against` calls the method that nothing is changed in.
UNCHANGED = "base"
GRID = "grid"
CROSS = "cross"


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Multiple(_Settings):
    """A number that follows the base: `{times: 0.5}`, or `{times: 0.5, of: {sampler.noise.level: 2}}`.

    Attributes:
        times: the factor.
        of: field of the base -> its power; their product is multiplied. The changed field itself if none is named.
    """

    times: float
    of: dict[str, float] = {}


class Variant(_Settings):
    """One variant: written as its changes alone where it is compared with the base.

    Attributes:
        change: dotted field -> value; of a part only the fields that are named, and null takes a part away. A
            `Multiple` in place of a number.
        against: "factor-variant" that it is compared with; the base unless it is said.
    """

    change: dict[str, Any]
    against: str = UNCHANGED

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, data: Any) -> Any:
        return data if not isinstance(data, dict) or "change" in data else {"change": data}


class Factor(_Settings):
    """Variants that answer one question.

    Attributes:
        about: the question.
        field, values: a field, and values that it is given one after another; the base's own is left out.
        variants: name -> variant.
    """

    about: str = ""
    field: str | None = None
    values: tuple[Any, ...] = ()
    variants: dict[str, Variant] = {}

    @model_validator(mode="after")
    def _something(self) -> Factor:
        if (self.field is None) != (not self.values) or not (self.values or self.variants):
            raise ValueError("give field and values, or variants, or both")
        return self


class Ablation(_Settings):
    """An ablation file.

    Attributes:
        base: the method.
        settings: fields of a run, such as budget and seeds; the command line's win.
        factors: name -> what is changed, one thing at a time.
        grid: field -> values: every combination of them.
        cross: name -> a factor of a crossed design: every combination of the factors' levels, reported as main effects
            and interactions. A list of values is short for those of the field that the factor is called by.
    """

    base: str | None = None
    settings: dict[str, Any] = {}
    factors: dict[str, Factor] = {}
    grid: dict[str, tuple[Any, ...]] = {}
    cross: dict[str, Crossed] = {}

    @field_validator("cross", mode="before")
    @classmethod
    def _short_form(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        return {
            name: {"field": name, "values": entry} if isinstance(entry, list) else entry
            for name, entry in data.items()
        }

    @model_validator(mode="after")
    def _something(self) -> Ablation:
        if not self.factors and not self.grid and not self.cross:
            raise ValueError("it names neither factors nor grid nor cross: there is nothing to compare")
        for name in (GRID, CROSS):
            if name in self.factors:
                raise ValueError(f"a factor cannot be called {name!r}; choose another name")
        return self

    @model_validator(mode="after")
    def _crossed(self) -> Ablation:
        if len(self.cross) == 1:
            raise ValueError(
                f"cross has {next(iter(self.cross))} alone: give two factors or more, or write it under factors"
            )
        if shared := shared_field(self.cross):
            one, other, field = shared
            raise ValueError(f"cross: {one} and {other} both change {field}; let one factor change it")
        return self


@dataclass(frozen=True)
class Arm:
    """A variant, ready to run.

    Attributes:
        factor, variant: where it comes from.
        about: the factor's question.
        against: name of the method that it is compared with.
        method: all its settings.
    """

    factor: str
    variant: str
    about: str
    against: str
    method: Method

    @property
    def name(self) -> str:
        """The method's name in the run."""
        return self.method.name


#: What is written down of an arm beside its name.
_WRITTEN = ("factor", "variant", "about", "against")


def read_ablation(path: Path) -> Ablation:
    """An ablation file.

    Raises:
        SettingsError: it is missing, or says nothing that could be run.
    """
    content = read_fields(path, "ablation file", Ablation, "with factors, grid or cross")
    try:
        return Ablation.model_validate(content)
    except ValidationError as error:
        raise SettingsError(f"ablation file {str(path)!r}: {explain(error)}") from error


def make_arms(ablation: Ablation, base: Method, only: Sequence[str] = ()) -> tuple[list[Arm], list[str]]:
    """The variants of a method, in the file's order.

    Args:
        ablation: the file.
        base: the method as it runs.
        only: factors to take; none for all.

    Returns:
        The variants, and those left out because they are the base: (factor-variant, ...).

    Raises:
        SettingsError: a change that cannot be, or a name that does not exist.
    """
    known = [*ablation.factors, *([GRID] if ablation.grid else []), *([CROSS] if ablation.cross else [])]
    for name in only:
        if name not in known:
            raise SettingsError(f"--factors names {name!r}; {closest(name, known)}")
    asked = [entry for entry in _asked(ablation, base) if not only or entry[0] in only]
    names = [f"{factor}-{own}" for factor, own, *_ in asked]
    for name in names:
        if names.count(name) > 1:
            raise SettingsError(f"the ablation asks for {name} twice; give each variant a name of its own")
    arms, same = [], []
    for (factor, own, about, one), name in zip(asked, names, strict=True):
        if one.against not in (UNCHANGED, *names):
            raise SettingsError(
                f"{name}: against is {one.against!r}; {closest(one.against, [UNCHANGED, *names])}"
            )
        method = _varied(base, one.change, name)
        if difference(base, method):
            arms.append(Arm(factor, own, about, one.against, method))
        else:
            same.append(name)
    # What is the base already is not run twice: who is compared with it is compared with the base.
    runs = {name: base.name if name in same else f"{base.name}.{name}" for name in names} | {
        UNCHANGED: base.name
    }
    return [replace(arm, against=runs[arm.against]) for arm in arms], same


def _asked(ablation: Ablation, base: Method) -> Iterable[tuple[str, str, str, Variant]]:
    """(factor, variant's name, question, variant)."""
    flat = flatten(base)
    for name, factor in ablation.factors.items():
        for value in factor.values:
            assert factor.field is not None  # Factor has both or none
            if flat.get(factor.field) != value:
                yield name, label(value), factor.about, Variant(change={factor.field: value})
        for own, one in factor.variants.items():
            yield name, own, factor.about, one
    if ablation.grid:
        for values in itertools.product(*ablation.grid.values()):
            change = dict(zip(ablation.grid, values, strict=True))
            name = "+".join(f"{field.rpartition('.')[2]}-{label(value)}" for field, value in change.items())
            yield GRID, name, "", Variant(change=change)
    for cell, change in crossed_cells(ablation.cross).items() if ablation.cross else ():
        yield CROSS, cell_name(ablation.cross, cell), "", Variant(change=change)


def make_design(ablation: Ablation, base: Method, only: Sequence[str] = ()) -> Design | None:
    """The crossed design of an ablation, its cells the methods that `make_arms` makes; None where it has none.

    Raises:
        SettingsError: two cells are one and the same method.
    """
    if not ablation.cross or (only and CROSS not in only):
        return None
    methods: dict[Cell, Method] = {}
    for cell, change in crossed_cells(ablation.cross).items():
        method = _varied(base, change, f"{CROSS}-{cell_name(ablation.cross, cell)}")
        for other, before in methods.items():
            if not difference(before, method):
                pair = " and ".join(cell_name(ablation.cross, one) for one in (other, cell))
                raise SettingsError(f"cross: {pair} are the same; give levels that differ")
        methods[cell] = method if difference(base, method) else base
    return Design.of(ablation.cross, {cell: method.name for cell, method in methods.items()})


def _varied(base: Method, change: Mapping[str, Any], name: str) -> Method:
    """The base with some fields changed, multiples of its own numbers among them."""
    flat = nested(change, whole=lambda part: "times" in part)
    values = {
        field: _number(value, field, base, name) if isinstance(value, Mapping) else value
        for field, value in flat.items()
    }
    return variant(base, values, f"{base.name}.{name}")


def _number(value: Mapping[str, Any], field: str, base: Method, name: str) -> float:
    """A multiple of the base's own settings, to four digits: it is a setting that people read.

    Raises:
        SettingsError: it is no multiple, or the base has no such number.
    """
    unknown = next((key for key in value if key not in Multiple.model_fields), None)
    if unknown is not None:
        raise SettingsError(
            f"{name}: {field}: unknown field {unknown!r}; {closest(unknown, Multiple.model_fields)}"
        )
    try:
        multiple = Multiple.model_validate(value)
    except ValidationError as error:
        raise SettingsError(f"{name}: {field}: {explain(error)}") from error
    flat, number = flatten(base), multiple.times
    for source, power in (multiple.of or {field: 1.0}).items():
        own = flat.get(source)
        if isinstance(own, bool) or not isinstance(own, int | float):
            raise SettingsError(
                f"{name}: {field} is to be {multiple.times:g} times {source}, which is {shown(own)} in"
                f" {base.name}; give a number"
            )
        number *= own**power
    return float(f"{number:.4g}")


def shown_difference(base: Method, other: Method) -> dict[str, tuple[Any, Any]]:
    """The fields in which a variant differs from its base: field -> both values.

    A part that one of them lacks is one entry with None for that one, where the other's is "set".
    """
    flats = flatten(base), flatten(other)
    found: dict[str, tuple[Any, Any]] = {}
    for field, (before, after) in difference(base, other).items():
        part = next((name for name in _parts(field) if name in flats[1] and flats[1][name] is None), None)
        if part is not None:
            found[part] = ("set", None)
        else:
            found[field] = (before, after)
    return found


def _parts(field: str) -> Iterable[str]:
    """ "a.b.c" -> "a", "a.b"."""
    names = field.split(".")
    return (".".join(names[:count]) for count in range(1, len(names)))


def described(base: Method, other: Method) -> str:
    """ "process.credit: next_state → state; distillation: set → none"."""
    pairs = shown_difference(base, other).items()
    return "; ".join(f"{field}: {shown(before)} → {shown(after)}" for field, (before, after) in pairs)


def write_arms(path: Path, base: Method, arms: Sequence[Arm], design: Design | None = None) -> None:
    """Writes what is compared with what beside the run; the methods themselves are in its settings."""
    content: dict[str, Any] = {
        "base": base.name,
        "arms": [
            {
                "name": arm.name,
                **{field: getattr(arm, field) for field in _WRITTEN},
                "differs": described(base, arm.method),
            }
            for arm in arms
        ],
    }
    if design is not None:
        content[CROSS] = design.dump()
    path.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=110), encoding="utf-8")


def read_arms(path: Path, methods: Mapping[str, Method]) -> tuple[Method, list[Arm], Design | None]:
    """The base, the variants and the crossed design, if there is one, of a run's folder.

    Args:
        path: what `write_arms` wrote.
        methods: the run's, by name.

    Raises:
        SettingsError: the folder is of no ablation.
    """
    if not path.is_file():
        raise SettingsError(
            f"{str(path)!r} is missing: the folder is of no ablation, go on with benchmarks.run"
        )
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    arms = [
        Arm(**{field: arm[field] for field in _WRITTEN}, method=methods[arm["name"]])
        for arm in content["arms"]
    ]
    return methods[content["base"]], arms, Design.load(content[CROSS]) if CROSS in content else None
