"""`python -m tests.benchmarks.processes WORLD OUTPUT COUNT`: a short training of every case in COUNT gloo processes.

Every process writes what it drew to OUTPUT/CASE-RANK.pt; the run's own records land in OUTPUT/CASE.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.multiprocessing

from benchmarks.session import Session
from benchmarks.task import Training
from benchmarks.testbed.scenes import all_prompts
from methods.experience import Experience
from methods.method import Method
from methods.update import Learner
from tests.methods.small import one_of_each, small_method
from tests.world import world_settings

ITERATIONS = 2


def kind(method: Method) -> Hashable:
    """Methods that differ in numbers alone split prompts, draw noise and share gradients by the same code."""
    sampler, best_of = method.sampler, method.best_of
    ways = method.guided, method.distils_guidance, method.needs_base, best_of is None
    return method.objective.kind, sampler.window.kind, sampler.density, *ways


#: Case -> method, and which of its weights.
CASES = {name: (name, "lora") for name in one_of_each(kind)} | {
    "flow_grpo of all weights": ("flow_grpo", "full")
}

#: Of these the whole loop is run, with evaluation and checkpoints; of the others its iterations alone.
WHOLE = ("euphonium", "flow_grpo of all weights")


def train(world: Path, output: Path, case: str) -> None:
    """One training through the loop of the benchmark, and a note of what this process drew."""
    name, weights = CASES[case]
    settings = world_settings(
        world,
        ["dance_grpo"],
        weights={"kind": weights, "rank": 2, "alpha": 4},
        budget=ITERATIONS,
        micro_batch=5,
        prompts={"train": all_prompts()[:6], "held_out": all_prompts()[6:7]},
        prompts_per_iteration=4,
        checkpoint_every=1,
        evaluation={"every": ITERATIONS, "train_prompts": 1, "samples_per_prompt": 2, "num_steps": 1},
    )
    settings = settings.of_methods([small_method(name, "optimiser.learning_rate=1e-3")])
    drawn: list[Experience] = []
    collect = Learner.collect

    def noting(learner: Learner, *arguments: object) -> Experience:
        drawn.append(collect(learner, *arguments))
        return drawn[-1]

    session = Session.open(settings)
    training = Training(session, output / case, name, seed=0)
    with mock.patch.object(Learner, "collect", noting):
        if case in WHOLE:
            training.run(lambda _: None)
        else:
            for iteration in range(ITERATIONS):
                training._iterate(iteration)
    torch.save(
        {
            "prompts": [experience.condition.prompts for experience in drawn],
            "states": [experience.trajectory.states for experience in drawn],
            "rewards": [experience.rewards for experience in drawn],
            "gradient": [parameter.grad for parameter in training.learner.weights.parameters],
            "weights": training.learner.weights.state_dict(),
            "processes": session.accelerator.num_processes,
        },
        output / f"{case}-{session.accelerator.process_index}.pt",
    )


def work(world: Path, output: Path) -> None:
    """One of several processes."""
    for case in CASES:
        train(world, output, case)


def joined(rank: int, job: Callable[..., None], arguments: tuple[Any, ...], count: int, port: int) -> None:
    """Does the job in the environment that a launcher gives one of several processes."""
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "ACCELERATE_USE_CPU": "true",
    }
    torch.set_num_threads(1)
    job(*arguments)
    torch.distributed.destroy_process_group()


def in_group(job: Callable[..., None], arguments: tuple[Any, ...], count: int) -> None:
    """Does a job in several gloo processes, forked after the imports, which would take longer than the trainings."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.start_processes(
        joined, (job, arguments, count, port), nprocs=count, start_method="fork"
    )


def main(arguments: list[str]) -> None:
    """The command line."""
    world, output, count = arguments
    in_group(work, (Path(world), Path(output)), int(count))


if __name__ == "__main__":
    main(sys.argv[1:])
