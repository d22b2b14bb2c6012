"What tiny read, what it is asked, and that the second is not in the first"
import hashlib, json, re
from itertools import islice
import pytest
from gpt_course.batching import load_tokenizer
from gpt_course.dataset import ASSETS, audit_splits, load_data, split_records
from gpt_course.encyclopedia import documents, fill, limit_rows, make_records, read_encyclopedia, read_relation
from gpt_course.pretraining import TINY, make_text

ENC = read_encyclopedia()
TEXT = [doc for world in (ENC, limit_rows(ENC)) for doc in islice(documents(world, seed=2), 25_000)]


@pytest.mark.parametrize("relation", ENC.relations, ids=lambda r: r.name)
def test_a_relation_has_what_it_needs(relation):
    assert len(relation.names) >= 3 and len(relation.wordings) >= 8 and len(relation.tasks) >= 3
    told = " ".join(relation.names + relation.wordings)
    for instruction, _, _ in relation.tasks:
        assert "{" in instruction or instruction not in told
    for row in relation.rows:
        for template in (*relation.names, *relation.wordings, *(t for task in relation.tasks for t in task)):
            assert "{" not in fill(template, row)


def test_subjects_are_unique_so_that_a_question_has_one_answer():
    for relation in ENC.relations:
        subjects = [row[relation.subject] for row in relation.rows]
        assert len(subjects) == len(set(subjects)), relation.name


def test_the_shipped_records_are_what_the_code_makes():
    assert load_data("builtin") == make_records(limit_rows(ENC))


def test_the_parts_share_no_prompt_and_no_fact():
    train, test, val = split_records(load_data("builtin"))
    audit = audit_splits(train, test, val)
    assert not audit.leaks and not audit.duplicates
    tables = {r.name for r in ENC.relations if r.rows}
    outputs = {(r["task"], r["instruction"], r["input"]) for r in train}
    assert not outputs & {(r["task"], r["instruction"], r["input"]) for r in test + val}
    assert len({r["task"] for r in test} & tables) >= 40


def test_no_instruction_stands_in_the_text():
    text = "\n".join(TEXT)
    assert "### " not in text and "Below is an instruction" not in text
    for record in load_data("builtin"):
        if record["input"] and len(record["instruction"].split()) > 2: assert record["instruction"] not in text, record["instruction"]


def test_no_held_out_record_stands_in_the_text_as_prompt_and_output():
    "Sentences are checked in every record; for tables, the question itself must be missing."
    generated, found, by_word = {r.name for r in ENC.relations if r.generator}, [], {}
    for doc in TEXT:
        for word in set(re.findall(r"\w+", doc)): by_word.setdefault(word, []).append(doc)
    for record in load_data("builtin"):
        asked = record["input"] or record["instruction"]
        if record["task"] not in generated or len(asked.split()) < 3 or record["output"] in asked: continue
        rare = min(re.findall(r"\w+", asked), key=lambda word: len(by_word.get(word, ())))
        found += [(record, doc) for doc in by_word.get(rare, ()) if asked in doc and record["output"].rstrip(".") in doc.replace(asked, "")]
    assert not found, found[:3]


def test_faults_name_file_and_line(tmp_path):
    good = (ASSETS / "encyclopedia" / "capitals.txt").read_text("utf-8")
    for change, contains in ((good.replace("\nFrance\t", "\nFrance"), "cells, need 2"), (good.replace("title:", "titel:"), "header lacks title"),
                             (good.replace("subject: country", "subject: land"), "no column 'land'"), ("no header\n" + good, "line 1")):
        (tmp_path / "capitals.txt").write_text(change)
        with pytest.raises(ValueError, match=contains): read_relation(tmp_path / "capitals.txt")


def test_the_shipped_model_was_trained_on_this_text():
    "The hash of the whole text that the weights were made from, made again."
    made = json.loads((ASSETS / "tiny" / "pretraining.json").read_text())
    span = made["batch_size"] * TINY.n_positions
    ids = make_text(ENC, load_tokenizer(TINY.vocab_size), made["tokens"], made["seed"], made["focus_from"] * span, made["focus_rows"])
    assert hashlib.sha256(ids.tobytes()).hexdigest() == made["text_sha256"]


def test_the_shipped_weights_are_small():
    assert (ASSETS / "tiny" / "model.safetensors").stat().st_size < 20_000_000
