"""Whole runs of every family: what they leave loads in plain diffusers, they resume, and they share work."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from benchmarks import checkpoint
from benchmarks.task import Training
from samplers.pipeline import PipelinePolicy
from tests.benchmarks.harness import same_tensors
from tests.families.pipelines import VARIANTS, start_noise
from tests.families.runs import (
    METHOD,
    gradients,
    save_process_reward,
    settings_of,
    shrunk,
    train,
    weights_folder,
)
from tests.families.tokenizers import PROMPTS as WORDS

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def runs(world, tiny, tmp_path_factory):
    """Name -> (output folder, training) of a finished run, made when it is first asked for."""
    made: dict[str, tuple[Path, Training]] = {}

    def run(name: str) -> tuple[Path, Training]:
        if name not in made:
            output = tmp_path_factory.mktemp(name)
            process = save_process_reward(name, tiny.folder(name), output / "process")
            made[name] = output, train(settings_of(world, name, tiny.folder(name), process), name, output)
        return made[name]

    return run


def velocity(policy: PipelinePolicy) -> Tensor:
    """At noise levels on both sides of any boundary."""
    x, sigma = start_noise(policy, 3), torch.tensor([0.95, 0.5, 0.1])
    with torch.no_grad():
        return policy.velocity(x, sigma, policy.encode(WORDS))


def load_adapters(pipeline: DiffusionPipeline, folder: Path) -> None:
    """As the model card says."""
    files = sorted(file.name for file in folder.glob("*.safetensors"))
    if not hasattr(pipeline, "load_lora_weights"):
        pipeline.transformer.load_lora_adapter(folder, weight_name=files[0])
        return
    pipeline.load_lora_weights(folder, weight_name=files[0], adapter_name="high")
    if len(files) > 1:
        second = {"adapter_name": "low", "load_into_transformer_2": True}
        pipeline.load_lora_weights(folder, weight_name=files[1], **second)


def test_what_a_run_leaves_loads_in_diffusers_and_is_the_trained_policy(runs, tiny, name):
    output, training = runs(name)
    base = tiny.policy(name)
    pipeline = DiffusionPipeline.from_pretrained(tiny.folder(name))
    VARIANTS[name].shrink(pipeline)
    load_adapters(pipeline, weights_folder(output))
    loaded = velocity(PipelinePolicy(pipeline, base.geometry))
    trained = tiny.policy(name)
    trained.denoiser = training.policy.plain
    with training.learner.evaluated():  # the average of its weights
        torch.testing.assert_close(loaded, velocity(trained), atol=1e-5, rtol=1e-5)
    assert (loaded - velocity(base)).flatten(1).abs().amax(dim=1).min() > 1e-4
    code = (weights_folder(output) / "README.md").read_text().split("```python\n")[1].split("```")[0]
    assert base.family.pipeline in code
    compile(code, "card", "exec")


def test_a_run_goes_on_from_its_checkpoint(runs, tiny, world, name, tmp_path):
    output, finished = runs(name)
    train(settings_of(world, name, tiny.folder(name), output / "process", 1), name, tmp_path)
    resumed = train(settings_of(world, name, tiny.folder(name), output / "process", 2), name, tmp_path)
    states = [training.learner.weights.state_dict() for training in (finished, resumed)]
    assert same_tensors(*states)
    folder = tmp_path / "runs" / f"{METHOD}-seed0" / "checkpoint"
    with shrunk(name):
        fresh = Training(resumed.session, tmp_path / "other", METHOD, seed=0)
    assert checkpoint.load(folder, fresh.learner, {"method": METHOD, "seed": 0}) == 2
    assert same_tensors(fresh.learner.weights.state_dict(), states[1])


def test_two_processes_train_what_one_trains(runs, tiny, world, tmp_path):
    folders = {}
    for name in VARIANTS:
        output, _ = runs(name)
        shutil.copytree(output / "process", tmp_path / name / "process")
        folders[name] = tiny.folder(name)
    named = [f"{name}={folder}" for name, folder in folders.items()]
    done = subprocess.run(
        [sys.executable, "-m", "tests.families.runs", str(world), str(tmp_path), "2", *named],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    for name, folder in folders.items():
        alone = train(
            settings_of(world, name, folder, tmp_path / name / "process", 1), name, tmp_path / "alone" / name
        )
        # Adam's first step has the size of the learning rate even where a gradient is noise: gradients are compared.
        together, expected = torch.load(tmp_path / name / "gradients.pt"), gradients(alone)
        norm = torch.stack([part.norm() for part in expected]).norm()
        assert norm > 0
        for one, other in zip(together, expected, strict=True):
            assert (one - other).norm() < 1e-3 * norm, name
