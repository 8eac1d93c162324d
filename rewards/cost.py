"""The cost of making a model, and an operation counter that covers every operation our networks use."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count


class Cost(BaseModel):
    """Compute used once, in the units of a budget.

    Attributes:
        tflops: floating-point operations of matrix products, convolutions and attention, in 10^12; a
            multiply-add counts as two.
        nfe: forward evaluations of the policy's network for one latent.
        videos: videos generated.
        seconds: wall-clock time.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    tflops: float = Field(ge=0)
    nfe: float = Field(default=0, ge=0)
    videos: float = Field(default=0, ge=0)
    seconds: float = Field(default=0, ge=0)

    def __add__(self, other: Cost) -> Cost:
        return Cost(**{name: getattr(self, name) + getattr(other, name) for name in Cost.model_fields})


def _attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(query.shape, key.shape, value.shape)


def _attention_backward(gradient: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return sdpa_backward_flop_count(gradient.shape, query.shape, key.shape, value.shape)


#: Operation -> its count: torch's own, and the CPU's attention kernel, which torch does not count.
_COUNTS: dict[Any, Any] = {
    **flop_registry,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}


class FlopCounter(TorchDispatchMode):
    """Counts the floating-point operations of the enclosed code, forward and backward, without changing any result.

    Its counts equal those of torch's FlopCounterMode, which decomposes composite operations and so rounds gradients
    differently. Here the first iteration of a run is counted, and its result must not depend on that.

    Attributes:
        flops: operations so far, of matrix products, convolutions and attention.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs an operation and adds its count."""
        kwargs = kwargs or {}
        result = function(*args, **kwargs)
        count = _COUNTS.get(function._overloadpacket)
        if count is not None:
            self.flops += count(*args, **kwargs, out_val=result)
        return result

    @property
    def tflops(self) -> float:
        """The same in 10^12."""
        return self.flops / 1e12
