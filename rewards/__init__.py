"""Rewards on videos (outcome) and on noised latents (process), and the suites that name them.

A leaf package: it imports nothing from `samplers`, `methods` or `benchmarks`.
"""
