"""The final comparison: rewards of each method at the end of training, as a tidy frame and as a reader sees it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import product

import pandas as pd

from analysis import text
from analysis.curves import final_values, run_status, seed_means
from analysis.records import Records
from analysis.schema import BASE, SPLITS
from analysis.statistics import Interval, paired_gain
from analysis.tables.text_table import TextTable

_NUMBERS = ["base", "final", "gain", "low", "high", "seeds", "iterations", "seconds"]
COLUMNS = ["split", "method", "reward", "role", *_NUMBERS]


def final_table(run: Records) -> pd.DataFrame:
    """One row per (split, method, reward), tidy, with the base model's own rows first.

    `final` is the mean over the seeds that finished, `gain` its difference from `base`, `low` and `high`
    the 95 % interval of the gain over seeds (NaN with fewer than two), `seconds` the mean training time of
    a seed. A method without a finished seed has a row with `seeds` 0 and no numbers.
    """
    means, status = seed_means(run), run_status(run)
    base = means[means["method"] == BASE].set_index(["split", "reward"])["value"]
    seconds = status[status["counted"]].groupby("method")["train_seconds"].mean()
    groups = dict(iter(final_values(run).groupby(["split", "method", "reward"])))
    rows: list[dict[str, object]] = []
    for split, method, reward in product(run.splits, (BASE, *run.methods), run.rewards):
        row: dict[str, object] = {"split": split, "method": method, "reward": reward}
        row |= {"role": run.suite.role(reward)}
        row |= {"base": base.get((split, reward)), "seconds": seconds.get(method), "seeds": 0}
        rows.append(row | _summary(groups.get((split, method, reward))))
    table = pd.DataFrame(rows, columns=COLUMNS)
    return table.astype({**dict.fromkeys(_NUMBERS, "float64"), "seeds": "int64"})


def _summary(group: pd.DataFrame | None) -> dict[str, object]:
    if group is None:
        return {}
    gain = paired_gain(group["final"].to_numpy(), group["base"].to_numpy())
    numbers = {"gain": gain.mean, "low": gain.low, "high": gain.high, "seeds": gain.n}
    return {"final": group["final"].to_numpy().mean(), "iterations": group["iteration"].mean(), **numbers}


def format_table(table: pd.DataFrame, split: str = "held_out", width: int | None = None) -> TextTable:
    """The final table of one prompt split as strings.

    A row is a method and a column a reward, `base → final` above `gain ± half the 95 % interval`. Of a table that
    is wider than `width` characters the last rewards are left out, and named in its note.
    """
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, not {split!r}")
    part = table[table["split"] == split]
    methods = [own.set_index("reward") for _, own in part.groupby("method", sort=False)]
    roles = dict(zip(part["reward"], part["role"], strict=True))
    names = [text.starred(reward, role) for reward, role in roles.items()]
    cells = [partial(_cell, reward) for reward in roles]
    title, note = f"Final rewards on {text.SPLIT_NAMES[split]}", _note(part)
    for kept in range(max(len(roles), 1), 0, -1):
        columns: dict[str, Callable[[pd.DataFrame], str]] = {"method": lambda own: str(own["method"].iloc[0])}
        columns |= dict(zip(names[:kept], cells, strict=False))
        columns |= {
            "seeds": partial(_training, "seeds", str),
            "time": partial(_training, "seconds", text.seconds),
        }
        left_out = f" For want of width without {text.listed(names[kept:])}." if kept < len(names) else ""
        shown = TextTable.of(title, methods, columns, note + left_out)
        if width is None or shown.width <= width:
            break
    return shown


def _note(part: pd.DataFrame) -> str:
    note = (
        "Gains are over the base model; ± is half the 95 % interval over seeds (Student's t). "
        "Time is the training of one seed."
    )
    trained = part[part["method"] != BASE]
    none, single = (trained.loc[trained["seeds"] == count, "method"].unique().tolist() for count in (0, 1))
    if (part["role"] == "training").any():
        note += " * trained on."
    if none:
        note += f" No seed of {text.listed(none, 'or')} finished."
    if single:
        note += f" One seed of {text.listed(single)}: no interval."
    return note


def _cell(reward: str, own: pd.DataFrame) -> str:
    """Of one method's rows: base and final value of a reward, its gain below."""
    row = own.loc[reward].to_dict()
    if row["method"] == BASE:
        return text.number(row["base"])
    if pd.isna(row["final"]):
        return text.NONE
    gain = Interval(row["gain"], row["low"], row["high"], int(row["seeds"]))
    doubt = f" ± {text.number(gain.half_width)}" if gain.known else " (seeds alike)" if gain.alike else ""
    below = "" if pd.isna(gain.mean) else f"\n{text.signed(gain.mean)}{doubt}"
    return text.change(row["base"], row["final"]) + below


def _training(column: str, show: Callable[[float], str], own: pd.DataFrame) -> str:
    """Of one method's rows: how many seeds were trained, or how long one took."""
    row = own.iloc[0]
    return text.NONE if row["method"] == BASE else show(row[column])
