"""Saved views of MLflow's page of runs: runs, columns and charts.

MLflow keeps a saved view in a tag of the experiment, as the state of its page. The format is internal to the page,
not a public interface: it was read off MLflow 3.17 and is ignored by pages with another format. An existing view is
never overwritten, as the user may have changed it.
"""

from __future__ import annotations

import base64
import json
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from analysis.schema import KL_TO_BASE
from rewards.suites import Suite

#: The tag names that MLflow's page looks for.
TAG = "mlflow.sharedViewState."


@dataclass(frozen=True)
class View:
    """One saved view.

    Attributes:
        key: of its address: `#/experiments/<id>/runs?viewStateShareKey=<key>`.
        name: in the menu "Views".
        runs: MLflow's search expression.
        columns: of the table, "metrics.NAME", "params.NAME" or "tags.NAME".
        order_by: one of them.
        ascending: the order.
        charts: above those that MLflow makes by itself, from `curve`, `scatter` and `parallel`.
        group_by: tag over whose equal values curves are averaged, with the range as a band.
    """

    key: str
    name: str
    runs: str
    columns: Sequence[str]
    order_by: str
    ascending: bool = False
    charts: Sequence[dict[str, Any]] = ()
    group_by: str | None = None

    def state(self) -> dict[str, Any]:
        """The page's state."""
        section = f"{self.key}-section"
        charts = [
            {"uuid": f"{self.key}-{place}", "metricSectionId": section, **_CHART, **chart}
            for place, chart in enumerate(self.charts)
        ]
        keys = [{"mode": "tag", "groupByData": self.group_by}]
        return {
            **_PAGE,
            "searchFilter": self.runs,
            "orderByKey": _quoted(self.order_by),
            "orderByAsc": self.ascending,
            "selectedColumns": [_quoted(column) for column in self.columns],
            "compareRunCharts": charts,
            "compareRunSections": [{"uuid": section, "name": self.name, **_SECTION}] if charts else [],
            "groupBy": {"aggregateFunction": "average", "groupByKeys": keys} if self.group_by else None,
        }

    def tag(self) -> tuple[str, str]:
        """The experiment's tag: name and value."""
        now = int(time.time() * 1000)
        # Compressed, as the page does it: a tag holds 5000 characters.
        state = "deflate;" + base64.b64encode(zlib.compress(json.dumps(self.state()).encode())).decode()
        return TAG + self.key, json.dumps(
            {"name": self.name, "createdAt": now, "updatedAt": now, "state": state}
        )


def benchmark_views(suite: Suite) -> list[View]:
    """Views of benchmarks with one reward suite: final rewards of every run, and curves of the methods."""
    runs = f'tags.phase = "train" AND tags.suite = "{suite.name}"'
    headline = suite.headline
    rewards = dict.fromkeys([headline, *suite.held_out, *suite.training])
    held_out = [f"metrics.eval/held_out/{name}" for name in rewards]
    columns = [
        "tags.method",
        "tags.seed",
        *held_out,
        "metrics.train/diagnostic/kl_to_base",
        "metrics.cost/tflops",
    ]
    metrics = (
        f"eval_by_gflops/held_out/{headline}",
        f"eval/held_out/{headline}",
        f"train/{KL_TO_BASE}",
    )
    curves = [curve(metric) for metric in metrics]
    name = suite.name
    return [
        View(f"{name}-final", f"Final rewards ({name})", runs, columns, "tags.method", ascending=True),
        View(
            f"{name}-curves",
            f"Methods ({name})",
            runs,
            columns,
            held_out[0],
            charts=curves,
            group_by="method",
        ),
    ]


def sweep_view(study: str, headline: str, spaces: Sequence[Sequence[str]]) -> View:
    """View of a sweep: every finished trial.

    Args:
        study: its name.
        headline: the suite's headline reward.
        spaces: the tuned parameters of each method.
    """
    reward = f"eval/held_out/{headline}"
    runs = f'tags.phase = "sweep" AND tags.study = "{study}" AND tags.state = "complete"'
    parameters = list(dict.fromkeys(name for space in spaces for name in space))
    # Parallel coordinates leave out a run that lacks one of them.
    shared = [name for name in parameters if all(name in space for space in spaces)]
    columns = ["tags.method", *(f"params.{name}" for name in parameters), f"metrics.{reward}"]
    charts = [parallel(shared or parameters, reward), *(scatter(name, reward) for name in parameters)]
    return View(f"{study}-trials", f"Trials ({study})", runs, columns, f"metrics.{reward}", charts=charts)


def curve(metric: str) -> dict[str, Any]:
    """A metric against its step."""
    return {
        "type": "LINE",
        "metricKey": metric,
        "selectedMetricKeys": [metric],
        "lineSmoothness": 0,
        "xAxisKey": "step",
        "xAxisScaleType": "linear",
        "selectedXAxisMetricKey": "",
        "yAxisKey": "metric",
        "yAxisExpressions": [],
        "scaleType": "linear",
        "range": {},
        "ignoreOutliers": False,
        "useGlobalXaxisKey": True,
        "useGlobalLineSmoothing": True,
    }


def scatter(parameter: str, metric: str) -> dict[str, Any]:
    """A metric's last value against a parameter, one point per run."""
    axes = {"xaxis": {"key": parameter, "type": "PARAM"}, "yaxis": {"key": metric, "type": "METRIC"}}
    return {"type": "SCATTER", **axes}


def parallel(parameters: Sequence[str], metric: str) -> dict[str, Any]:
    """Parallel coordinates: one line per run, coloured by the metric's last value."""
    chosen = {"selectedParams": list(parameters), "selectedMetrics": [metric]}
    return {"type": "PARALLEL", **chosen, "showAllRuns": False}


def _quoted(column: str) -> str:
    """ "metrics.a/b" -> "metrics.`a/b`"."""
    kind, _, name = column.partition(".")
    return f"{kind}.`{name}`"


_CHART: dict[str, Any] = {
    "displayName": "",
    "runsCountToCompare": 100,
    "deleted": False,
    "isGenerated": False,
}
_SECTION: dict[str, Any] = {"display": True, "isReordered": True, "deleted": False, "isGenerated": False}
#: The rest of the page's state. What was reordered stays so: else MLflow's own charts come first.
_PAGE: dict[str, Any] = {
    "startTime": "ALL",
    "lifecycleFilter": "Active",
    "datasetsFilter": [],
    "modelVersionFilter": "All Runs",
    "columnOrder": [],
    "columnWidths": {},
    "runsExpanded": {},
    "runsPinned": [],
    "runsHidden": [],
    "runsVisibilityMap": {},
    "runsHiddenMode": "SHOWALL",
    "viewMaximized": False,
    "runListHidden": False,
    "isAccordionReordered": True,
    "useGroupedValuesInCharts": True,
    "hideEmptyCharts": True,
    "groupsExpanded": {},
    "autoRefreshEnabled": True,
    "globalLineChartConfig": {"xAxisKey": "step", "lineSmoothness": 0, "selectedXAxisMetricKey": ""},
}
