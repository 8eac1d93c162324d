"""Makes the testbed's weights from scratch, stage by stage; finished stages are skipped."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

from diffusers import AutoencoderKLWan, WanPipeline

from benchmarks.preferences import sample_preferences
from benchmarks.testbed import NUM_STEPS, SHIFT, manifest
from benchmarks.testbed.measurement import GEOMETRY, headroom_problems, measure_base
from benchmarks.testbed.pipeline import assemble
from benchmarks.testbed.recipe import Recipe
from benchmarks.testbed.scenes import prompt_split
from benchmarks.testbed.train_outcome import train_outcome
from benchmarks.testbed.train_transformer import polish, pretrain
from benchmarks.testbed.train_vae import train_vae
from rewards.process import LatentProcessReward
from rewards.provenance import Provenance
from rewards.shapes.caption_match import VideoWordModel
from rewards.suites import load_suite
from rewards.train_prm import train_prm
from samplers.loading import load_policy
from samplers.pipeline import PipelinePolicy

logger = logging.getLogger(__name__)


class Build:
    """One build.

    Args:
        folder: where the weights go.
        work: folder for unfinished stages and their figures, so that an interrupted build can continue.
        recipe: the settings.
    """

    def __init__(self, folder: Path, work: Path, recipe: Recipe) -> None:
        self.folder, self.work, self.recipe = folder, work, recipe
        folder.mkdir(parents=True, exist_ok=True)
        work.mkdir(parents=True, exist_ok=True)

    def run(self) -> dict[str, float]:
        """All stages; returns what was measured.

        Raises:
            ValueError: the base model has no headroom; names the attribute.
        """
        figures: dict[str, float] = {}
        for name, stage in self.stages().items():
            done = self.work / f"{name}.json"
            if not done.is_file():
                logger.info("stage %s", name)
                done.write_text(json.dumps(stage(), indent=2) + "\n")
            figures |= json.loads(done.read_text())
            logger.info("stage %s: %s", name, done.read_text().strip())
        problems = headroom_problems(figures)
        if problems:
            raise ValueError(f"the base model has no headroom for alignment: {'; '.join(problems)}")
        manifest.write(self.folder, self.recipe.model_dump(), figures)
        return figures

    def stages(self) -> dict[str, Callable[[], dict[str, float]]]:
        """Name -> stage, in order."""
        return {
            "vae": self._vae,
            "pipeline": self._pipeline,
            "polish": self._polish,
            "outcome": self._outcome,
            "base": self._base,
            "process": self._process,
        }

    def _vae(self) -> dict[str, float]:
        vae, figures = train_vae(self.recipe)
        vae.save_pretrained(self.work / "vae")
        return figures

    def _trained_vae(self) -> AutoencoderKLWan:
        return AutoencoderKLWan.from_pretrained(self.work / "vae")

    def _pipeline(self) -> dict[str, float]:
        vae = self._trained_vae()
        tokenizer, text_encoder, transformer, figures = pretrain(vae, self.recipe)
        pipeline: WanPipeline = assemble(self.recipe, tokenizer, text_encoder, transformer, vae)
        pipeline.save_pretrained(self.folder / "pipeline")
        return figures

    def _polish(self) -> dict[str, float]:
        pipeline = WanPipeline.from_pretrained(self.folder / "pipeline")
        figures = polish(pipeline, self.recipe)
        pipeline.save_pretrained(self.folder / "pipeline")
        return figures

    def _outcome(self) -> dict[str, float]:
        model, figures = train_outcome(self._trained_vae(), self.recipe)
        model.save(self.folder / "outcome", {"made_by": "python -m benchmarks.testbed build", **figures})
        return figures

    def _policy(self) -> PipelinePolicy:
        return load_policy(self.folder / "pipeline", GEOMETRY)

    def _base(self) -> dict[str, float]:
        return measure_base(self._policy(), VideoWordModel.load(self.folder / "outcome"))

    def _process(self) -> dict[str, float]:
        policy = self._policy()
        suite = load_suite("shapes", self.folder / "outcome")
        data = sample_preferences(
            policy,
            suite.training,
            suite.suite.training,
            prompt_split()[0],
            self.recipe.preferences_per_prompt,
            NUM_STEPS,
            SHIFT,
            seed=self.recipe.seed + 5,
        )
        data.save(self.work / "preferences.safetensors")
        provenance = Provenance.of(policy.pipeline)
        model, by_level = train_prm(policy.transformer, data, self.recipe.process)
        model.save(
            self.folder / "process_reward", provenance, {"by_noise_level": by_level, "data": data.description}
        )
        return {
            f"process_reward_{name}_at_{level}": figures[name]
            for level, figures in by_level.items()
            for name in ("accuracy", "correlation")
        }


def measure_again(folder: Path) -> dict[str, float]:
    """Measures shipped weights as the build did; loading the process reward checks its provenance."""
    policy = load_policy(folder / "pipeline", GEOMETRY)
    LatentProcessReward.load(folder / "process_reward", Provenance.of(policy.pipeline))
    return measure_base(policy, VideoWordModel.load(folder / "outcome"))
