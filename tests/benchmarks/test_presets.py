"""Every preset makes settings for every method, and every method trains with them."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from benchmarks.presets import PRESETS
from benchmarks.records import read_rows
from benchmarks.resolve import resolve
from benchmarks.run import Benchmark, arguments
from benchmarks.session import Session, check_methods
from benchmarks.task import Training
from benchmarks.testbed.scenes import prompt_split
from methods.catalog import CATALOG, difference
from tests.world import world_flags

EVERY = [(preset, method) for preset in PRESETS for method in CATALOG]


@pytest.mark.parametrize(("preset", "method"), EVERY)
def test_settings_resolve_and_can_train(preset: str, method: str) -> None:
    settings = resolve(preset, {}, {"methods": [method]}, [], "")
    check_methods(settings)
    assert settings.method_settings[method].name == method
    assert settings.preset == preset
    assert (settings.prompts.train, settings.prompts.held_out) == tuple(map(tuple, prompt_split()))


@pytest.mark.parametrize("preset", PRESETS)
def test_fields_name_methods_and_fields_that_exist(preset: str) -> None:
    """A preset's entry for a method that is not in the catalogue would change nothing."""
    assert PRESETS[preset].per_method.keys() <= CATALOG.keys()
    assert PRESETS[preset].summary in arguments().format_help()


def test_published_settings_are_those_of_the_catalogue() -> None:
    settings = resolve("published", {}, {"methods": list(CATALOG)}, [], "")
    assert settings.method_settings == CATALOG


def test_every_method_was_tuned() -> None:
    """The testbed's learning rate of no method is the published one, which is for models of billions of weights."""
    methods = resolve("default", {}, {"methods": list(CATALOG)}, [], "").method_settings
    for name, method in methods.items():
        assert method.optimiser.learning_rate != CATALOG[name].optimiser.learning_rate, name
    guidance = methods["euphonium_published"].sampler.guidance
    assert guidance is not None
    assert (guidance.start, methods["euphonium_published"].sampler.num_steps) == (6, 8)


@pytest.mark.parametrize("preset", [name for name in PRESETS if name != "published"])
def test_what_a_fair_comparison_shares(preset: str) -> None:
    """Same steps, videos and weights for all: only what makes a method, and its own tuning, may differ."""
    settings = resolve(preset, {}, {}, [], "")
    first, *others = (settings.method_settings[name] for name in settings.methods)
    for other in others:
        assert not difference(first, other).keys() & {
            "sampler.num_steps",
            "sampler.shift",
            "group_size",
            "updates_per_rollout",
        }


@pytest.mark.parametrize(("preset", "method"), [pair for pair in EVERY if pair[0] != "smoke"])
def test_a_method_trains(world: Path, tmp_path: Path, preset: str, method: str) -> None:
    """One iteration on the tiny world with the preset's own numbers; what it logs is finite."""
    choice = {"early_until": 0, "train_prompts": 1, "samples_per_prompt": 2, "num_steps": 1}
    prompts = {"train": prompt_split()[0][:4], "held_out": prompt_split()[1][:1]}
    flags = {**world_flags(world), "methods": [method], "budget": 1, "evaluation": choice, "prompts": prompts}
    settings = resolve(preset, {}, flags, [], "")
    training = Training(Session.open(settings), tmp_path, method, 0)
    training.run(lambda _: None)
    rows = read_rows(training.recorder.folder, "iterations").set_index("metric")["value"]
    assert rows.map(math.isfinite).all()
    assert rows["gradient_norm"] > 0
    expected = {"reward/caption_match", "reward/motion_quality", "loss", "policy_loss"}
    chosen = settings.method_settings[method]
    if chosen.objective.needs.density:
        assert rows["ratio_deviation"] < 1e-2
        expected.add("clip_fraction")
    expected |= {"reward/process"} if chosen.process else set()
    expected |= {"guidance_size"} if chosen.guided else set()
    expected |= {"kl_to_base"} if chosen.needs_base else set()
    expected |= {"kl_to_guided"} if chosen.distils_guidance else set()
    assert expected <= set(rows.index)


def test_as_many_workers_as_cores_or_runs(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("benchmarks.workers.cores", lambda: 3)
    for methods, expected in ((["euphonium"], 1), (list(CATALOG), 3)):
        settings = resolve("default", {}, {**world_flags(world), "methods": methods}, [], "")
        assert Benchmark(settings, tmp_path, None, resume=False).workers == expected
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert Benchmark(settings, tmp_path, None, resume=False).workers == 1
    assert Benchmark(settings, tmp_path, 2, resume=False).workers == 2
