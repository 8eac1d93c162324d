"""A judge behind a chat server, over real HTTP: its arithmetic, and servers that are slow, fail or lie."""

from __future__ import annotations

import base64
import io
import json
import math
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from PIL import Image

from rewards.base import RewardError, scored
from rewards.scoring import Clips
from rewards.transport import RemoteError
from rewards.vlm import QUESTIONS, VlmJudge
from tests.rewards.servers import answering

VIDEOS = torch.stack([torch.full((8, 3, 24, 32), level) for level in (0.0, 0.5, 1.0)])
CLIPS = Clips(VIDEOS, ("a dog", "a cat", 'a "sign"'))
ONE = {"ok": "Is {prompt} there?"}


def answer_of(alternatives: list[tuple[str, Any]]) -> dict[str, Any]:
    tops = [{"token": token, "logprob": value, "bytes": None} for token, value in alternatives]
    content = [{**tops[0], "top_logprobs": tops}] if tops else []
    return {"choices": [{"message": {"content": "Yes"}, "logprobs": {"content": content}}]}


def saying(alternatives: list[tuple[str, Any]]) -> Callable[..., tuple[int, Any]]:
    return lambda path, body, number: (200, answer_of(alternatives))


def shown(body: bytes) -> tuple[list[Image.Image], str]:
    """The pictures and the question of a request."""
    (message,) = json.loads(body)["messages"]
    *images, text = message["content"]
    urls = [entry["image_url"]["url"] for entry in images]
    return [Image.open(io.BytesIO(base64.b64decode(url.split(",", 1)[1]))) for url in urls], text["text"]


def test_probability_of_yes_sums_spellings_and_forgets_the_rest():
    alternatives = [
        ("Yes", math.log(0.4)),
        ("no", math.log(0.2)),
        (" yes", math.log(0.1)),
        ("Well", math.log(0.3)),
    ]
    with answering(saying(alternatives)) as (url, _):
        found = VlmJudge(url, "m", ONE)(CLIPS)
    torch.testing.assert_close(found["ok"], torch.full((3,), 0.5 / 0.7))


def test_every_clip_is_asked_every_question_with_its_own_frames_and_prompt():
    """The server judges by brightness and by the question's words: neither may be mixed up between requests."""

    def answer(path: str, body: bytes, number: int) -> tuple[int, Any]:
        assert path == "/v1/chat/completions"
        pictures, question = shown(body)
        assert len(pictures) == 4
        level = sum(picture.getpixel((0, 0))[0] / 255 for picture in pictures) / 4
        yes = 0.2 + 0.5 * level + 0.1 * ("cat" in question)
        time.sleep(0.02 * (number % 3))  # answers arrive out of order
        return 200, answer_of([("Yes", math.log(yes)), ("No", math.log(1 - yes))])

    with answering(answer) as (url, asked):
        judge = VlmJudge(f"{url}/v1", "m", frames=4, side=16)
        found = judge(CLIPS)
        assert len(asked) == 9
    assert judge.names == tuple(QUESTIONS)
    plain = torch.tensor([0.2, 0.2 + 0.5 * 128 / 255, 0.7])
    torch.testing.assert_close(found["alignment"], plain + torch.tensor([0, 0.1, 0]))
    torch.testing.assert_close(found["quality"], plain)


def test_large_frames_are_shown_smaller_and_small_ones_as_they_are():
    sizes: list[tuple[int, int]] = []

    def answer(path: str, body: bytes, number: int) -> tuple[int, Any]:
        sizes.append(shown(body)[0][0].size)
        return saying([("yes", 0.0)])(path, body, number)

    with answering(answer) as (url, _):
        VlmJudge(url, "m", ONE, frames=1, side=16)(Clips(VIDEOS[:1], ("a",)))
        VlmJudge(url, "m", ONE, frames=1, side=64)(Clips(VIDEOS[:1], ("a",)))
    assert sizes == [(16, 12), (32, 24)]


def test_questions_are_asked_side_by_side_but_no_more_than_allowed():
    lock, now, most = threading.Lock(), 0, 0

    def answer(path: str, body: bytes, number: int) -> tuple[int, Any]:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.1)
        with lock:
            now -= 1
        return saying([("yes", 0.0)])(path, body, number)

    with answering(answer) as (url, _):
        VlmJudge(url, "m", frames=1, concurrent=4)(CLIPS)
    assert 2 <= most <= 4


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (answer_of([("Maybe", -0.1), ("yes", -5.0)]), r"answers neither yes nor no.*'Maybe'"),
        (answer_of([("yes", 2.0), ("no", -1.0)]), "gives 2.0 as the log-probability of 'yes'"),
        (answer_of([("yes", None)]), "gives None"),
        (answer_of([("yes", float("nan"))]), "gives nan"),
        (answer_of([("yes", 0.0), ("no", 0.0)]), "together they have probability 2"),
        (answer_of([]), "gives no log-probabilities; serve 'm' with logprobs"),
        ({"choices": [{"message": {"content": "Yes"}, "logprobs": None}]}, "gives no log-probabilities"),
        ({"choices": []}, "gives no log-probabilities"),
        ({"error": "no such model"}, "gives no log-probabilities"),
        ("yes", "answered no JSON: yes"),
    ],
)
def test_a_lying_server_is_found_out(content, what):
    with (
        answering(lambda path, body, number: (200, content)) as (url, _),
        pytest.raises(RemoteError, match=what),
    ):
        VlmJudge(url, "m", ONE)(CLIPS)


def test_failures_that_pass_are_tried_again_and_others_stop_the_run():
    sound = saying([("yes", -0.7), ("no", -0.7)])

    def shaky(path: str, body: bytes, number: int) -> tuple[int, Any]:
        return (429, {"detail": "busy"}) if number <= 2 else sound(path, body, number)

    with answering(shaky) as (url, asked):
        found = VlmJudge(url, "m", ONE, retries=2, wait=0.01, concurrent=1)(CLIPS)["ok"]
        assert len(asked) == 5
    torch.testing.assert_close(found, torch.full((3,), 0.5))
    with answering(lambda path, body, number: (401, {"detail": "no key"})) as (url, asked):
        judge = VlmJudge(url, "m", ONE, retries=5, wait=0.01, concurrent=1)
        with pytest.raises(RewardError, match=r"'judge' failed at iteration 4.*'a dog'.*HTTP 401: no key"):
            scored("judge", lambda v, p: judge(Clips(v, p))["ok"], VIDEOS, CLIPS.prompts, 4)


def test_a_slow_server_is_not_waited_for():
    def slow(path: str, body: bytes, number: int) -> tuple[int, Any]:
        time.sleep(0.6)
        return saying([("yes", 0.0)])(path, body, number)

    with answering(slow) as (url, _), pytest.raises(RemoteError, match=r"failed 1 times.*ReadTimeout"):
        VlmJudge(url, "m", ONE, timeout=0.1, retries=0)(CLIPS)


def test_the_key_is_sent_and_its_absence_named(monkeypatch):
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    with pytest.raises(ValueError, match="'JUDGE_KEY', named as the server's key, is not set"):
        VlmJudge("http://x", "m", key="JUDGE_KEY")
    monkeypatch.setenv("JUDGE_KEY", "secret")
    assert "secret" not in json.dumps(dict(VlmJudge("http://x", "m", key="JUDGE_KEY").provenance))


def test_arguments_out_of_range_are_named():
    with pytest.raises(ValueError, match="frames is 0"):
        VlmJudge("http://x", "m", frames=0)
