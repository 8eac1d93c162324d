"""Preference data: finished latents of a base model, their prompts, and their scores by an outcome reward."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from rewards.cost import Cost
from rewards.provenance import Provenance
from samplers.condition import Text


@dataclass(frozen=True)
class PreferenceData:
    """N scored samples of P prompts, ordered by prompt.

    Attributes:
        latents: (N, C, F', H', W') clean latents, normalised as the policy sees them.
        scores: (N,) outcome scores; of two samples for one prompt, the higher-scoring one is preferred.
        prompt: (N,) position of each sample's prompt, non-decreasing.
        text: name -> (P, ...), the encoded prompts.
        prompts: the P texts.
        provenance: the base model that drew the samples.
        description: how they were drawn and scored.
        cost: compute used to draw and score them; None if it was not recorded.
    """

    latents: Tensor
    scores: Tensor
    prompt: Tensor
    text: Text
    prompts: tuple[str, ...]
    provenance: Provenance
    description: dict[str, str | int | float]
    cost: Cost | None = None

    def __post_init__(self) -> None:
        count = len(self.latents)
        if self.scores.shape != (count,) or self.prompt.shape != (count,):
            raise ValueError(
                f"{count} latents need as many scores and prompts; got {tuple(self.scores.shape)} and "
                f"{tuple(self.prompt.shape)}"
            )
        if (self.prompt.diff() < 0).any():
            raise ValueError("samples must be ordered by prompt")
        if not torch.isfinite(self.scores).all() or not torch.isfinite(self.latents).all():
            raise ValueError("preference data holds values that are not finite; score the samples again")

    def save(self, path: Path) -> None:
        """Writes one safetensors file, metadata included."""
        path.parent.mkdir(parents=True, exist_ok=True)
        metadata = {
            "prompts": json.dumps(self.prompts),
            "provenance": self.provenance.model_dump_json(),
            "description": json.dumps(self.description),
            "cost": "" if self.cost is None else self.cost.model_dump_json(),
        }
        tensors = {
            "latents": self.latents,
            "scores": self.scores,
            "prompt": self.prompt,
            **self.text,
        }
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata)

    @classmethod
    def load(cls, path: Path) -> PreferenceData:
        """Loads data written by `save`.

        Raises:
            ValueError: the file is missing or is not preference data.
        """
        if not path.is_file():
            raise ValueError(
                f"no preference data at {str(path)!r}; make some with `python -m benchmarks.preferences`"
            )
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                if "provenance" not in metadata:
                    raise ValueError(f"{str(path)!r} is not preference data: it names no base model")
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, not a mapping
                rows = {name: tensors.pop(name) for name in ("latents", "scores", "prompt")}
        except SafetensorError as error:
            raise ValueError(f"{str(path)!r} is not preference data: {error}") from error
        return cls(
            **rows,
            text=tensors,
            prompts=tuple(json.loads(metadata["prompts"])),
            provenance=Provenance.model_validate_json(metadata["provenance"]),
            description=json.loads(metadata["description"]),
            cost=Cost.model_validate_json(metadata["cost"]) if metadata.get("cost") else None,
        )

    def split(self, held_back: float, generator: torch.Generator) -> tuple[PreferenceData, PreferenceData]:
        """Splits each prompt's samples at random into training and validation data."""
        order = torch.argsort(torch.rand(len(self.latents), generator=generator))
        order = order[torch.argsort(self.prompt[order], stable=True)]
        counts = torch.bincount(self.prompt, minlength=len(self.prompts))
        place = torch.cat([torch.arange(int(count)) for count in counts])
        back = place < (held_back * counts[self.prompt[order]]).round()
        return self._rows(order[~back]), self._rows(order[back])

    def _rows(self, rows: Tensor) -> PreferenceData:
        return PreferenceData(
            self.latents[rows],
            self.scores[rows],
            self.prompt[rows],
            self.text,
            self.prompts,
            self.provenance,
            self.description,
            self.cost,
        )

    def pairs(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Row numbers of `count` random pairs of distinct samples that share a prompt.

        Raises:
            ValueError: a prompt has fewer than two samples.
        """
        counts = torch.bincount(self.prompt, minlength=len(self.prompts))
        if (counts < 2).any():
            short = self.prompts[int((counts < 2).nonzero()[0])]
            raise ValueError(f"prompt {short!r} has fewer than two samples, so no pair can be formed")
        start = counts.cumsum(0) - counts
        first = torch.randint(len(self.latents), (count,), generator=generator)
        group = self.prompt[first]
        step = 1 + (torch.rand(count, generator=generator) * (counts[group] - 1)).long()
        second = start[group] + (first - start[group] + step) % counts[group]
        return first, second
