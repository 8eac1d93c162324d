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

from samplers.pipeline import PipelinePolicy

#: Linear layers of a diffusers video transformer: attention projections and feed-forward.
LORA_TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "ffn.net.0.proj", "ffn.net.2")


#: The copy that averages the trained weights, if a method has one.
AVERAGE = "average"


class WeightSettings(BaseModel):
    """Which weights are trained.

    Attributes:
        kind: "lora" adapters or "full".
        rank: rank of the adapters.
        alpha: sets the adapters' scale, alpha / rank.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["lora", "full"] = "lora"
    rank: int = Field(default=32, ge=1)
    alpha: float = Field(default=64, gt=0)


class TrainedWeights:
    """The trainable part of a policy's transformer.

    Args:
        policy: the policy; its transformer is frozen except for the trained part.
        settings: which part is trained.
        seed: seed of the adapters' initialisation. They start as the identity: the policy is the base model.
        reference: whether the base model's velocity is needed (for a KL term).
        copies: names of copies of the trained weights, initially equal to them.
    """

    def __init__(
        self,
        policy: PipelinePolicy,
        settings: WeightSettings,
        seed: int,
        reference: bool,
        copies: Iterable[str] = (),
    ) -> None:
        self._transformer: Any = policy.transformer
        self._policy = policy
        self.settings = settings
        self._base: nn.Module | None = None
        if settings.kind == "lora":
            config = LoraConfig(
                r=settings.rank,
                lora_alpha=settings.alpha,
                target_modules=list(LORA_TARGETS),
                init_lora_weights=True,
            )
            with torch.random.fork_rng():  # peft draws from the global generator
                torch.manual_seed(seed)
                self._transformer.add_adapter(config)
        else:
            if reference:
                self._base = copy.deepcopy(self._transformer)
            self._transformer.requires_grad_(True)
        #: Name -> the copy's tensors, in the order of `parameters`.
        self.copies: dict[str, list[Tensor]] = {
            name: [parameter.detach().clone() for parameter in self.parameters] for name in sorted(copies)
        }

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The parameters that are trained."""
        return [parameter for parameter in self._transformer.parameters() if parameter.requires_grad]

    def state_dict(self) -> dict[str, Tensor]:
        """Copies of the trained weights, on the CPU."""
        state = (
            get_peft_model_state_dict(self._transformer)
            if self.settings.kind == "lora"
            else self._transformer.state_dict()
        )
        return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in state.items()}

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
        if self.settings.kind == "lora":
            set_peft_model_state_dict(self._transformer, state)
        else:
            self._transformer.load_state_dict(state)

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
            self._transformer.disable_adapters()
            try:
                yield
            finally:
                self._transformer.enable_adapters()
            return
        if self._base is None:
            raise ValueError("the base model was not kept: create TrainedWeights with reference=True")
        trained = self._policy.transformer
        self._policy.transformer = self._base
        try:
            yield
        finally:
            self._policy.transformer = trained
