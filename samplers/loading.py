"""A policy from a pipeline's folder, or from a model on the hub."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

from samplers.condition import Geometry
from samplers.families import Family, ModelError, family_of
from samplers.pipeline import PipelinePolicy, Scales
from samplers.prompts import PromptCache, folder_fingerprint

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w.-]+)?")


def is_hub_id(model: str | Path) -> bool:
    """Whether a model is named as on the hub: `owner/name` or `owner/name@revision`, and no such folder exists."""
    text = str(model)
    return bool(_HUB_ID.fullmatch(text)) and not Path(text).exists() and not Path(text.split("/")[0]).exists()


def model_folder(model: str | Path) -> Path:
    """The folder of a model: itself, or the download of a hub id.

    Raises:
        ModelError: it cannot be downloaded.
    """
    if not is_hub_id(model):
        return Path(model)
    name, _, revision = str(model).partition("@")
    try:
        return Path(snapshot_download(name, revision=revision or None))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = " ".join(str(error).split())
        raise ModelError(
            f"model {str(model)!r} is no folder here and cannot be downloaded ({type(error).__name__}: {reason}); "
            "give a folder that `pipeline.save_pretrained` wrote, or an id on the hub such as "
            "Wan-AI/Wan2.1-T2V-1.3B-Diffusers, with @revision to pin it"
        ) from error


def pipeline_family(folder: Path) -> Family:
    """The family of the pipeline in a folder.

    Raises:
        ModelError: there is no pipeline, or its family is not supported.
    """
    index = folder / "model_index.json"
    if not folder.is_dir():
        raise ModelError(f"model folder {str(folder)!r} does not exist")
    if not index.is_file():
        raise ModelError(
            f"model folder {str(folder)!r} is not a diffusers pipeline: it has no model_index.json; "
            "name the folder that `pipeline.save_pretrained` wrote"
        )
    try:
        return family_of(str(_index(folder).get("_class_name")))
    except ModelError as error:
        raise ModelError(f"model folder {str(folder)!r}: {error}") from error


def has_two_networks(folder: Path) -> bool:
    """Whether each row's noise level chooses one of two networks in the pipeline in a folder."""
    return _index(folder).get("boundary_ratio") is not None


def _index(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "model_index.json").read_text())


def load_policy(
    model: str | Path,
    geometry: Geometry,
    guidance_scale: float | Scales = 1.0,
    dtype: torch.dtype = torch.float32,
    prompts: PromptCache | None = None,
    **components: Any,
) -> PipelinePolicy:
    """Loads a pipeline.

    Args:
        model: a folder, or a hub id with an optional `@revision`.
        geometry: the videos to generate.
        guidance_scale: classifier-free guidance, or all scales.
        dtype: of the weights.
        prompts: encoded prompts to share; None for new ones in memory.
        components: modules to use instead of the folder's, such as `text_encoder=None`.

    Raises:
        ModelError: there is no pipeline, its family is not supported, or `geometry` does not fit its autoencoder.
    """
    folder = model_folder(model)
    family = pipeline_family(folder)
    pipeline = DiffusionPipeline.from_pretrained(
        str(folder), dtype=dtype, local_files_only=True, **components
    )
    pipeline.set_progress_bar_config(disable=True)
    family.check(pipeline, geometry)
    return PipelinePolicy(pipeline, geometry, guidance_scale, prompts=prompts or PromptCache())


def prompt_cache(model: str | Path, folder: Path, dtype: torch.dtype = torch.float32) -> PromptCache:
    """Encoded prompts on disk, in a folder of their own for each text encoder and precision.

    Args:
        model: whose text encoders and tokenizers encode.
        folder: holds the folders of all text encoders.
        dtype: that the text encoder runs in.
    """
    where = model_folder(model)
    parts = pipeline_family(where).text_parts
    names = [*parts, *(name.replace("text_encoder", "tokenizer") for name in parts)]
    precision = str(dtype).removeprefix("torch.")
    return PromptCache(folder / f"{folder_fingerprint([where / name for name in names])}-{precision}")
