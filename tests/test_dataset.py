"Splits have the sizes asked for, and the audit misses nothing"

import io
import json
import random
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from gpt_course.dataset import (
    Records,
    Splits,
    audit_splits,
    prompt_words,
    split_records,
)
from gpt_course.records import load_data, load_records, validate_records

RECORD = {"instruction": "Say hi.", "input": "", "output": "Hi."}


def ask(text):
    return RECORD | {"instruction": text}


def test_records_are_a_list_that_can_be_split_and_says_what_it_is():
    records = validate_records([ask(f"Say {i}.") for i in range(20)])
    assert records == [ask(f"Say {i}.") for i in range(20)]
    assert json.loads(json.dumps(records)) == records
    assert repr(records).startswith("20 records, the first {'instruction': 'Say 0.'")
    assert repr(Records()) == "0 records"
    assert all(isinstance(part, Records) for part in records.split())


def test_slices_and_sums_of_records_are_records():
    records = validate_records([ask(f"Say {i}.") for i in range(9)])
    for some in (records[:5], records[::2], records[5:] + records[:5], records + []):
        assert isinstance(some, Records)
        assert isinstance(some.split().test, Records)
    assert records[:2] + records[2:] == records
    assert records[-1] == ask("Say 8.")
    # each still knows where it stood
    back = records[::-1].split(seed=3)
    assert [r.place for r in back.train if r == ask("Say 4.")] == ["record 5"]


# --- splitting ---


@pytest.mark.parametrize(
    "n, train, test, sizes",
    [
        (3, 0.05, 0.9, Splits(1, 1, 1)),
        (10, 0.05, 0.94, Splits(1, 1, 8)),
        (100, 0.57, 0.29, Splits(57, 14, 29)),
        (100, 0.85, 0.10, Splits(85, 5, 10)),
    ],
)
def test_every_part_has_a_record_and_the_portion_asked_for(n, train, test, sizes):
    splits = split_records([RECORD] * n, train, test)
    assert Splits(*map(len, splits)) == sizes


def test_the_order_of_the_file_is_train_test_val():
    records = Records(ask(f"Say {i}.") for i in range(20))
    splits = records.split()
    assert splits.train + splits.test + splits.val == records
    assert records.split(seed=1) == records.split(seed=1)
    assert records.split(seed=1) != splits
    assert splits == split_records(records, 0.85, 0.10)


@pytest.mark.parametrize(
    "n, options, said",
    [
        (2, {}, "2 records cannot be split"),
        (9, dict(train=0.9, test=0.1), "their sum below 1"),
        (9, dict(train=-0.1), "above 0"),
        (9, dict(test=float("nan")), "test=nan"),
        (9, dict(train="0.8"), "train='0.8'"),
        (9, dict(seed="x"), "seed is 'x'; need a whole number"),
        (9, dict(seed=1.5), "seed is 1.5"),
        (9, dict(seed=True), "seed is True"),
    ],
)
def test_a_split_that_cannot_be_is_refused(n, options, said):
    with pytest.raises(ValueError, match=said):
        Records([RECORD] * n).split(**options)


def told(*parts):
    "Records that say which part they belong to; `None`: without the field."
    return Records(
        ask(f"Say {i}.") | ({} if part is None else {"part": part})
        for i, part in enumerate(parts)
    )


def test_records_that_name_their_parts_are_split_by_them(tmp_path):
    records = told("test", "train", "val", "train", "test")
    splits = records.split()
    assert splits == split_records(records)
    assert splits.train == [records[1], records[3]]
    assert splits.val == [records[2]]
    assert splits.test == [records[0], records[4]]
    path = tmp_path / "own.jsonl"
    path.write_text("\n".join(map(json.dumps, records)), "utf-8")
    assert load_data(path).split() == splits


@pytest.mark.parametrize("options", [dict(seed=1), dict(train=0.5), dict(test=0.05)])
def test_a_seed_or_a_portion_does_not_mix_named_parts(options):
    with pytest.raises(ValueError, match="'part'; leave seed and fractions out"):
        told("train", "val", "test").split(**options)


@pytest.mark.parametrize(
    "parts, said",
    [
        (("train", "val", None), "record 3: field 'part' is None, but others have"),
        (("tain", "val", "test"), "record 1: field 'part' is 'tain', but others have"),
        (("train", "val", "val"), "the records name only train and val; need"),
    ],
)
def test_parts_that_are_not_all_named_are_refused(parts, said):
    with pytest.raises(ValueError, match=said):
        told(*parts).split()


def test_a_part_that_is_not_named_is_found_in_the_file(tmp_path):
    path = tmp_path / "own.jsonl"
    rows = [*told("train", "val"), "", *told("test", None)]
    path.write_text("\n".join(json.dumps(row) if row else "" for row in rows), "utf-8")
    with pytest.raises(ValueError, match="line 5: field 'part' is None"):
        load_records(path).split()


@pytest.mark.parametrize("parts", [("train",) * 20, ("noun",) * 20, (None,) * 20])
def test_records_of_one_part_are_split_like_others(parts):
    records = told(*parts)
    splits = records.split()
    assert list(map(len, splits)) == [17, 1, 2]
    assert splits.train + splits.test + splits.val == records
    assert records.split(seed=1) != splits


# --- the audit ---


def test_the_audit_reads_every_script():
    splits = Splits(
        train=Records([ask("दिन")]), val=Records(), test=Records([ask("दान")])
    )
    assert not audit_splits(splits).leaks
    composed, decomposed = ask("caf\u00e9"), ask("cafe\u0301")
    assert prompt_words(composed) == prompt_words(decomposed) == ("café",)


def test_repetitions_are_told_from_leaks():
    splits = Splits(
        train=Records([ask("a"), ask("a")]),
        val=Records([ask("b"), ask("A!")]),
        test=Records([ask("a"), ask("b"), ask("c"), ask("c")]),
    )
    audit = audit_splits(splits)
    assert audit.duplicates == [("train[1]", "train[0]"), ("test[3]", "test[2]")]
    assert audit.leaks == [
        ("val[1]", "train[0]"),
        ("test[0]", "train[0]"),
        ("test[1]", "val[0]"),
    ]
    said = "2 repeated prompts, 3 leaks between parts, 0 near-duplicates"
    assert str(audit) == said
    with pytest.raises(ValueError, match="threshold is 0; need"):
        audit_splits(splits, threshold=0)


def near_by_all_pairs(train, test, threshold):
    "What the audit should find, in the simplest way."
    sets = [frozenset(text.split()) for text in train]
    known, found = {tuple(text.split()) for text in train}, []
    for i, text in enumerate(test):
        words = tuple(text.split())
        if words in known:
            continue
        known.add(words)
        for j, other in enumerate(sets):
            if len(other & set(words)) / len(other | set(words)) >= threshold:
                found.append((f"test[{i}]", f"train[{j}]"))
    return found


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.9, 1.0])
def test_the_audit_finds_what_comparing_all_pairs_finds(threshold):
    rng = random.Random(0)
    texts = [" ".join(f"w{rng.randrange(12)}" for _ in range(6)) for _ in range(240)]
    train, test = texts[:200], texts[200:]
    splits = Splits(
        train=Records(map(ask, train)), val=Records(), test=Records(map(ask, test))
    )
    wanted = near_by_all_pairs(train, test, threshold)
    assert [(a, b) for a, b, _ in audit_splits(splits, threshold).near] == wanted
    assert wanted or threshold > 0.5


# --- the cell of lecture 1 that needs the network ---


def cell_of_lecture_1(name):
    path = Path(__file__).parent.parent / "nbs" / "01_dataset.ipynb"
    cells = json.loads(path.read_text("utf-8"))["cells"]
    [cell] = [c for c in cells if c["id"] == name]
    return "".join(cell["source"]), "".join(cell["outputs"][0]["text"])


def test_without_a_network_the_cell_prints_what_it_would_have_shown(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("GPT_COURSE_CACHE", str(tmp_path))
    for name in ("https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    source, stored = cell_of_lecture_1("01-dataset-031")
    said = io.StringIO()
    with redirect_stdout(said), redirect_stderr(said):
        exec(source, {"audit_splits": audit_splits, "load_data": load_data})
    lines = said.getvalue().splitlines(keepends=True)
    assert "could not be downloaded" in lines[0]
    assert lines[-1] == stored
