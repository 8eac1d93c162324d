"""The prompts of VBench-2.0 (arXiv 2503.21755), from the benchmark's own list."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

#: Where the list is in the repository github.com/Vchitect/VBench.
_LIST = "VBench-2.0/vbench2/VBench2_full_info.json"


def prompts(
    info: str, dimensions: Sequence[str] | None = None, every: int = 5
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Training and held-out prompts, each with its dimensions as a fact: a generator for a suite file.

    Args:
        info: path of VBench2_full_info.json.
        dimensions: those wanted, such as Camera_Motion; None for all.
        every: of each dimension's prompts the first of every so many is held out.

    Raises:
        ValueError: no such file or dimension.
    """
    path = Path(info)
    if not path.is_file():
        raise ValueError(f"no list of prompts at {info!r}; download {_LIST} of github.com/Vchitect/VBench")
    if every < 2:
        raise ValueError(f"every is {every}; give at least 2, so that some prompts train")
    named: dict[str, list[str]] = {}
    for entry in json.loads(path.read_text(encoding="utf-8")):
        text = " ".join(entry["prompt_en"].split())
        named[text] = list(dict.fromkeys([*named.get(text, []), *entry["dimension"]]))
    known = list(dict.fromkeys(dimension for found in named.values() for dimension in found))
    if unknown := set(dimensions or ()) - set(known):
        raise ValueError(f"dimensions {sorted(unknown)} are not in {info!r}; it has {', '.join(known)}")
    train: list[dict[str, Any]] = []
    held_out: list[dict[str, Any]] = []
    seen = dict.fromkeys(known, 0)
    for text, found in named.items():
        if dimensions is None or set(found) & set(dimensions):
            (train if seen[found[0]] % every else held_out).append({"prompt": text, "dimensions": found})
            seen[found[0]] += 1
    return train, held_out
