"""Running code on torch's meta device: nothing is computed, and operations and memory are counted."""

from __future__ import annotations

import weakref
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.checkpoint import checkpoint

from rewards.cost import FlopCounter

META = torch.device("meta")

functional = nn.functional
#: What CUDA's autocast runs in the lower precision, and what in float32.
_LOWER = {
    *(functional.linear, functional.conv1d, functional.conv2d, functional.conv3d),
    *(functional.scaled_dot_product_attention, torch.matmul, torch.bmm, torch.mm, torch.addmm, torch.baddbmm),
    *(Tensor.matmul, Tensor.__matmul__, Tensor.bmm, Tensor.mm),
}
_WIDE = {
    *(functional.layer_norm, functional.group_norm, functional.softmax, functional.rms_norm),
    *(torch.softmax, torch.pow, torch.exp, torch.rsqrt, torch.sum, torch.norm),
    *(Tensor.softmax, Tensor.pow, Tensor.exp, Tensor.rsqrt, Tensor.sum, Tensor.norm),
}


class ShapesOnly(TorchFunctionMode):
    """Lets networks that look at values run without any.

    Attention is one fused operation, as it is on a GPU: its memory grows with the number of tokens and not with their
    square. A mask keeps every token, and no condition on values holds by chance: `bool` of a tensor is True.
    """

    def __init__(self) -> None:
        super().__init__()
        self._inverted: weakref.WeakSet[Tensor] = weakref.WeakSet()

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs a function of torch, or what stands for it."""
        kwargs = kwargs or {}
        if function is functional.scaled_dot_product_attention:
            return _fused_attention(*args, **kwargs)
        if function is Tensor.__bool__ and args[0].device == META:
            return True
        if function is Tensor.__getitem__ and _is_mask(args[1]):
            return args[0][:0] if any(args[1] is one for one in self._inverted) else args[0][:]
        result = function(*args, **kwargs)
        if function in (Tensor.__invert__, Tensor.bitwise_not) and _is_mask(result):
            self._inverted.add(result)
        return result


def _is_mask(index: Any) -> bool:
    return isinstance(index, Tensor) and index.dtype == torch.bool and index.device == META


def _fused_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """(B, H, S, D) attention; torch's own choice on the meta device holds all scores at once."""
    if enable_gqa:
        repeats = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
    if attn_mask is not None:
        bias = torch.zeros((), dtype=query.dtype, device=META)
        attn_mask = torch.where(attn_mask, bias, bias) if attn_mask.dtype == torch.bool else attn_mask
    fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    return fused(query, key, value, dropout_p, is_causal, attn_mask=attn_mask, scale=scale)[0]


class Autocast(TorchFunctionMode):
    """CUDA's autocast to bfloat16, which the meta device lacks: products in bfloat16, norms and sums in float32."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs a function of torch with its arguments cast."""
        kwargs = kwargs or {}
        if function in _LOWER:
            args, kwargs = _cast((args, kwargs), torch.bfloat16)
        elif function in _WIDE:
            args, kwargs = _cast((args, kwargs), torch.float32)
        return function(*args, **kwargs)


def _cast(arguments: Any, dtype: torch.dtype) -> Any:
    def cast(tensor: Tensor) -> Tensor:
        return tensor.to(dtype) if tensor.is_floating_point() else tensor

    return tree_map_only(Tensor, cast, arguments)


class Footprint(FlopCounter):
    """Counts operations by dtype, and the memory of tensors made by the enclosed code while they live.

    Works on any device. Memory that single operations need while they run is not seen, such as workspaces of
    convolutions.

    Attributes:
        by_dtype: dtype of the result -> operations; a GPU runs float32 much more slowly than bfloat16.
        held: bytes alive now.
        peak: the most at any time.
    """

    def __init__(self) -> None:
        super().__init__()
        self.by_dtype: dict[torch.dtype, int] = defaultdict(int)
        self.held = self.peak = 0
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs an operation, adds its count and notes new storages."""
        before = self.flops
        result = super().__torch_dispatch__(function, types, args, kwargs)
        made = () if _shares(function) else _tensors(result)
        if self.flops > before:
            self.by_dtype[made[0].dtype] += self.flops - before
        for tensor in made:
            storage = tensor.untyped_storage()
            if storage._cdata not in self._sizes:
                self._enter(storage._cdata, storage)
        return result

    def _enter(self, place: int, storage: Any) -> None:
        self._sizes[place] = storage.nbytes()
        self.held += self._sizes[place]
        self.peak = max(self.peak, self.held)
        weakref.finalize(storage, self._leave, place)

    def _leave(self, place: int) -> None:
        self.held -= self._sizes.pop(place, 0)


@cache
def _shares(function: Any) -> bool:
    """Whether an operation's result shares its input's storage: views, and operations in place."""
    returned = [result.alias_info for result in function._schema.returns]
    return bool(returned) and all(alias is not None for alias in returned)


def _tensors(values: Any) -> Sequence[Tensor]:
    if isinstance(values, Tensor):
        return (values,)
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


@contextmanager
def shapes_only(autocast: bool = False) -> Iterator[None]:
    """In this context networks on the meta device run for their shapes, under autocast if so wished."""
    with ShapesOnly(), Autocast() if autocast else nullcontext():
        yield


def enable_checkpointing(network: Any, autocast: bool = False) -> None:
    """Gradient checkpointing of a diffusers network on the meta device.

    A backward pass runs outside the modes of the code that starts it: what is computed again must enter them itself.
    """

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), shapes_only(autocast)

    def checkpointed(block: nn.Module, *given: Any) -> Any:
        return checkpoint(block, *given, use_reentrant=False, context_fn=contexts)

    network.enable_gradient_checkpointing(gradient_checkpointing_func=checkpointed)
