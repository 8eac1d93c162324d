"""One seed of best-of-n fine-tuning: settings, checks before it starts, and the loop.

It writes the same records as an RL method, so the analysis treats both alike. Its settings are those of an ordinary
run, except that `method_settings` has the fields of `methods.best_of_n.BestOfN`: those of an RL method (sampler,
group, advantage, ratio) have no meaning here.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from analysis.schema import EVALUATION, PEAK_MEMORY, WHOLE
from benchmarks import checkpoint
from benchmarks.adapters import WEIGHTS_FOLDER, model_card, write_weights
from benchmarks.budget import Budget
from benchmarks.evaluation import evaluate
from benchmarks.ledger import Ledger, Usage, peak_memory_mb, reset_peak_memory
from benchmarks.records import Recorder
from benchmarks.session import Session
from benchmarks.settings import RunSettings, SettingsError
from benchmarks.task import Progress, Report, evaluation_counts
from methods.best_of_n import BestOfN, FineTuner, Kept
from methods.seeding import derived_seed
from methods.weights import TrainedWeights
from rewards.cost import Cost
from rewards.preferences import PreferenceData
from rewards.provenance import Provenance
from rewards.suites import suite_named
from samplers.pipeline import PipelinePolicy

#: Component of the preference data in the ledger, at iteration 0: they are scored rollouts of the base model.
DATA = "rollout"
_REMAKE = "make it with `python -m benchmarks.preferences`"


class FineTuningSettings(RunSettings):
    """Settings of a run whose only method is best-of-n fine-tuning; `methods.best_of_n.BestOfN` says what of."""

    # A different kind of method than in an ordinary run, under the name that the analysis reads.
    method_settings: dict[str, BestOfN]  # type: ignore[assignment]

    @classmethod
    def of(cls, shared: RunSettings, method: BestOfN) -> FineTuningSettings:
        """An ordinary run's settings with this as its only method."""
        own = {"methods": (method.name,), "method_settings": {method.name: method}}
        return cls.checked(**{**dict(shared), **own})

    @property
    def method(self) -> BestOfN:
        """The method."""
        (method,) = self.method_settings.values()
        return method


def load_data(settings: FineTuningSettings, policy: PipelinePolicy) -> tuple[PreferenceData, Cost]:
    """The preference data and their cost, checked against the run.

    Args:
        settings: the run's.
        policy: the base model, without adapters.

    Raises:
        SettingsError: they are missing, are scored with other rewards, have other videos or prompts than the run
            trains on, do not say what they cost, or leave nothing of the budget.
        ProvenanceError: another model drew them.
    """
    path = str(settings.method.data)
    try:
        data = PreferenceData.load(settings.method.data)
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise SettingsError(f"--data: {error}") from error
    Provenance.of(policy.pipeline).require(data.provenance, f"the preference data at {path!r}")
    if tuple(data.latents.shape[1:]) != policy.latent_shape:
        raise SettingsError(
            f"--data {path!r} has latents of {tuple(data.latents.shape[1:])}, and the run's videos have "
            f"{policy.latent_shape}: {_REMAKE} and the same --video"
        )
    if others := sorted(set(data.prompts) - set(settings.prompts.train)):
        raise SettingsError(
            f"--data {path!r} has prompt {others[0]!r}, which is not a training prompt of the run: {_REMAKE} "
            "on those"
        )
    weights = suite_named(settings.suite).training
    score, trained = data.description.get("score"), " + ".join(f"{w:g} {name}" for name, w in weights.items())
    if score != trained:
        raise SettingsError(
            f"--data {path!r} is scored with {score!r}, and suite {settings.suite!r} trains on {trained!r}: {_REMAKE} "
            "and the same --suite"
        )
    return data, _paid(settings, data)


def _paid(settings: FineTuningSettings, data: PreferenceData) -> Cost:
    path, unit = str(settings.method.data), settings.budget_unit
    if data.cost is None:
        raise SettingsError(f"--data {path!r} does not say what it cost: {_REMAKE} of this version")
    if unit == "iterations":
        raise SettingsError(
            "budget_unit is 'iterations', and preference data have no iterations to charge; give --budget-unit tflops"
        )
    used = data.cost.model_dump()[unit]
    if used >= settings.budget:
        raise SettingsError(
            f"budget is {settings.budget_text}, and the preference data at {path!r} used {used:g}: nothing is left to "
            "train with; give a larger --budget"
        )
    return data.cost


class FineTuning:
    """Best-of-n fine-tuning with one seed.

    Args:
        session: parts shared between runs, with `FineTuningSettings`.
        settings: the same settings.
        output: the benchmark's folder.
        seed: training seed.

    Raises:
        SettingsError, ProvenanceError: as `load_data`.
    """

    def __init__(self, session: Session, settings: FineTuningSettings, output: Path, seed: int) -> None:
        self.session, self.settings, self.method, self.seed = session, settings, settings.method, seed
        self.recorder = Recorder(output, self.method.name, seed)
        self.budget = Budget.of(settings)
        self.policy = session.policy()
        data, self.paid = load_data(settings, self.policy)
        self.tuner = self._tuner()
        self.kept = Kept.of(data, self.method.keep, self.policy)
        self.meter = session.meter()
        self.ledger = Ledger(paid=self.paid)
        self._reward: float | None = None
        self._headline: float | None = None  # at the end, for the model card
        self._identity = {"method": self.method.name, "seed": seed}
        self._checkpoint = self.recorder.folder / "checkpoint"

    def _tuner(self) -> FineTuner:
        accelerator, choice = self.session.accelerator, self.method.optimiser
        weights = TrainedWeights(
            self.policy, self.settings.weights, derived_seed(self.seed, "weights"), reference=False
        )
        optimiser = torch.optim.AdamW(
            weights.parameters, lr=choice.learning_rate, weight_decay=choice.weight_decay
        )
        network, optimiser = accelerator.prepare(self.policy.denoiser, optimiser)
        self.policy.denoiser = accelerator.unwrap_model(network)
        return FineTuner(
            self.policy, network, weights, self.method, optimiser, accelerator, self.settings.micro_batch
        )

    def run(self, report: Report) -> None:
        """Trains until the budget is used up, from the last checkpoint if there is one.

        Args:
            report: called after each iteration, and at the end.

        Raises:
            SettingsError: the budget does not pay for one iteration.
            FloatingPointError: training diverged.
        """
        self._begin(checkpoint.load(self._checkpoint, self.tuner, self._identity))
        while self.budget.has_room(self.ledger):
            self._iteration(self.ledger.iterations)
            self._evaluate_and_save(self.ledger.iterations, not self.budget.has_room(self.ledger))
            report(self._progress("running"))
        self._write_weights()
        self.recorder.status.status = "finished"
        self.recorder.save_status()
        report(self._progress("finished"))

    def _progress(self, status: str) -> Progress:
        done, total = self.ledger.iterations, self.budget.expected_iterations(self.ledger)
        share = self.budget.share(self.ledger)
        return Progress(self.method.name, self.seed, done, total, share, self._reward, status)

    def _begin(self, done: int) -> None:
        """Restores records and ledger to the checkpoint; before the first iteration, enters the cost of the data."""
        self.recorder.forget_after(done if done else -1)
        status = self.recorder.status
        status.status, status.iterations, status.error = "running", done, ""
        status.train_seconds = self.recorder.train_seconds()
        self.recorder.save_status()
        for usage in self.recorder.usages():
            self.ledger.add(usage)
        if self.ledger.iterations != done:
            raise checkpoint.CheckpointError(
                f"the checkpoint of {self.recorder.folder} is of iteration {done}, and its ledger knows "
                f"{self.ledger.iterations}: records are missing; delete the checkpoint to train this run from the "
                "beginning"
            )
        if done == 0:
            self.recorder.usage(0, _usage(self.paid))

    def _iteration(self, iteration: int) -> None:
        """One iteration of optimiser steps, entered in ledger and records."""
        device, method = self.session.accelerator.device, self.method
        reset_peak_memory(device)
        started = time.perf_counter()
        first = iteration * method.steps
        counts = {"updates": method.steps, "nfe": method.steps * method.batch}
        with self.meter("update", ("best of n", method.batch, method.steps), **counts):
            figures = [self._step(step) for step in range(first, first + method.steps)]
        usage = self.meter.take()
        usage[WHOLE, "seconds"] = time.perf_counter() - started
        usage[WHOLE, PEAK_MEMORY] = peak_memory_mb(device)
        self.ledger.add(usage)
        self.budget.require(self.ledger, method.name)
        status = self.recorder.status
        status.train_seconds += usage[WHOLE, "seconds"]
        status.iterations = iteration + 1
        metrics = {**_means(figures), "seconds": status.train_seconds}
        self.recorder.iteration(iteration + 1, metrics)
        self.recorder.usage(iteration + 1, usage)

    def _step(self, step: int) -> dict[str, float]:
        shift = self.settings.evaluation.shift
        return self.tuner.step(self.kept.batch(self.method.batch, shift, self.seed, step))

    def _evaluate_and_save(self, done: int, last: bool) -> None:
        """Evaluates and saves a checkpoint if due."""
        if last or done % self.method.every == 0:
            self._evaluate(done, last)
        if last or done % self.settings.checkpoint_every == 0:
            checkpoint.save(self._checkpoint, self.tuner, self._identity, done)
            self.recorder.save_status()

    def _evaluate(self, done: int, last: bool) -> None:
        started = time.perf_counter()
        counts = evaluation_counts(self.settings, last)
        with self.meter(EVALUATION, ("policy", counts["videos"]), **counts):
            result = evaluate(self.policy, self.session.suite, self.settings, done, last)
        self.recorder.evaluation(done, result.rows)
        self.recorder.usage(done, self.meter.take())
        if last:
            self.recorder.samples(result.videos, result.prompts)
            self._headline = result.mean("held_out", self.session.suite.suite.headline)
        self.recorder.status.evaluation_seconds += time.perf_counter() - started
        self._reward = result.mean("train", next(iter(self.session.suite.training)))

    def _write_weights(self) -> None:
        """Writes what was trained, in diffusers' format."""
        suite = self.session.suite.suite
        card = model_card(self.settings, suite, self.policy, self.method.name, self.seed, self._headline)
        write_weights(self.recorder.folder / WEIGHTS_FOLDER, self.tuner.weights, card)


def _usage(paid: Cost) -> Usage:
    """The preference data's entry in the ledger; a budget in seconds counts whole seconds."""
    amounts = {(DATA, quantity): amount for quantity, amount in paid.model_dump().items()}
    return {**amounts, (WHOLE, "seconds"): paid.seconds}


def _means(figures: list[dict[str, float]]) -> Mapping[str, Any]:
    """Each figure's mean over the steps."""
    return {name: sum(entry[name] for entry in figures) / len(figures) for name in figures[0]}
