"""Serves a scorer over HTTP, so that it runs beside the trainer with its own packages or on its own machine.

`python -m rewards.serve --scorer package.module:Class --port 8765`; a suite asks it with
{scorer: "rewards.remote:Remote", options: {url: "http://127.0.0.1:8765"}}. There is no authentication: leave --host
at this machine, or put the server behind something that has it.
"""

from __future__ import annotations

import argparse
import sys
import threading
from pathlib import Path
from typing import Any

import torch
import yaml
from pydantic import ValidationError

from rewards.remote import FORMAT, Header, digest, unpacked
from rewards.scoring import Clips, as_scorer
from rewards.suites.loading import LoadedScorer, made
from rewards.suites.model import ScorerEntry, SuiteError


def application(loaded: LoadedScorer, device: torch.device) -> Any:
    """The ASGI application that serves one scorer; clips are scored one request at a time."""
    from fastapi import FastAPI, HTTPException, Request
    from fastapi.concurrency import run_in_threadpool

    app, turn = FastAPI(title="rewards.serve"), threading.Lock()
    scorer = loaded.scorer

    def scored(clips: Clips) -> dict[str, list[float]]:
        with turn, torch.no_grad():
            answers = loaded.answers(clips.to(device))
        result = {name: values.float().tolist() for name, values in answers.items()}
        for name, values in answers.items():
            if values.shape != (len(clips),) or not torch.isfinite(values.float()).all():
                raise ValueError(
                    f"the scorer's {name} of shape {tuple(values.shape)} is not finite or not one a video"
                )
        return result

    @app.get("/about")
    def about() -> dict[str, Any]:
        provenance = {"scorer": loaded.entry.scorer, "options": loaded.entry.options, **scorer.provenance}
        return {
            "format": FORMAT,
            "names": list(scorer.names),
            "comparing": scorer.comparing,
            "provenance": provenance,
        }

    @app.post("/refusal")
    def refusal(header: Header) -> dict[str, str | None]:
        videos = torch.empty(header.shape, device="meta")
        return {"refusal": scorer.refusal(Clips(videos, header.prompts, header.fps, header.facts))}

    async def score(request: Request) -> dict[str, Any]:
        body = await request.body()
        try:
            clips = unpacked(body)
        except ValueError as error:
            raise HTTPException(400, " ".join(str(error).split())) from error
        if problem := scorer.refusal(clips):
            raise HTTPException(422, problem)
        try:
            scores = await run_in_threadpool(scored, clips)
        except Exception as error:  # whatever it is, the caller hears of it
            raise HTTPException(500, f"{type(error).__name__}: {' '.join(str(error).split())}") from error
        return {"scores": scores, "digest": digest(body)}

    # Annotations are strings here, and `Request` is known in this function alone.
    score.__annotations__["request"] = Request
    app.post("/score")(score)
    return app


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m rewards.serve", description=__doc__)
    add = parser.add_argument
    add("--scorer", required=True, metavar="MODULE:CLASS", help="as in a suite file")
    add("--options", default="{}", metavar="YAML", help="its arguments, such as '{model: /models/x}'")
    add("--batch", type=int, help="clips it is given at a time (all of a request)")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="(%(default)s)")
    add("--outcome-model", type=Path, default=Path("outcome"), help="what {outcome_model} stands for")
    add("--host", default="127.0.0.1", help="(%(default)s)")
    add("--port", type=int, default=8765, help="(%(default)s)")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    given = _arguments().parse_args(arguments)
    try:
        import uvicorn

        entry = ScorerEntry(scorer=given.scorer, options=yaml.safe_load(given.options), batch=given.batch)
        loaded = LoadedScorer("served", as_scorer(made("served", entry, given.outcome_model)), entry)
        device = torch.device(given.device)
        loaded.to(device)
        app = application(loaded, device)
    except (SuiteError, ValidationError, yaml.YAMLError, RuntimeError) as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        return 2
    except ImportError as error:
        sys.stderr.write(f"error: {error}; pip install 'video-alignment-bench[serve]'\n")
        return 2
    uvicorn.run(app, host=given.host, port=given.port, log_level="warning")
    return 0


if __name__ == "__main__":
    sys.exit(main())
