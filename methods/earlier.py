"""Translation of settings written by earlier versions into the current fields."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: Fields that now belong to the objective; earlier, every objective was a clipped ratio.
OF_OBJECTIVE = ("clip_range", "train_fraction", "train_last_step")


def translated(values: Mapping[str, Any]) -> dict[str, Any]:
    """A method's fields under their current names.

    Earlier versions had only the clipped ratio as objective, with its fields among the method's own.

    They also had a `kl_weight`, the KL to the base model, besides a `distillation` whose target was built on the
    policy that drew the rollouts, with the same guidance. Files of those versions always name `kl_weight`.

    Args:
        values: fields of a `Method`, of any version.

    Raises:
        ValueError: both were set, which are now one setting.
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
