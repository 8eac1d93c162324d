"""Text in videos: the measure itself, and the reader on rendered words."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont

from rewards.ocr import TextAccuracy, distance, letters, wanted
from rewards.scoring import Clips


def written(words: list[str]) -> torch.Tensor:
    """(1, F, 3, 96, 288): a frame for each of the words."""
    frames = []
    for word in words:
        picture = Image.new("RGB", (288, 96), "white")
        ImageDraw.Draw(picture).text((20, 25), word, fill="black", font=ImageFont.load_default(size=36))
        frames.append(torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1) / 255)
    return torch.stack(frames)[None]


@pytest.mark.parametrize(
    ("first", "second", "edits"),
    [
        ("", "", 0),
        ("abc", "abc", 0),
        ("abc", "", 3),
        ("abc", "axc", 1),
        ("abc", "bc", 1),
        ("kitten", "sitting", 3),
    ],
)
def test_edit_distance(first, second, edits):
    assert distance(first, second) == distance(second, first) == edits


def test_what_is_asked_for():
    clips = Clips(
        torch.zeros(3, 1, 3, 8, 8),
        ('a "Happy 30th" cake', "a “Café”", "a sign"),
        facts=({}, {}, {"text": "No. 7"}),
    )
    assert [wanted(clips, row) for row in range(3)] == ["happy30th", "café", "no7"]
    assert letters("It's 5 O'Clock!") == "its5oclock"


def test_the_reader_reads_frames_and_averages_over_them():
    reader = TextAccuracy(frames=2)
    half = reader(Clips(written(["HELLO WORLD", "", ""]), ['a sign "Hello, world"']))["score"]
    assert half.tolist() == [0.5]
    wrong = TextAccuracy(frames=1)(Clips(written(["HELLO"]), ['a sign "quite another thing"']))["score"]
    assert wrong.item() < 0.3
    assert reader.provenance["model"].startswith("RapidOCR")


def test_prompts_without_text_are_refused():
    clips = Clips(torch.zeros(1, 1, 3, 8, 8), ["a dog"])
    assert TextAccuracy().refusal(clips) == "prompt 'a dog' quotes no text, and has no fact `text`"


def test_without_the_reader_the_remedy_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "rapidocr", None)
    with pytest.raises(ImportError, match=r"pip install 'video-alignment-bench\[ocr\]'"):
        TextAccuracy()
