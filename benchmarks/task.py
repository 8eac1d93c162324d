"""One (method, seed): the training loop, which exists once."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from safetensors import SafetensorError

from benchmarks import checkpoint
from benchmarks.budget import Budget
from benchmarks.evaluation import Evaluated, evaluate
from benchmarks.records import BASE, Recorder
from benchmarks.settings import RunSettings, SettingsError
from methods.experience import Draw, Experience, collect
from methods.method import Method
from methods.seeding import derived_seed, generator
from methods.update import Learner, reward_terms
from methods.weights import TrainedWeights
from rewards.process import LatentProcessReward
from rewards.provenance import Provenance, ProvenanceError
from rewards.suites import LoadedSuite, SuiteError, load_suite
from samplers import Sampler
from samplers.pipeline import ModelError, PipelinePolicy, load_policy

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Progress:
    """What a run reports after each iteration.

    Attributes:
        method, seed: which run.
        iteration, total: iterations done, and to do.
        reward: mean of the first training reward over the last rollouts, or the base's headline.
        status: "running" or "finished".
    """

    method: str
    seed: int
    iteration: int
    total: int
    reward: float | None = None
    status: str = "running"


Report = Callable[[Progress], None]


@dataclass
class Session:
    """What all runs of one process share: settings, devices, and the suite's rewards, loaded once."""

    settings: RunSettings
    accelerator: Accelerator
    suite: LoadedSuite

    @classmethod
    def open(cls, settings: RunSettings) -> Session:
        """Loads the suite.

        Raises:
            SuiteError: the suite cannot be loaded.
        """
        accelerator = Accelerator(mixed_precision=settings.precision, cpu=not torch.cuda.is_available())
        with _loading("outcome model", settings.outcome_model, SuiteError):
            suite = load_suite(settings.suite, settings.outcome_model)
        for reward in suite.all.values():
            _to_device(reward, accelerator.device)
        return cls(settings, accelerator, suite)

    def policy(self) -> PipelinePolicy:
        """A fresh copy of the base model.

        Raises:
            ModelError: it cannot be used, or its folder is damaged.
        """
        settings = self.settings
        with _loading("model folder", settings.model, ModelError):
            policy = load_policy(settings.model, settings.video.geometry, settings.guidance_scale)
        policy.pipeline.to(self.accelerator.device)
        return policy

    def process_reward(self, policy: PipelinePolicy) -> LatentProcessReward:
        """The process reward, checked against the base model.

        Raises:
            ProvenanceError: it was made for another model or latent space, or is damaged.
        """
        expected = Provenance.of(policy.pipeline)
        with _loading("process reward", self.settings.process_reward, ProvenanceError):
            loaded = LatentProcessReward.load(self.settings.process_reward, expected)
        return loaded.to(self.accelerator.device)


@contextmanager
def _loading(what: str, path: Path, refusal: type[Exception]) -> Iterator[None]:
    """Within, whatever the libraries raise over damaged files becomes one line that names the folder."""
    try:
        yield
    except refusal:
        raise
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise refusal(f"{what} {str(path)!r} cannot be loaded: {type(error).__name__}: {error}") from error


def check_methods(settings: RunSettings) -> None:
    """Refuses, before anything is loaded, methods that could not train with the run's settings.

    Raises:
        SettingsError: a rollout has fewer videos than updates, or no step that could be trained.
    """
    for name, method in settings.method_settings.items():
        videos = settings.prompts_per_iteration * method.group_size
        if method.updates_per_rollout > videos:
            raise SettingsError(
                f"{name}: updates_per_rollout is {method.updates_per_rollout}; a rollout has {videos} videos "
                "(prompts_per_iteration x group_size), and each update needs one"
            )
        sampler = Sampler(method.sampler).at_iteration(0, generator(0, "window", 0))
        last = sampler.num_steps if method.train_last_step else sampler.num_steps - 1
        if not any(sampler.stochastic(step) for step in range(last)):
            raise SettingsError(
                f"{name}: none of the {last} steps that may be trained has noise; give sampler.noise.level > 0, a "
                "wider sampler.window, or train_last_step"
            )


def _to_device(reward: object, device: torch.device) -> None:
    """Moves a reward's network, if it has one."""
    for value in vars(reward).values():
        if isinstance(value, torch.nn.Module):
            value.to(device)


def evaluate_base(session: Session, output: Path, report: Report) -> None:
    """Evaluates the untrained model, in the main process; does nothing where that was done."""
    if not session.accelerator.is_main_process:
        return
    recorder = Recorder(output, BASE, 0)
    if recorder.status.status == "finished":
        return
    recorder.forget_after(-1)
    started = time.perf_counter()
    result = evaluate(session.policy(), session.suite, session.settings, 0)
    recorder.evaluation(0, result.rows)
    recorder.samples(result.videos, result.prompts)
    recorder.status.status = "finished"
    recorder.status.evaluation_seconds = time.perf_counter() - started
    recorder.save_status()
    headline = result.mean("held_out", session.suite.suite.headline)
    report(Progress(BASE, 0, 1, 1, headline, status="finished"))


class Training:
    """One (method, seed) being trained.

    Args:
        session: shared parts.
        output: the benchmark's folder.
        method: a name in the settings.
        seed: training seed.
    """

    def __init__(self, session: Session, output: Path, method: str, seed: int) -> None:
        self.session, self.settings, self.seed = session, session.settings, seed
        self.method: Method = session.settings.method_settings[method]
        self.recorder = Recorder(output, method, seed)
        self.total = Budget.of(session.settings).iterations
        self.policy = session.policy()
        self.process_reward = (
            session.process_reward(self.policy) if self.method.needs_process_reward else None
        )
        self.learner = self._learner()
        self._identity = {"method": method, "seed": seed}
        self._checkpoint = self.recorder.folder / "checkpoint"

    def _learner(self) -> Learner:
        method, accelerator = self.method, self.session.accelerator
        weights = TrainedWeights(
            self.policy,
            self.settings.weights,
            derived_seed(self.seed, "weights"),
            reference=method.kl_weight > 0,
        )
        optimiser = torch.optim.AdamW(
            weights.parameters, lr=method.optimiser.learning_rate, weight_decay=method.optimiser.weight_decay
        )
        network, optimiser = accelerator.prepare(self.policy.transformer, optimiser)
        # Rollouts and evaluation need no gradient, and not every process evaluates: they use the plain module.
        self.policy.transformer = accelerator.unwrap_model(network)
        terms = reward_terms(method, self.session.suite.suite.training)
        return Learner(
            self.policy, network, weights, method, terms, optimiser, accelerator, self.settings.micro_batch
        )

    def run(self, report: Report) -> None:
        """Trains to the budget, from the last checkpoint if there is one."""
        done = checkpoint.load(self._checkpoint, self.learner, self._identity)
        status, main = self.recorder.status, self.session.accelerator.is_main_process
        status.status, status.iterations, status.error = "running", done, ""
        if main:
            self.recorder.forget_after(done)
            status.train_seconds = self.recorder.train_seconds()
            self.recorder.save_status()
        for iteration in range(done, self.total):
            started = time.perf_counter()
            metrics = self._iterate(iteration)
            status.train_seconds += time.perf_counter() - started
            status.iterations = iteration + 1
            if main:
                self.recorder.iteration(iteration + 1, {**metrics, "seconds": status.train_seconds})
            self._evaluate_and_save(iteration + 1, main)
            first = next(iter(self.session.suite.training))
            report(
                Progress(self.method.name, self.seed, iteration + 1, self.total, metrics[f"reward/{first}"])
            )
        status.status = "finished"
        if main:
            self.recorder.save_status()
        report(Progress(self.method.name, self.seed, self.total, self.total, status="finished"))

    def _iterate(self, iteration: int) -> dict[str, float]:
        """One batch of rollouts and its update; returns the metrics, averaged over processes."""
        sampler = Sampler(self.method.sampler_at(iteration)).at_iteration(
            iteration, generator(self.seed, "window", iteration)
        )
        experience = collect(
            self.policy,
            sampler,
            self.method,
            self._draw(iteration),
            self.session.suite.training,
            self.process_reward,
        )
        shuffle = generator(self.seed, "shuffle", iteration)
        figures = self.learner.update(experience, sampler, iteration, shuffle)
        metrics = {**_reward_figures(experience), **figures}
        values = torch.tensor(
            list(metrics.values()), dtype=torch.float64, device=self.session.accelerator.device
        )
        averaged = self.session.accelerator.reduce(values, reduction="mean")
        return dict(zip(metrics, averaged.tolist(), strict=True))

    def _draw(self, iteration: int) -> Draw:
        """This process's share of the iteration's prompts."""
        train, accelerator = self.settings.prompts.train, self.session.accelerator
        order = torch.randperm(len(train), generator=generator(self.seed, "prompts", iteration)).tolist()
        chosen = [train[i] for i in order[: self.settings.prompts_per_iteration]]
        share = share_of(len(chosen), accelerator.num_processes)
        first = share * accelerator.process_index
        return Draw(self.seed, iteration, chosen[first : first + share], first)

    def _evaluate_and_save(self, done: int, main: bool) -> None:
        """Evaluation and checkpoint where due, by the main process; the others wait."""
        last = done == self.total
        if main and (last or done % self.settings.evaluation.every == 0):
            started = time.perf_counter()
            result = evaluate(self.policy, self.session.suite, self.settings, done)
            self._record(result, done, last)
            self.recorder.status.evaluation_seconds += time.perf_counter() - started
        if main and (last or done % self.settings.checkpoint_every == 0):
            checkpoint.save(self._checkpoint, self.learner, self._identity, done)
            self.recorder.save_status()
        self.session.accelerator.wait_for_everyone()

    def _record(self, result: Evaluated, iteration: int, last: bool) -> None:
        self.recorder.evaluation(iteration, result.rows)
        if last:
            self.recorder.samples(result.videos, result.prompts)


def share_of(prompts: int, processes: int) -> int:
    """Prompts that each process takes.

    Raises:
        SettingsError: they do not divide evenly.
    """
    if prompts % processes:
        raise SettingsError(
            f"prompts_per_iteration is {prompts}; give a multiple of the {processes} processes"
        )
    return prompts // processes


def _reward_figures(experience: Experience) -> dict[str, float]:
    figures = {f"reward/{name}": values.mean().item() for name, values in experience.rewards.items()}
    process = experience.trajectory.process_rewards
    if process is not None:
        figures["reward/process"] = process[-1].mean().item()
    return figures
