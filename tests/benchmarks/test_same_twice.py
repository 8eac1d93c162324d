"""A method under two names: the same run on the same seeds, and no difference in the report."""

from __future__ import annotations

import pandas as pd

from analysis.answer import answer
from analysis.convergence import convergence
from analysis.records import load_run
from tests.benchmarks.harness import Bench


def test_one_method_under_two_names_does_not_differ(bench: Bench) -> None:
    result = bench(
        methods=["dance_grpo", "again"],
        method_settings={"again": {"base": "dance_grpo"}},
        seeds=2,
        budget=2,
    )
    assert result.code == 0, result.err
    for name in ("iterations", "evaluations", "ledger"):
        rows = result.rows(name)
        if name == "ledger":  # clocks and memory differ, work does not
            rows = rows[rows["quantity"].isin(["tflops", "nfe", "videos", "reward_calls", "updates"])]
        one, two = (
            rows[rows["method"] == method].drop(columns="method").reset_index(drop=True)
            for method in ("dance_grpo", "again")
        )
        pd.testing.assert_frame_equal(one, two, check_exact=True)
    run = load_run(result.folder)
    found = answer(run, convergence(run))
    (difference,) = found.differences
    assert difference.interval.mean == 0
    assert not difference.distinct
    assert "dance_grpo and again ended level" in found.sentence
