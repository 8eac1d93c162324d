"""A latent process reward model (PRM): the first blocks of the video transformer itself, read out by query attention.

Euphonium (arXiv 2602.04928) guides the sampler with the gradient of such a model: it sees x_t, t and the prompt
exactly as the policy does, so it is differentiable in the latent and needs no decoding.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rewards.base import Encoded
from rewards.cost import Cost
from rewards.provenance import Provenance, ProvenanceError
from samplers.condition import Text
from samplers.denoiser import Denoiser
from samplers.families import Family, family_of


class _Reached(Exception):
    """Carries the last block's hidden states out of the library's own forward pass, whose head is not needed."""

    def __init__(self, tokens: Tensor) -> None:
        super().__init__()
        self.tokens = tokens


def _stop(module: nn.Module, given: tuple[Any, ...], result: Any) -> None:
    """A forward hook: blocks that keep text in a stream of its own return (video, text)."""
    del module, given
    raise _Reached(result[0] if isinstance(result, tuple) else result)


def _blocks(family: Family, network: Any) -> list[nn.Module]:
    """All blocks of a network, in the order in which they run."""
    return [block for name, _ in family.block_lists for block in getattr(network, name)]


class LatentProcessReward(nn.Module):
    """r(x_t, t, c): a scalar for a noised latent, in the units of the loss that trained it (Bradley-Terry logits).

    Args:
        trunk: a denoiser already cut to its first blocks (`cut_denoiser`).

    Attributes:
        cost: compute used by its training, including its preference data; None if it was not recorded.
    """

    def __init__(self, trunk: Denoiser) -> None:
        super().__init__()
        self.family, self.constants = trunk.family, dict(trunk.constants)
        self.num_train_timesteps = trunk.train_timesteps
        self.trunk: Any = trunk.first  # diffusers models are typed as plain modules
        heads = self.trunk.config.num_attention_heads
        width = heads * self.trunk.config.attention_head_dim
        self.cost: Cost | None = None
        self.query = nn.Parameter(torch.zeros(1, 1, width))
        self.norm = nn.LayerNorm(width)
        self.pool = nn.MultiheadAttention(width, heads, batch_first=True)
        self.head = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, 1)
        )

    def forward(self, x: Tensor, sigma: Tensor, condition: Encoded) -> Tensor:
        """Scores noised latents.

        Args:
            x: (B, C, F', H', W') latents at noise level sigma.
            sigma: (B,) in [0, 1].
            condition: has `text`, name -> (B, ...).

        Returns:
            (B,) float32.
        """
        tokens = self.norm(self._tokens(x, sigma, condition.text).float())
        query = self.query.expand(len(x), -1, -1)
        pooled, _ = self.pool(query, tokens, tokens, need_weights=False)
        return self.head(pooled).flatten()

    def _tokens(self, x: Tensor, sigma: Tensor, text: Text) -> Tensor:
        """(B, tokens, width) hidden states of the video after the trunk's last block."""
        dtype = self.trunk.dtype
        cast = {
            name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in text.items()
        }
        timestep = sigma.to(torch.float32) * self.num_train_timesteps
        arguments = self.family.arguments(x.to(dtype), timestep, cast, self.constants)
        last = _blocks(self.family, self.trunk)[-1]
        hook = last.register_forward_hook(_stop)
        try:
            self.trunk(**arguments, return_dict=False)
        except _Reached as reached:
            return reached.tokens
        finally:
            hook.remove()
        raise RuntimeError(f"the last block of {type(self.trunk).__name__} was not run")

    def save(self, folder: Path, provenance: Provenance, measured: dict[str, Any]) -> None:
        """Writes `config.json` (architecture, provenance, figures) and `model.safetensors`."""
        folder.mkdir(parents=True, exist_ok=True)
        trunk = {key: value for key, value in self.trunk.config.items() if not key.startswith("_")}
        config = {
            "family": self.family.pipeline,
            "trunk": trunk,
            "constants": self.constants,
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
        import diffusers

        if not (folder / "config.json").is_file():
            raise ProvenanceError(
                f"no process reward model at {str(folder)!r}; train one with `python -m rewards.train_prm`"
            )
        config = json.loads((folder / "config.json").read_text())
        if expected is not None:
            expected.require(Provenance(**config["provenance"]), f"the process reward at {str(folder)!r}")
        # Models written before there were several families name none.
        family = family_of(config.get("family", "WanPipeline"))
        network = _headless(family, getattr(diffusers, family.transformer)(**config["trunk"]))
        constants, timesteps = config.get("constants", {}), config["num_train_timesteps"]
        model = cls(Denoiser(family, {"transformer": network}, constants, None, timesteps))
        model.load_state_dict(load_file(folder / "model.safetensors"))
        model.cost = Cost(**config["cost"]) if config.get("cost") else None
        return model.requires_grad_(False).eval()


def cut_denoiser(denoiser: Denoiser, blocks: int) -> Denoiser:
    """A trainable copy of a denoiser's first network: embedders and first `blocks` blocks, without its head.

    Raises:
        ValueError: the network has fewer blocks.
    """
    network, family = denoiser.first, denoiser.family
    available = len(_blocks(family, network))
    if not 1 <= blocks <= available:
        raise ValueError(f"blocks is {blocks}; this transformer has {available}: choose 1 to {available}")
    counts, left = {}, blocks
    for name, counted in family.block_lists:
        counts[counted] = min(left, len(getattr(network, name)))
        left -= counts[counted]
    config = {key: value for key, value in network.config.items() if not key.startswith("_")}
    trunk = _headless(family, type(network)(**{**config, **counts}))
    state = network.state_dict()
    # Assigned, not copied: every layer keeps its own precision, and Wan's norms are float32 in any model.
    trunk.load_state_dict({name: state[name].clone() for name in trunk.state_dict()}, assign=True)
    trunk.requires_grad_(True)
    return Denoiser(family, {"transformer": trunk}, denoiser.constants, None, denoiser.train_timesteps)


def _headless(family: Family, network: Any) -> Any:
    """A network without the parts that predict the velocity."""
    for name in family.head:
        if isinstance(getattr(network, name), nn.Parameter):
            network.register_parameter(name, None)
        else:
            setattr(network, name, nn.Identity())
    return network
