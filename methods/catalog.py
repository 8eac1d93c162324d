"""Each method as settings, with its reference. A new method is a new entry."""

from __future__ import annotations

from methods.method import Method
from methods.naming import closest
from methods.parts import AdvantageSettings, Distillation, Optimiser, ProcessLoss
from samplers import PRESETS

FLOW_GRPO = Method(
    name="flow_grpo",
    reference="Flow-GRPO, arXiv 2505.05470 (SD3 settings; group 24, std over the batch)",
    sampler=PRESETS["flow_grpo"],
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
    sampler=PRESETS["dance_grpo_wan"],
    group_size=12,
    same_initial_noise=True,
    train_fraction=0.6,
    optimiser=Optimiser(learning_rate=1e-5),
)

EUPHONIUM_PUBLISHED = Method(
    name="euphonium_published",
    reference="Euphonium, arXiv 2602.04928 (released code: guidance 0.01 D grad r on steps 12 to 15 of 16)",
    sampler=PRESETS["euphonium"],
    group_size=8,
    same_initial_noise=True,
    train_fraction=0.6,
    process=ProcessLoss(weight=1.0, credit="state"),
    updates_per_rollout=2,
    optimiser=Optimiser(learning_rate=1e-6),
)


def _distilling(name: str, nearest: Method, sde: str) -> Method:
    """Euphonium's guided base model, distilled by a method that is otherwise another one's."""
    reference = f"Euphonium, arXiv 2602.04928: the guided base model distilled (docs/theory.md); {sde}'s SDE"
    target = Distillation(weight=1.0, strength=16.0)
    return nearest.model_copy(update={"name": name, "reference": reference, "distillation": target})


EUPHONIUM = _distilling("euphonium", FLOW_GRPO, "Flow-GRPO")
EUPHONIUM_DANCE = _distilling("euphonium_dance", DANCE_GRPO, "DanceGRPO")

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
