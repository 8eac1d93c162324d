"""`python -m benchmarks.plan`: tables, JSON, verdicts, and refusals that name the remedy."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from benchmarks.plan import main
from benchmarks.planning.advice import advise, fits, with_change, worst
from benchmarks.planning.estimate import Planner, RunPlan, plan_run
from benchmarks.planning.gpus import GPUS, Gpu
from benchmarks.planning.measuring import Measurements
from benchmarks.planning.report import verdict
from benchmarks.settings import RunSettings, SettingsError
from tests.planning.conftest import costs_of, settings_of
from tests.world import world_settings

H100 = GPUS["h100"]


def planned(settings: RunSettings, gpu: Gpu = H100) -> RunPlan:
    return plan_run(settings, costs_of(settings), gpu, 1, 0.4)


def tiny(world: Path, method: str, **flags: object) -> RunSettings:
    return world_settings(world, [method], **flags)


def test_the_command_prints_what_it_plans(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--methods", "dance_grpo"]) == 0
    shown = capsys.readouterr().out
    assert "planned, not measured" in shown
    assert "fits: dance_grpo needs" in shown
    # The rollout, decoder and update of docs/budget.md.
    numbers = re.findall(r"│ dance_grpo .*", shown)[1].split("│")
    assert [round(1e3 * float(numbers[column]), 1) for column in (2, 4, 5)] == [10.5, 19.2, 11.5]


def test_json_has_the_same_figures(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--methods", "dance_grpo", "--gpu", "rtx4090", "--utilisation", "0.2", "--json"]
    assert main([*options, "--set", "dance_grpo.group_size=4", "--budget", "0.5"]) == 0
    found = json.loads(capsys.readouterr().out)
    method = found["methods"]["dance_grpo"]
    assert (found["fits"], found["changes"], found["gpu"]) == (True, {}, "NVIDIA GeForce RTX 4090")
    assert method["videos"] == 32
    assert method["phase_bytes"][method["peak_phase"]] == method["peak_bytes"]
    charged = sum(method["tflop"].values())
    assert method["iterations"] == int(0.5 / charged)
    # All in float32.
    assert method["seconds_per_iteration"] == pytest.approx(charged / (82.6 * 0.2))


def test_a_budget_below_one_iteration_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--methods", "dance_grpo,flow_grpo", "--budget", "100", "--budget-unit", "nfe"]) == 2
    told = capsys.readouterr().err
    assert (
        "budget is 100 nfe, which does not pay for one iteration (dance_grpo 768, flow_grpo 1280 nfe)" in told
    )
    assert "give at least 1280" in told


@pytest.mark.parametrize("options", [["--utilisation", "0"], ["--utilisation", "40"], ["--gpus", "0"]])
def test_impossible_options_are_refused(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(options) == 2
    assert f"{options[0]} is {options[1]}; give" in capsys.readouterr().err


def test_prompts_that_gpus_cannot_share_are_refused(costs: Measurements) -> None:
    settings = settings_of("flow_grpo", prompts_per_iteration=4)
    with pytest.raises(SettingsError, match="give a multiple of the 3 processes"):
        Planner(settings, costs, 3).plan(settings.method_settings["flow_grpo"])


def test_a_run_that_does_not_fit_is_told_what_to_change(world: Path) -> None:
    settings = tiny(world, "euphonium", micro_batch=64, prompts_per_iteration=8)
    roomy = planned(settings)
    assert fits(roomy)
    assert "fits: euphonium needs" in verdict(roomy, advise(roomy, planned))
    peak = worst(roomy).memory.peak
    small = Gpu("a small GPU", (0.6 * peak + 1e9) / 0.97, 100, 100)
    assert small.usable == pytest.approx(0.6 * peak)
    tight = planned(settings, small)
    advice = advise(tight, lambda changed: planned(changed, small))
    assert not fits(tight)
    assert advice.fits
    # What is said to fit does.
    for change in advice.changes.items():
        settings = with_change(settings, change)
    assert fits(planned(settings, small))
    told = verdict(tight, advice)
    assert told.startswith("does not fit, by ")
    assert "It fits with micro_batch: " in told


def test_a_model_larger_than_the_gpu_is_told_so(world: Path) -> None:
    useless = Gpu("a useless GPU", (1e4 + 1e9) / 0.97, 100, 100)
    plan = planned(tiny(world, "dance_grpo"), useless)
    advice = advise(plan, lambda changed: planned(changed, useless))
    assert not advice.fits
    assert verdict(plan, advice).endswith("choose a GPU with more memory, fewer frames or a smaller size")


def test_memory_settings_lower_their_phase(world: Path) -> None:
    def memory(**flags: object) -> dict[str, float]:
        settings = tiny(world, "euphonium", prompts_per_iteration=8, micro_batch=64, **flags)
        return worst(planned(settings)).memory.at

    base = memory()
    assert memory(execution={"gradient_checkpointing": True})["update"] < 0.7 * base["update"]
    assert memory(execution={"decode_batch": 1})["decode"] < base["decode"]
    assert memory(rollout_batch=4)["rollout"] < base["rollout"]
    on_cpu = memory(execution={"trajectories": "cpu"})
    assert all(on_cpu[phase] < base[phase] for phase in ("rollout", "decode", "update"))
    offloaded = memory(execution={"offload_decoder": True})
    assert offloaded["update"] < base["update"]
    assert offloaded["decode"] == pytest.approx(base["decode"])


def test_full_weights_need_gradients_moments_and_the_base_model(world: Path) -> None:
    full = {"weights": {"kind": "full"}, "evaluation": {"diagnostic_prompts": 0}}
    held = worst(planned(tiny(world, "flow_grpo", **full))).memory.held
    assert held["gradients"] == pytest.approx(held["networks"])
    assert held["optimiser"] == pytest.approx(2 * held["networks"])
    assert held["base model"] == held["networks"]  # of its KL term
    assert "base model" not in worst(planned(tiny(world, "dance_grpo", **full))).memory.held


def test_an_unknown_model_is_refused_before_anything_is_downloaded(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["--model", "someone/some-model"]) == 2
    told = capsys.readouterr().err
    assert "a hub id whose shapes are not known here" in told
    assert "hunyuanvideo-community/HunyuanVideo" in told


def test_a_config_names_its_recipe_or_the_closest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", "matched_wan_2gpu"]) == 2
    told = capsys.readouterr().err
    assert "'matched_wan_2gpu' is neither a file nor a shipped recipe; did you mean 'matched_wan_" in told
    assert main(["--config", str(tmp_path / "missing.yaml")]) == 2
    assert "missing.yaml' does not exist" in capsys.readouterr().err
