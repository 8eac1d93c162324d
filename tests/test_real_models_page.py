"""The commands of docs/real-models.md, run in order on a tiny Wan pipeline."""

from __future__ import annotations

import importlib
import re
import shlex
from pathlib import Path

import pytest
import torch
import yaml
from accelerate.state import AcceleratorState
from diffusers import WanPipeline

from benchmarks.resolve import read_config
from tests.geometry import GEOMETRY

PAGE = Path(__file__).parents[1] / "docs" / "real-models.md"
RECIPE = Path(__file__).parents[1] / "benchmarks" / "recipes" / "matched_wan_1gpu.yaml"
HUB = "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"

#: What is smaller here than on the page.
SMALLER = {"--samples-per-prompt": "20", "--blocks": "1", "--steps": "2", "--batch": "4"}


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(), flags=re.S)


@pytest.fixture(scope="module")
def place(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the recipe's settings, its model, suite and sizes replaced by tiny ones."""
    folder = tmp_path_factory.mktemp("page")
    recipe = read_config(RECIPE)
    tiny = {
        "model": str(world / "pipeline"),
        "suite": "shapes",
        "outcome_model": str(world / "outcome"),
        "video": vars(GEOMETRY),
        "seeds": 1,
        "budget": 1,
        "budget_unit": "iterations",
        "prompts": {
            "train": ["a small red ball moving left", "a large blue ball moving up"],
            "held_out": ["a medium green ball moving down"],
        },
        "prompts_per_iteration": 2,
        "evaluation": {**recipe["evaluation"], "train_prompts": 1, "samples_per_prompt": 2, "num_steps": 2},
    }
    small = {"sampler": {"num_steps": 4, "shift": 3.0}, "group_size": 2}
    settings = {"all": {**recipe["method_settings"]["all"], **small}}
    (folder / "tiny.yaml").write_text(yaml.safe_dump({**recipe, **tiny, "method_settings": settings}))
    return folder


def shrunk(line: str, world: Path) -> list[str]:
    """A command as on the page, on the tiny model: its module and its arguments."""
    words = shlex.split(
        line.replace("matched_wan_1gpu", "tiny.yaml")
        .replace(HUB, str(world / "pipeline"))
        .replace("wan-quality", f"shapes --outcome-model {world / 'outcome'}")
    )
    for option, value in SMALLER.items():
        if option in words:
            words[words.index(option) + 1] = value
    assert words[:2] == ["python", "-m"]
    return words[2:]


def test_the_page_takes_a_user_to_a_comparison(
    place: Path, world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    AcceleratorState._reset_state(reset_partial_state=True)  # other tests train in another precision
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    lines = [line for block in blocks("bash") for line in block.splitlines()]
    assert len(lines) == 5
    for line in lines:
        module, *arguments = shrunk(line, world)
        code = importlib.import_module(module).main(arguments)
        assert code == 0, f"{line}\n{capsys.readouterr().err[-3000:]}"
    AcceleratorState._reset_state(reset_partial_state=True)
    assert (place / "results" / "wan" / "report.html").is_file()
    (code,) = blocks("python")
    for name in (HUB, "results/wan"):
        assert name in code
    here = code.replace(HUB, str(world / "pipeline")).replace("results/wan", str(place / "results" / "wan"))
    names: dict[str, object] = {}
    exec(here, names)
    pipe = names["pipe"]
    assert isinstance(pipe, WanPipeline)
    adapters = [tensor for name, tensor in pipe.transformer.named_parameters() if "lora_B" in name]
    assert adapters
    assert all(torch.isfinite(tensor).all() for tensor in adapters)
    assert any(tensor.abs().max() > 0 for tensor in adapters)
