"""Each method as settings, with its reference. A new method is a new entry."""

from __future__ import annotations

from typing import Any

from methods.method import Method, differing
from methods.naming import closest
from methods.objectives import (
    AdvantageWeighted,
    ClippedRatio,
    DirectReward,
    DivergenceMask,
    GuardedRatio,
    NegativeAware,
    Preference,
    RejectionSampling,
)
from methods.parts import AdvantageSettings, BestOf, Distillation, Optimiser, ProcessLoss, WeightAverage
from methods.registry import Registry
from samplers import PRESETS


def _like(nearest: Method, **changes: Any) -> Method:
    """A copy of a method with some fields changed."""
    return Method(**{**dict(nearest), **changes})


FLOW_GRPO = Method(
    name="flow_grpo",
    reference="Flow-GRPO, arXiv 2505.05470 (SD3 settings; group 24, std over the batch)",
    sampler=PRESETS["flow_grpo"],
    group_size=24,
    same_initial_noise=False,
    advantage=AdvantageSettings(std="batch", unbiased=False, eps=1e-4),
    objective=ClippedRatio(clip_range=1e-4, train_fraction=0.99),
    distillation=Distillation(weight=0.01, strength=0.0),
    updates_per_rollout=2,
    average=WeightAverage(decay=0.9, every=8),
    optimiser=Optimiser(learning_rate=3e-4),
)

DANCE_GRPO = Method(
    name="dance_grpo",
    reference="DanceGRPO, arXiv 2505.07818 (Wan 2.1 settings: no best-of-n)",
    sampler=PRESETS["dance_grpo_wan"],
    group_size=12,
    same_initial_noise=True,
    objective=ClippedRatio(train_fraction=0.6),
    optimiser=Optimiser(learning_rate=1e-5),
)

EUPHONIUM_PUBLISHED = Method(
    name="euphonium_published",
    reference="Euphonium, arXiv 2602.04928 (released code: guidance 0.01 D grad r on steps 12 to 15 of 16)",
    sampler=PRESETS["euphonium"],
    group_size=8,
    same_initial_noise=True,
    objective=ClippedRatio(train_fraction=0.6),
    process=ProcessLoss(weight=1.0, credit="state"),
    updates_per_rollout=2,
    optimiser=Optimiser(learning_rate=1e-6),
)


def _distilling(name: str, nearest: Method, sde: str) -> Method:
    """Another method with distillation of Euphonium's guided base model."""
    reference = f"Euphonium, arXiv 2602.04928: the guided base model distilled (docs/theory.md); {sde}'s SDE"
    target = Distillation(weight=1.0, strength=16.0)
    return _like(nearest, name=name, reference=reference, distillation=target)


EUPHONIUM = _distilling("euphonium", FLOW_GRPO, "Flow-GRPO")
EUPHONIUM_DANCE = _distilling("euphonium_dance", DANCE_GRPO, "DanceGRPO")

DANCE_GRPO_HUNYUAN = _like(
    DANCE_GRPO,
    name="dance_grpo_hunyuan",
    reference="DanceGRPO, arXiv 2505.07818 (HunyuanVideo settings: the best and worst four of 24)",
    sampler=PRESETS["dance_grpo"],
    group_size=24,
    best_of=BestOf(best=4, worst=4),
    updates_per_rollout=2,
)

MIX_GRPO = Method(
    name="mix_grpo",
    reference="MixGRPO, arXiv 2507.21802 (FLUX settings: a window of 4 of 25 steps that slides)",
    sampler=PRESETS["mix_grpo"],
    group_size=12,
    same_initial_noise=True,
    updates_per_rollout=4,
    optimiser=Optimiser(learning_rate=1e-5),
)

FLOW_GRPO_FAST = _like(
    FLOW_GRPO,
    name="flow_grpo_fast",
    reference="Flow-GRPO-Fast, github.com/yifan123/flow_grpo (two random SDE steps after one ODE prefix a prompt)",
    sampler=PRESETS["flow_grpo_fast"],
    same_initial_noise=True,
    objective=ClippedRatio(clip_range=1e-5),
    distillation=None,
)

FLOW_CPS = _like(
    FLOW_GRPO,
    name="flow_cps",
    reference="Flow-CPS, arXiv 2509.05952 (its step and log-probability, in Flow-GRPO's recipe)",
    sampler=PRESETS["flow_cps"],
    objective=ClippedRatio(clip_range=1e-5, train_fraction=0.99),
    distillation=None,
)

GRPO_GUARD = _like(
    FLOW_GRPO,
    name="grpo_guard",
    reference="GRPO-Guard, arXiv 2510.22319 (SD3 settings of its authors' code)",
    advantage=AdvantageSettings(std="group", unbiased=False, eps=1e-4),
    objective=GuardedRatio(clip_range=2e-6, train_fraction=0.99),
    distillation=None,
    optimiser=Optimiser(learning_rate=1e-4),
)

TEMPFLOW_GRPO = _like(
    FLOW_GRPO,
    name="tempflow_grpo",
    reference="TempFlow-GRPO, arXiv 2508.04324 (its noise-weighted steps; without branching)",
    advantage=AdvantageSettings(std="group", unbiased=False, eps=1e-4),
    objective=ClippedRatio(clip_range=1e-4, train_fraction=0.99, step_weight="noise"),
    distillation=Distillation(weight=0.004, strength=0.0),
)

FLOW_DPPO = _like(
    FLOW_GRPO,
    name="flow_dppo",
    reference="Flow-DPPO, arXiv 2606.11025 (settings of UniRL's recipe)",
    sampler=PRESETS["flow_dppo"],
    group_size=16,
    objective=DivergenceMask(limit=1e-5),
    distillation=None,
)

DIFFUSION_NFT = Method(
    name="diffusion_nft",
    reference="DiffusionNFT, arXiv 2509.16117 (SD3.5 settings; rollouts by Euler steps, not its solver of order 2)",
    sampler=PRESETS["ode_sd3"],
    group_size=24,
    same_initial_noise=False,
    advantage=AdvantageSettings(std="batch", unbiased=False, eps=1e-4),
    objective=NegativeAware(beta=0.1, train_fraction=0.99),
    distillation=Distillation(weight=1e-4, strength=0.0),
    average=WeightAverage(decay=0.9),
    optimiser=Optimiser(learning_rate=3e-4),
)

AWM = _like(
    DIFFUSION_NFT,
    name="awm",
    reference="AWM, arXiv 2509.25050 (GenEval settings; its advantages are divided by 5, rollouts by Euler steps)",
    sampler=PRESETS["ode_sd3"].replace(num_steps=14),
    objective=AdvantageWeighted(train_fraction=0.45),
    outcome_weight=0.2,
    distillation=Distillation(weight=3e-3, strength=0.0),
    average=WeightAverage(decay=0.99),
)

REJECTION_SAMPLING = _like(
    DIFFUSION_NFT,
    name="rejection_sampling",
    reference="Online fine-tuning on the best of each group (RAFT, arXiv 2304.06767), as Flow-GRPO's repository has it",
    objective=RejectionSampling(train_fraction=0.99),
    distillation=Distillation(weight=100, strength=0.0),
    average=None,
)

ONLINE_DPO = _like(
    DIFFUSION_NFT,
    name="online_dpo",
    reference="Diffusion-DPO, arXiv 2311.12908, online: the best against the worst, as Flow-GRPO's repository has it",
    sampler=PRESETS["ode_sd3"].replace(num_steps=40),
    objective=Preference(beta=100, refresh=40, train_fraction=0.99),
    distillation=None,
    average=None,
)

REFL = Method(
    name="refl",
    reference="ReFL, arXiv 2304.05977 (its steps and scale; without the hinge and the pretraining loss)",
    sampler=PRESETS["ode_sd3"].replace(num_steps=40),
    group_size=2,
    same_initial_noise=False,
    objective=DirectReward(through="estimate", last=10, scale=1e-3),
    optimiser=Optimiser(learning_rate=1e-5),
)

DRAFT = _like(
    REFL,
    name="draft",
    reference="DRaFT-1, arXiv 2309.17400 (50 steps, gradient through the last)",
    sampler=PRESETS["ode_sd3"].replace(num_steps=50),
    objective=DirectReward(through="steps", last=1),
    optimiser=Optimiser(learning_rate=2e-4),
)

#: Name -> method, with its published settings. Other packages add theirs as entry points of this group.
CATALOG: Registry[Method] = Registry(
    "video_alignment_bench.methods",
    {
        method.name: method
        for method in (
            EUPHONIUM,
            EUPHONIUM_DANCE,
            EUPHONIUM_PUBLISHED,
            FLOW_GRPO,
            FLOW_GRPO_FAST,
            FLOW_CPS,
            FLOW_DPPO,
            GRPO_GUARD,
            TEMPFLOW_GRPO,
            DANCE_GRPO,
            DANCE_GRPO_HUNYUAN,
            MIX_GRPO,
            DIFFUSION_NFT,
            AWM,
            REJECTION_SAMPLING,
            ONLINE_DPO,
            REFL,
            DRAFT,
        )
    },
)


def method_named(name: str) -> Method:
    """The catalogue's entry.

    Raises:
        ValueError: no such method; names the closest match.
    """
    if name not in CATALOG:
        raise ValueError(f"unknown method {name!r}; {closest(name, CATALOG)}")
    return CATALOG[name]


def difference(first: Method | str, second: Method | str) -> dict[str, tuple[Any, ...]]:
    """The fields in which two methods differ, with both values.

    Args:
        first: a method, or its name in the catalogue.
        second: likewise.

    Raises:
        ValueError: no such method; names the nearest.
    """
    return differing([method_named(one) if isinstance(one, str) else one for one in (first, second)])
