"""Encoded prompts, computed once: in memory, and on disk under the text encoder's fingerprint."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

logger = logging.getLogger(__name__)

BATCH = 64
"""Prompts encoded at a time."""

_SAMPLES, _PIECE = 64, 4096

#: Encodes texts: name -> (B, ...).
Encoder = Callable[[Sequence[str]], Mapping[str, Tensor]]


class PromptCache:
    """Encoded texts by text, each encoded once and kept on the CPU.

    Args:
        folder: also kept there, one file a text, for later runs; None for memory only.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self._known: dict[str, dict[str, Tensor]] = {}

    def missing(self, texts: Sequence[str]) -> list[str]:
        """The distinct texts that are neither in memory nor, readable, on disk."""
        for text in dict.fromkeys(texts):
            if text not in self._known and (found := self._read(text)) is not None:
                self._known[text] = found
        return [text for text in dict.fromkeys(texts) if text not in self._known]

    def encode(self, texts: Sequence[str], encoder: Encoder) -> None:
        """Makes sure that all texts are known."""
        missing = self.missing(texts)
        for start in range(0, len(missing), BATCH):
            some = missing[start : start + BATCH]
            encoded = encoder(some)
            for row, text in enumerate(some):
                self._known[text] = {name: tensor[row].cpu() for name, tensor in encoded.items()}
                self._write(text)

    def rows(self, texts: Sequence[str], device: torch.device, dtype: torch.dtype) -> dict[str, Tensor]:
        """Name -> (B, ...) of B known texts; floating tensors in `dtype`."""
        distinct = list(dict.fromkeys(texts))  # each goes to the device once
        place = torch.tensor([distinct.index(text) for text in texts], device=device)
        entries = [self._known[text] for text in distinct]
        stacked = {name: torch.stack([entry[name] for entry in entries]) for name in entries[0]}
        return {
            name: tensor.to(device, dtype if tensor.is_floating_point() else None)[place]
            for name, tensor in stacked.items()
        }

    def _file(self, text: str) -> Path | None:
        if self.folder is None:
            return None
        return self.folder / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.safetensors"

    def _read(self, text: str) -> dict[str, Tensor] | None:
        file = self._file(text)
        if file is None or not file.is_file():
            return None
        try:
            return load_file(file)
        except (SafetensorError, OSError) as error:
            logger.warning("encoded prompt %s cannot be read (%s) and is computed again", file, error)
            return None

    def _write(self, text: str) -> None:
        file = self._file(text)
        if file is None:
            return
        file.parent.mkdir(parents=True, exist_ok=True)
        # Other processes may write the same text: each writes beside it and renames.
        beside = file.with_suffix(f".{os.getpid()}.tmp")
        entry = {name: tensor.contiguous() for name, tensor in self._known[text].items()}
        save_file(entry, beside)
        beside.rename(file)


def folder_fingerprint(folders: Sequence[Path]) -> str:
    """Sixteen hexadecimal digits that identify model folders without loading them.

    Hashes names, sizes and evenly spaced pieces of every file: quick on files of any size.
    """
    digest = hashlib.sha256()
    for folder in folders:
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            size = file.stat().st_size
            digest.update(f"{folder.name}/{file.relative_to(folder)} {size}".encode())
            with file.open("rb") as content:
                for piece in range(_SAMPLES):
                    content.seek(piece * size // _SAMPLES)
                    digest.update(content.read(_PIECE))
    return digest.hexdigest()[:16]
