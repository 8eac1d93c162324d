"""Tiny pipelines, each built, saved and loaded once in a process."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline

from samplers.loading import load_policy
from samplers.pipeline import PipelinePolicy, Scales
from samplers.prompts import PromptCache
from tests.families.pipelines import VARIANTS, built


class Tiny:
    """The variants' folders and policies. Tests must not change either."""

    def __init__(self, where: Path) -> None:
        self._where = where
        self._loaded = cache(self._load)

    def folder(self, name: str) -> Path:
        folder = self._where / name
        if not folder.exists():
            built(name).save_pretrained(folder)
        return folder

    def policy(
        self, name: str, scales: Scales | None = None, dtype: torch.dtype = torch.float32, **settings: Any
    ) -> PipelinePolicy:
        """Over a pipeline that all share; without guidance unless `scales` are given."""
        pipeline, prompts = self._loaded(name, dtype)
        return PipelinePolicy(
            pipeline, VARIANTS[name].geometry, scales or Scales(), prompts=prompts, **settings
        )

    def _load(self, name: str, dtype: torch.dtype) -> tuple[DiffusionPipeline, PromptCache]:
        policy = load_policy(self.folder(name), VARIANTS[name].geometry, dtype=dtype)
        VARIANTS[name].shrink(policy.pipeline)
        return policy.pipeline, PromptCache()


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return Tiny(tmp_path_factory.mktemp("families"))


@pytest.fixture(params=VARIANTS)
def name(request: pytest.FixtureRequest) -> str:
    """Every tiny pipeline."""
    return str(request.param)
