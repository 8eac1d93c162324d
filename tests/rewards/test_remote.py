"""Scorers over real HTTP: as good as local ones, and servers that are slow, fail or lie."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx2
import pytest
import torch
import yaml
from torch import Tensor

from rewards.base import RewardError, scored
from rewards.remote import Header, Remote, digest, packed, unpacked
from rewards.scoring import Clips, Scorer
from rewards.serve import application, main
from rewards.suites import ScorerEntry, load_suite
from rewards.suites.loading import LoadedScorer
from rewards.transport import RemoteError
from tests.rewards.servers import answering, serving

ROOT = Path(__file__).parents[2]
VIDEOS = torch.rand(3, 4, 3, 6, 8, generator=torch.Generator().manual_seed(0))
CLIPS = Clips(VIDEOS, ("a", "é ü", "c"), 12.5, ({"text": "STOP"}, {}, {"n": 2}))
ABOUT = {"format": 1, "names": ["score"], "comparing": False, "provenance": {}}


class Twofold(Scorer):
    """Brightness with the prompt's length, and frames per second with a fact's length."""

    names = ("bright", "known")

    def __call__(self, clips: Clips) -> Mapping[str, Tensor]:
        if "fail" in clips.prompts:
            raise RuntimeError("out of\n memory")
        lengths = torch.tensor([float(len(prompt)) for prompt in clips.prompts])
        known = torch.tensor([clips.fps + len(clips.fact(row, "text") or "") for row in range(len(clips))])
        if "nan" in clips.prompts:
            known = known * torch.nan
        return {"bright": clips.videos.mean(dim=(1, 2, 3, 4)) + lengths, "known": known}

    @property
    def provenance(self) -> Mapping[str, Any]:
        return {"model": "twofold"}

    def refusal(self, clips: Clips) -> str | None:
        return "prompts must not be empty" if "" in clips.prompts else None


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    entry = ScorerEntry(scorer="tests.rewards.test_remote:Twofold", batch=2)
    with serving(application(LoadedScorer("served", Twofold(), entry), torch.device("cpu"))) as address:
        yield address


def test_a_request_survives_the_wire():
    for dtype, atol in (("float32", 0), ("uint8", 0.5 / 255 + 1e-6)):
        again = unpacked(packed(CLIPS, dtype))
        torch.testing.assert_close(again.videos, VIDEOS, atol=atol, rtol=0)
        assert (again.prompts, again.fps, again.facts) == (CLIPS.prompts, 12.5, CLIPS.facts)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x00" * 7,
        (10**9).to_bytes(8, "big") + b"{}",
        packed(CLIPS, "uint8")[:-1],
        packed(CLIPS, "uint8") + b"x",
        (2).to_bytes(8, "big") + b"{}",
    ],
)
def test_a_damaged_request_is_refused(url, body):
    with pytest.raises(ValueError, match=r"body|bytes|validation|JSON|Field"):
        unpacked(body)
    answer = httpx2.post(f"{url}/score", content=body, trust_env=False)
    assert answer.status_code == 400
    assert answer.json()["detail"]


def test_a_remote_scorer_scores_as_a_local_one(url):
    remote, local = Remote(url), Twofold()
    assert remote.names == local.names
    answers, expected = remote(CLIPS), local(CLIPS)
    for name in local.names:
        assert torch.equal(answers[name], expected[name])
    assert remote.provenance["model"] == "twofold"
    assert remote.provenance["remote"] == url
    assert remote.refusal(Clips(torch.empty(2, 81, 3, 480, 832, device="meta"), ("a", ""))) is not None
    assert remote.refusal(Clips(torch.empty(1, 81, 3, 480, 832, device="meta"), ("a",))) is None


def test_a_failing_scorer_stops_the_run_with_prompt_and_cause(url):
    remote = Remote(url, retries=1, wait=0.01)

    def reward(videos: Tensor, prompts: Any) -> Tensor:
        return remote(Clips(videos, prompts))["bright"]

    for prompt, what in (
        ("fail", r"failed 2 times; the last time: HTTP 500: RuntimeError: out of memory"),
        ("nan", r"the last time: HTTP 500: ValueError: the scorer's known .* is not finite"),
        ("", r"refused: HTTP 422: prompts must not be empty"),
    ):
        with pytest.raises(RewardError, match=rf"reward 'far' failed at iteration 2.*{prompt!r}.*{what}"):
            scored("far", reward, VIDEOS[:1], [prompt], 2)


def test_a_suite_with_a_remote_scorer(url, tmp_path):
    content = {
        "name": "far",
        "scorers": {
            "far": {"scorer": "rewards.remote:Remote", "options": {"url": url}},
            "steady": {"scorer": "rewards.temporal:Flicker"},
        },
        "training": {"far_bright": 1.0},
        "held_out": ["steady"],
        "headline": "steady",
        "descriptions": {"far_bright": "x", "steady": "y"},
    }
    (tmp_path / "far.yaml").write_text(yaml.safe_dump(content))
    loaded = load_suite(str(tmp_path / "far.yaml"), tmp_path)
    values = loaded.training["far_bright"](VIDEOS, CLIPS.prompts)
    assert torch.equal(values, Twofold()(CLIPS)["bright"])
    assert loaded.provenance()["far"]["remote"] == url


def answers(scores: Any, **changes: Any) -> Any:
    """A server that knows what it is, and answers these scores."""

    def answer(path: str, body: bytes, number: int) -> tuple[int, Any]:
        if path == "/about":
            return 200, ABOUT
        return 200, {"scores": scores, "digest": digest(body), **changes}

    return answer


@pytest.mark.parametrize(
    ("scores", "changes", "what"),
    [
        ({"score": [1.0, 2.0]}, {}, "2 values of score for 3 videos"),
        ({"score": [1.0, 2.0, 3.0, 4.0]}, {}, "4 values"),
        ({"other": [1.0, 2.0, 3.0]}, {}, "answered other; expected score"),
        ({"score": [1.0, float("nan"), 3.0]}, {}, "answered nan for score"),
        ({"score": [1.0, float("inf"), 3.0]}, {}, "answered inf"),
        ({"score": [1.0, None, 3.0]}, {}, "answered None"),
        ({"score": [1.0, True, 3.0]}, {}, "answered True"),
        ({"score": ["1", "2", "3"]}, {}, "answered '1'"),
        ({"score": 3.0}, {}, "float values"),
        ([1.0, 2.0, 3.0], {}, "answered list"),
        ({"score": [1.0, 2.0, 3.0]}, {"digest": "of another request"}, "for other videos"),
    ],
)
def test_a_lying_server_is_found_out(scores, changes, what):
    with answering(answers(scores, **changes)) as (url, _), pytest.raises(RemoteError, match=what):
        Remote(url)(CLIPS)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("<html>hello</html>", "answered no JSON: <html>"),
        ([1], "no JSON object"),
        ({"names": []}, "is no server"),
    ],
)
def test_another_kind_of_server_is_refused(content, what):
    with (
        answering(lambda path, body, number: (200, content)) as (url, _),
        pytest.raises(RemoteError, match=what),
    ):
        Remote(url)


def test_a_server_that_recovers_is_asked_again():
    sound = answers({"score": [1.0, 2.0, 3.0]})

    def answer(path: str, body: bytes, number: int) -> tuple[int, Any]:
        return (503, "later") if number in (1, 3, 4) else sound(path, body, number)

    with answering(answer) as (url, asked):
        values = Remote(url, retries=2, wait=0.01)(CLIPS)["score"]
    assert values.tolist() == [1.0, 2.0, 3.0]
    assert asked == ["/about", "/about", "/score", "/score", "/score"]


def test_what_will_not_change_is_not_asked_again():
    with answering(lambda path, body, number: (404, {"detail": "gone"})) as (url, asked):
        with pytest.raises(RemoteError, match=r"refused: HTTP 404: gone"):
            Remote(url, retries=5, wait=0.01)
        assert asked == ["/about"]


def test_a_slow_server_is_waited_for_no_longer_than_asked():
    def answer(path: str, body: bytes, number: int) -> tuple[int, Any]:
        if path == "/score":
            time.sleep(1.0)
        return answers({"score": [1.0, 2.0, 3.0]})(path, body, number)

    with answering(answer) as (url, asked):
        started = time.monotonic()
        with pytest.raises(RemoteError, match=r"failed 2 times; the last time: ReadTimeout"):
            Remote(url, timeout=0.1, retries=1, wait=0.01)(CLIPS)
        assert time.monotonic() - started < 0.9
        assert asked.count("/score") == 2


def test_nobody_there():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(
        RemoteError, match=rf"127.0.0.1:{port}/about failed 1 times; the last time: ConnectError"
    ):
        Remote(f"http://127.0.0.1:{port}", retries=0)


def test_arguments_out_of_range_are_named():
    with pytest.raises(ValueError, match="url is 'judge:80'"):
        Remote("judge:80")
    with pytest.raises(ValueError, match="timeout is 0"):
        Remote("http://judge", timeout=0)
    with pytest.raises(ValueError, match="dtype is 'float64'; give one of float32, uint8"):
        Remote("http://judge", dtype="float64")
    with pytest.raises(ValueError, match="2 prompts and 0 facts of 3 videos"):
        Header(shape=(3, 1, 3, 2, 2), prompts=("a", "b"), fps=1)


def test_the_program_serves_a_shipped_scorer():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "rewards.serve",
        "--scorer",
        "rewards.temporal:Flicker",
        "--port",
        str(port),
    ]
    with subprocess.Popen(command, cwd=ROOT) as process:
        try:
            remote = Remote(f"http://127.0.0.1:{port}", retries=9, wait=0.1)
            torch.testing.assert_close(
                remote(CLIPS)["score"], 1 - VIDEOS.diff(dim=1).abs().mean(dim=(1, 2, 3, 4))
            )
            assert remote.provenance["scorer"] == "rewards.temporal:Flicker"
        finally:
            process.terminate()


def test_a_scorer_that_cannot_be_served_is_one_line(capsys):
    assert main(["--scorer", "rewards.nothing:Here"]) == 2
    assert main(["--scorer", "nonsense"]) == 2
    assert main(["--scorer", "rewards.temporal:Flicker", "--options", "{a: 1}"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert all(line.startswith("error: ") for line in lines)
