"""Families of diffusers text-to-video pipelines, by the class name of the pipeline."""

from __future__ import annotations

from samplers.families.base import Constants, Family, ModelError
from samplers.families.hunyuan_video import HunyuanVideo
from samplers.families.hunyuan_video15 import HunyuanVideo15
from samplers.families.ltx import LTXVideo
from samplers.families.wan import Wan

FAMILIES: dict[str, Family] = {
    family.pipeline: family for family in (Wan(), HunyuanVideo(), HunyuanVideo15(), LTXVideo())
}

#: Why a pipeline that users may try cannot be trained.
REFUSED = {
    "LTX2Pipeline": "its network denoises video and sound together, with one state for both",
    "CogVideoXPipeline": "it is no flow-matching model",
    "WanImageToVideoPipeline": "prompts have no image here; use the text-to-video checkpoint",
    "HunyuanVideoImageToVideoPipeline": "prompts have no image here; use the text-to-video checkpoint",
}


def family_of(pipeline_class: str) -> Family:
    """The family of a pipeline.

    Raises:
        ModelError: it is not supported; says why, and what is.
    """
    if pipeline_class in FAMILIES:
        return FAMILIES[pipeline_class]
    why = f": {REFUSED[pipeline_class]}" if pipeline_class in REFUSED else ""
    raise ModelError(
        f"pipeline family {pipeline_class!r} is not supported{why}; supported: {', '.join(FAMILIES)}"
    )


__all__ = ["FAMILIES", "REFUSED", "Constants", "Family", "ModelError", "family_of"]
