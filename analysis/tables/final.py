"""The final comparison: rewards of each method at the end of training, as a tidy frame and as a reader sees it."""

from __future__ import annotations

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
    for split in run.splits:
        for method in (BASE, *run.methods):
            for reward in run.rewards:
                row: dict[str, object] = {
                    "split": split,
                    "method": method,
                    "reward": reward,
                    "role": run.suite.role(reward),
                }
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

    A row is a method and a column a reward, `base → final` above `gain ± half the 95 % interval`. If that
    is wider than `width` characters, the methods are listed under each reward instead, which fits 80.
    """
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, not {split!r}")
    part = table[table["split"] == split]
    cells = {(row["method"], row["reward"]): (_change(row), _gain(row)) for _, row in part.iterrows()}
    tails = {row["method"]: _tail(row) for _, row in part.iterrows()}
    names = {row["reward"]: text.starred(row["reward"], row["role"]) for _, row in part.iterrows()}
    title, note = f"Final rewards on {text.SPLIT_NAMES[split]}", _note(part)
    rows: list[tuple[str, ...]] = [
        (method, *("\n".join(filter(None, cells[method, reward])) for reward in names), *tail)
        for method, tail in tails.items()
    ]
    wide = TextTable(title, ("method", *names.values(), "seeds", "time"), tuple(rows), note)
    if width is None or wide.width <= width:
        return wide
    trained = [method for method in tails if method != BASE]
    rows = []
    for reward, name in names.items():
        rows.append((name, *cells[BASE, reward]))
        rows += [(f"  {method}", *cells[method, reward]) for method in trained]
    rows.append(("training", "seeds", "time of one"))
    rows += [(f"  {method}", *tails[method]) for method in trained]
    return TextTable(title, ("reward / method", "base → final", "gain"), tuple(rows), note)


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


def _change(row: pd.Series) -> str:
    if row["method"] == BASE:
        return text.number(row["base"])
    return text.NONE if pd.isna(row["final"]) else text.change(row["base"], row["final"])


def _gain(row: pd.Series) -> str:
    gain = Interval(row["gain"], row["low"], row["high"], int(row["seeds"]))
    if pd.isna(gain.mean):
        return ""
    doubt = f" ± {text.number(gain.half_width)}" if gain.known else " (seeds alike)" if gain.alike else ""
    return text.signed(gain.mean) + doubt


def _tail(row: pd.Series) -> tuple[str, str]:
    return (
        (text.NONE, text.NONE) if row["method"] == BASE else (str(row["seeds"]), text.seconds(row["seconds"]))
    )


def status_table(run: Records) -> TextTable:
    """Seeds that did not finish, with the error that stopped them."""
    status = run_status(run)
    rows = []
    for _, row in status[~status["counted"]].iterrows():
        iterations = text.NONE if pd.isna(row["iterations"]) else f"{row['iterations']:.0f}"
        why = str(row["error"]) or text.NONE
        rows.append((str(row["method"]), str(row["seed"]), str(row["status"]), iterations, why))
    columns = ("method", "seed", "status", "iterations", "error")
    return TextTable("Seeds that did not finish", columns, tuple(rows))
