"""Every vector computed with the public implementations' own step functions (data/public_steps.*)."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from samplers import Guidance, Noise, Sampler, SamplerSettings, shape_gradient
from samplers.transition import Transition

DATA = Path(__file__).parent / "data"
VALUES = np.load(DATA / "public_steps.npz")
CASES = json.loads((DATA / "public_steps.json").read_text())["cases"]
MEAN_ATOL, LOG_PROB_ATOL, STD_ATOL = 2e-6, 5e-6, 1e-6

Case = dict[str, Any]


def cases(*formulas: str) -> Any:
    chosen = [case for case in CASES if case["expected"] in formulas]
    return pytest.mark.parametrize("case", chosen, ids=[case["id"] for case in chosen])


def load(case: Case, side: str, name: str) -> torch.Tensor:
    return torch.from_numpy(VALUES[case[side][name]])


def sampler_for(case: Case, noise: Noise, kernel: str = "euler_maruyama", **settings: Any) -> Sampler:
    schedule = tuple(load(case, "inputs", "sigmas").double().tolist())
    steps = len(schedule) - 1
    return Sampler(
        SamplerSettings(num_steps=steps, schedule=schedule, noise=noise, kernel=kernel, **settings)
    )


def step_index(case: Case) -> int | torch.Tensor:
    index = case["params"]["index"]
    return index if isinstance(index, int) else torch.tensor(index)


def run(case: Case, sampler: Sampler, gradient: torch.Tensor | None = None) -> Transition:
    return sampler.transition(
        load(case, "inputs", "x"), load(case, "inputs", "v"), step_index(case), gradient
    )


def check_mean(case: Case, transition: Transition) -> None:
    torch.testing.assert_close(transition.mean, load(case, "outputs", "mean"), atol=MEAN_ATOL, rtol=0)


def check_log_prob(case: Case, transition: Transition) -> None:
    log_prob = transition.log_prob(load(case, "inputs", "prev_sample"))
    torch.testing.assert_close(log_prob, load(case, "outputs", "log_prob"), atol=LOG_PROB_ATOL, rtol=0)


def test_every_case_belongs_to_a_test():
    assert {case["expected"] for case in CASES} == {"f0", "f1", "f2", "f4", "f5", "f19", "f20", "f21"}
    assert len(CASES) == 92


@cases("f0")
def test_dance_grpo_step(case: Case):
    transition = run(case, sampler_for(case, Noise(kind="constant", level=case["params"]["eta"])))
    check_mean(case, transition)
    check_log_prob(case, transition)


@cases("f1")
def test_ode_step(case: Case):
    ode = run(case, sampler_for(case, Noise(kind="zero")))
    check_mean(case, ode)
    # The public code scores its deterministic step with the noise of the SDE. Here such a step has no
    # density; the published number follows from the two parts.
    noisy = run(case, sampler_for(case, Noise(kind="constant", level=case["params"]["eta"])))
    check_log_prob(case, Transition(ode.mean, None, noisy.std, noisy.stochastic))


def public_guidance(params: dict[str, Any], step: float, prefix: str) -> Guidance:
    """Guidance of f2: relative where the public shift is eta^2 |dt| / (2 beta), else absolute."""
    beta = params.get(f"{prefix}_kl_beta")
    scale = params[f"{prefix}_scale"]
    whole_step = params.get("use_delta_t_for_gradient_scaling", False)
    name = "normalize_reward_gradient" if prefix == "reward_gradient" else "normalize_spsa_gradient"
    normalisation = "batch" if params.get(name) else "none"
    if scale < 0 and whole_step:
        return Guidance(strength=1 / beta, normalisation=normalisation)
    if scale < 0:
        scale = params["eta"] ** 2 / (2 * beta)
    return Guidance(scale=scale if whole_step else scale / step, normalisation=normalisation)


@cases("f2")
def test_guided_step(case: Case):
    params = case["params"]
    noise = (
        Noise(kind="constant", level=params["eta"]) if params.get("sde_solver", True) else Noise(kind="zero")
    )
    sigmas = load(case, "inputs", "sigmas").double()
    step = float(sigmas[params["index"]] - sigmas[params["index"] + 1])
    score_mean = "guided" if params.get("use_reward_guided_mean_for_logprob", True) else "unguided"
    shifts = []
    for prefix, key in (
        ("reward_gradient", "reward_gradient"),
        ("spsa_gradient", "spsa_reward_gradient"),
    ):
        if key in case["inputs"] and params.get("use_reward_gradient", True):
            guidance = public_guidance(params, step, prefix)
            shaped = shape_gradient(load(case, "inputs", key), guidance)
            shifts.append((guidance, shaped))
    settings = {"guidance": shifts[0][0], "score_mean": score_mean} if shifts else {}
    sampler = sampler_for(case, noise, **settings)
    gradient = shifts[0][1] if shifts else None
    if len(shifts) == 2:
        # Two sources at once are one gradient, each weighted by its own coefficient.
        other = sampler_for(case, noise, guidance=shifts[1][0])
        weight = other.coefficients.gradient / sampler.coefficients.gradient
        gradient = gradient + float(weight[params["index"]]) * shifts[1][1]
    transition = run(case, sampler, gradient)
    check_mean(case, transition)
    if params.get("sde_solver", True):
        check_log_prob(case, transition)


@cases("f4")
def test_flow_grpo_step(case: Case):
    sampler = sampler_for(case, Noise(kind="flow_grpo", level=case["params"]["noise_level"]))
    transition = run(case, sampler)
    check_mean(case, transition)
    check_log_prob(case, transition)
    step = (sampler.sigmas[:-1] - sampler.sigmas[1:])[step_index(case)].float()
    published = load(case, "outputs", "std_dev_t").flatten()  # leaves out sqrt(D)
    torch.testing.assert_close(
        transition.std.flatten(), published * step.sqrt().expand(len(published)), atol=STD_ATOL, rtol=0
    )


@cases("f5")
def test_flow_cps_step(case: Case):
    noise = Noise(kind="angle", level=case["params"]["noise_level"])
    transition = run(case, sampler_for(case, noise, kernel="coefficient_preserving"))
    check_mean(case, transition)
    torch.testing.assert_close(transition.std, load(case, "outputs", "std_dev_t"), atol=STD_ATOL, rtol=0)
    next_state, published = load(case, "inputs", "prev_sample"), load(case, "outputs", "log_prob")
    if not bool(transition.stochastic.all()):
        with pytest.raises(ValueError, match="no density"):
            transition.log_prob(next_state)
        return
    # The public number drops the constants and the variance: recover it from the density.
    variance = transition.std.flatten().square()
    constants = transition.std.flatten().log() + 0.5 * math.log(2 * math.pi)
    dropped = 2 * variance * (transition.log_prob(next_state) + constants)
    torch.testing.assert_close(dropped, published, atol=LOG_PROB_ATOL, rtol=0)
    as_published = dataclasses.replace(transition, density="squared_error").log_prob(next_state)
    torch.testing.assert_close(as_published, published, atol=LOG_PROB_ATOL, rtol=0)


@cases("f19", "f20")
def test_kl_weights(case: Case):
    eta = case["params"]["eta"]
    sampler = sampler_for(case, Noise(kind="constant", level=eta))
    published = load(case, "outputs", "weight")[:-1]  # the last entry belongs to no step
    if case["expected"] == "f20":  # the exact KL coefficient
        weights = sampler.coefficients.velocity.square() / (2 * sampler.coefficients.std.square())
    else:  # twice the factor of weighting "inverse_time"
        sigma, step = sampler.sigmas[:-1], sampler.sigmas[:-1] - sampler.sigmas[1:]
        weights = (step / sigma).square() / sampler.coefficients.std.square()
    torch.testing.assert_close(weights, published, atol=0, rtol=1e-12)
    one = torch.ones(1, 1, dtype=torch.float64)
    for index in range(sampler.num_steps):
        exact = case["expected"] == "f20"
        kl = sampler.kl_divergence(one, 0 * one, index, "exact" if exact else "inverse_time")
        assert kl.item() * (1 if exact else 2) == pytest.approx(published[index].item(), rel=1e-12)


@cases("f21")
def test_published_kl(case: Case):
    params = case["params"]
    sampler = sampler_for(case, Noise(kind="constant", level=params["eta"]))
    policy, reference = load(case, "inputs", "policy_pred"), load(case, "inputs", "ref_pred")
    if params["index"] == sampler.num_steps:
        with pytest.raises(IndexError, match="outside"):  # there is no step after the last sigma
            sampler.kl_divergence(policy, reference, params["index"], "inverse_time")
        return
    kl = sampler.kl_divergence(policy, reference, params["index"], "inverse_time")
    torch.testing.assert_close(kl.mean(), load(case, "outputs", "kl"), atol=0, rtol=1e-6)
