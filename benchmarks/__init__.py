"""Runs methods under one budget on one model and one reward suite, and records what happened."""
