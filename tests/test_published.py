"The scores of published answers: scored as ours are, and nothing but scores is kept"

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from gpt_course.evaluation import rouge_l
from gpt_course.files import ASSETS

TOOL = Path(__file__).parent.parent / "tools" / "score_published.py"
NAME = "instruction-data-with-response.json"
RECORDS = [
    {"instruction": "Say.", "input": "Hi", "output": "Hi.", "model_response": "hi"},
    {"instruction": "Say.", "input": "", "output": "Ho ho.", "model_response": "Ho."},
]


def numbers_and_names(value):
    "Every text in a JSON value that is not a name."
    if isinstance(value, dict):
        return [text for part in value.values() for text in numbers_and_names(part)]
    return [value] if isinstance(value, str) else []


def test_answers_are_scored_and_not_kept(tmp_path):
    (tmp_path / NAME).write_text(json.dumps(RECORDS), "utf-8")
    out = tmp_path / "scores.json"
    command = [sys.executable, TOOL, tmp_path, "--out", out]
    subprocess.run(command, check=True, capture_output=True)
    found = json.loads(out.read_text("utf-8"))
    assert found["n"] == 2
    assert found["scores"]["exact_match"]["mean"] == 0.5
    assert found["scores"]["rouge_l"]["mean"] == (1 + rouge_l("Ho", "Ho ho")) / 2
    assert found["copied_input"]["exact_match"]["mean"] == 0.5
    digest = hashlib.sha256((tmp_path / NAME).read_bytes()).hexdigest()
    assert found["sha256"] == digest
    told = [found[name] for name in ("model", "source", "sha256", "date")]
    assert sorted(numbers_and_names(found)) == sorted(told)


def test_what_is_not_there_is_named(tmp_path):
    command = [sys.executable, TOOL, tmp_path]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode and NAME in result.stderr


@pytest.mark.parametrize("who", ["scores", "copied_input"])
def test_the_shipped_scores_lie_in_their_intervals(who):
    found = json.loads((ASSETS / "published_scores.json").read_text("utf-8"))
    assert found["n"] == 110 and found["source"].startswith("https://github.com/rasbt/")
    for score in found[who].values():
        assert 0 <= score["low"] <= score["mean"] <= score["high"] <= 1
