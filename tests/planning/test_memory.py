"""Planned memory is what real tensors take: storages that a real graph holds, and the memory of a process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.planning.meta import META, Footprint, enable_checkpointing, shapes_only
from tests.planning.conftest import costs_of
from tests.planning.networks import SIZE, inputs, middling
from tests.world import tiny_transformer, world_settings


def saved_bytes(network: Any, given: dict[str, Any]) -> int:
    """The memory of all distinct storages that a graph saves, weights left out."""
    own = {parameter.untyped_storage()._cdata for parameter in network.parameters()}
    saved: dict[int, Any] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            saved[storage._cdata] = storage  # held, so that no other takes its place
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = network(**given)[0]
    total = sum(storage.nbytes() for storage in saved.values())
    del result
    return total


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_planned_graph_saves_what_a_real_one_does(checkpointing: bool) -> None:
    real = tiny_transformer()
    with META:
        planned = tiny_transformer()
    if checkpointing:
        real.enable_gradient_checkpointing()
        enable_checkpointing(planned)
    expected = saved_bytes(real, inputs(real, torch.device("cpu"), 3, (2, 4, 4)))
    with shapes_only():
        found = saved_bytes(planned, inputs(planned, META, 3, (2, 4, 4)))
    # A CPU's attention saves its statistics in a layout of its own.
    assert found == pytest.approx(expected, rel=0.01)


def peak(network: Any, given: dict[str, Any]) -> Footprint:
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    with Footprint() as seen:
        network(**given)[0].square().mean().backward()
    return seen


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_planned_peak_is_that_of_real_tensors(checkpointing: bool) -> None:
    real = tiny_transformer()
    with META:
        planned = tiny_transformer()
    if checkpointing:
        real.enable_gradient_checkpointing()
        enable_checkpointing(planned)
    expected = peak(real, inputs(real, torch.device("cpu"), 3, (2, 8, 8)))
    with shapes_only():
        found = peak(planned, inputs(planned, META, 3, (2, 8, 8)))
    assert found.peak == pytest.approx(expected.peak, rel=0.01)
    assert found.flops == expected.flops


def test_memory_that_is_freed_no_longer_counts() -> None:
    with Footprint() as seen:
        first = torch.zeros(1000)
        view = first[:10]
        del first
        assert seen.held == 4000  # the view holds it all
        del view
        assert seen.held == 0
        torch.zeros(100)
    assert (seen.peak, seen.held) == (4000, 0)


def test_attention_takes_memory_in_proportion_to_the_tokens() -> None:
    def attended(tokens: int) -> Footprint:
        query = torch.empty(1, 4, tokens, 32, device=META)
        with shapes_only(), Footprint() as seen:
            torch.nn.functional.scaled_dot_product_attention(query, query, query)
        assert seen.flops == 4 * 4 * tokens * tokens * 32
        return seen

    assert attended(20_000).peak == pytest.approx(2 * attended(10_000).peak, rel=0.01)


def test_autocast_halves_activations_and_keeps_float32_weights() -> None:
    with META:
        layer = torch.nn.Linear(64, 64, bias=False)
    given = torch.empty(1000, 64, device=META)
    with shapes_only(autocast=True):
        assert layer(given).dtype == torch.bfloat16
        assert torch.nn.functional.layer_norm(layer(given), (64,)).dtype == torch.float32
    assert layer.weight.dtype == torch.float32


PROCESS = """
import torch
from benchmarks.ledger import peak_memory_mb, reset_peak_memory
from tests.planning.networks import SIZE, inputs, middling
cpu = torch.device("cpu")
for checkpointing in (False, True):
    network = middling("cpu")
    if checkpointing:
        network.enable_gradient_checkpointing()
    small = inputs(network, cpu, 1, (1, 4, 4))
    network(**small)[0].square().mean().backward()  # libraries allocate what they need once
    given = inputs(network, cpu, 2, SIZE)
    reset_peak_memory(cpu)
    before = peak_memory_mb(cpu)
    network(**given)[0].square().mean().backward()
    print(peak_memory_mb(cpu) - before)
"""


@pytest.mark.nightly
def test_the_planned_peak_is_that_of_a_process() -> None:
    """Large allocations go straight to the system, so that its count of the process's memory is that of tensors."""
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", PROCESS]
    told = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, cwd=root)
    for checkpointing, measured in enumerate(map(float, told.stdout.split())):
        network = middling("meta")
        if checkpointing:
            enable_checkpointing(network)
        with shapes_only():
            planned = peak(network, inputs(network, META, 2, SIZE)).peak / 1e6
        assert planned == pytest.approx(measured, rel=0.2)


@pytest.mark.parametrize("batch", [1, 2, 64])
def test_decoding_many_videos_is_planned_from_two(world: Path, batch: int) -> None:
    settings = world_settings(world, ["dance_grpo"], execution={"decode_batch": batch})
    costs = costs_of(settings)
    direct = costs._model(dict.fromkeys(costs.configs.depths, 1)).decode(6, False)
    planned = costs.decode(6)
    assert planned.peak == pytest.approx(direct.peak, rel=0.1)
    assert planned.tflops == pytest.approx(direct.tflops)
