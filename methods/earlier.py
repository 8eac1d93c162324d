"""Settings that earlier versions wrote, in today's fields."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: Fields that are the objective's now; all objectives were clipped ratios then.
OF_OBJECTIVE = ("clip_range", "train_fraction", "train_last_step")


def translated(values: Mapping[str, Any]) -> dict[str, Any]:
    """A method's fields as they are called now.

    Earlier versions had the clipped ratio for their only objective, and its fields among the method's own.

    Earlier versions had a `kl_weight`, the KL to the base model, beside a `distillation` whose target was built on the
    policy that drew the rollouts and guided as they were. Files of those versions always name `kl_weight`.

    Args:
        values: fields of a `Method`, of any version.

    Raises:
        ValueError: both were set, which is one setting now.
    """
    now = {name: value for name, value in values.items() if name not in OF_OBJECTIVE}
    if len(now) < len(values) and "objective" not in now:
        now["objective"] = {"kind": "clipped_ratio"} | {
            name: values[name] for name in OF_OBJECTIVE if name in values
        }
    if "kl_weight" not in now:
        return now
    del now["kl_weight"]
    weight, distillation = values["kl_weight"], now.get("distillation")
    if isinstance(distillation, Mapping):
        if weight:
            raise ValueError(
                f"kl_weight is {weight} and distillation is set: they are one setting now, a KL to one reference; "
                "leave one of them out"
            )
        now["distillation"] = {"anchor": "policy", **distillation}
    elif weight:
        now["distillation"] = {"weight": weight, "anchor": "base", "strength": 0.0}
    return now
