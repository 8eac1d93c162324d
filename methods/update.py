"""The one update that every policy-gradient method shares."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from methods.distilling import Distiller, Target
from methods.experience import Experience
from methods.guiding import Rewards
from methods.losses import clipped_loss, correlation
from methods.metering import Meter, unmetered
from methods.method import Method
from methods.pairs import Pairs, Terms, make_pairs
from methods.weights import TrainedWeights
from samplers import Sampler
from samplers.pipeline import PipelinePolicy


@dataclass
class Learner:
    """A policy being trained by one method.

    Attributes:
        policy: the policy, its transformer as it is.
        network: the same transformer as accelerate wraps it (gradients averaged over processes).
        weights: its trained part.
        method: the method's settings.
        terms: the reward terms.
        rewards: one of them may guide what is distilled.
        optimiser: prepared by accelerate.
        accelerator: devices, precision, processes.
        micro_batch: pairs in one forward and backward pass; results do not depend on it.
    """

    policy: PipelinePolicy
    network: nn.Module
    weights: TrainedWeights
    method: Method
    terms: Terms
    rewards: Rewards
    optimiser: torch.optim.Optimizer
    accelerator: Accelerator
    micro_batch: int = 512

    def update(
        self,
        experience: Experience,
        sampler: Sampler,
        iteration: int,
        shuffle: torch.Generator,
        meter: Meter = unmetered,
    ) -> dict[str, float]:
        """Trains on one batch of rollouts.

        Args:
            experience: the rollouts, drawn by `sampler` from the policy as it is now.
            sampler: scores the pairs again.
            iteration: from 0; sets the decaying weights.
            shuffle: splits the samples among the updates.
            meter: counts the rewards' work.

        Returns:
            Diagnostics, averaged over the pairs: losses, ratio, share clipped, gradient norm before clipping.

        Raises:
            FloatingPointError: loss or gradient is not finite; the optimiser has not stepped on it.
        """
        pairs = make_pairs(experience, self.method, self.terms, self.accelerator)
        rewards, count = self.rewards.metered(meter), len(experience.steps)
        share = torch.randperm(count, generator=shuffle) % self.method.updates_per_rollout
        totals: dict[str, float] = {}
        norms = []
        for number in range(self.method.updates_per_rollout):
            rows = torch.nonzero(share[pairs.sample] == number).flatten()
            if not len(rows):
                raise ValueError(
                    f"{self.method.name}: updates_per_rollout is {self.method.updates_per_rollout}, "
                    f"more than the {count} samples of a rollout"
                )
            self.optimiser.zero_grad(set_to_none=True)
            for part in rows.split(self.micro_batch):
                some = pairs.rows(part)
                target = self._target(some, experience, sampler, iteration, rewards)
                with self._wrapped():
                    loss, figures = self._loss(some, target, sampler, iteration)
                    self.accelerator.backward(loss * (len(part) / len(rows)))
                for name, value in figures.items():
                    totals[name] = totals.get(name, 0.0) + value * len(part) / len(pairs)
            norms.append(self._step())
        totals["gradient_norm"] = sum(norms) / len(norms)
        totals |= _guidance_figures(pairs, self.terms)
        return totals

    @contextmanager
    def _wrapped(self) -> Iterator[None]:
        """Within, the policy's velocity goes through accelerate's wrapper, which averages gradients."""
        plain = self.policy.transformer
        self.policy.transformer = self.network
        try:
            yield
        finally:
            self.policy.transformer = plain

    def _step(self) -> float:
        """Clips the gradient and steps; returns the norm before clipping."""
        norm = self.accelerator.clip_grad_norm_(self.weights.parameters, self.method.optimiser.max_grad_norm)
        if not torch.isfinite(norm):
            raise FloatingPointError(f"{self.method.name}: the gradient's norm is {norm.item()}")
        self.optimiser.step()
        return norm.item()

    def gradient_shares(
        self,
        experience: Experience,
        sampler: Sampler,
        iteration: int,
        choice: torch.Generator,
        most: int = 64,
    ) -> dict[str, float]:
        """How much of the gradient comes from each part of the loss, at the policy as it is now.

        Args:
            experience: the rollouts, before the policy was updated on them.
            sampler: scores them.
            iteration: from 0; sets the decaying weights.
            choice: chooses the pairs that are looked at.
            most: how many of them.

        Returns:
            Part ("outcome", "process", "kl", "distillation") -> norm of that part's own gradient, over the sum of
            the parts' norms. A KL to the base model has no gradient before the policy leaves it.
        """
        pairs = make_pairs(experience, self.method, self.terms, self.accelerator)
        some = pairs.rows(torch.randperm(len(pairs), generator=choice)[:most])
        target = self._target(some, experience, sampler, iteration, self.rewards)
        with torch.enable_grad():
            parts, _ = self._parts(some, target, sampler, iteration)
        norms = {}
        for number, (name, part) in enumerate(parts.items()):
            gradients = torch.autograd.grad(
                part, self.weights.parameters, retain_graph=number < len(parts) - 1, allow_unused=True
            )
            norms[name] = torch.stack([g.double().norm() for g in gradients if g is not None]).norm().item()
        total = sum(norms.values())
        return {name: norm / total if total > 0 else 0.0 for name, norm in norms.items()}

    def _target(
        self, pairs: Pairs, experience: Experience, sampler: Sampler, iteration: int, rewards: Rewards
    ) -> Target | None:
        """What the pairs are drawn to; the directions of an estimated gradient are each pair's own."""
        distiller = Distiller(self.policy, self.weights, self.method, self.accelerator)
        estimated = self.method.outcome_guidance is not None
        generators = experience.generators("target directions", pairs.sample, pairs.step) if estimated else []
        return distiller.targets(pairs, sampler, iteration, rewards, generators)

    def _loss(
        self, pairs: Pairs, target: Target | None, sampler: Sampler, iteration: int
    ) -> tuple[Tensor, dict[str, float]]:
        """The method's loss on some pairs, averaged over them, and figures about it."""
        parts, figures = self._parts(pairs, target, sampler, iteration)
        loss = torch.stack(list(parts.values())).sum()
        figures["loss"] = loss.item()
        if not torch.isfinite(loss):
            raise FloatingPointError(f"{self.method.name}: the loss is {loss.item()}; its parts: {figures}")
        return loss, figures

    def _parts(
        self, pairs: Pairs, target: Target | None, sampler: Sampler, iteration: int
    ) -> tuple[dict[str, Tensor], dict[str, float]]:
        """The parts that the loss is the sum of, each averaged over the pairs and weighted; and figures."""
        sigma = sampler.sigmas[pairs.step].to(pairs.x.device, torch.float32)
        velocity = self.policy.velocity(pairs.x, sigma, pairs.condition)
        moved = pairs.gradient if self.method.sampler.score_mean == "guided" else None
        log_ratio = (
            sampler.transition(pairs.x, velocity, pairs.step, moved).log_prob(pairs.x_next) - pairs.log_prob
        )
        parts = self._policy_losses(log_ratio, pairs.advantages)
        deviation = (log_ratio.detach().exp() - 1).abs()
        figures = {
            "ratio_deviation": deviation.mean().item(),
            "clip_fraction": (deviation > self.method.clip_range).float().mean().item(),
            "policy_loss": sum(part.item() for part in parts.values()),
        }
        if target is None:
            return parts, figures
        distance = (sampler.kl_divergence(velocity, target.velocity, pairs.step) * target.counts).mean()
        weight = self.method.distillation_weight(iteration)
        if target.velocity is target.base:
            parts["kl"] = weight * distance
        else:
            parts["distillation"] = weight * distance
            figures["kl_to_guided"] = distance.item()
        if target.base is not None:
            figures["kl_to_base"] = (
                sampler.kl_divergence(velocity.detach(), target.base, pairs.step).mean().item()
            )
        return parts, figures

    def _policy_losses(self, log_ratio: Tensor, advantages: Tensor) -> dict[str, Tensor]:
        """The clipped losses of the outcome rewards, summed with their weights, and that of the process reward."""
        losses = clipped_loss(log_ratio, advantages, self.method.clip_range).mean(dim=1)
        weights = torch.tensor(self.terms.weights, device=losses.device)
        process = torch.tensor([name == "process" for name in self.terms.names], device=losses.device)
        parts = {}
        if self.method.outcome_weight > 0:
            parts["outcome"] = (weights * losses)[~process].sum()
        if self.method.process is not None:
            parts["process"] = (weights * losses)[process].sum()
        return parts


def _guidance_figures(pairs: Pairs, terms: Terms) -> dict[str, float]:
    """How the size of the guidance goes with the advantage: negative means that the update undoes the guidance.

    Low-reward members have the larger reward gradient, so the correlation of a guided step's gradient norm with
    the outcome advantage is the trap to watch where samples are scored with the unguided mean. Without outcome terms
    there is no such advantage.
    """
    if pairs.gradient is None:
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
