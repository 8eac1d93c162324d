"""Randomness by name: reproducible anywhere, and different for whatever is different."""

import itertools
import os
import subprocess
import sys
from pathlib import Path

import torch
from hypothesis import given
from hypothesis import strategies as st

from methods.seeding import derived_seed, generator

PURPOSES = [
    (0, "steps", 0, 0, 0),
    (1, "steps", 0, 0, 0),
    (0, "initial", 0, 0, 0),
    (0, "steps", 1, 0, 0),
    (0, "steps", 0, 1, 0),
    (0, "steps", 0, 0, 1),
    (0, "steps", 0, 0),
    (0, "steps", "0", 0, 0),
    (0, "steps0", 0, 0),
    (0, "steps", 10),
    (0, "steps", 1, 0),
    (0, "trained", 0, 0, 0),
    (0,),
]


def test_equal_purposes_give_equal_numbers():
    for purpose in PURPOSES:
        one, two = (torch.randn(8, generator=generator(*purpose)) for _ in range(2))
        assert torch.equal(one, two)


def test_different_purposes_give_different_numbers():
    assert len({derived_seed(*purpose) for purpose in PURPOSES}) == len(PURPOSES)
    draws = [torch.randn(64, generator=generator(*purpose)) for purpose in PURPOSES]
    for one, two in itertools.combinations(draws, 2):
        assert torch.corrcoef(torch.stack([one, two]))[0, 1].abs() < 0.6  # five standard deviations


@given(st.lists(st.tuples(st.integers(), st.text(max_size=3), st.integers()), unique=True, max_size=20))
def test_seeds_do_not_collide_and_fit_torch(purposes):
    seeds = [derived_seed(*purpose) for purpose in purposes]
    assert len(set(seeds)) == len(purposes)
    assert all(0 <= seed < 2**63 for seed in seeds)
    for seed in seeds[:1]:
        torch.Generator().manual_seed(seed)


def test_a_purpose_does_not_depend_on_what_was_drawn_before():
    expected = torch.randn(4, generator=generator(3, "steps", 2))
    torch.manual_seed(1234)
    torch.randn(100)
    torch.randn(7, generator=generator(3, "steps", 1))
    before = torch.get_rng_state()
    assert torch.equal(torch.randn(4, generator=generator(3, "steps", 2)), expected)
    assert torch.equal(torch.get_rng_state(), before)


def test_seeds_do_not_depend_on_pythons_hash():
    """Python salts hash() of strings in every process: a seed made with it would not be the same twice."""
    module = Path(__file__).parents[2] / "methods" / "seeding.py"
    # Loaded by path and with an empty torch, which only the drawing of numbers needs: the child starts at once.
    code = (
        "import runpy, sys, types; sys.modules['torch'] = types.ModuleType('torch'); "
        f"seed = runpy.run_path({str(module)!r})['derived_seed']; "
        f"print(*[seed(*purpose) for purpose in {PURPOSES!r}], hash('steps'))"
    )
    salt = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"
    environment = {**os.environ, "PYTHONHASHSEED": salt}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    *seeds, hashed = (int(number) for number in done.stdout.split())
    assert hashed != hash("steps")  # that process did hash otherwise
    assert seeds == [derived_seed(*purpose) for purpose in PURPOSES]
