"""The one update that every policy-gradient method shares."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from methods.advantages import group_advantages
from methods.experience import Experience
from methods.losses import clipped_loss, correlation
from methods.method import Method
from methods.weights import TrainedWeights
from samplers import Sampler
from samplers.pipeline import Condition, PipelinePolicy


@dataclass(frozen=True)
class Pairs:
    """n transitions to train on: each a sample at one of its steps.

    Attributes:
        step: (n,) the step.
        x, x_next: (n, ...) the states before and after it.
        log_prob: (n,) under the policy that drew it.
        gradient: (n, ...) the reward gradient that guided it, 0 where none did; None for unguided methods.
        velocity: (n, ...) of the policy that drew it; None without distillation.
        condition: the n encoded prompts.
        advantages: (terms, n) one row for each reward term.
    """

    step: Tensor
    x: Tensor
    x_next: Tensor
    log_prob: Tensor
    gradient: Tensor | None
    velocity: Tensor | None
    condition: Condition
    advantages: Tensor

    def __len__(self) -> int:
        return len(self.step)

    def rows(self, rows: Tensor) -> Pairs:
        """The pairs at `rows`."""
        return Pairs(
            self.step[rows],
            self.x[rows],
            self.x_next[rows],
            self.log_prob[rows],
            None if self.gradient is None else self.gradient[rows],
            None if self.velocity is None else self.velocity[rows],
            self.condition.select(rows.tolist()),
            self.advantages[:, rows],
        )


@dataclass(frozen=True)
class Terms:
    """What the reward terms are called, and their weights, in the order of `Pairs.advantages`."""

    names: tuple[str, ...]
    weights: tuple[float, ...]


def reward_terms(method: Method, outcome_weights: Mapping[str, float]) -> Terms:
    """One term for each outcome reward, and one for the process reward where the method has it."""
    names = list(outcome_weights)
    weights = [method.outcome_weight * weight for weight in outcome_weights.values()]
    if method.process is not None:
        names, weights = [*names, "process"], [*weights, method.process.weight]
    return Terms(tuple(names), tuple(weights))


def make_pairs(
    experience: Experience, method: Method, terms: Terms, accelerator: Accelerator | None = None
) -> tuple[Pairs, Tensor]:
    """Flattens the trained (sample, step) pairs, sample by sample, and computes their advantages.

    Args:
        experience: this process's rollouts.
        method: whose settings say what is compared with what.
        terms: the reward terms.
        accelerator: the processes that share the batch; None for this one alone.

    Returns:
        The pairs, and the (n,) sample that each belongs to.
    """
    steps = experience.steps
    trajectory = experience.trajectory
    sample = torch.arange(len(steps)).repeat_interleave(steps.shape[1])
    step = steps.flatten()
    rows = []
    for name in terms.names:
        if name == "process":
            assert method.process is not None
            credit = trajectory.process_credit(method.process.credit)
            rows.append(_advantages(credit, method, accelerator)[step, sample])
        else:
            rows.append(_advantages(experience.rewards[name], method, accelerator)[sample])
    pairs = Pairs(
        step=step,
        x=trajectory.states[step, sample],
        x_next=trajectory.states[step + 1, sample],
        log_prob=trajectory.log_probs[step, sample],
        gradient=_gradients(experience)[step, sample] if trajectory.reward_gradients else None,
        velocity=None if experience.velocities is None else experience.velocities[step, sample],
        condition=experience.condition.select(sample.tolist()),
        advantages=torch.stack(rows),
    )
    return pairs, sample


def _advantages(rewards: Tensor, method: Method, accelerator: Accelerator | None) -> Tensor:
    """Advantages (..., B) of this process's samples; a std over the batch is one over all processes' samples."""
    if accelerator is None or accelerator.num_processes == 1 or method.advantage.std == "group":
        return group_advantages(rewards, method.group_size, method.advantage)
    count = rewards.shape[-1]
    everyone = accelerator.gather(rewards.movedim(-1, 0).contiguous()).movedim(0, -1)
    advantages = group_advantages(everyone, method.group_size, method.advantage)
    return advantages.narrow(-1, count * accelerator.process_index, count)


def _gradients(experience: Experience) -> Tensor:
    """(N, B, ...) the gradient that guided each step, 0 where none did."""
    trajectory = experience.trajectory
    dense = torch.zeros((trajectory.num_steps, *trajectory.final.shape), device=trajectory.final.device)
    for step, gradient in trajectory.reward_gradients.items():
        dense[step] = gradient
    return dense


@dataclass
class Learner:
    """A policy being trained by one method.

    Attributes:
        policy: the policy, its transformer as it is.
        network: the same transformer as accelerate wraps it (gradients averaged over processes).
        weights: its trained part.
        method: the method's settings.
        terms: the reward terms.
        optimiser: prepared by accelerate.
        accelerator: devices, precision, processes.
        micro_batch: pairs in one forward and backward pass; results do not depend on it.
    """

    policy: PipelinePolicy
    network: nn.Module
    weights: TrainedWeights
    method: Method
    terms: Terms
    optimiser: torch.optim.Optimizer
    accelerator: Accelerator
    micro_batch: int = 512

    def update(
        self, experience: Experience, sampler: Sampler, iteration: int, shuffle: torch.Generator
    ) -> dict[str, float]:
        """Trains on one batch of rollouts.

        Args:
            experience: the rollouts, drawn by `sampler` from the policy as it is now.
            sampler: scores the pairs again.
            iteration: from 0; sets the decaying weights.
            shuffle: splits the samples among the updates.

        Returns:
            Diagnostics, averaged over the pairs: losses, ratio, share clipped, gradient norm before clipping.

        Raises:
            FloatingPointError: loss or gradient is not finite; the optimiser has not stepped on it.
        """
        pairs, sample = make_pairs(experience, self.method, self.terms, self.accelerator)
        count = len(experience.steps)
        share = torch.randperm(count, generator=shuffle) % self.method.updates_per_rollout
        totals: dict[str, float] = {}
        norms = []
        for number in range(self.method.updates_per_rollout):
            rows = torch.nonzero(share[sample] == number).flatten()
            if not len(rows):
                raise ValueError(
                    f"{self.method.name}: updates_per_rollout is {self.method.updates_per_rollout}, "
                    f"more than the {count} samples of a rollout"
                )
            self.optimiser.zero_grad(set_to_none=True)
            for part in rows.split(self.micro_batch):
                with self._wrapped():
                    loss, figures = self._loss(pairs.rows(part), sampler, iteration)
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
        pairs, _ = make_pairs(experience, self.method, self.terms, self.accelerator)
        rows = torch.randperm(len(pairs), generator=choice)[:most]
        with torch.enable_grad():
            parts, _ = self._parts(pairs.rows(rows), sampler, iteration)
        norms = {}
        for number, (name, part) in enumerate(parts.items()):
            gradients = torch.autograd.grad(
                part, self.weights.parameters, retain_graph=number < len(parts) - 1, allow_unused=True
            )
            norms[name] = torch.stack([g.double().norm() for g in gradients if g is not None]).norm().item()
        total = sum(norms.values())
        return {name: norm / total if total > 0 else 0.0 for name, norm in norms.items()}

    def _loss(self, pairs: Pairs, sampler: Sampler, iteration: int) -> tuple[Tensor, dict[str, float]]:
        """The method's loss on some pairs, averaged over them, and figures about it."""
        parts, figures = self._parts(pairs, sampler, iteration)
        loss = torch.stack(list(parts.values())).sum()
        figures["loss"] = loss.item()
        if not torch.isfinite(loss):
            raise FloatingPointError(f"{self.method.name}: the loss is {loss.item()}; its parts: {figures}")
        return loss, figures

    def _parts(
        self, pairs: Pairs, sampler: Sampler, iteration: int
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
        if self.method.kl_weight > 0:
            kl = self._kl_to_base(pairs, sampler, sigma, velocity)
            figures["kl_to_base"] = kl.item()
            parts["kl"] = self.method.kl_weight * kl
        distillation = self.method.distillation_weight(iteration)
        if distillation > 0 and pairs.gradient is not None:
            kl = self._kl_to_guided(pairs, sampler, velocity)
            figures["kl_to_guided"] = kl.item()
            parts["distillation"] = distillation * kl
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

    def _kl_to_base(self, pairs: Pairs, sampler: Sampler, sigma: Tensor, velocity: Tensor) -> Tensor:
        """Mean over pairs of the KL to the base model's transition, computed in the policy's own precision."""
        with torch.no_grad(), self.accelerator.autocast(), self.weights.reference():
            reference = self.policy.velocity(pairs.x, sigma, pairs.condition)
        return sampler.kl_divergence(velocity, reference, pairs.step).mean()

    def _kl_to_guided(self, pairs: Pairs, sampler: Sampler, velocity: Tensor) -> Tensor:
        """Mean over pairs of the KL to the guided transition of the policy that drew them; 0 at unguided steps."""
        assert pairs.velocity is not None
        assert pairs.gradient is not None
        guided = torch.as_tensor(sampler.guided(pairs.step)).to(velocity.device)
        target = sampler.distillation_target(pairs.velocity, pairs.gradient, pairs.step)
        return (sampler.kl_divergence(velocity, target, pairs.step) * guided).mean()


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
