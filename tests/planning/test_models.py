"""Shapes of published checkpoints against their known sizes, and few blocks against the whole network."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.planning import measuring
from benchmarks.planning.measuring import Measurements
from benchmarks.planning.models import configs_of, known_models, meta_condition, meta_policy, numel
from benchmarks.settings import SettingsError
from samplers.condition import Geometry
from samplers.families import ModelError
from samplers.pipeline import Scales
from tests.planning.conftest import costs_of, settings_of
from tests.world import world_policy

#: Parameters of one denoising network, as the models' authors have them.
PARAMETERS = {
    "Wan-AI/Wan2.1-T2V-1.3B-Diffusers": 1.42e9,
    "Wan-AI/Wan2.1-T2V-14B-Diffusers": 14.3e9,
    "Wan-AI/Wan2.2-T2V-A14B-Diffusers": 14.3e9,
    "Wan-AI/Wan2.2-TI2V-5B-Diffusers": 5.0e9,
    "hunyuanvideo-community/HunyuanVideo": 12.8e9,
    "hunyuanvideo-community/HunyuanVideo-1.5-Diffusers-480p_t2v": 8.3e9,
    "Lightricks/LTX-Video": 1.92e9,
}
VIDEO = {"num_frames": 9, "height": 256, "width": 256}


def planned(model: str, **flags: object) -> Measurements:
    given = {"model": Path(model), "video": VIDEO, "execution": {"dtype": "bfloat16"}, **flags}
    return costs_of(settings_of("flow_grpo", **given))


def test_every_shipped_model_is_checked() -> None:
    assert set(known_models()) == set(PARAMETERS)


@pytest.mark.parametrize("model", sorted(PARAMETERS))
def test_shapes_have_the_known_number_of_parameters(model: str) -> None:
    sizes = planned(model).sizes
    assert sizes.parameters == pytest.approx(PARAMETERS[model], rel=0.03)
    networks = 2 if "A14B" in model else 1
    # In bfloat16, apart from a few layers that stay in float32.
    assert sizes.network == pytest.approx(networks * 2 * PARAMETERS[model], rel=0.04)
    assert 0.001 < sizes.trained / sizes.parameters / networks < 0.05


@pytest.mark.parametrize(
    ("model", "whole"),
    [
        ("Wan-AI/Wan2.1-T2V-1.3B-Diffusers", {"num_layers": 5}),
        # Slim blocks, so that few of them already hold more than one needs: the peak moves into the second list.
        ("hunyuanvideo-community/HunyuanVideo", {"num_layers": 4, "num_single_layers": 13, "mlp_ratio": 0.5}),
    ],
)
def test_few_blocks_stand_for_all(monkeypatch: pytest.MonkeyPatch, model: str, whole: dict[str, Any]) -> None:
    """A network of several blocks more than are measured costs what is extended from those."""
    execution = {"dtype": "bfloat16", "gradient_checkpointing": True}
    settings = settings_of("flow_grpo", model=Path(model), video=VIDEO, execution=execution, precision="bf16")
    configs = configs_of(Path(model)).with_depths(whole)
    monkeypatch.setattr(measuring, "_MANY", 9)
    extended, through = Measurements(configs, settings), frozenset({"weights"})
    found = extended.network(1, True, through), extended.sizes.trained
    monkeypatch.setattr(measuring, "_DEPTHS", {1: (20,), 2: (20, 20)})
    direct = Measurements(configs, settings)
    expected = direct.network(1, True, through), direct.sizes.trained
    assert found[1] == expected[1]
    assert found[0].tflops == pytest.approx(expected[0].tflops)
    assert found[0].peak == pytest.approx(expected[0].peak, rel=0.02)


def test_a_folder_is_read_without_its_weights(world: Path, tmp_path: Path) -> None:
    shutil.copytree(world / "pipeline", tmp_path / "bare", ignore=shutil.ignore_patterns("*.safetensors"))
    configs = configs_of(tmp_path / "bare")
    policy, real = meta_policy(configs, Geometry(5, 16, 16), Scales(), torch.float32), world_policy(world)
    assert policy.latent_shape == real.latent_shape
    assert numel(policy.denoiser) == numel(real.denoiser)
    assert numel(policy.pipeline.vae) == numel(real.pipeline.vae)
    text = real.encode(["a ball"]).text
    shapes = {name: tensor.shape for name, tensor in meta_condition(configs, policy, 1).text.items()}
    assert shapes == {name: tensor.shape for name, tensor in text.items()}


def test_an_unknown_hub_id_is_refused() -> None:
    with pytest.raises(
        SettingsError, match=r"Wan2\.1-T2V-1\.3B'.*folder of a downloaded.*did you mean 'Wan-AI/Wan2"
    ):
        configs_of(Path("Wan-AI/Wan2.1-T2V-1.3B"))
    with pytest.raises(SettingsError, match="'some/thing/else', no folder"):
        configs_of(Path("some/thing/else"))


def test_a_folder_of_another_family_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "CogVideoXPipeline"}))
    with pytest.raises(ModelError, match="no flow-matching model"):
        configs_of(tmp_path)


def test_a_revision_does_not_change_the_shapes() -> None:
    name = "Lightricks/LTX-Video"
    assert configs_of(Path(f"{name}@main")).parts == configs_of(Path(name)).parts
