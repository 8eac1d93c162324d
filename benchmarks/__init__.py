"""Runs methods under one budget on one model and one reward suite, and records what happened."""

import os

# Nothing is sent anywhere that the user has not named. Libraries read these when they are first imported, so they are
# set before any of them is.
for _name, _value in (
    ("MLFLOW_DISABLE_TELEMETRY", "true"),
    ("HF_HUB_DISABLE_TELEMETRY", "1"),
    ("DO_NOT_TRACK", "1"),
):
    os.environ.setdefault(_name, _value)
