"""Randomness by name: every draw has its own generator, derived from the run's seed and the draw's purpose.

A sample's noise thus does not depend on its batch, on the process that draws it, or on earlier draws. Splitting a
batch, adding processes or resuming a run changes nothing.
"""

from __future__ import annotations

import hashlib

import torch


def derived_seed(seed: int, *purpose: str | int) -> int:
    """A 63-bit seed for one purpose, by hashing; equal arguments give equal seeds on every machine."""
    text = "\x1f".join([str(seed), *(f"{type(part).__name__}:{part}" for part in purpose)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *purpose: str | int) -> torch.Generator:
    """A CPU generator for one purpose, e.g. `generator(seed, "steps", iteration, group, member)`."""
    return torch.Generator().manual_seed(derived_seed(seed, *purpose))
