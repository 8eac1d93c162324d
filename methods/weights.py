"""The trained weights (LoRA through peft, or all weights), and the base model as reference policy."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from methods.naming import closest
from samplers.pipeline import PipelinePolicy

#: The copy that averages the trained weights, if a method has one.
AVERAGE = "average"

#: Names in the pipeline: of the only network, or the one for high noise; and what precedes the second one's weights.
FIRST, SECOND = "transformer", "transformer_2."


class WeightSettings(BaseModel):
    """Which weights are trained.

    Attributes:
        kind: "lora" adapters or "full".
        rank: rank of the adapters.
        alpha: sets the adapters' scale, alpha / rank.
        targets: name endings of the layers that get adapters; None for the family's attention and feed-forward.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["lora", "full"] = "lora"
    rank: int = Field(default=32, ge=1)
    alpha: float = Field(default=64, gt=0)
    targets: tuple[str, ...] | None = Field(default=None, min_length=1)


class WeightsError(ValueError):
    """The trained part of a model cannot be made; names the setting, its value and the remedy."""


class TrainedWeights:
    """The trainable part of a policy's networks.

    Args:
        policy: the policy; its networks are frozen except for the trained part.
        settings: which part is trained.
        seed: seed of the adapters' initialisation. They start as the identity: the policy is the base model.
        reference: whether the base model's velocity is needed (for a KL term).
        copies: names of copies of the trained weights, initially equal to them.

    Raises:
        WeightsError: a network has no layer of a target's name.
    """

    def __init__(
        self,
        policy: PipelinePolicy,
        settings: WeightSettings,
        seed: int,
        reference: bool,
        copies: Iterable[str] = (),
    ) -> None:
        self._policy = policy
        self._denoiser: Any = policy.denoiser
        #: Name in the pipeline -> network; two for Wan 2.2 A14B.
        self.networks: dict[str, Any] = dict(policy.plain.networks.items())
        self.settings = settings
        self._base: nn.Module | None = None
        family = policy.family
        if settings.kind == "lora":
            config = LoraConfig(
                r=settings.rank,
                lora_alpha=settings.alpha,
                target_modules=checked_targets(policy, settings),
                exclude_modules=policy.family.idle_layers(policy.transformer) or None,
                init_lora_weights=True,
            )
            with torch.random.fork_rng():  # peft draws from the global generator
                torch.manual_seed(seed)
                for network in self.networks.values():
                    network.add_adapter(config)
            for parameter in self.parameters:  # adapters step in float32, whatever the base model's precision
                parameter.data = parameter.data.float()
        else:
            if reference:
                self._base = copy.deepcopy(self._denoiser)
            self._denoiser.requires_grad_(True)
            for network in self.networks.values():
                for layer in family.idle_layers(network):  # without a gradient processes would wait for
                    network.get_submodule(layer).requires_grad_(False)
        #: Name -> the copy's tensors, in the order of `parameters`.
        self.copies: dict[str, list[Tensor]] = {
            name: [parameter.detach().clone() for parameter in self.parameters] for name in sorted(copies)
        }

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The parameters that are trained."""
        return [parameter for parameter in self._denoiser.parameters() if parameter.requires_grad]

    def state_dict(self) -> dict[str, Tensor]:
        """Copies of the trained weights, on the CPU; of a second network below `transformer_2.`."""
        state: dict[str, Tensor] = {}
        for network, module in self.networks.items():
            own = self.adapter(network) if self.settings.kind == "lora" else module.state_dict()
            state |= {_prefix(network) + name: tensor for name, tensor in own.items()}
        return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in state.items()}

    def adapter(self, network: str) -> dict[str, Tensor]:
        """The adapter of one network, in peft's names."""
        return get_peft_model_state_dict(self.networks[network])

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restores the result of `state_dict`.

        Raises:
            ValueError: the weights have another kind, rank or model.
        """
        expected = {name: tensor.shape for name, tensor in self.state_dict().items()}
        found = {name: tensor.shape for name, tensor in state.items()}
        if expected != found:
            name = sorted(set(expected.items()) ^ set(found.items()))[0][0]
            raise ValueError(
                f"checkpoint does not fit these weights ({self.settings.kind}): {name} is {found.get(name)}, "
                f"expected {expected.get(name)}"
            )
        for network, module in self.networks.items():
            own = {
                name.removeprefix(_prefix(network)): tensor
                for name, tensor in state.items()
                if name.startswith(SECOND) == (network != FIRST)
            }
            if self.settings.kind == "lora":
                set_peft_model_state_dict(module, own)
            else:
                module.load_state_dict(own)

    def copies_state_dict(self) -> dict[str, Tensor]:
        """The copies' weights, on the CPU."""
        return {
            f"{name}.{row}": tensor.to("cpu", copy=True).contiguous()
            for name, tensors in self.copies.items()
            for row, tensor in enumerate(tensors)
        }

    def load_copies_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restores the result of `copies_state_dict`.

        Raises:
            ValueError: the copies have other names, or belong to other weights.
        """
        expected = {name: tensor.shape for name, tensor in self.copies_state_dict().items()}
        if expected != {name: tensor.shape for name, tensor in state.items()}:
            raise ValueError(
                f"checkpoint has other copies of the weights than {sorted(self.copies) or 'none'}"
            )
        for name, tensors in self.copies.items():
            for row, tensor in enumerate(tensors):
                tensor.copy_(state[f"{name}.{row}"])

    @contextmanager
    def using(self, network: str) -> Iterator[None]:
        """Within, the policy has the weights of "policy", "base" (see `reference`) or a copy; do not train there.

        Raises:
            KeyError: there is no such copy.
        """
        if network == "policy":
            yield
        elif network == "base":
            with self.reference():
                yield
        else:
            self._swap(network)
            try:
                yield
            finally:
                self._swap(network)

    def _swap(self, copy: str) -> None:
        """Swaps the trained weights and a copy without copying data."""
        for parameter, tensor in zip(self.parameters, self.copies[copy], strict=True):
            parameter.data, tensor.data = tensor.data, parameter.data

    @contextmanager
    def reference(self) -> Iterator[None]:
        """In this context the policy's velocity is that of the base model."""
        if self.settings.kind == "lora":
            for network in self.networks.values():
                network.disable_adapters()
            try:
                yield
            finally:
                for network in self.networks.values():
                    network.enable_adapters()
            return
        if self._base is None:
            raise ValueError("the base model was not kept: create TrainedWeights with reference=True")
        trained = self._policy.denoiser
        self._policy.denoiser = self._base
        try:
            yield
        finally:
            self._policy.denoiser = trained


def _prefix(network: str) -> str:
    """What precedes the names of a network's weights in a state."""
    return "" if network == FIRST else SECOND


def checked_targets(policy: PipelinePolicy, settings: WeightSettings) -> list[str]:
    """The layers that get adapters. Each must exist: a name of another family would train nothing, without a word.

    Raises:
        WeightsError: a network has no linear layer of that name.
    """
    usual = policy.family.lora_targets
    targets = list(settings.targets or usual)
    for name, network in policy.plain.networks.items():
        _require_targets(name, network, targets, usual)
    return targets


def _require_targets(name: str, network: nn.Module, targets: Iterable[str], usual: Iterable[str]) -> None:
    """Checks that every target is a linear layer's name: a name of another family would train nothing, without a word.

    Args:
        name: the network's, in the pipeline.
        network: the network.
        targets: name endings.
        usual: the family's own, suggested with the network's other layers in place of a wrong one.

    Raises:
        WeightsError: one is not.
    """
    layers = [layer for layer, module in network.named_modules() if isinstance(module, nn.Linear)]
    for target in targets:
        if not any(layer == target or layer.endswith(f".{target}") for layer in layers):
            endings = {".".join(layer.split(".")[2:]) for layer in layers if layer.count(".") > 1}
            raise WeightsError(
                f"weights.targets names {target!r}, and {name} ({type(network).__name__}) has no such linear layer; "
                f"{closest(target, {*usual, *endings})}"
            )
