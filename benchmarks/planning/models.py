"""Models without their weights: configurations, and a pipeline on torch's meta device made from them."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from torch import Tensor, nn

from benchmarks.planning.meta import META
from benchmarks.settings import SettingsError
from methods.naming import closest
from samplers.condition import Condition, Geometry
from samplers.families import family_of
from samplers.loading import is_hub_id, pipeline_family
from samplers.pipeline import PipelinePolicy, Scales

INDEX = "model_index"
#: Tokens of a prompt that pipelines pad to, by tokenizer, where no other length is known.
_TOKENS = {
    "WanPipeline": {"tokenizer": 512},
    "HunyuanVideoPipeline": {"tokenizer": 256, "tokenizer_2": 77},
    "HunyuanVideo15Pipeline": {"tokenizer": 1000, "tokenizer_2": 256},
    "LTXPipeline": {"tokenizer": 128},
}


@dataclass(frozen=True)
class Configs:
    """The configurations of a diffusers pipeline.

    Attributes:
        name: the model as named in settings.
        parts: component -> content of its config.json; `model_index` is the pipeline's own.
    """

    name: str
    parts: Mapping[str, Mapping[str, Any]]

    @property
    def index(self) -> Mapping[str, Any]:
        """The content of model_index.json."""
        return self.parts[INDEX]

    @property
    def pipeline(self) -> str:
        """The class name of the pipeline."""
        return str(self.index["_class_name"])

    @property
    def components(self) -> dict[str, str]:
        """Component -> class name, of those that the pipeline has."""
        listed = {name: entry for name, entry in self.index.items() if isinstance(entry, list)}
        return {name: str(entry[1]) for name, entry in listed.items() if entry[1]}

    @property
    def transformers(self) -> list[str]:
        """The names of the denoising networks."""
        return [name for name in self.components if name.startswith("transformer")]

    @property
    def depths(self) -> dict[str, int]:
        """Field of the network's configuration -> number of blocks."""
        network = self.parts[self.transformers[0]]
        default = inspect.signature(getattr(diffusers, self.components["transformer"])).parameters
        counted = [field for _, field in family_of(self.pipeline).block_lists]
        return {field: int(network.get(field, default[field].default)) for field in counted}

    def with_depths(self, depths: Mapping[str, int]) -> Configs:
        """The same model with other numbers of blocks."""
        changed = {name: {**self.parts[name], **depths} for name in self.transformers}
        return Configs(self.name, {**self.parts, **changed})

    def tokens(self) -> dict[str, int]:
        """Tokenizer -> tokens of a prompt."""
        tokens = dict(_TOKENS[self.pipeline])
        given = self.parts.get("tokenizer", {}).get("model_max_length")
        if self.pipeline == "WanPipeline" and given is not None:
            tokens["tokenizer"] = min(int(given), tokens["tokenizer"])
        return tokens


def known_models() -> dict[str, Path]:
    """Hub id of a published checkpoint -> file with its shapes."""
    folder = Path(str(files("benchmarks.planning"))) / "shapes"
    return {json.loads(file.read_text())["model"]: file for file in sorted(folder.glob("*.json"))}


def configs_of(model: Path) -> Configs:
    """The configurations of a model; nothing is downloaded and no weights are read.

    Raises:
        SettingsError: it is neither a folder here nor a checkpoint whose shapes are known.
        ModelError: the folder holds no pipeline of a supported family.
    """
    if model.is_dir():
        return _of_folder(model)
    known, name = known_models(), str(model).partition("@")[0]
    if name in known:
        parts = json.loads(known[name].read_text())["parts"]
        return Configs(str(model), parts)
    what = "a hub id whose shapes are not known here" if is_hub_id(model) else "no folder"
    raise SettingsError(
        f"model is {str(model)!r}, {what}: give the folder of a downloaded pipeline, or one of "
        f"{', '.join(known)} ({closest(name, known)})"
    )


def _of_folder(folder: Path) -> Configs:
    pipeline_family(folder)  # refuses what is not supported
    parts = {INDEX: json.loads((folder / f"{INDEX}.json").read_text())}
    for file in sorted(folder.glob("*/*config.json")):
        if file.name in ("config.json", "scheduler_config.json", "tokenizer_config.json"):
            parts[file.parent.name] = json.loads(file.read_text())
    return Configs(str(folder), parts)


def meta_pipeline(configs: Configs, dtype: torch.dtype) -> Any:
    """The pipeline with networks and decoder on the meta device, without text encoders."""
    made: dict[str, Any] = {}
    for name, kind in configs.components.items():
        if name.startswith("transformer") or name == "vae":
            with META:
                made[name] = _in_dtype(getattr(diffusers, kind).from_config(dict(configs.parts[name])), dtype)
        elif name == "scheduler":
            made[name] = diffusers.FlowMatchEulerDiscreteScheduler()
    pipeline = getattr(diffusers, configs.pipeline)
    wanted = inspect.signature(pipeline.__init__).parameters
    given = {
        name: made.get(name, configs.index.get(name, field.default))
        for name, field in wanted.items()
        if name != "self"
    }
    absent = (inspect.Parameter.empty,)
    return pipeline(
        **{
            name: None if value in absent or isinstance(value, list) else value
            for name, value in given.items()
        }
    )


def _in_dtype(network: Any, dtype: torch.dtype) -> Any:
    """As `from_pretrained` loads it: some parts stay in float32 by their names."""
    wide = getattr(network, "_keep_in_fp32_modules", None) or []
    for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
        keeps = any(part in name.split(".") for part in wide)
        if tensor.is_floating_point() and not keeps and "rope" not in name:
            tensor.data = tensor.data.to(dtype)
    return network


def meta_policy(configs: Configs, geometry: Geometry, scales: Scales, dtype: torch.dtype) -> PipelinePolicy:
    """The pipeline as a policy on the meta device.

    Raises:
        ModelError: the geometry does not fit the model, or the scales do not.
    """
    pipeline = meta_pipeline(configs, dtype)
    family_of(configs.pipeline).check(pipeline, geometry)
    return PipelinePolicy(pipeline, geometry, scales)


def meta_condition(configs: Configs, policy: PipelinePolicy, rows: int) -> Condition:
    """Encoded prompts (rows, ...) on the meta device, as the family's network reads them."""
    dtype = policy.transformer.dtype
    text = {
        name: torch.empty((rows, *shape), device=META, dtype=dtype if wide else torch.int64)
        for name, (shape, wide) in _text_shapes(configs, policy.transformer.config).items()
    }
    return Condition(("",) * rows, text, dict(text) if policy.scales.guided else None)


def _text_shapes(configs: Configs, network: Any) -> dict[str, tuple[tuple[int, ...], bool]]:
    """Name -> shape of one encoded prompt, and whether it is floating."""
    tokens = configs.tokens()
    first, second = tokens["tokenizer"], tokens.get("tokenizer_2", 0)
    if configs.pipeline == "WanPipeline":
        return {"embeds": ((first, network.text_dim), True)}
    if configs.pipeline == "LTXPipeline":
        return {"embeds": ((first, network.caption_channels), True), "mask": ((first,), False)}
    embeds = {"embeds": ((first, network.text_embed_dim), True), "mask": ((first,), False)}
    if configs.pipeline == "HunyuanVideoPipeline":
        return {**embeds, "pooled": ((network.pooled_projection_dim,), True)}
    glyphs = {"glyphs": ((second, network.text_embed_2_dim), True), "glyph_mask": ((second,), False)}
    return {**embeds, **glyphs}


def text_encoder_parameters(configs: Configs) -> int:
    """The parameters of all text encoders of a pipeline."""
    total = 0
    for name in family_of(configs.pipeline).text_parts:
        kind, given = configs.components.get(name), configs.parts.get(name)
        if kind is None or given is None:
            continue
        model = getattr(transformers, kind)
        with META:
            total += numel(model(model.config_class.from_dict(dict(given))))
    return total


def numel(module: nn.Module) -> int:
    """The number of a module's parameters."""
    return sum(parameter.numel() for parameter in module.parameters())


def bytes_of(tensors: Any) -> int:
    """The memory of some tensors."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors if isinstance(tensor, Tensor))
