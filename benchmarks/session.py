"""Objects shared by all runs of a process, and checks before training."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from safetensors import SafetensorError

from benchmarks.ledger import UsageMeter
from benchmarks.settings import RunSettings, SettingsError
from methods.method import Method
from methods.seeding import generator
from methods.weights import checked_targets
from rewards.cost import Cost
from rewards.process import LatentProcessReward
from rewards.provenance import Provenance, ProvenanceError
from rewards.suites import LoadedSuite, load_suite
from samplers import Sampler
from samplers.families import ModelError
from samplers.loading import has_two_networks, load_policy, model_folder, pipeline_family, prompt_cache
from samplers.pipeline import PipelinePolicy
from samplers.prompts import PromptCache


@dataclass
class Session:
    """Objects shared by all runs of a process: settings, devices, and the suite's rewards, loaded once.

    Attributes:
        settings: the run's settings.
        accelerator: devices, precision, processes.
        suite: the rewards.
        flops: measured costs of sections; within a run they depend only on their keys.
        prompts: the run's prompts, encoded once.
    """

    settings: RunSettings
    accelerator: Accelerator
    suite: LoadedSuite
    flops: dict[tuple[str, Hashable], float] = field(default_factory=dict)
    prompts: PromptCache = field(default_factory=PromptCache)

    @classmethod
    def open(cls, settings: RunSettings) -> Session:
        """Loads the suite.

        Raises:
            SuiteError: the suite cannot be loaded.
            ModelError: the base model cannot be found.
        """
        with _loading("model", settings.model, ModelError):
            model = model_folder(settings.model)
            pipeline_family(model)
            # A batch of a pipeline with two networks may lie on one side of their boundary.
            unused = DistributedDataParallelKwargs(find_unused_parameters=has_two_networks(model))
            folder = settings.execution.prompt_cache
            prompts = (
                PromptCache()
                if folder is None
                else prompt_cache(model, folder, settings.execution.torch_dtype)
            )
        accelerator = Accelerator(
            mixed_precision=settings.precision,
            cpu=not torch.cuda.is_available(),
            kwargs_handlers=[unused],
        )
        suite = load_suite(settings.suite, settings.outcome_model)
        suite.to(accelerator.device)
        return cls(settings, accelerator, suite, prompts=prompts)

    def policy(self, texts: Sequence[str] | None = None) -> PipelinePolicy:
        """A fresh copy of the base model.

        Args:
            texts: the prompts that it will be asked for; None for the run's. It knows no other.

        Raises:
            ModelError: it cannot be used, or its folder is damaged.
        """
        settings = self.settings
        with _loading("model", settings.model, ModelError):
            folder = model_folder(settings.model)
            parts = pipeline_family(folder).text_parts
            texts = [*(settings.prompts.train + settings.prompts.held_out if texts is None else texts)]
            negative = [settings.negative_prompt] * settings.scales.guided
            known = not self.prompts.missing([*texts, *negative])
            policy = load_policy(
                folder,
                settings.video,
                settings.scales,
                settings.execution.torch_dtype,
                self.prompts,
                # Text encoders are the largest part of many pipelines: not read where they have nothing to do.
                **(dict.fromkeys(parts) if known else {}),
            )
            policy.negative_prompt = settings.negative_prompt
            settings.execution.prepare(policy)
            if not known:
                for part in parts:
                    getattr(policy.pipeline, part).to(self.accelerator.device)
                policy.encode(texts)
                policy.free_text_encoders()
        policy.pipeline.to(self.accelerator.device)
        return policy

    def process_reward(self, policy: PipelinePolicy, method: Method) -> LatentProcessReward:
        """A method's process reward, after checking it against the base model.

        Raises:
            ProvenanceError: it was made for another model or latent space, or is damaged.
        """
        expected = Provenance.of(policy.pipeline)
        folder = method.process_model or self.settings.process_reward
        with _loading("process reward", folder, ProvenanceError):
            loaded = LatentProcessReward.load(folder, expected)
        return loaded.to(self.accelerator.device)

    def meter(self) -> UsageMeter:
        """A meter that reuses the measurements of earlier runs."""
        return UsageMeter(self.accelerator.device, self.flops)


@contextmanager
def _loading(what: str, path: Path, refusal: type[Exception]) -> Iterator[None]:
    """In this context, library errors about damaged files become one line that names the folder."""
    try:
        yield
    except refusal:
        raise
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise refusal(f"{what} {str(path)!r} cannot be loaded: {type(error).__name__}: {error}") from error


def check(settings: RunSettings) -> None:
    """Checks, before anything is written, that model, suite and process reward can be used.

    Raises:
        SettingsError, WeightsError: a method could not train.
        ModelError, SuiteError, ProvenanceError: something cannot be loaded, or parts do not fit together.
    """
    check_methods(settings)
    session = Session.open(settings)
    _check_suite(settings, session.suite)
    policy = session.policy()
    if settings.weights.kind == "lora":
        checked_targets(policy, settings.weights)
    for method in settings.method_settings.values():
        if method.needs_process_reward:
            paid_before(settings, session.process_reward(policy, method))


def _check_suite(settings: RunSettings, suite: LoadedSuite) -> None:
    """Checks that the suite can score the run's videos, and has the gradients that its methods need.

    Raises:
        SuiteError: naming the scorer.
    """
    video, prompts = settings.video, settings.prompts
    suite.require((*prompts.train, *prompts.held_out), video.num_frames, video.height, video.width)
    for name, method in settings.method_settings.items():
        if _exact_gradients(method):
            suite.require_gradients(name)


def _exact_gradients(method: Method) -> bool:
    """Whether the method differentiates the training rewards of decoded videos."""
    guided = method.outcome_guidance is not None and method.outcome_guidance.estimator == "autograd"
    return guided or method.objective.needs.differentiable


def paid_before(settings: RunSettings, process_reward: LatentProcessReward | None) -> Cost | None:
    """The cost charged to a run before its first iteration.

    Raises:
        SettingsError: the process reward's training is to be charged, but its cost is unknown or exceeds the budget.
    """
    if process_reward is None or not settings.charge_prm:
        return None
    cost = process_reward.cost
    if cost is None:
        raise SettingsError(
            "charge_prm: the process reward's config.json does not record what its training cost; train it with this "
            "version of rewards.train_prm, or omit charge_prm"
        )
    used = cost.model_dump()[settings.budget_unit]
    if used >= settings.budget:
        raise SettingsError(
            f"charge_prm: the process reward's training used {used:g} of {settings.budget:g} {settings.budget_unit}, "
            "so nothing is left: give a larger budget, or omit charge_prm"
        )
    return cost


def check_methods(settings: RunSettings) -> None:
    """Checks, before anything is loaded, that the methods can train with the run's settings.

    Raises:
        SettingsError: a rollout has fewer videos than updates, or no trainable step; or the decoder moves while it is
            differentiated.
    """
    for name, method in settings.method_settings.items():
        videos = settings.prompts_per_iteration * method.group_size
        if method.updates_per_rollout > videos:
            raise SettingsError(
                f"{name}: updates_per_rollout is {method.updates_per_rollout}; a rollout has {videos} videos "
                "(prompts_per_iteration x group_size), and each update needs one"
            )
        sampler = Sampler(method.sampler).at_iteration(0, generator(0, "window", 0))
        if problem := method.objective.refusal(sampler):
            raise SettingsError(f"{name}: {problem}")
        if settings.execution.offload_decoder and _exact_gradients(method):
            raise SettingsError(
                f"{name}: execution.offload_decoder is true, and the method differentiates through the decoder, which "
                "must stay where it is; set it to false"
            )
