"""The final comparison: rewards of each method at the end of training, as a tidy frame and as a reader sees it."""

from __future__ import annotations

import pandas as pd

from analysis import text
from analysis.curves import final_values, run_status, seed_means
from analysis.records import Records
from analysis.schema import BASE, SPLITS
from analysis.statistics import Interval, paired_gain
from analysis.tables.text_table import TextTable

COLUMNS = (
    "split",
    "method",
    "reward",
    "role",
    "base",
    "final",
    "gain",
    "low",
    "high",
    "seeds",
    "iterations",
    "seconds",
)


def final_table(run: Records) -> pd.DataFrame:
    """One row per (split, method, reward), tidy, with the base model's own rows first.

    `final` is the mean over the seeds that finished, `gain` its difference from `base`, `low` and `high`
    the 95 % interval of the gain over seeds (NaN with fewer than two), `seconds` the mean training time of
    a seed. A method without a finished seed has a row with `seeds` 0 and no numbers.
    """
    means, values = seed_means(run), final_values(run)
    base = means[means["method"] == BASE].set_index(["split", "reward"])["value"]
    status = run_status(run)
    counted = status[status["counted"].astype(bool)]
    seconds = counted.groupby("method")["train_seconds"].mean()
    groups = dict(iter(values.groupby(["split", "method", "reward"], observed=True)))
    rows: list[dict[str, object]] = []
    for split in run.splits:
        for method in (BASE, *run.methods):
            for reward in run.rewards:
                start = float(base.get((split, reward), float("nan")))
                row = {"split": split, "method": method, "reward": reward, "role": run.suite.role(reward)}
                group = groups.get((split, method, reward))
                rows.append({**row, "base": start, "seconds": seconds.get(method), **_summary(group)})
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    numbers = ["base", "final", "gain", "low", "high", "iterations", "seconds"]
    return table.astype({**dict.fromkeys(numbers, "float64"), "seeds": "int64"})


def _summary(group: pd.DataFrame | None) -> dict[str, float]:
    if group is None:
        return {"seeds": 0}
    gain = paired_gain(group["final"].to_numpy(), group["base"].to_numpy())
    return {
        "final": float(group["final"].to_numpy().mean()),
        "gain": gain.mean,
        "low": gain.low,
        "high": gain.high,
        "seeds": gain.n,
        "iterations": float(group["iteration"].mean()),
    }


def format_table(
    table: pd.DataFrame,
    split: str = "held_out",
    width: int | None = None,
) -> TextTable:
    """The final table of one prompt split as strings.

    A row is a method and a column a reward, `base → final` above `gain ± half the 95 % interval`. If that
    is wider than `width` characters, the methods are listed under each reward instead, which fits 80.
    """
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, not {split!r}")
    part = table[table["split"] == split]
    names = list(dict.fromkeys(part["reward"]))
    wide = _wide(part, names, split)
    return wide if width is None or wide.width <= width else _long(part, names, split)


def _note(part: pd.DataFrame) -> str:
    lacking = part[(part["method"] != BASE) & (part["seeds"] < 2)]
    note = (
        "Gains are over the base model; ± is half the 95 % interval over seeds (Student's t). "
        "Time is the training of one seed."
    )
    none = list(dict.fromkeys(lacking.loc[lacking["seeds"] == 0, "method"]))
    single = list(dict.fromkeys(lacking.loc[lacking["seeds"] == 1, "method"]))
    if (part["role"] == "training").any():
        note += " * trained on."
    if none:
        note += f" No seed of {text.listed(none, 'or')} finished."
    if single:
        note += f" One seed of {text.listed(single)}: no interval."
    return note


def _gain(row: pd.Series) -> str:
    gain = Interval(row["gain"], row["low"], row["high"], int(row["seeds"]))
    if not gain.known:
        return f"{text.signed(gain.mean)} (seeds alike)" if gain.alike else text.signed(gain.mean)
    return f"{text.signed(gain.mean)} ± {text.number(gain.half_width)}"


def _change(row: pd.Series) -> str:
    if row["method"] == BASE:
        return text.number(row["base"])
    return text.NONE if pd.isna(row["final"]) else f"{text.number(row['base'])} → {text.number(row['final'])}"


def _tail(row: pd.Series) -> tuple[str, str]:
    if row["method"] == BASE:
        return text.NONE, text.NONE
    return str(row["seeds"]), text.seconds(row["seconds"])


def _starred(part: pd.DataFrame, reward: str) -> str:
    trained = (part.loc[part["reward"] == reward, "role"] == "training").any()
    return text.reward_name(reward) + ("*" if trained else "")


def _title(split: str) -> str:
    return f"Final rewards on {text.SPLIT_NAMES[split]}"


def _wide(part: pd.DataFrame, names: list[str], split: str) -> TextTable:
    rows = []
    for method, group in part.groupby("method", sort=False):
        entries = {row["reward"]: row for _, row in group.iterrows()}
        cells = [_change(entries[name]) for name in names]
        if method != BASE:
            gains = [_gain(entries[name]) for name in names]
            pairs = zip(cells, gains, strict=True)
            cells = [cell if gain == text.NONE else f"{cell}\n{gain}" for cell, gain in pairs]
        rows.append((str(method), *cells, *_tail(entries[names[0]])))
    columns = ("method", *(_starred(part, name) for name in names), "seeds", "time")
    return TextTable(_title(split), columns, tuple(rows), _note(part))


def _long(part: pd.DataFrame, names: list[str], split: str) -> TextTable:
    rows: list[tuple[str, ...]] = []
    for name in names:
        for _, row in part[part["reward"] == name].iterrows():
            if row["method"] == BASE:
                rows.append((_starred(part, name), _change(row), ""))
            else:
                rows.append((f"  {row['method']}", _change(row), _gain(row)))
    rows.append(("training", "seeds", "time of one"))
    once = part[(part["reward"] == names[0]) & (part["method"] != BASE)]
    rows += [(f"  {row['method']}", *_tail(row)) for _, row in once.iterrows()]
    return TextTable(_title(split), ("reward / method", "base → final", "gain"), tuple(rows), _note(part))


def status_table(run: Records) -> TextTable:
    """Seeds that did not finish, with the error that stopped them."""
    status = run_status(run)
    rows = []
    for _, row in status[~status["counted"].astype(bool)].iterrows():
        iterations = text.NONE if pd.isna(row["iterations"]) else f"{row['iterations']:.0f}"
        why = str(row["error"]) if row["error"] else text.NONE
        rows.append((str(row["method"]), str(row["seed"]), str(row["status"]), iterations, why))
    return TextTable(
        "Seeds that did not finish", ("method", "seed", "status", "iterations", "error"), tuple(rows)
    )
