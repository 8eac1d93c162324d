"""The update shared by all methods: rows, a loss, a KL to a reference, an optimiser step."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from methods.batches import Pairs, Transitions
from methods.collecting import collect
from methods.distilling import Distiller, Target
from methods.experience import Draw, Experience
from methods.guiding import Rewards
from methods.losses import correlation
from methods.metering import Meter, unmetered
from methods.method import Method
from methods.networks import Networks
from methods.objectives.base import follow
from methods.seeding import derived_seed, generator
from methods.terms import Terms, reward_terms, step_advantages
from methods.weights import AVERAGE, TrainedWeights, WeightSettings
from samplers import Sampler
from samplers.pipeline import PipelinePolicy


@dataclass
class Learner:
    """A policy being trained by one method.

    Attributes:
        policy: the policy, its networks as they are.
        network: the same networks, wrapped by accelerate (gradients averaged over processes).
        weights: its trained part, and copies of it.
        method: the method's settings.
        terms: the reward terms.
        rewards: the rewards that train and guide.
        optimiser: prepared by accelerate.
        accelerator: devices, precision, processes.
        seed: of the run.
        micro_batch: rows in one forward and backward pass; results do not depend on it.
        rollout_batch: rollouts drawn at a time; None for all.
        store: device on which rollouts are kept; None for the policy's.
    """

    policy: PipelinePolicy
    network: nn.Module
    weights: TrainedWeights
    method: Method
    terms: Terms
    rewards: Rewards
    optimiser: torch.optim.Optimizer
    accelerator: Accelerator
    seed: int
    micro_batch: int = 512
    rollout_batch: int | None = None
    store: str | None = None

    @classmethod
    def of(
        cls,
        policy: PipelinePolicy,
        method: Method,
        rewards: Rewards,
        accelerator: Accelerator,
        seed: int,
        settings: WeightSettings,
        reference: bool = False,
        micro_batch: int = 512,
        rollout_batch: int | None = None,
        store: str | None = None,
    ) -> Self:
        """Makes part of a policy trainable and sets up its training.

        Args:
            policy: a base model, on its device.
            method: the method.
            rewards: the run's.
            accelerator: devices, precision, processes.
            seed: of the run.
            settings: which weights are trained.
            reference: whether the base model's velocity is needed elsewhere.
            micro_batch: see the class.
            rollout_batch: see the class.
            store: see the class.
        """
        needs = method.objective.needs
        weights = TrainedWeights(
            policy,
            settings,
            derived_seed(seed, "weights"),
            reference or method.needs_base or needs.base,
            needs.copies | ({AVERAGE} if method.average else set()),
        )
        optimiser = torch.optim.AdamW(
            weights.parameters, lr=method.optimiser.learning_rate, weight_decay=method.optimiser.weight_decay
        )
        network, optimiser = accelerator.prepare(policy.denoiser, optimiser)
        # Rollouts and evaluation need no gradient, and not every process evaluates: they use the plain module.
        policy.denoiser = accelerator.unwrap_model(network)
        terms = reward_terms(method, rewards.weights)
        return cls(
            policy,
            network,
            weights,
            method,
            terms,
            rewards,
            optimiser,
            accelerator,
            seed,
            micro_batch,
            rollout_batch,
            store,
        )

    def sampler(self, iteration: int) -> Sampler:
        """The method's sampler at an iteration, from 0."""
        window = generator(self.seed, "window", iteration)
        return Sampler(self.method.sampler_at(iteration)).at_iteration(iteration, window)

    def collect(self, draw: Draw, meter: Meter = unmetered) -> Experience:
        """Collects one batch of rollouts; see `methods.collecting.collect`."""
        sampler = self.sampler(draw.iteration)
        # Within accelerate's precision already: `unwrap_model` keeps the wrapped forward.
        with self.weights.using(self.method.objective.needs.rollouts):
            return collect(
                self.policy, sampler, self.method, draw, self.rewards, meter, self.rollout_batch, self.store
            )

    @contextmanager
    def evaluated(self) -> Iterator[None]:
        """In this context the policy is the one evaluated: the average of its weights, if the method has one."""
        with self.weights.using(AVERAGE if self.method.average else "policy"):
            yield

    def update(self, experience: Experience, meter: Meter = unmetered) -> dict[str, float]:
        """Trains on one batch of rollouts, drawn by `collect` from the current policy.

        Args:
            experience: the rollouts.
            meter: counts the work.

        Returns:
            Diagnostics, averaged over the rows: losses, what the objective says of itself, gradient norm before
            clipping.

        Raises:
            FloatingPointError: loss or gradient is not finite; no optimiser step was taken.
        """
        at = self._at(experience, meter)
        pairs = self._batch(experience, at)
        with meter("update", self._key(pairs), **self._counts(pairs)):
            figures = self._train(pairs, experience, at)
        self.method.objective.after_update(self.weights.copies, self._trained(), at.iteration)
        return figures | _guidance_figures(pairs, self.terms)

    def _train(self, pairs: Pairs, experience: Experience, at: Networks) -> dict[str, float]:
        """All optimiser steps on some rows, each on a separate part of the samples."""
        share = self._shares(experience)
        totals: dict[str, float] = {}
        norms = []
        for number in range(self.method.updates_per_rollout):
            rows = torch.nonzero(share[pairs.sample] == number).flatten()
            self.optimiser.zero_grad(set_to_none=True)
            for part in rows.split(self.micro_batch):
                some = pairs.rows(part).to(self.policy.device)
                loss, figures = self._loss(some, self._target(some, experience, at), at)
                self.accelerator.backward(loss * (len(part) / len(rows)))
                for name, value in figures.items():
                    totals[name] = totals.get(name, 0.0) + value * len(part) / len(pairs)
            norms.append(self._step() if len(rows) else 0.0)
            self._follow(at.iteration * self.method.updates_per_rollout + number + 1)
        return totals | {"gradient_norm": sum(norms) / len(norms)}

    def _shares(self, experience: Experience) -> Tensor:
        """(B,) which update trains each sample, at random; -1 for samples that are not trained."""
        updates, trained = self.method.updates_per_rollout, experience.samples
        if updates > len(trained):
            raise ValueError(
                f"{self.method.name}: updates_per_rollout is {updates}, more than the {len(trained)} samples of a "
                "rollout that are trained"
            )
        shuffle = generator(self.seed, "shuffle", experience.draw.iteration)
        share = torch.full((len(experience.steps),), -1)
        share[trained] = torch.randperm(len(trained), generator=shuffle) % updates
        return share

    def _at(self, experience: Experience, meter: Meter = unmetered) -> Networks:
        iteration = experience.draw.iteration
        return Networks(
            self.policy,
            self.network,
            self.weights,
            self.accelerator,
            self.terms,
            self.rewards.metered(meter),
            self.sampler(iteration),
            iteration,
            self.micro_batch,
        )

    def _batch(self, experience: Experience, at: Networks) -> Pairs:
        advantages = step_advantages(experience, self.method, self.terms, self.accelerator)
        return self.method.objective.batch(experience, advantages, at)

    def _trained(self) -> list[Tensor]:
        return [parameter.detach() for parameter in self.weights.parameters]

    def _step(self) -> float:
        """Clips the gradient and steps; returns the norm before clipping."""
        norm = self.accelerator.clip_grad_norm_(self.weights.parameters, self.method.optimiser.max_grad_norm)
        if not torch.isfinite(norm):
            raise FloatingPointError(f"{self.method.name}: the gradient's norm is {norm.item()}")
        self.optimiser.step()
        return norm.item()

    def _follow(self, step: int) -> None:
        """Updates the average of the weights after an optimiser step, counted from 1."""
        average = self.method.average
        if average is not None and step % average.every == 0:
            kept = min(average.decay, (1 + step) / (10 + step))
            follow(self.weights.copies[AVERAGE], self._trained(), kept)

    def _key(self, pairs: Pairs) -> Hashable:
        """What the operation count of an update depends on, besides the model and its trained weights."""
        method = self.method
        guidance = method.target_guidance(0)
        clean = guidance is not None and guidance.at == "x0_hat" and not method.reuses_gradient
        return (
            method.objective.model_dump_json(),
            tuple(pairs.x.shape),
            method.updates_per_rollout,
            method.distilled_through,
            method.gradient_source if clean else None,
        )

    def _counts(self, pairs: Pairs) -> dict[str, float]:
        """Optimiser steps and network evaluations of an update; a target may evaluate a network as well."""
        reference = len(pairs) * (self.method.distilled_through is not None)
        evaluations = self.method.objective.evaluations(len(pairs)) + reference
        return {"updates": self.method.updates_per_rollout, "nfe": evaluations * pairs.condition.branches}

    def gradient_shares(
        self, experience: Experience, choice: torch.Generator, most: int = 64
    ) -> dict[str, float]:
        """The share of each part of the loss in the gradient, at the current policy.

        Args:
            experience: the rollouts, before the policy was updated on them.
            choice: draws the rows to use.
            most: maximum number of rows.

        Returns:
            Part ("outcome", "process", "kl", "distillation") -> norm of that part's gradient, divided by the sum of
            the parts' norms. A KL to the base model has no gradient before the policy leaves it.
        """
        at = self._at(experience)
        pairs = self._batch(experience, at)
        some = pairs.rows(torch.randperm(len(pairs), generator=choice)[:most]).to(self.policy.device)
        target = self._target(some, experience, at)
        with torch.enable_grad():
            parts, _ = self._parts(some, target, at)
        norms = {}
        for number, (name, part) in enumerate(parts.items()):
            gradients = torch.autograd.grad(
                part, self.weights.parameters, retain_graph=number < len(parts) - 1, allow_unused=True
            )
            norms[name] = torch.stack([g.double().norm() for g in gradients if g is not None]).norm().item()
        total = sum(norms.values())
        return {name: norm / total if total > 0 else 0.0 for name, norm in norms.items()}

    def _target(self, pairs: Pairs, experience: Experience, at: Networks) -> Target | None:
        """The rows' targets; each row has its own directions for an estimated gradient."""
        estimated = self.method.outcome_guidance is not None
        generators = experience.generators("target directions", pairs.sample, pairs.step) if estimated else []
        return Distiller(self.method, at).targets(pairs, generators)

    def _loss(self, pairs: Pairs, target: Target | None, at: Networks) -> tuple[Tensor, dict[str, float]]:
        """The method's loss averaged over some rows, and statistics of it."""
        parts, figures = self._parts(pairs, target, at)
        loss = torch.stack(list(parts.values())).sum()
        figures["loss"] = loss.item()
        if not torch.isfinite(loss):
            raise FloatingPointError(f"{self.method.name}: the loss is {loss.item()}; its parts: {figures}")
        return loss, figures

    def _parts(
        self, pairs: Pairs, target: Target | None, at: Networks
    ) -> tuple[dict[str, Tensor], dict[str, float]]:
        """The weighted parts of the loss, each averaged over the rows, and statistics."""
        objective = self.method.objective
        seen = objective.loss(pairs, at)
        parts = {name: rows.mean() for name, rows in seen.parts.items()}
        figures = {**seen.figures, "policy_loss": sum(part.item() for part in parts.values())}
        if target is None:
            return parts, figures
        distance = objective.divergence(seen.velocity, target.velocity, pairs.step, at.sampler)
        distance = (distance * target.counts).mean()
        weight = self.method.distillation_weight(at.iteration)
        if target.velocity is target.base:
            parts["kl"] = weight * distance
        else:
            parts["distillation"] = weight * distance
            figures["kl_to_guided"] = distance.item()
        if target.base is not None:
            to_base = objective.divergence(seen.velocity.detach(), target.base, pairs.step, at.sampler)
            figures["kl_to_base"] = to_base.mean().item()
        return parts, figures


def _guidance_figures(pairs: Pairs, terms: Terms) -> dict[str, float]:
    """Correlation of guidance size and advantage: negative means that the update undoes the guidance.

    Low-reward members have the larger reward gradient, so the correlation of a guided step's gradient norm with
    the outcome advantage is worth watching when samples are scored with the unguided mean. Without outcome terms
    there is no such advantage.
    """
    if not isinstance(pairs, Transitions) or pairs.gradient is None:
        return {}
    size = pairs.gradient.flatten(1).norm(dim=1)
    guided = size > 0
    figures = {"guidance_size": size[guided].mean().item() if guided.any() else 0.0}
    outcome = [row for row, name in enumerate(terms.names) if name != "process"]
    weights = torch.tensor([terms.weights[row] for row in outcome], device=size.device)
    if not weights.any():
        return figures
    advantage = (pairs.advantages[outcome] * weights.unsqueeze(1)).sum(dim=0)
    related = correlation(size[guided], advantage[guided]).item() if guided.any() else 0.0
    return {**figures, "guidance_advantage_correlation": related}
