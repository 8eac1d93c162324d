"""The losses of methods. A new objective is a separate file here, or in any package that registers one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, SerializeAsAny

from methods.naming import closest
from methods.objectives.base import Context, Loss, Needs, Network, Objective
from methods.objectives.clipped_ratio import ClippedRatio
from methods.objectives.direct_reward import DirectReward
from methods.objectives.divergence_mask import DivergenceMask
from methods.objectives.guarded_ratio import GuardedRatio
from methods.objectives.negative_aware import NegativeAware
from methods.objectives.preference import Preference
from methods.objectives.velocity_matching import AdvantageWeighted, RejectionSampling
from methods.registry import Registry

__all__ = [
    "OBJECTIVES",
    "AdvantageWeighted",
    "AnyObjective",
    "ClippedRatio",
    "Context",
    "DirectReward",
    "DivergenceMask",
    "GuardedRatio",
    "Loss",
    "Needs",
    "NegativeAware",
    "Network",
    "Objective",
    "Preference",
    "RejectionSampling",
]

#: Kind -> objective. Other packages add theirs as entry points of this group.
OBJECTIVES: Registry[type[Objective]] = Registry(
    "video_alignment_bench.objectives",
    {
        kind.model_fields["kind"].default: kind
        for kind in (
            ClippedRatio,
            GuardedRatio,
            DivergenceMask,
            NegativeAware,
            AdvantageWeighted,
            RejectionSampling,
            Preference,
            DirectReward,
        )
    },
)

# For code that asks the class for its kinds, such as field names.
Objective.registry = OBJECTIVES


def read_objective(values: Any) -> Any:
    """An objective from its fields, chosen by `kind`; other values are returned unchanged.

    Raises:
        ValueError: there is no such kind; names the closest match.
    """
    if isinstance(values, str):
        raise ValueError(f"give an objective's fields, such as {{kind: {values}}}")
    if not isinstance(values, Mapping):
        return values
    kind = values.get("kind", "clipped_ratio")
    if kind not in OBJECTIVES:
        raise ValueError(f"kind is {kind!r}; {closest(str(kind), OBJECTIVES)}")
    return OBJECTIVES[kind].model_validate(dict(values))


#: A field that holds any registered objective.
AnyObjective = Annotated[SerializeAsAny[Objective], BeforeValidator(read_objective)]
