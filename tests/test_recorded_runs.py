"The runs that lecture 8 compares are those of the shipped weights and data"

import importlib.util
import json
from pathlib import Path

import pytest

from gpt_course.checkpoints import weights_sha256
from gpt_course.files import ASSETS
from gpt_course.finetuning import default_lr
from gpt_course.history import History
from gpt_course.model_folders import load_pretrained
from gpt_course.records import load_data

FOLDER = ASSETS / "runs"
TOOL = Path(__file__).parent.parent / "tools" / "record_runs.py"


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("record_runs", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def model():
    return load_pretrained("tiny")[0]


@pytest.fixture(scope="module")
def weights(model):
    return weights_sha256(list(model.parameters()))[:16]


def test_a_larger_draw_holds_the_smaller_ones(tool):
    train = tool.short_splits().train
    few, some = tool.drawn(train, 40, 1), tool.drawn(train, 200, 1)
    assert some[:40] == few and some != train[:200]
    assert tool.drawn(train, None, 1) == train
    assert tool.drawn(train, 40, 2) != few
    assert all(tool.is_short(record) for record in train)


def test_each_run_was_made_with_the_shipped_weights(tool, model, weights):
    assert {path.stem for path in FOLDER.glob("*-epochs*.csv")} == {
        run.name for run in tool.RUNS
    }
    for run in tool.RUNS:
        wanted = tool.settings(run, run.times * default_lr(model), weights)
        assert tool.is_done(FOLDER, run, wanted), f"{run.name}: record it again"


def test_the_histories_are_those_of_the_settings(tool):
    n = len(tool.short_splits().train)
    for run in tool.RUNS:
        rows = History.from_csv(FOLDER / f"{run.name}.csv").rows
        assert [row["step"] for row in rows] == list(range(len(rows)))
        assert rows[-1]["examples_seen"] == run.epochs * (run.records or n)
        assert max(row["lr"] for row in rows) == pytest.approx(run.times * 2e-4)
        assert rows[1]["val_loss"] is not None  # dense at the start
        about = json.loads((FOLDER / f"{run.name}.json").read_text("utf-8"))
        pairs = about["exact_match"].values()
        assert all(0 <= right <= asked == tool.ASKED for right, asked in pairs)


def test_the_answers_are_to_all_test_records(weights):
    found = json.loads((FOLDER / "answers.json").read_text("utf-8"))
    assert found["settings"]["weights"] == weights
    test = load_data("builtin").split().test
    asked = [(r["instruction"], r["input"], r["output"], r["ring"]) for r in test]
    rows = found["answers"]
    assert asked == [
        (r["instruction"], r["input"], r["output"], r["ring"]) for r in rows
    ]
    assert sum(row["after_ended"] for row in rows) > len(rows) / 2
