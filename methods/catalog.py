"""Each method as settings, with its reference. A new method is a new entry."""

from __future__ import annotations

from methods.method import Method
from methods.naming import closest
from methods.parts import AdvantageSettings, Distillation, Optimiser, ProcessLoss
from samplers import Guidance, Noise, SamplerSettings

FLOW_GRPO = Method(
    name="flow_grpo",
    reference="Flow-GRPO, arXiv 2505.05470 (SD3 settings; group 24, std over the batch)",
    sampler=SamplerSettings(num_steps=10, shift=3.0, noise=Noise(kind="flow_grpo", level=0.7)),
    group_size=24,
    same_initial_noise=False,
    train_fraction=0.99,
    advantage=AdvantageSettings(std="batch", unbiased=False, eps=1e-4),
    clip_range=1e-4,
    distillation=Distillation(weight=0.01, strength=0.0),
    updates_per_rollout=2,
    optimiser=Optimiser(learning_rate=3e-4),
)

DANCE_GRPO = Method(
    name="dance_grpo",
    reference="DanceGRPO, arXiv 2505.07818 (Wan 2.1 settings: no best-of-n)",
    sampler=SamplerSettings(num_steps=20, shift=3.0, noise=Noise(kind="constant", level=0.3)),
    group_size=12,
    same_initial_noise=True,
    train_fraction=0.6,
    optimiser=Optimiser(learning_rate=1e-5),
)

EUPHONIUM_PUBLISHED = Method(
    name="euphonium_published",
    reference="Euphonium, arXiv 2602.04928 (released code: guidance 0.01 D grad r on steps 12 to 15 of 16)",
    sampler=SamplerSettings(
        num_steps=16,
        shift=5.0,
        noise=Noise(kind="constant", level=0.25),
        guidance=Guidance(strength=0.32, start=12),
        score_mean="unguided",
    ),
    group_size=8,
    same_initial_noise=True,
    train_fraction=0.6,
    process=ProcessLoss(weight=1.0, credit="state"),
    updates_per_rollout=2,
    optimiser=Optimiser(learning_rate=1e-6),
)

EUPHONIUM = FLOW_GRPO.model_copy(
    update={
        "name": "euphonium",
        "reference": "Euphonium, arXiv 2602.04928: the guided base model distilled (docs/theory.md); Flow-GRPO's SDE",
        "distillation": Distillation(weight=1.0, strength=16.0),
    }
)

EUPHONIUM_DANCE = DANCE_GRPO.model_copy(
    update={
        "name": "euphonium_dance",
        "reference": "Euphonium, arXiv 2602.04928: the guided base model distilled (docs/theory.md); DanceGRPO's SDE",
        "distillation": Distillation(weight=1.0, strength=16.0),
    }
)

#: Name -> method, with its published settings.
CATALOG: dict[str, Method] = {
    method.name: method for method in (EUPHONIUM, EUPHONIUM_DANCE, EUPHONIUM_PUBLISHED, FLOW_GRPO, DANCE_GRPO)
}


def method_named(name: str) -> Method:
    """The catalogue's entry.

    Raises:
        ValueError: no such method; names the nearest.
    """
    if name not in CATALOG:
        raise ValueError(f"unknown method {name!r}; {closest(name, CATALOG)}")
    return CATALOG[name]
