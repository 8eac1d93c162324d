"""Formulas broken on purpose: a piece of one function's source is replaced, and a named test must then fail."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import pytest


@dataclass(frozen=True)
class Mutation:
    """``old`` becomes ``new`` in ``function`` (or in what was decorated to give it), and ``caught_by`` fails."""

    what: str
    function: object
    old: str
    new: str
    caught_by: Callable[..., object]

    @contextmanager
    def applied(self) -> Iterator[None]:
        function = _plain(self.function)
        source = textwrap.dedent(inspect.getsource(function))
        assert source.count(self.old) == 1, f"{self.old!r} occurs {source.count(self.old)} times"
        namespace = dict(function.__globals__)
        # The annotations of a method name types that exist for type checkers only.
        exec("from __future__ import annotations\n" + source.replace(self.old, self.new), namespace)
        original = function.__code__
        function.__code__ = _plain(namespace[function.__name__]).__code__
        try:
            yield
        finally:
            function.__code__ = original

    def check(self, request: pytest.FixtureRequest) -> None:
        """Insists that the named test fails, its fixtures being those of the test that asks."""
        needed = inspect.signature(self.caught_by).parameters
        missing = [name for name, parameter in needed.items() if parameter.default is parameter.empty]
        fixtures = {name: request.getfixturevalue(name) for name in missing}
        with self.applied(), pytest.raises((AssertionError, pytest.fail.Exception)):
            self.caught_by(**fixtures)


def _plain(function: object) -> Callable[..., object]:
    """The function itself, within a property, a context manager or another decorator."""
    if isinstance(function, property):
        function = function.fget
    return inspect.unwrap(getattr(function, "__func__", function))


def name_of(test: Callable[..., object]) -> str:
    function = test.func if isinstance(test, partial) else test
    return f"{function.__module__.rsplit('.', 1)[-1]}::{function.__name__}"


def table(mutations: Sequence[Mutation]) -> str:
    """The pairs as a Markdown table."""
    rows = [f"| {mutation.what} | `{name_of(mutation.caught_by)}` |" for mutation in mutations]
    return "\n".join(["| Broken on purpose | The test that fails |", "|---|---|", *rows])
