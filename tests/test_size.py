"Many records: kept in little memory, encoded once, and no longer scored than trained"

import json
import os
import random
from pathlib import Path

import numpy as np
import pytest

from gpt_course import token_cache
from gpt_course.batching import encode_record
from gpt_course.limits import cap_splits, usual_eval_steps
from gpt_course.loaders import InstructionDataset, make_loaders
from gpt_course.records import Records
from gpt_course.runs import RunConfig, run_finetune
from gpt_course.settings import EVAL_STEPS, TrainConfig
from gpt_course.token_cache import TokenRows, encode_rows
from gpt_course.tokenizers import load_tokenizer


def some_records(n, seed=1):
    rng = random.Random(seed)

    def text(most):
        return "".join(
            chr(rng.randrange(33, 1000)) for _ in range(rng.randint(1, most))
        )

    return Records(
        {"instruction": text(30), "input": text(9) * (i % 2), "output": text(20)}
        for i in range(n)
    )


@pytest.fixture
def small_cache(tmp_path, monkeypatch):
    "A cache of our own, in which forty records are many"
    monkeypatch.setenv("GPT_COURSE_CACHE", str(tmp_path))
    monkeypatch.setattr(token_cache, "MANY", 40)
    return tmp_path / "tokens"


class Counting:
    "A tokenizer that counts what it encodes"

    def __init__(self, tokenizer):
        self.own, self.count = tokenizer, 0
        self.vocab_size, self.eos_id = tokenizer.vocab_size, tokenizer.eos_id
        self.save, self.decode = tokenizer.save, tokenizer.decode

    def encode(self, text):
        self.count += 1
        return self.own.encode(text)


@pytest.mark.parametrize("vocab_size", [300, 50257])
@pytest.mark.parametrize("n", [1, 39, 40, 90])
def test_rows_are_what_encoding_each_record_gives(n, vocab_size, small_cache):
    tokenizer, records = load_tokenizer("gpt2", vocab_size), some_records(n)
    expected = [encode_record(record, tokenizer) for record in records]
    for _ in range(2):  # made, and read again
        rows = encode_rows(records, tokenizer)
        assert list(rows) == expected
        assert rows.lengths().tolist() == [len(p) + len(r) for p, r in expected]
    assert small_cache.exists() == (n >= 40)


def test_a_vocabulary_beyond_two_bytes_is_kept_whole():
    class Large(Counting):
        def encode(self, text):
            return [70_000, 3, 2**31 - 1][: len(text)]

    tokenizer = Large(load_tokenizer("gpt2", 300))
    tokenizer.vocab_size = 2**31
    [row] = encode_rows(some_records(1), tokenizer)
    assert row[0] == [70_000, 3, 2**31 - 1]


def test_what_is_known_is_not_encoded_again(small_cache):
    tokenizer = Counting(load_tokenizer("gpt2", 300))
    records = some_records(50)
    first = list(encode_rows(records, tokenizer))
    assert tokenizer.count == 100
    copied = Records(dict(record) for record in records)
    assert list(encode_rows(copied, tokenizer)) == first
    assert tokenizer.count == 100
    records[7]["output"] += "!"
    assert list(encode_rows(records, tokenizer)) != first
    assert tokenizer.count == 200
    # the same texts, divided in another way
    records = Records(dict(r, output="b", instruction="a") for r in some_records(40))
    other = Records(dict(r, output="", instruction="ab") for r in some_records(40))
    assert list(encode_rows(records, tokenizer)) != list(encode_rows(other, tokenizer))


def damage(folder, kind):
    path = folder / {"tokens": "tokens.bin", "lengths": "lengths.npy"}.get(kind, kind)
    if kind == "tokens":
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    elif kind == "lengths":
        np.save(path, np.load(path)[:-1])
    else:
        path.unlink()


@pytest.mark.parametrize("kind", ["tokens", "lengths", "about.json", "tokens.bin"])
def test_a_damaged_cache_is_made_again(kind, small_cache):
    tokenizer, records = load_tokenizer("gpt2", 300), some_records(50)
    expected = list(encode_rows(records, tokenizer))
    [folder] = small_cache.iterdir()
    damage(folder, kind)
    assert list(encode_rows(records, tokenizer)) == expected
    assert list(small_cache.iterdir()) == [folder]
    assert {f.name for f in folder.iterdir()} == {
        *("tokens.bin", "lengths.npy", "about.json")
    }


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("GPT_COURSE_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr(token_cache, "MANY", 3)
    tokenizer, records = load_tokenizer("gpt2", 300), some_records(5)
    expected = [encode_record(record, tokenizer) for record in records]
    assert list(encode_rows(records, tokenizer)) == expected


def test_the_cache_keeps_the_last_sets(small_cache):
    tokenizer = load_tokenizer("gpt2", 300)
    for seed in range(7):
        encode_rows(some_records(40, seed), tokenizer)
        # a clock that moves on between two sets
        for folder in small_cache.iterdir():
            seconds = folder.stat().st_mtime - 10
            os.utime(folder, (seconds, seconds))
    assert len(list(small_cache.iterdir())) == token_cache.KEPT
    counting = Counting(tokenizer)
    encode_rows(some_records(40, 6), counting)
    assert counting.count == 0


def test_the_data_set_is_the_same_from_the_cache(small_cache):
    tokenizer, records = load_tokenizer("gpt2", 300), some_records(60)
    lengths = [sum(map(len, encode_record(r, tokenizer))) for r in records]
    limit = sorted(lengths)[40]
    for _ in range(2):
        dataset = InstructionDataset(records, tokenizer, limit, "drop")
        fit = [i for i, n in enumerate(lengths) if n <= limit]
        assert dataset.kept == fit
        expected = [encode_record(records[i], tokenizer) for i in fit]
        assert [dataset[i] for i in range(len(dataset))] == expected
        assert dataset.lengths() == [lengths[i] for i in fit]
        cut = InstructionDataset(records, tokenizer, max(lengths) - 1, "truncate")
        assert cut.lengths() == [min(n, max(lengths) - 1) for n in lengths]


def test_selected_rows_can_be_selected_again():
    rows = TokenRows(np.arange(12), np.array([[1, 1], [2, 1], [3, 4]]))
    assert list(rows.select([2, 0]).select([1])) == [([0], [1])]
    assert [[len(p), len(r)] for p, r in rows.select([1]).shapes()] == [[2, 1]]


# --- what is scored ---


@pytest.mark.parametrize("most", [1, 7, 29, 30, 31, None])
def test_capped_parts_are_spread_evenly(most):
    splits = some_records(300).split(train=0.8, test=0.1)
    capped = cap_splits(splits, most, most)
    assert capped.train is splits.train
    for part, whole in zip(capped[1:], splits[1:]):
        assert len(part) == min(len(whole), most or len(whole))
        places = [whole.index(record) for record in part]
        gaps = {b - a for a, b in zip(places, places[1:])}
        assert places[:1] == [0] and len(gaps) <= 2 and min(gaps, default=1) > 0


@pytest.mark.parametrize("n_val", [1, 10, 400])
@pytest.mark.parametrize("accumulate", [1, 4])
def test_validation_takes_less_than_a_tenth(n_val, accumulate):
    splits = some_records(500).split(train=0.2, test=0.0101)
    splits = splits._replace(val=Records(splits.val[:n_val]))
    n_val = len(splits.val)
    tokenizer = load_tokenizer("gpt2", 300)
    train, val, _ = make_loaders(splits, tokenizer, 4000, batch_size=4)
    steps = usual_eval_steps(train, val, accumulate)
    assert n_val <= 0.1 * (n_val + 3 * steps * 4 * accumulate) * 1.001
    # and no seldomer than that needs
    assert steps == EVAL_STEPS or n_val > 0.1 * (
        n_val + 3 * (steps - 1) * 4 * accumulate
    )


def test_a_run_scores_what_the_caps_leave(small_model, small_data, tmp_path):
    said = []
    config = RunConfig.from_options(
        model=str(small_model),
        data=str(small_data),
        out=tmp_path / "run",
        max_test_records=4,
        max_val_records=1,
        epochs=1,
        max_new_tokens=2,
        device="cpu",
    )
    run_finetune(config, progress=False, say=said.append)
    responses = json.loads(Path(tmp_path / "run" / "responses.json").read_text())
    assert len(responses) == 4
    assert "4 of 6 test records are used (--max-test-records)" in said
    assert "1 of 3 val records are used (--max-val-records)" in said


def test_eval_steps_that_are_given_are_kept(small_model, small_data, tmp_path):
    from gpt_course.finetuning import finetune
    from gpt_course.model_folders import load_pretrained
    from gpt_course.records import load_data

    model, tokenizer = load_pretrained(small_model)
    splits = load_data(small_data).split()
    train, val, _ = make_loaders(splits, tokenizer, 512, batch_size=4)
    rows = finetune(model, train, val, TrainConfig(epochs=1, eval_steps=2))
    measured = [row["step"] for row in rows if row["val_loss"] is not None]
    assert measured == [0, 2, 4, 6, 8, 10, 12, 13]
