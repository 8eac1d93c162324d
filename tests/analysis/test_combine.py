"""Several runs as one: what goes together, and what is refused with its difference named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.combine import load_runs
from analysis.costs import cumulative_costs
from analysis.curves import final_values, run_status
from analysis.records import RecordError, load_run
from analysis.report import main
from tests.analysis.synthetic import Plan, write_run

FIRST = Plan(
    methods=("dance_grpo", "flow_grpo"), seeds=2, rewards=("accuracy", "caption_match"), with_samples=False
)
SECOND = replace(FIRST, methods=("euphonium",))


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, Plan], Path]:
    return lambda name, plan: write_run(tmp_path / name, plan)


def test_methods_of_two_runs_are_one_comparison(write: Callable[[str, Plan], Path]) -> None:
    folders = [write("a", FIRST), write("b", SECOND)]
    run = load_runs(folders)
    assert run.methods == ("dance_grpo", "flow_grpo", "euphonium")
    assert run.folders == tuple(folders)
    assert set(run.settings["method_settings"]) == set(run.methods)
    assert run.notes == ()
    apart = pd.concat([final_values(load_run(folder)) for folder in folders])
    together = final_values(run)
    keys = ["method", "seed", "split", "reward"]
    pd.testing.assert_frame_equal(
        apart.sort_values(keys, ignore_index=True), together.sort_values(keys, ignore_index=True)
    )
    assert cumulative_costs(run)["method"].nunique() == 3
    assert len(run.evaluations[run.evaluations["method"] == "base"]) == len(
        load_run(folders[0]).evaluations.query("method == 'base'")
    )


def test_seeds_of_one_method_are_joined(write: Callable[[str, Plan], Path]) -> None:
    run = load_runs([write("a", FIRST), write("b", replace(FIRST, first_seed=2, seeds=3))])
    assert run.seeds("dance_grpo") == (0, 1, 2, 3, 4)
    assert len(run_status(run)) == 10
    assert run_status(run)["counted"].all()


def test_one_run_is_itself(write: Callable[[str, Plan], Path]) -> None:
    folder = write("a", FIRST)
    assert load_runs([folder]).folders == (folder,)
    with pytest.raises(RecordError, match="no run was given"):
        load_runs([])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": "/models/other/transformer"}, "model is weights/pipeline and other/transformer"),
        ({"evaluation": {"every": 5, "samples_per_prompt": 3}}, "evaluation.samples_per_prompt is 2 and 3"),
        (
            {"evaluation": {"every": 5, "samples_per_prompt": 2, "final_samples_per_prompt": 6}},
            "evaluation.final_samples_per_prompt is None and 6",
        ),
        ({"video": {"num_frames": 9, "height": 32, "width": 32}}, "video.num_frames is 5 and 9"),
        ({"budget": 60.0}, "budget is 30.0 and 60.0"),
        ({"budget_unit": "tflops"}, "budget_unit is iterations and tflops"),
        ({"charge_prm": True}, "charge_prm is False and True"),
        ({"prompts": {"train": ["a"], "held_out": ["b"]}}, "prompts.train is "),
    ],
)
def test_runs_that_differ_are_refused(
    write: Callable[[str, Plan], Path], settings: dict[str, object], message: str
) -> None:
    folders = [write("a", FIRST), write("b", replace(SECOND, settings=settings))]
    with pytest.raises(RecordError, match="cannot be compared: ") as caught:
        load_runs(folders)
    assert message in str(caught.value)
    assert str(folders[0]) in str(caught.value)


def test_suites_that_differ_are_refused(write: Callable[[str, Plan], Path]) -> None:
    other = replace(SECOND, rewards=("accuracy", "motion_quality"))
    with pytest.raises(RecordError, match=r"suite\.training\.caption_match is 1\.0 and None"):
        load_runs([write("a", FIRST), write("b", other)])


def test_the_same_model_in_another_place_is_the_same(write: Callable[[str, Plan], Path]) -> None:
    moved = replace(SECOND, settings={"model": "/elsewhere/testbed/weights/pipeline"})
    assert len(load_runs([write("a", FIRST), write("b", moved)]).methods) == 3


def test_a_method_with_two_settings_is_refused(write: Callable[[str, Plan], Path]) -> None:
    other = replace(FIRST, first_seed=5, method_settings={"flow_grpo": {"group_size": 12}})
    with pytest.raises(RecordError, match=r"flow_grpo is not the same method in .* group_size is 8 and 12"):
        load_runs([write("a", FIRST), write("b", other)])


def test_a_seed_counts_once(write: Callable[[str, Plan], Path]) -> None:
    folder = write("a", FIRST)
    with pytest.raises(RecordError, match=r"dance_grpo seed 1 is in .*: leave one of the runs out"):
        load_runs([folder, write("b", replace(FIRST, first_seed=1))])
    with pytest.raises(RecordError, match="dance_grpo seed 0"):
        load_runs([folder, folder])


def _shift_base(folder: Path, by: float) -> None:
    file = folder / "records" / "evaluations.parquet"
    frame = pd.read_parquet(file)
    noise = np.random.default_rng(0).normal(0, 1, len(frame))
    frame["value"] += np.where(frame["method"] == "base", by * noise, 0.0)
    frame.to_parquet(file, index=False)


def test_the_base_model_must_be_one(write: Callable[[str, Plan], Path]) -> None:
    folders = [write("a", FIRST), write("b", SECOND)]
    _shift_base(folders[1], 1e-6)
    assert any("another" in note or "between machines" in note for note in load_runs(folders).notes)
    _shift_base(folders[1], 0.05)
    with pytest.raises(RecordError, match="the base model is not the same"):
        load_runs(folders)


def test_command_line_wants_a_folder_for_several(
    write: Callable[[str, Plan], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("analysis.report._figures", lambda *_: {})
    first, second = write("a", FIRST), write("b", SECOND)
    assert main([str(first), str(second)]) == 2
    assert "name a folder for the result with --output" in capsys.readouterr().err
    assert main([str(first), str(second), "--output", str(second)]) == 2
    assert "holds a run" in capsys.readouterr().err
    assert main([str(first), str(second), "--output", str(tmp_path / "both")]) == 0
    page = tmp_path / "both" / "report.html"
    assert capsys.readouterr().out.strip() == str(page)
    text = page.read_text()
    assert all(name in text for name in ("dance_grpo", "flow_grpo", "euphonium"))
    assert (tmp_path / "both" / "tables" / "final.csv").is_file()
    script = (tmp_path / "both" / "repeat.sh").read_text()
    assert all(f"{folder / 'settings.yaml'}" in script for folder in (first, second))
    assert '"$1/1" "$1/2" --output "$1/report"' in script
    assert not (first / "tables").exists()
