"""What a run has trained, in diffusers' format and with a model card, so that other programs can use it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from diffusers.loaders import WanLoraLoaderMixin
from huggingface_hub import ModelCard, ModelCardData

from analysis.schema import in_words
from benchmarks.settings import RunSettings
from methods.weights import FIRST, TrainedWeights
from rewards.suites import Suite
from samplers.loading import is_hub_id
from samplers.pipeline import PipelinePolicy

WEIGHTS_FOLDER = "weights"
"""In the folder of a run."""

_TEMPLATE = Path(__file__).parent / "templates" / "model_card.md"
_FILES = {True: "pytorch_lora_weights.safetensors", False: "pytorch_lora_weights_2.safetensors"}


def write_weights(folder: Path, weights: TrainedWeights, card: str) -> None:
    """Writes the trained part of a policy and its model card; replaces a folder of an earlier attempt.

    Adapters are one file for each network, which `pipe.load_lora_weights` reads; other weights are folders that
    `from_pretrained` reads.

    Args:
        folder: is made.
        weights: the trained part; what is evaluated (`methods.weights.TrainedWeights.using`) must be in place.
        card: the text of README.md.
    """
    beside = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    for name, network in weights.networks.items():
        if weights.settings.kind == "lora":
            # The format is the same for all families, and not every pipeline can write it.
            WanLoraLoaderMixin.save_lora_weights(
                beside,
                {key: value.contiguous() for key, value in weights.adapter(name).items()},
                weight_name=_FILES[name == FIRST],
                transformer_lora_adapter_metadata=_metadata(network),
            )
        else:
            network.save_pretrained(beside / name)
    (beside / "README.md").write_text(card, encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    beside.rename(folder)


def _metadata(network: Any) -> dict[str, Any]:
    """The adapter's configuration, whose alpha a reader would otherwise guess."""
    settings = network.peft_config["default"].to_dict()
    return {name: sorted(value) if isinstance(value, set) else value for name, value in settings.items()}


def model_card(
    settings: RunSettings, suite: Suite, policy: PipelinePolicy, method: str, seed: int, reward: float | None
) -> str:
    """A model card: which run, method, budget and rewards made the weights, and how to load them.

    Args:
        settings: the run's.
        suite: its rewards.
        policy: the trained policy.
        method, seed: which run.
        reward: mean headline reward on held-out prompts at the end; None if it is unknown.
    """
    name, _, revision = str(settings.model).partition("@") if is_hub_id(settings.model) else ("", "", "")
    lora = settings.weights.kind == "lora"
    data = ModelCardData(
        base_model=name or None,
        library_name="diffusers",
        pipeline_tag="text-to-video",
        tags=["reinforcement-learning", *(["lora"] if lora else [])],
    )
    card = ModelCard.from_template(
        data,
        template_path=str(_TEMPLATE),
        settings=settings,
        suite=suite,
        method=settings.method_settings[method],
        seed=seed,
        reward=reward,
        budget=in_words(settings.budget, settings.budget_unit),
        base=name or settings.model.name,
        revision=revision,
        family=policy.family,
        networks=list(policy.plain.networks),
        files=list(_FILES.values()),
        lora=lora,
        loads=hasattr(policy.pipeline, "load_lora_weights"),
    )
    return str(card)
