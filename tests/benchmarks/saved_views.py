"""What MLflow's page makes of a saved view."""

from __future__ import annotations

import base64
import json
import zlib
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Experiment, Run

from benchmarks.views import TAG


def saved_views(experiment: Experiment) -> dict[str, dict[str, Any]]:
    """Key -> state, as the page reads it."""
    views = {}
    for name, value in experiment.tags.items():
        if name.startswith(TAG):
            kind, _, packed = json.loads(value)["state"].partition(";")
            assert kind == "deflate"
            assert len(value) < 5000  # what a store takes
            views[name.removeprefix(TAG)] = json.loads(zlib.decompress(base64.b64decode(packed)))
    return views


def runs_of(client: MlflowClient, experiment: Experiment, view: dict[str, Any]) -> list[Run]:
    """The runs that a view shows; checks that all that it names is there."""
    order = f"{view['orderByKey']} {'ASC' if view['orderByAsc'] else 'DESC'}"
    runs = list(client.search_runs([experiment.experiment_id], view["searchFilter"], order_by=[order]))
    kinds = {
        kind: {name for run in runs for name in getattr(run.data, kind)}
        for kind in ("metrics", "params", "tags")
    }
    for column in view["selectedColumns"]:
        kind, _, name = column.partition(".")
        assert name.strip("`") in kinds[kind], column
    sections = {section["uuid"] for section in view["compareRunSections"]}
    for chart in view["compareRunCharts"]:
        assert chart["metricSectionId"] in sections
        assert set(_metrics(chart)) <= kinds["metrics"]
        assert set(_params(chart)) <= kinds["params"]
    if view["groupBy"]:
        (key,) = view["groupBy"]["groupByKeys"]
        assert all(key["groupByData"] in run.data.tags for run in runs)
    return runs


def _metrics(chart: dict[str, Any]) -> list[str]:
    if chart["type"] == "LINE":
        return list(chart["selectedMetricKeys"])
    return [chart["yaxis"]["key"]] if chart["type"] == "SCATTER" else list(chart["selectedMetrics"])


def _params(chart: dict[str, Any]) -> list[str]:
    if chart["type"] == "LINE":
        return []
    return [chart["xaxis"]["key"]] if chart["type"] == "SCATTER" else list(chart["selectedParams"])
