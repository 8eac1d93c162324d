"""Every bad input is refused before anything is written: one line on stderr, exit code 2."""

from __future__ import annotations

import json
import shutil
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from benchmarks import run
from benchmarks.run import arguments
from benchmarks.testbed.scenes import prompt_split
from methods.catalog import CATALOG
from tests.benchmarks.harness import Bench, Result, digest
from tests.world import build_world

GOOD = ("--methods", "dance_grpo")
EUPHONIUM = ("--methods", "euphonium")


def refused(result: Result, *words: str) -> None:
    """Insists on exit code 2 and one line on stderr that holds `words`."""
    assert result.code == 2, result.err
    lines = result.err.splitlines()
    assert len(lines) == 1, result.err
    assert lines[0].startswith("error: ")
    for word in words:
        assert word in lines[0]
    assert "Traceback" not in result.out


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("--methods", "flowgrpo"), ("unknown method 'flowgrpo'", "did you mean 'flow_grpo'?")),
        (("--methods", "dance_grpo,zzz"), ("unknown method 'zzz'", "known: ", "euphonium_published")),
        (("--methods", ","), ("methods",)),
        (("--methods", "dance_grpo,dance_grpo"), ("dance_grpo", "twice")),
        ((*GOOD, "--suite", "shape"), ("unknown suite 'shape'", "did you mean 'shapes'?")),
        ((*GOOD, "--preset", "defualt"), ("unknown preset 'defualt'", "did you mean 'default'?")),
        ((*GOOD, "--set", "dance_gpro.group_size=4"), ("'dance_gpro'", "did you mean 'dance_grpo'?")),
        (
            (*GOOD, "--set", "euphonium.group_size=4"),
            ("'euphonium'", "is not part of this run", "dance_grpo"),
        ),
        ((*GOOD, "--set", "dance_grpo.groupsize=4"), ("'groupsize'", "did you mean 'group_size'?")),
        ((*GOOD, "--set", "dance_grpo.sampler.nose.level=1"), ("'nose'", "did you mean 'noise'?")),
        ((*GOOD, "--set", "dance_grpo.group_size.x=4"), ("'group_size' has no parts",)),
        ((*GOOD, "--set", "dance_grpo.group_size=1"), ("group_size is 1",)),
        ((*GOOD, "--set", "dance_grpo.group_size=many"), ("group_size is 'many'",)),
        ((*GOOD, "--set", "dance_grpo.group_size={"), ("dance_grpo.group_size={", "YAML")),
        (
            (*GOOD, "--set", "dance_grpo.sampler.noise.kind=constnt"),
            ("noise.kind is 'constnt'", "'constant'"),
        ),
        ((*GOOD, "--set", "dance_grpo.sampler.shift=.nan"), ("shift",)),
        ((*GOOD, "--set", "dance_grpo.name=mine"), ("name",)),
        (
            (*GOOD, "--set", "dance_grpo.group_size"),
            ("--set is 'dance_grpo.group_size'", "method.field=value"),
        ),
        ((*GOOD, "--set", "group_size=4"), ("--set is 'group_size=4'", "method.field=value")),
        (
            (*GOOD, "--set", "dance_grpo.updates_per_rollout=5"),
            ("dance_grpo", "updates_per_rollout is 5", "4"),
        ),
        ((*GOOD, "--set", "dance_grpo.sampler.noise.level=0"), ("dance_grpo", "sampler.noise.level")),
        ((*GOOD, "--budget", "0"), ("budget is 0",)),
        ((*GOOD, "--budget", "-3"), ("budget is -3",)),
        ((*GOOD, "--budget", "0.5"), ("budget is 0.5: give a whole number of iterations", "at least 1")),
        ((*GOOD, "--budget", "1.7"), ("budget is 1.7: give a whole number of iterations",)),
        ((*GOOD, "--budget", "nan"), ("budget is nan",)),
        ((*GOOD, "--budget", "inf"), ("budget is inf",)),
        ((*GOOD, "--budget", "-1", "--budget-unit", "tflops"), ("budget is -1 tflops", "above 0")),
        ((*GOOD, "--charge-prm"), ("charge_prm", "tflops")),
        ((*GOOD, "--budget", "ten"), ("--budget", "'ten'")),
        ((*GOOD, "--budget-unit", "hours"), ("--budget-unit", "'hours'", "iterations")),
        ((*GOOD, "--seeds", "0"), ("seeds is 0",)),
        ((*GOOD, "--seeds", "-1"), ("--seeds is '-1'", "give a number such as 5")),
        ((*GOOD, "--seed", "3"), ("--seed",)),
        ((*GOOD, "--workers", "0"), ("--workers is 0", "at least 1")),
        ((*GOOD, "--workers", "-2"), ("--workers is -2",)),
        ((*GOOD, "--weights", "adapters"), ("--weights", "'adapters'", "lora")),
        ((*GOOD, "--video", "5x16"), ("video is '5x16'", "FRAMESxHEIGHTxWIDTH")),
        ((*GOOD, "--video", "0x16x16"), ("video is '0x16x16'",)),
        ((*GOOD, "--video", "5x17x16"), ("height is 17", "multiple of 16")),
        ((*GOOD, "--video", "4x16x16"), ("num_frames is 4", "multiple of 4 plus 1")),
        ((*GOOD, "--model", "nowhere"), ("model folder 'nowhere' does not exist",)),
        ((*GOOD, "--outcome-model", "nowhere"), ("no outcome model at 'nowhere'", "--outcome-model")),
        ((*EUPHONIUM, "--process-reward", "nowhere"), ("no process reward model at 'nowhere'", "train_prm")),
        ((*GOOD, "--config", "nowhere.yaml"), ("config file 'nowhere.yaml' does not exist",)),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_flags(bench: Bench, given: tuple[str, ...], words: tuple[str, ...]) -> None:
    result = bench(*given)
    refused(result, *words)
    assert not result.folder.exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"bugdet": 3}, ("unknown field 'bugdet'", "did you mean 'budget'?")),
        ({"methods": 3}, ("methods",)),
        ({"methods": "dance_grpo"}, ("methods", "list")),
        ({"methods": [["dance_grpo"]]}, ("methods",)),
        ({"suite": 3}, ("suite",)),
        ({"suite": {}}, ("suite",)),
        ({"preset": 3}, ("preset",)),
        ({"budget": "lots"}, ("budget is 'lots'",)),
        ({"evaluation": {"evry": 3}}, ("evaluation.evry",)),
        ({"evaluation": 3}, ("evaluation is 3",)),
        ({"prompts_per_iteration": 37}, ("prompts_per_iteration is 37", "36")),
        ({"prompts": {"train": prompt_split()[0][:1]}}, ("prompts_per_iteration is 2",)),
        (
            {"prompts": {"train": ["one", "two"], "held_out": ["two"]}},
            ("'two'", "both a training and a held-out prompt"),
        ),
        ({"prompts": {"train": ["one", "one"]}}, ("'one'", "twice")),
        ({"prompts": {"train": ["one", " "]}}, ("' '", "empty")),
        ({"prompts": {"train": ["one", "two\nlines"]}}, ("spans several lines",)),
        ({"method_settings": [1]}, ("method_settings",)),
        ({"method_settings": {"dance_grpo": 4}}, ("method_settings", "dance_grpo")),
        ({"method_settings": {"dance_gpro": {}}}, ("'dance_gpro'", "did you mean 'dance_grpo'?")),
        (
            {"method_settings": {"dance_grpo": {"groupsize": 4}}},
            ("'groupsize'", "did you mean 'group_size'?"),
        ),
        ({"method_settings": {"dance_grpo": {"base": "flowgrpo"}}}, ("did you mean 'flow_grpo'?",)),
        *(
            (
                {"methods": [name], "method_settings": {name: {"base": "dance_grpo"}}},
                (repr(name), "names a folder"),
            )
            for name in ("base", "a/b", "../up", "", "a b", "[red]")
        ),
    ],
    ids=str,
)
def test_config(bench: Bench, changes: dict[str, Any], words: tuple[str, ...]) -> None:
    methods = () if "methods" in changes else GOOD
    result = bench(*methods, **changes)
    refused(result, *words)
    assert not result.folder.exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"budget: [", ("is not valid YAML",)),
        (b"- budget\n", ("not hold a mapping",)),
        (b"", ("not hold a mapping",)),
        (b"budget: \xff\xfe", ("is not valid YAML",)),
        (b"3: 4\n", ("unknown field 3",)),
    ],
    ids=str,
)
def test_config_file(bench: Bench, content: bytes, words: tuple[str, ...]) -> None:
    path = bench.folder / "broken.yaml"
    path.write_bytes(content)
    result = bench(*GOOD, config=path)
    refused(result, "broken.yaml", *words)
    assert not result.folder.exists()


@pytest.fixture
def model(world: Path, tmp_path: Path) -> Path:
    """A copy of the pipeline, to be broken."""
    return Path(shutil.copytree(world / "pipeline", tmp_path / "model"))


def test_model_folder_is_no_pipeline(bench: Bench, model: Path) -> None:
    (model / "model_index.json").unlink()
    result = bench(*GOOD, model=model)
    refused(result, str(model), "not a diffusers pipeline", "model_index.json")
    assert not result.folder.exists()


def test_model_of_an_unsupported_family(bench: Bench, model: Path) -> None:
    index = model / "model_index.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), "_class_name": "FluxPipeline"}))
    refused(bench(*GOOD, model=model), str(model), "'FluxPipeline'", "not supported", "WanPipeline")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("model_index.json", "{"),
        ("transformer/diffusion_pytorch_model.safetensors", None),
        ("transformer/diffusion_pytorch_model.safetensors", "torn"),
        ("vae/config.json", "{"),
    ],
)
def test_model_folder_is_damaged(bench: Bench, model: Path, name: str, content: str | None) -> None:
    if content is None:
        (model / name).unlink()
    else:
        (model / name).write_text(content)
    result = bench(*GOOD, model=model)
    refused(result, str(model))
    assert not result.folder.exists()


def test_outcome_model_is_damaged(bench: Bench, world: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(world / "outcome", tmp_path / "outcome")
    (folder / "model.safetensors").unlink()
    refused(bench(*GOOD, outcome_model=folder), str(folder))


@pytest.mark.parametrize(("channels", "what"), [(4, "base model"), (6, "latent space")])
def test_process_reward_of_another_model(bench: Bench, tmp_path: Path, channels: int, what: str) -> None:
    """Refused for the methods that use it; the others run without one."""
    build_world(tmp_path / "other", seed=1, channels=channels)
    other = tmp_path / "other" / "process_reward"
    if channels == 4:  # the same autoencoder, another transformer
        mine, theirs = (
            json.loads((p / "process_reward" / "config.json").read_text())
            for p in (bench.world, other.parent)
        )
        theirs["provenance"]["latent_space"] = mine["provenance"]["latent_space"]
        (other / "config.json").write_text(json.dumps(theirs))
    result = bench(*EUPHONIUM, process_reward=other)
    refused(result, str(other), f"made for another {what}", "rewards.train_prm")
    assert not result.folder.exists()
    assert bench(*GOOD, process_reward=other, budget=1).code == 0


def test_output_holds_a_run(bench: Bench) -> None:
    assert bench(*GOOD, budget=1).code == 0
    before = digest(bench.folder / "out")
    refused(bench(*GOOD), "already holds a run", "--resume")
    assert digest(bench.folder / "out") == before


def test_output_is_not_empty(bench: Bench) -> None:
    (bench.folder / "out").mkdir()
    (bench.folder / "out" / "notes.txt").write_text("mine")
    refused(bench(*GOOD), "is not empty", "choose another folder")
    assert digest(bench.folder / "out").keys() == {"notes.txt"}


def test_output_is_a_file(bench: Bench) -> None:
    (bench.folder / "out").write_text("mine")
    refused(bench(*GOOD), "is a file")
    refused(bench(*GOOD, output="out/below"), "out/below")
    assert (bench.folder / "out").read_text() == "mine"


def test_an_empty_output_folder_is_used(bench: Bench) -> None:
    (bench.folder / "out").mkdir()
    assert bench(*GOOD, budget=1).code == 0


def test_resume_without_a_run(bench: Bench) -> None:
    refused(bench.resume(), "holds no run", "settings.yaml")
    assert not (bench.folder / "out").exists()


def test_resume_without_output(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    from benchmarks.run import main

    code = main(["--resume"])
    refused(Result(code, "", capsys.readouterr().err, Path()), "--resume needs --output")


@pytest.mark.parametrize(
    "flags",
    [
        ("--seeds", "2"),
        ("--budget", "3"),
        ("--methods", "flow_grpo"),
        ("--set", "all.group_size=4"),
        ("--preset", "smoke"),
        ("--preset", "default"),
        ("--weights", "full"),
        ("--config", "CONFIG"),
    ],
    ids=" ".join,
)
def test_resume_with_other_settings(bench: Bench, flags: tuple[str, str]) -> None:
    folder = bench.folder / "out"
    folder.mkdir()
    (folder / "settings.yaml").write_text("left: alone\n")
    given = [bench.config() if flag == "CONFIG" else flag for flag in flags]
    refused(bench.resume("out", *given), "--resume", flags[0])
    assert (folder / "settings.yaml").read_text() == "left: alone\n"


def test_resume_with_edited_settings(bench: Bench) -> None:
    assert bench(*GOOD, budget=1).code == 0
    settings = bench.folder / "out" / "settings.yaml"
    settings.write_text(settings.read_text().replace("budget: 1", "bugdet: 1"))
    refused(bench.resume(), "unknown field 'bugdet'")


def test_help_explains_units_presets_and_methods() -> None:
    shown = arguments().format_help()
    for word in ("iterations: batches of rollouts", "smoke", "euphonium_published", "FRAMESxHEIGHTxWIDTH"):
        assert word in shown


def test_a_plug_in_that_cannot_be_loaded_is_told_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = EntryPoint("theirs", "no_such_module:X", "video_alignment_bench.methods")
    monkeypatch.setattr("methods.registry.entry_points", lambda group: [broken])
    monkeypatch.setattr(CATALOG, "_all", None)
    assert run.main(["--methods", "flow_grpo"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(
        "error: entry point 'no_such_module:X' of an unknown package cannot be loaded: Module"
    )
    assert len(error.splitlines()) == 1
