"""A latent process reward model (PRM): the first blocks of the video transformer itself, read out by query attention.

Euphonium (arXiv 2602.04928) guides the sampler with the gradient of such a model: it sees x_t, t and the prompt
exactly as the policy does, so it is differentiable in the latent and needs no decoding.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rewards.base import Encoded
from rewards.cost import Cost
from rewards.provenance import Provenance, ProvenanceError


class LatentProcessReward(nn.Module):
    """r(x_t, t, c): a scalar for a noised latent, in the units of the loss that trained it (Bradley-Terry logits).

    Args:
        trunk: a Wan-style transformer, already cut to its first blocks (`cut_transformer`).
        num_train_timesteps: factor from sigma in [0, 1] to the trunk's timestep.

    Attributes:
        cost: compute used by its training, including its preference data; None if it was not recorded.
    """

    def __init__(self, trunk: Any, num_train_timesteps: int = 1000) -> None:
        super().__init__()
        width = trunk.config.num_attention_heads * trunk.config.attention_head_dim
        # The output layers predict velocity and are not used here.
        trunk.norm_out, trunk.proj_out = nn.Identity(), nn.Identity()
        trunk.register_parameter("scale_shift_table", None)
        self.trunk: Any = trunk  # diffusers models are typed as plain modules
        self.num_train_timesteps = num_train_timesteps
        self.cost: Cost | None = None
        self.query = nn.Parameter(torch.zeros(1, 1, width))
        self.norm = nn.LayerNorm(width)
        self.pool = nn.MultiheadAttention(width, trunk.config.num_attention_heads, batch_first=True)
        self.head = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, 1)
        )

    def forward(self, x: Tensor, sigma: Tensor, condition: Encoded) -> Tensor:
        """Scores noised latents.

        Args:
            x: (B, C, F', H', W') latents at noise level sigma.
            sigma: (B,) in [0, 1].
            condition: has `embeds`, (B, L, D).

        Returns:
            (B,) float32.
        """
        tokens = self.norm(self._tokens(x, sigma, condition.embeds).float())
        query = self.query.expand(len(x), -1, -1)
        pooled, _ = self.pool(query, tokens, tokens, need_weights=False)
        return self.head(pooled).flatten()

    def _tokens(self, x: Tensor, sigma: Tensor, embeds: Tensor) -> Tensor:
        """(B, tokens, width) hidden states after the trunk's last block."""
        trunk = self.trunk
        dtype = trunk.patch_embedding.weight.dtype
        rotary = trunk.rope(x)
        hidden = trunk.patch_embedding(x.to(dtype)).flatten(2).transpose(1, 2).contiguous()
        timestep = sigma.to(torch.float32) * self.num_train_timesteps
        _, modulation, text, _ = trunk.condition_embedder(timestep, embeds.to(dtype), None)
        modulation = modulation.unflatten(1, (6, -1))
        for block in trunk.blocks:
            hidden = block(hidden, text, modulation, rotary)
        return hidden

    def save(self, folder: Path, provenance: Provenance, measured: dict[str, Any]) -> None:
        """Writes `config.json` (architecture, provenance, figures) and `model.safetensors`."""
        folder.mkdir(parents=True, exist_ok=True)
        trunk = {key: value for key, value in self.trunk.config.items() if not key.startswith("_")}
        config = {
            "trunk": trunk,
            "num_train_timesteps": self.num_train_timesteps,
            "provenance": provenance.model_dump(),
            "measured": measured,
            "cost": None if self.cost is None else self.cost.model_dump(),
        }
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        save_file(self.state_dict(), folder / "model.safetensors")

    @classmethod
    def load(cls, folder: Path, expected: Provenance | None = None) -> LatentProcessReward:
        """Loads a model written by `save`, in evaluation mode and frozen.

        Args:
            folder: where it was saved.
            expected: the base model it will guide.

        Raises:
            ProvenanceError: it was made for another latent space or base model, or does not exist.
        """
        from diffusers import WanTransformer3DModel

        if not (folder / "config.json").is_file():
            raise ProvenanceError(
                f"no process reward model at {str(folder)!r}; train one with `python -m rewards.train_prm`"
            )
        config = json.loads((folder / "config.json").read_text())
        if expected is not None:
            expected.require(Provenance(**config["provenance"]), f"the process reward at {str(folder)!r}")
        model = cls(WanTransformer3DModel(**config["trunk"]), config["num_train_timesteps"])
        model.load_state_dict(load_file(folder / "model.safetensors"))
        model.cost = Cost(**config["cost"]) if config.get("cost") else None
        return model.requires_grad_(False).eval()


def cut_transformer(transformer: Any, blocks: int) -> Any:
    """A trainable copy of the transformer's embedders and first `blocks` blocks, without its output layers.

    Raises:
        ValueError: the transformer has fewer blocks.
    """
    available = len(transformer.blocks)
    if not 1 <= blocks <= available:
        raise ValueError(f"blocks is {blocks}; this transformer has {available}: choose 1 to {available}")
    config = {key: value for key, value in transformer.config.items() if not key.startswith("_")}
    trunk = type(transformer)(**{**config, "num_layers": blocks})
    for name in ("rope", "patch_embedding", "condition_embedder"):
        setattr(trunk, name, copy.deepcopy(getattr(transformer, name)))
    trunk.blocks = nn.ModuleList(copy.deepcopy(block) for block in transformer.blocks[:blocks])
    return trunk.requires_grad_(True)
