"""How many seeds the next benchmark needs.

From the spread over seeds that a run shows: how many seeds of each method would show a small and a large speed-up over
the baseline, over the whole curve and with as many comparisons as the run makes.
"""

from __future__ import annotations

import math

from scipy.stats import chi2

from analysis import text
from analysis.convergence import WHOLE, Convergence
from analysis.statistics import satterthwaite
from analysis.statistics.planning import MOST_SEEDS, seeds_needed
from analysis.statistics.speed import Estimate
from analysis.tables.text_table import TextTable

RATIOS = (1.25, 1.66)
"""Speed-ups asked about: a small one, and the one that Euphonium's paper reports."""

POWER = 0.8

_CAUTION = 0.8  # confidence of the upper limit of the spread


def power_table(course: Convergence) -> TextTable:
    """Seeds needed to show speed-ups by `RATIOS`, one row per method other than the baseline.

    Two numbers a cell: from the spread seen, and from its upper 80 % limit, as few seeds know their spread badly.
    Without rows, the note says why.
    """
    entries = [entry for entry in course.speeds if entry.unit == course.unit and entry.span == WHOLE]
    rows = tuple((entry.method, *_cells(entry.ratio, len(entries))) for entry in entries)
    together = f", all {len(entries)} comparisons together" if len(entries) > 1 else ""
    note = (
        f"Seeds a method with which the whole curve shows such a speed-up with {POWER:.0%} power at 95 % confidence"
        f"{together}: with the spread over seeds that was seen, and with its upper 80 % limit, since few seeds know "
        f"their own spread badly. {text.NONE}: the method does not get through the range."
    )
    if not rows:
        note = f"No seeds can be planned: {course.why_not or 'no method has finished'}."
    title = (
        f"Seeds needed to show a speed-up over {course.baseline}, counted in {text.UNIT_TITLES[course.unit]}"
    )
    columns = ("method", "spread of its logarithm", *(f"{ratio:g} times" for ratio in RATIOS))
    return TextTable(title, columns, rows, note)


def _cells(found: Estimate, comparisons: int) -> list[str]:
    squares = [spread**2 for spread in found.spread]
    if not (sum(squares) > 0 and found.value > 0):
        return [text.NONE] * (1 + len(RATIOS))
    spread, freedom = math.sqrt(sum(squares) / 2), satterthwaite(squares, [found.seeds - 1] * 2)
    upper = spread * math.sqrt(freedom / float(chi2.ppf(1 - _CAUTION, freedom)))
    cells = [text.number(spread)]
    for ratio in RATIOS:
        needed = (seeds_needed(ratio, s, power=POWER, comparisons=comparisons) for s in (spread, upper))
        cells.append(" to ".join(dict.fromkeys(str(n or f"over {MOST_SEEDS}") for n in needed)))
    return cells
