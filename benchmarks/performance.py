"""Measures what sampling and the ledger cost: `python -m benchmarks.performance`. docs/performance.md quotes it."""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from analysis.schema import PEAK_MEMORY, WHOLE
from benchmarks.ledger import Ledger, Usage, UsageMeter, peak_memory_mb, reset_peak_memory
from benchmarks.resolve import resolve
from benchmarks.session import Session
from benchmarks.task import Training
from benchmarks.testbed import NUM_STEPS, SHIFT, WEIGHTS
from benchmarks.testbed.measurement import GEOMETRY
from benchmarks.testbed.scenes import all_prompts
from methods.metering import unmetered
from methods.seeding import generator
from rewards.process import LatentProcessReward
from samplers import Sampler, build, reward_value_and_gradient
from samplers.loading import load_policy
from samplers.pipeline import PipelinePolicy


@dataclass
class Clock:
    """Adds up the seconds spent inside what it wraps."""

    seconds: float = 0.0

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, timed."""

        def timed(*arguments: Any) -> Any:
            started = time.perf_counter()
            result = function(*arguments)
            self.seconds += time.perf_counter() - started
            return result

        return timed


def rollout(
    sampler: Sampler, policy: PipelinePolicy, samples: list[int], velocity: Any, reward: Any = None
) -> Tensor:
    """Final latents of the samples with these numbers; each has its own noise, independent of the batch."""
    prompts = [all_prompts()[i % 48] for i in samples]
    noise = policy.initial_noise([generator(0, "noise", i) for i in samples])
    steps = [generator(0, "steps", i) for i in samples]
    return sampler.rollout(velocity, noise, policy.encode(prompts), steps, guide=reward).final


def batching(policy: PipelinePolicy, count: int = 32, repeats: int = 5) -> tuple[float, float, float]:
    """One batched rollout with decoding, against `count` single ones.

    Returns:
        Median seconds of each over `repeats`, and the largest pixel difference. It is computed first, so that
        memory is already allocated for the timed ones.
    """
    sampler = build("dance_grpo", num_steps=NUM_STEPS, shift=SHIFT)

    def videos(numbers: list[int]) -> Tensor:
        return policy.decode(rollout(sampler, policy, numbers, policy.velocity))

    numbers = list(range(count))

    def apart() -> Tensor:
        return torch.cat([videos([number]) for number in numbers])

    difference = (videos(numbers) - apart()).abs().max().item()
    times = [(seconds(lambda: videos(numbers)), seconds(apart)) for _ in range(repeats)]
    batched, single = map(statistics.median, zip(*times, strict=True))
    return batched, single, difference


def overhead(policy: PipelinePolicy, batch: int, repeats: int) -> float:
    """Median share of an unguided rollout that is not the network's."""
    sampler = build("dance_grpo", num_steps=NUM_STEPS, shift=SHIFT)
    shares = []
    for _ in range(repeats):
        clock = Clock()
        prompts = [all_prompts()[i % 48] for i in range(batch)]
        noise = policy.initial_noise([generator(0, "noise", i) for i in range(batch)])
        condition, source = policy.encode(prompts), generator(0, "steps")
        velocity = clock.around(policy.velocity)
        total = seconds(partial(sampler.rollout, velocity, noise, condition, source))
        shares.append(1 - clock.seconds / total)
    return statistics.median(shares)


def guidance(
    policy: PipelinePolicy, reward: LatentProcessReward, batch: int, repeats: int
) -> tuple[float, float]:
    """What guidance at every step adds to a rollout beyond the reward's forward and gradient.

    Returns:
        Median of that excess as a share of policy plus reward, and median share of the reward in the rollout.
    """
    plain = build("dance_grpo", num_steps=NUM_STEPS, shift=SHIFT)
    guided = build("euphonium", num_steps=NUM_STEPS, shift=SHIFT, guidance=1.0)
    excess, share = [], []
    for _ in range(repeats):
        unguided = seconds(partial(rollout, plain, policy, list(range(batch)), policy.velocity))
        clock = Clock()
        gradient = clock.around(partial(reward_value_and_gradient, reward))
        timed = SimpleNamespace(value_and_gradient=gradient)
        total = seconds(partial(rollout, guided, policy, list(range(batch)), policy.velocity, timed))
        excess.append((total - clock.seconds - unguided) / (unguided + clock.seconds))
        share.append(clock.seconds / total)
    return statistics.median(excess), statistics.median(share)


def ledger(name: str, repeats: int) -> tuple[float, float]:
    """What keeping the ledger adds to a method's training on the testbed.

    Two runs of an iteration differ by more than the ledger's cost. So the ledger's work in one iteration (opening every
    section, memory, sums and rows on disk) is repeated with empty sections and timed.

    Returns:
        Its median as a share of a median iteration; and what counting operations adds to the first iteration of
        a process, in iterations.
    """
    settings = resolve("default", {}, {"methods": [name], "evaluation": {"diagnostic_prompts": 0}}, [], "")
    with TemporaryDirectory() as folder:
        training = Training(Session.open(settings), Path(folder), name, 0)
        plain, counted = [], []
        for _ in range(4):
            opened: list[tuple[str, Hashable, dict[str, float]]] = []
            training.meter = noting(opened)
            plain.append(seconds(lambda: training._iterate(0)))
            meter = training.meter = UsageMeter()
            counted.append(seconds(lambda: training._iterate(0)))
        usage = meter.take()
        book = [seconds(lambda: keep_book(meter, opened, usage, training)) for _ in range(repeats)]
    each = statistics.median(plain[1:])  # the first pays for memory that later ones find ready
    return statistics.median(book) / each, statistics.median(counted[1:]) / each - 1


def seconds(action: Callable[[], object]) -> float:
    """How long it takes."""
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def noting(opened: list[tuple[str, Hashable, dict[str, float]]]) -> Any:
    """A meter that counts nothing and records which sections are opened."""

    def section(component: str, key: Hashable, **counts: float) -> Any:
        opened.append((component, key, counts))
        return unmetered(component, key)

    return section


def keep_book(
    meter: UsageMeter, opened: list[tuple[str, Hashable, dict[str, float]]], usage: Usage, training: Training
) -> None:
    """The ledger's own work in an iteration, without the metered work."""
    reset_peak_memory(meter.device)
    for component, key, counts in opened:
        with meter(component, key, **counts):
            pass
    taken = meter.take()
    taken[WHOLE, PEAK_MEMORY] = peak_memory_mb(meter.device)
    Ledger().add(training._over_processes(taken))
    training.recorder.usage(1, usage)


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.performance", description=__doc__)
    parser.add_argument(
        "--repeats", type=int, default=20, help="repetitions; the median is reported (%(default)s)"
    )
    parser.add_argument("--threads", type=int, default=1, help="torch threads (%(default)s)")
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    policy = load_policy(WEIGHTS / "pipeline", GEOMETRY)
    reward = LatentProcessReward.load(WEIGHTS / "process_reward")
    batched, apart, difference = batching(policy)
    lines = [
        f"32 videos, {NUM_STEPS} steps, decoded: batched {batched:.2f} s, one by one {apart:.2f} s, "
        f"ratio {batched / apart:.3f}, largest pixel difference {difference:.1e}"
    ]
    for batch in (8, 32, 64):
        excess, share = guidance(policy, reward, batch, given.repeats)
        lines.append(
            f"batch {batch}: sampler {overhead(policy, batch, given.repeats):.1%} of a rollout; guided at every step: "
            f"process reward {share:.1%} of the rollout, everything else {excess:+.1%}"
        )
    for name in ("dance_grpo", "flow_grpo", "euphonium"):
        each, first = ledger(name, given.repeats)
        lines.append(
            f"{name}: keeping the ledger is {each:.2%} of an iteration; counting operations adds {first:.0%} to a "
            "process's first one"
        )
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
