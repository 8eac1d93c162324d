"""The cost of one call of each model, measured on the meta device with few blocks and extended to all."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.planning.meta import META, Footprint, enable_checkpointing, shapes_only
from benchmarks.planning.models import (
    Configs,
    bytes_of,
    meta_condition,
    meta_policy,
    numel,
    text_encoder_parameters,
)
from benchmarks.settings import RunSettings
from methods.weights import TrainedWeights
from rewards.process import LatentProcessReward, cut_denoiser
from rewards.train_prm import PrmTraining
from samplers.condition import Condition
from samplers.denoiser import Denoiser
from samplers.families import Family, family_of
from samplers.guidance import reward_value_and_gradient
from samplers.pipeline import PipelinePolicy

#: Blocks of each list that are measured, by the number of lists; a deeper network costs in proportion.
_DEPTHS = {1: (2,), 2: (2, 2)}
#: Blocks of a second list whose inputs outweigh what one block needs while it is computed again.
_MANY = 20


@dataclass(frozen=True)
class CallCost:
    """What one call costs.

    Attributes:
        peak: bytes beyond what was held before.
        operations: dtype -> operations.
    """

    peak: float = 0.0
    operations: Mapping[torch.dtype, float] = field(default_factory=dict)

    @property
    def tflops(self) -> float:
        """All operations, in 10^12."""
        return sum(self.operations.values()) / 1e12

    def plus(self, other: CallCost, times: float = 1.0) -> CallCost:
        """The sum with a multiple of another."""
        dtypes = {*self.operations, *other.operations}
        operations = {d: self.operations.get(d, 0.0) + times * other.operations.get(d, 0.0) for d in dtypes}
        return CallCost(self.peak + times * other.peak, operations)


@dataclass(frozen=True)
class Sizes:
    """Numbers of parameters and bytes.

    Attributes:
        network: bytes of the denoising networks.
        parameters: of one denoising network.
        trained: trained parameters.
        trained_bytes: their memory.
        decoder: bytes of the decoder.
        latent: bytes of one sample's latents, in float32.
        text: bytes of one encoded prompt.
        text_encoders: their bytes.
    """

    network: float
    parameters: float
    trained: float
    trained_bytes: float
    decoder: float
    latent: float
    text: float
    text_encoders: float


class _Model:
    """A policy on the meta device with some number of blocks, its adapters and its process reward."""

    def __init__(self, configs: Configs, settings: RunSettings, blocks: int, trained: bool) -> None:
        execution = settings.execution
        self.configs, self.blocks, self.autocast = configs, blocks, settings.precision == "bf16"
        geometry, dtype = settings.video, execution.torch_dtype
        self.policy: PipelinePolicy = meta_policy(configs, geometry, settings.scales, dtype)
        self.policy.decode_batch = execution.decode_batch
        if execution.vae_tiling:
            self.policy.pipeline.vae.enable_tiling()
        if execution.vae_slicing and self.policy.family.slices:
            self.policy.pipeline.vae.enable_slicing()
        self.networks = list(self.policy.plain.networks.values())
        plain = self.policy.plain
        # One network: which of two a row goes to depends on its noise level, and both cost the same.
        self.policy.denoiser = Denoiser(plain.family, {"transformer": plain.first}, plain.constants)
        if trained:
            with META:
                self.weights = TrainedWeights(self.policy, settings.weights, 0, False)
            if execution.gradient_checkpointing:
                enable_checkpointing(plain.first, self.autocast)

    @cached_property
    def process(self) -> LatentProcessReward:
        """The process reward, in float32 as it is loaded."""
        with META:
            trunk = cut_denoiser(self.policy.plain, self.blocks)
            reward = LatentProcessReward(trunk).requires_grad_(False)
        for parameter in reward.parameters():
            parameter.data = parameter.data.float()
        return reward

    def inputs(self, rows: int) -> tuple[Tensor, Tensor, Condition]:
        """Latents, noise levels and prompts of some rows."""
        x = torch.empty((rows, *self.policy.latent_shape), device=META)
        return x, torch.empty(rows, device=META), meta_condition(self.configs, self.policy, rows)

    def network(self, rows: int, adapters: bool, through: frozenset[str]) -> CallCost:
        """A call of the network, and its backward pass if there is one."""
        x, sigma, condition = self.inputs(rows)
        x.requires_grad_("x" in through)
        if adapters and through:
            for parameter in self.weights.parameters:
                parameter.requires_grad_("weights" in through)
                parameter.grad = torch.zeros_like(parameter)  # there from the second iteration on
        frozen = not through
        with torch.set_grad_enabled(not frozen), self._adapters(adapters):
            return measured(lambda: self._pass(x, sigma, condition, frozen), self.autocast)

    def _adapters(self, on: bool) -> AbstractContextManager[None]:
        lora = hasattr(self, "weights") and self.weights.settings.kind == "lora"
        return nullcontext() if on or not lora else self.weights.reference()

    def _pass(self, x: Tensor, sigma: Tensor, condition: Condition, frozen: bool) -> None:
        velocity = self.policy.velocity(x, sigma, condition)
        if not frozen:
            velocity.square().mean().backward()

    def guidance(self, rows: int, gradient: bool) -> CallCost:
        """The process reward of some rows, and its gradient."""
        x, sigma, condition = self.inputs(rows)
        if gradient:
            return measured(lambda: reward_value_and_gradient(self.process, x, sigma, condition))
        with torch.no_grad():
            return measured(lambda: self.process(x, sigma, condition))

    def decode(self, rows: int, gradient: bool) -> CallCost:
        """Decoding some rows, and the gradient in the latents."""
        x = self.inputs(rows)[0].requires_grad_(gradient)

        def decoded() -> Tensor:
            videos = self.policy.decode(x)
            return videos.mean().backward() if gradient else videos

        with torch.set_grad_enabled(gradient):
            return measured(decoded)


def measured(call: Callable[[], Any], autocast: bool = False) -> CallCost:
    """What a call on the meta device costs; its result is held to the end."""
    with shapes_only(autocast), Footprint() as seen:
        result = call()
    del result
    return CallCost(seen.peak, dict(seen.by_dtype))


def measured_alike(settings: RunSettings) -> str:
    """Equal for runs of one model whose calls cost the same."""
    elsewhere = {"trajectories", "offload_decoder", "prompt_cache"}
    scales = settings.model_dump_json(include={"model", "process_reward", "video", "precision", "weights"})
    return f"{settings.execution.model_dump_json(exclude=elsewhere)} {settings.scales} {scales}"


class Measurements:
    """Costs of a run's models, each measured once.

    Args:
        configs: the base model.
        settings: the run.
    """

    def __init__(self, configs: Configs, settings: RunSettings) -> None:
        self.configs, self.settings = configs, settings
        self._models: dict[tuple[Any, ...], _Model] = {}
        self._known: dict[tuple[Any, ...], CallCost] = {}

    def network(self, rows: int, adapters: bool = True, through: frozenset[str] = frozenset()) -> CallCost:
        """A velocity of some rows (prompts: two evaluations each under guidance) and its backward pass.

        Args:
            rows: latents.
            adapters: whether the trained weights are in use.
            through: what gradients are taken of, "x" and "weights"; empty for a forward pass.
        """
        key = ("network", rows, adapters, through)
        recomputes = bool(through) and self.settings.execution.gradient_checkpointing

        def measure(model: _Model) -> CallCost:
            return model.network(rows, adapters, through)

        return self._cached(key, lambda: self._deep(measure, recomputes=recomputes))

    def guidance(self, rows: int, gradient: bool) -> CallCost:
        """The process reward of some rows, and its gradient."""
        model = self._model({}, self.process_blocks)
        return self._cached(("guidance", rows, gradient), lambda: model.guidance(rows, gradient))

    def decode(self, rows: int, gradient: bool = False) -> CallCost:
        """Decoding some rows, `execution.decode_batch` at a time; in proportion to one row and two."""
        one = self._decoded(1, gradient)
        if rows == 1:
            return one
        most = self.settings.execution.decode_batch
        batch = min(rows, self.policy_family.decode_batch or most, most)
        if gradient:  # every part's graph is kept
            return one.plus(self._decoded(2, True).plus(one, -1.0), rows - 1)
        each = self._decoded(2, False).plus(one, -1.0) if batch > 1 else one
        part = one.peak + (batch - 1) * each.peak + (rows - batch) * self.video_bytes
        # The parts, joined, and the step to [0, 1] with its result.
        return CallCost(max(part, 3.0 * rows * self.video_bytes), CallCost().plus(one, rows).operations)

    def _decoded(self, rows: int, gradient: bool) -> CallCost:
        model = self._model(dict(zip(self.configs.depths, (1, 1), strict=False)))
        return self._cached(("decode", rows, gradient), lambda: model.decode(rows, gradient))

    @property
    def policy_family(self) -> Family:
        """The pipeline's family."""
        return family_of(self.configs.pipeline)

    @property
    def video_bytes(self) -> float:
        """The memory of one video, in float32."""
        video = self.settings.video
        return 4.0 * 3 * video.num_frames * video.height * video.width

    def network_row(self, adapters: bool, through: frozenset[str]) -> CallCost:
        """The operations of one row; from a batch, if one was measured."""
        for key, cost in self._known.items():
            if key[0] == "network" and key[2:] == (adapters, through):
                return CallCost().plus(cost, 1 / key[1])
        return self.network(1, adapters, through)

    def guidance_row(self, gradient: bool) -> CallCost:
        """The same of the process reward."""
        for key, cost in self._known.items():
            if key[0] == "guidance" and key[2] == gradient:
                return CallCost().plus(cost, 1 / key[1])
        return self.guidance(1, gradient)

    @cached_property
    def process_blocks(self) -> int:
        """Blocks of the process reward: as many as the run's own has, if it lies here, else what training makes."""
        file = Path(self.settings.process_reward) / "config.json"
        network = self.configs.parts[self.configs.transformers[0]]
        if file.is_file():
            trunk = json.loads(file.read_text())["trunk"]
            if all(trunk.get(name) == network.get(name) for name in ("num_attention_heads", "text_dim")):
                return sum(int(trunk[counted]) for counted in self.configs.depths)
        return int(PrmTraining.model_fields["blocks"].default)

    @cached_property
    def process_bytes(self) -> float:
        """Memory of the process reward."""
        return float(bytes_of(self._model({}, self.process_blocks).process.parameters()))

    @cached_property
    def sizes(self) -> Sizes:
        """Numbers of parameters and bytes."""
        shallow = self._model(dict(zip(self.configs.depths, (1, 1), strict=False)))
        policy, width = shallow.policy, self.settings.execution.torch_dtype.itemsize
        networks = len(self.configs.transformers)
        text = meta_condition(self.configs, policy, 1).text
        return Sizes(
            network=networks * self._sum(lambda model: bytes_of(model.networks[0].parameters())),
            parameters=self._sum(lambda model: numel(model.networks[0])),
            trained=networks * self._sum(_trained_count, trained=True),
            trained_bytes=networks * self._sum(_trained_bytes, trained=True),
            decoder=bytes_of(policy.pipeline.vae.parameters()),
            latent=4.0 * torch.Size(policy.latent_shape).numel(),
            text=bytes_of(text.values()),
            text_encoders=width * text_encoder_parameters(self.configs),
        )

    def _sum(self, count: Callable[[_Model], float], trained: bool = False) -> float:
        """A number that grows with each block, for the whole network."""
        return self._deep(lambda model: CallCost(count(model)), trained).peak

    def _deep(
        self, measure: Callable[[_Model], CallCost], trained: bool = True, recomputes: bool = False
    ) -> CallCost:
        """A cost at the network's full depth, from few blocks; `recomputes` says whether blocks are computed twice."""
        depths = self.configs.depths
        few = dict(zip(depths, _DEPTHS[len(depths)], strict=True))
        if all(depths[name] <= few[name] + 1 for name in depths):
            return measure(self._model(depths, trained=trained))

        def at(counts: Mapping[str, int]) -> CallCost:
            return measure(self._model(counts, trained=trained))

        base = at(few)
        slopes = {name: at({**few, name: few[name] + 1}).plus(base, -1.0) for name in depths}
        total = _extended(base, slopes, {name: depths[name] - few[name] for name in depths})
        if not (recomputes and len(depths) == 2 and depths[tuple(depths)[1]] > _MANY):
            return total
        # The peak may also lie where the last block is computed again, while the inputs of all blocks are held: the
        # first list's own peak comes after the last list's inputs were freed. With many blocks it shows.
        first, last = depths
        late = at({first: 1, last: _MANY})
        slopes[last] = at({first: 1, last: _MANY + 1}).plus(late, -1.0)
        other = _extended(late, slopes, {first: depths[first] - 1, last: depths[last] - _MANY})
        return CallCost(max(total.peak, other.peak), total.operations)

    def _model(self, depths: Mapping[str, int], blocks: int = 0, trained: bool = False) -> _Model:
        key = (*depths.items(), blocks, trained)
        if key not in self._models:
            configs = self.configs.with_depths(depths or _enough(self.configs, blocks))
            self._models[key] = _Model(configs, self.settings, blocks, trained)
        return self._models[key]

    def _cached(self, key: tuple[Any, ...], measure: Callable[[], CallCost]) -> CallCost:
        if key not in self._known:
            self._known[key] = measure()
        return self._known[key]


def _extended(base: CallCost, slopes: Mapping[str, CallCost], more: Mapping[str, int]) -> CallCost:
    """A cost with more blocks, each at its list's own cost."""
    for name, count in more.items():
        base = base.plus(slopes[name], count)
    return base


def _enough(configs: Configs, blocks: int) -> dict[str, int]:
    """Depths of a network with at least this many blocks, filled in the order in which they run."""
    found, left = {}, blocks
    for name, depth in configs.depths.items():
        found[name] = max(1, min(left, depth))
        left -= found[name]
    return found


def _trained_count(model: _Model) -> float:
    return sum(parameter.numel() for parameter in model.weights.parameters)


def _trained_bytes(model: _Model) -> float:
    return bytes_of(model.weights.parameters)
