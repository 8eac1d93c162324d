"""From preset, file, flags and `--set` to the resolved settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from analysis.schema import SETTINGS_FILE
from benchmarks.presets import PRESETS
from benchmarks.resolve import parse_assignment, read_config, resolve
from benchmarks.session import check_methods
from benchmarks.settings import Question, RunSettings, SettingsError, parse_geometry, variant
from methods.catalog import CATALOG, difference
from methods.method import Method, differing, flatten
from rewards.suites import suite_named
from tests.world import world_settings


def test_later_sources_win(world: Path) -> None:
    """Published settings, then the preset's, the file's for all methods, for one, and the command line's."""

    def clip(config: dict[str, Any], *assignments: str) -> float:
        settings = resolve(
            "default", {"method_settings": config}, {"methods": ["dance_grpo"]}, assignments, ""
        )
        return settings.method_settings["dance_grpo"].objective.clip_range

    assert clip({}) == CATALOG["dance_grpo"].objective.clip_range
    every, own = {"all": {"objective.clip_range": 0.1}}, {"dance_grpo": {"objective.clip_range": 0.2}}
    assert clip(every) == 0.1
    assert clip({**own, **every}) == 0.2
    assert clip({**own, **every}, "all.objective.clip_range=0.3") == 0.3
    assert (
        clip({**own, **every}, "all.objective.clip_range=0.3", "dance_grpo.objective.clip_range=0.4") == 0.4
    )
    assert clip({}, "dance_grpo.objective.clip_range=1e-3") == 1e-3


def test_a_part_changes_only_where_it_is_named() -> None:
    """A file or flag that names one field of `weights` or `evaluation` leaves the others as they were."""
    config = {"weights": {"rank": 4}, "evaluation": {"every": 7}}
    settings = resolve("smoke", config, {"weights": {"kind": "full"}}, [], "")
    assert (settings.weights.kind, settings.weights.rank) == ("full", 4)
    assert settings.evaluation.every == 7
    assert settings.evaluation.samples_per_prompt == PRESETS["smoke"].run["evaluation"]["samples_per_prompt"]


@pytest.mark.parametrize(
    ("assignments", "strength"),
    [
        (["published.sampler.guidance.strength=0.5"], 0.5),
        (["published.sampler.guidance=null", "published.sampler.guidance.strength=0.5"], 0.5),
        (["published.sampler.guidance={strength: 0.5}"], 0.5),
        (["published.sampler.guidance.strength=0.5", "published.sampler.guidance=null"], None),
        (["published.sampler={num_steps: 4, noise: {kind: constant, level: 1}}"], None),
        (
            [
                "published.sampler={num_steps: 4, noise: {kind: constant, level: 1}}",
                "published.sampler.guidance.strength=0.5",
            ],
            0.5,
        ),
        (
            [
                "published.sampler.guidance.strength=0.25",
                "published.sampler.guidance=null",
                "published.sampler.guidance.strength=0.5",
            ],
            0.5,
        ),
    ],
    ids=str,
)
def test_parts_are_taken_away_and_made_anew(assignments: list[str], strength: float | None) -> None:
    name = "euphonium_published"
    changes = [text.replace("published.", f"{name}.", 1) for text in assignments]
    guidance = resolve("default", {}, {"methods": [name]}, changes, "").method_settings[name].sampler.guidance
    assert (guidance.strength if guidance else None) == strength


def test_a_part_that_is_given_for_all_is_each_methods_own() -> None:
    """A change within it for one method leaves the others'."""
    names = ["euphonium", "flow_grpo"]
    texts = ["all.distillation={weight: 0.5, strength: 1}", "euphonium.distillation.weight=0.25"]
    methods = resolve("default", {}, {"methods": names}, texts, "").method_settings.values()
    assert [method.distillation and method.distillation.weight for method in methods] == [0.25, 0.5]


def test_a_field_of_what_is_no_part_is_refused() -> None:
    texts = ["euphonium.distillation=16", "euphonium.distillation.weight=1"]
    with pytest.raises(SettingsError, match="euphonium: distillation is 16, which has no 'weight'"):
        resolve("default", {}, {"methods": ["euphonium"]}, texts, "")


def test_settings_are_derived_from_settings(world: Path) -> None:
    """Checked anew, in the same words as those of a command line; the first ones stay as they are."""
    settings = world_settings(world, ["euphonium", "dance_grpo"])
    dance = settings.method_settings["dance_grpo"]
    mine = variant(dance, {"objective.clip_range": 0.5, "sampler.noise.level": 0.2}, "mine")
    again = settings.of_methods([mine, dance]).replace(seeds=7)
    assert (again.methods, again.seeds) == (("mine", "dance_grpo"), 7)
    assert difference(dance, again.method_settings["mine"]).keys() == {
        "objective.clip_range",
        "sampler.noise.level",
    }
    assert (
        again.replace(methods=settings.methods, method_settings=settings.method_settings, seeds=1) == settings
    )
    for changes, message in (({"seeds": 0}, "seeds is 0"), ({"budget": 1.5}, "budget is 1.5: give a whole")):
        with pytest.raises(SettingsError, match=message):
            settings.replace(**changes)
    with pytest.raises(SettingsError, match="name a method twice"):
        settings.of_methods([dance, dance])
    with pytest.raises(SettingsError, match="mine: unknown field 'groupsize'; did you mean 'group_size'"):
        variant(dance, {"groupsize": 1}, "mine")


def test_a_method_of_ones_own() -> None:
    """A file's entry with a `base` is a method of its own, with the preset's changes for its base."""
    own = {"mild": {"base": "euphonium", "distillation": {"strength": 0.125}}}
    settings = resolve("default", {"method_settings": own, "methods": ["mild", "euphonium"]}, {}, [], "")
    mild, euphonium = settings.method_settings["mild"], settings.method_settings["euphonium"]
    assert mild.name == "mild"
    found = difference(euphonium, mild)
    assert found.keys() == {"distillation.strength"}
    assert found["distillation.strength"][1] == 0.125


def dumped(settings: RunSettings, folder: Path) -> dict[str, Any]:
    path = folder / SETTINGS_FILE
    path.write_text(settings.dump(suite_named(settings.suite).recorded()))
    return read_config(path)


@pytest.mark.parametrize("preset", PRESETS)
def test_written_settings_read_back_as_they_were(world: Path, tmp_path: Path, preset: str) -> None:
    """For every method, one with an own name, and whatever the preset would have changed."""
    own = {"mine": {"base": "euphonium_published", "process": None}}
    flags = {"methods": [*CATALOG, "mine"]}
    settings = resolve(preset, {"method_settings": own}, flags, ["all.outcome_weight=0.01"], "command")
    config = dumped(settings, tmp_path)
    assert config.pop("preset") == preset
    for other in PRESETS:
        again = resolve(other, {**config}, {}, [], "command")
        named = {"preset": other, "question": Question(baseline="flow_grpo")}
        assert again == settings.model_copy(update=named)


def test_written_settings_serve_for_some_of_the_methods(world: Path, tmp_path: Path) -> None:
    config = dumped(
        world_settings(world, ["euphonium", "flow_grpo", "dance_grpo"], ["all.objective.clip_range=0.01"]),
        tmp_path,
    )
    settings = resolve(config.pop("preset"), config, {"methods": ["dance_grpo"]}, [], "")
    assert settings.methods == ("dance_grpo",)
    assert settings.question.baseline is None
    assert settings.method_settings["dance_grpo"].objective.clip_range == 0.01


def test_written_settings_with_an_unknown_field_are_refused(world: Path, tmp_path: Path) -> None:
    config = dumped(world_settings(world, ["dance_grpo"]), tmp_path)
    config["method_settings"]["dance_grpo"]["groupsize"] = 3
    with pytest.raises(
        SettingsError, match=r"dance_grpo: unknown field 'groupsize'; did you mean 'group_size'"
    ):
        resolve(config.pop("preset"), config, {}, [], "")


def test_written_settings_of_an_earlier_version_read_back(world: Path, tmp_path: Path) -> None:
    """What has been added to methods since has its default, not what the preset or the catalogue say now."""
    own = {"mine": {"base": "euphonium", "process": {"weight": 1}}}
    settings = resolve(
        "default",
        {"method_settings": own, "methods": ["euphonium", "mine"]},
        {},
        ["all.objective.clip_range=0.01"],
        "",
    )
    config = dumped(settings, tmp_path)
    for name, written in config["method_settings"].items():
        del written["distillation"], written["guidance_decay"], written["sampler"]["window"]
        assert CATALOG["euphonium"].distillation is not None, name
    again = resolve(config.pop("preset"), config, {}, [], "")
    for name in ("euphonium", "mine"):
        expected = settings.method_settings[name]
        assert again.method_settings[name] == Method.model_validate(
            {**expected.model_dump(exclude={"distillation", "guidance_decay"})}
        )
        assert again.method_settings[name].objective.clip_range == 0.01


def of_an_earlier_version(settings: RunSettings, folder: Path, **written: Any) -> dict[str, Any]:
    """What a version with `kl_weight` wrote: all fields of its methods, and none that came later."""
    config = dumped(settings, folder)
    for fields in config["method_settings"].values():
        del fields["distillation"], fields["process_model"], fields["process_refresh"]
        fields.update(written)
    return config


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ({"kl_weight": 0.04, "distillation": None}, {"weight": 0.04, "strength": 0.0}),
        ({"kl_weight": 0.0, "distillation": None}, None),
        (
            {"kl_weight": 0.0, "distillation": {"weight": 0.1, "decay": 0.93}},
            {"weight": 0.1, "decay": 0.93, "anchor": "policy", "strength": None},
        ),
    ],
    ids=["KL", "none", "distillation"],
)
def test_written_settings_with_what_distillation_was_before(
    world: Path, tmp_path: Path, written: dict[str, Any], meant: dict[str, Any] | None
) -> None:
    """The KL to the base model, and a target that moves with the policy; whichever preset and changes come on top."""
    settings = world_settings(
        world, ["euphonium_published", "dance_grpo"], ["all.sampler.guidance.strength=3"]
    )
    config = of_an_earlier_version(settings, tmp_path, **written)
    for preset in (config.pop("preset"), "smoke"):
        again = resolve(preset, config, {}, ["all.objective.clip_range=0.01"], "")
        for name, method in again.method_settings.items():
            expected = settings.method_settings[name].model_dump() | {"distillation": meant}
            expected["objective"]["clip_range"] = 0.01
            assert method == Method.model_validate(expected)


def test_written_settings_that_set_what_is_one_setting_now_are_refused(world: Path, tmp_path: Path) -> None:
    settings = world_settings(world, ["euphonium_published"])
    config = of_an_earlier_version(
        settings, tmp_path, kl_weight=0.1, distillation={"weight": 1.0, "decay": 1.0}
    )
    with pytest.raises(
        SettingsError, match=r"kl_weight is 0.1 and distillation is set: they are one setting now"
    ):
        resolve(config.pop("preset"), config, {}, [], "")


@pytest.mark.parametrize(
    ("config", "assignments"),
    [
        ({}, ["flow_grpo.kl_weight=0.1"]),
        ({"flow_grpo": {"kl_weight": 0.1}}, []),
        ({"all": {"kl_weight": 0.1}}, []),
    ],
    ids=["set", "file", "file, all"],
)
def test_a_setting_that_is_gone_names_what_says_the_same(
    config: dict[str, Any], assignments: list[str]
) -> None:
    with pytest.raises(
        SettingsError,
        match=r"flow_grpo: unknown field 'kl_weight'; .*distillation: \{weight: W, strength: 0\}",
    ):
        resolve("default", {"method_settings": config}, {"methods": ["flow_grpo"]}, assignments, "")


def test_written_settings_are_plain_yaml(world: Path, tmp_path: Path) -> None:
    settings = world_settings(world, ["euphonium"])
    path = tmp_path / SETTINGS_FILE
    path.write_text(settings.dump(suite_named("shapes").recorded()))
    content = yaml.safe_load(path.read_text())
    assert content["suite"]["headline"] == "accuracy"
    assert content["method_settings"]["euphonium"].keys() == Method.model_fields.keys()


def test_settings_cannot_change(world: Path) -> None:
    settings = world_settings(world, ["dance_grpo"])
    with pytest.raises(ValueError, match="frozen"):
        settings.seeds = 4  # type: ignore[misc]


def test_the_method_table_holds_what_differs(world: Path) -> None:
    methods = world_settings(world, ["euphonium", "dance_grpo"]).method_settings
    found = differing(list(methods.values()))
    table = {field: dict(zip(methods, values, strict=True)) for field, values in found.items()}
    assert "distillation.strength" in table
    assert "group_size" not in table
    one = flatten(world_settings(world, ["dance_grpo"]).method_settings["dance_grpo"])
    assert all(values["dance_grpo"] == one.get(field) for field, values in table.items())


def test_assignments_are_read_as_yaml() -> None:
    assert parse_assignment("a.b.c = [1, x]") == ("a", "b.c", [1, "x"])
    assert parse_assignment("a.b=null") == ("a", "b", None)
    assert parse_assignment("a.b=x=y") == ("a", "b", "x=y")


def test_geometry() -> None:
    geometry = parse_geometry("9X32x16")
    assert (geometry.num_frames, geometry.height, geometry.width) == (9, 32, 16)


@pytest.mark.parametrize("preset", [name for name in PRESETS if name != "published"])
def test_all_methods_of_the_catalogue_fit_a_preset(world: Path, preset: str) -> None:
    settings = resolve(preset, {}, {"methods": ["all"]}, [], "")
    assert settings.methods == tuple(CATALOG)
    check_methods(settings)
