"""The prompts of VBench-2.0, from a list in its format."""

import json

import pytest
import yaml

from rewards.suites import suite_named
from rewards.vbench import prompts

LIST = [
    *(
        {"prompt_en": f"Garden {i}.", "dimension": ["Camera_Motion"], "auxiliary_info": "zoom_in"}
        for i in range(6)
    ),
    *({"prompt_en": f"A  man {i}", "dimension": ["Diversity"]} for i in range(3)),
    {"prompt_en": "Garden 1.", "dimension": ["Diversity"]},
]


@pytest.fixture
def info(tmp_path):
    path = tmp_path / "VBench2_full_info.json"
    path.write_text(json.dumps(LIST))
    return str(path)


def test_every_dimension_is_split(info):
    train, held_out = prompts(info, every=3)
    assert [entry["prompt"] for entry in held_out] == ["Garden 0.", "Garden 3.", "A man 0"]
    assert len(train) == 6
    assert {"prompt": "Garden 1.", "dimensions": ["Camera_Motion", "Diversity"]} in train


def test_some_dimensions(info):
    train, held_out = prompts(info, ["Diversity"], every=2)
    assert sorted(entry["prompt"] for entry in train + held_out) == [
        "A man 0",
        "A man 1",
        "A man 2",
        "Garden 1.",
    ]


def test_as_a_suites_generator(info, tmp_path):
    content = {
        "name": "own",
        "scorers": {"a": {"scorer": "rewards.temporal:Flicker"}, "b": {"scorer": "rewards.temporal:Flow"}},
        "training": {"a": 1.0},
        "held_out": ["b_smoothness"],
        "headline": "b_smoothness",
        "descriptions": {"a": "x", "b_smoothness": "y"},
        "prompts": {"generator": "rewards.vbench:prompts", "options": {"info": info}},
    }
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(content))
    found = suite_named(str(tmp_path / "own.yaml")).prompts
    assert found is not None
    assert found.held_out == ("Garden 0.", "Garden 5.", "A man 0")
    assert found.facts["A man 1"] == {"dimensions": ["Diversity"]}


def test_what_is_missing_is_named(info, tmp_path):
    with pytest.raises(ValueError, match=r"download VBench-2.0/vbench2/VBench2_full_info.json"):
        prompts(str(tmp_path / "none.json"))
    with pytest.raises(ValueError, match=r"dimensions \['Camera'\] are not in .*Camera_Motion, Diversity"):
        prompts(info, ["Camera"])
    with pytest.raises(ValueError, match="every is 1"):
        prompts(info, every=1)
