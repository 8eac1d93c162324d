"""Sweeps: a search over a method's settings, in trials that are ordinary runs on tuning seeds and tuning prompts."""
