"What tiny read, what it is asked, and that the second is not in the first"
import hashlib, json, re
from itertools import islice
import pytest
from gpt_course.batching import load_tokenizer
from gpt_course.dataset import ASSETS, audit_splits, load_data, split_records
from gpt_course.encyclopedia import documents, fill, make_records, read_encyclopedia, read_relation
from gpt_course.pretraining import encode_documents

ENC = read_encyclopedia()
TEXT = list(islice(documents(ENC, seed=1), 40_000))


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
    assert load_data("builtin") == make_records(ENC)


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
    _, test, val = split_records(load_data("builtin"))
    generated = {r.name for r in ENC.relations if r.generator}
    by_word = {}
    for doc in TEXT:
        for word in set(re.findall(r"\w+", doc)): by_word.setdefault(word, []).append(doc)
    for record in test + val:
        if record["task"] not in generated or not record["input"] or "{a}" in record["instruction"]: continue
        rare = min(re.findall(r"\w+", record["input"]), key=lambda w: len(by_word.get(w, ())), default="")
        for doc in by_word.get(rare, ()):
            if record["input"] in doc and record["output"].rstrip(".") in doc and len(record["output"].split()) > 3:
                raise AssertionError((record, doc))


def test_faults_name_file_and_line(tmp_path):
    good = (ASSETS / "encyclopedia" / "capitals.txt").read_text("utf-8")
    for change, contains in ((good.replace("\nFrance\t", "\nFrance"), "cells, need 2"), (good.replace("title:", "titel:"), "header lacks title"),
                             (good.replace("subject: country", "subject: land"), "no column 'land'"), ("no header\n" + good, "line 1")):
        (tmp_path / "capitals.txt").write_text(change)
        with pytest.raises(ValueError, match=contains): read_relation(tmp_path / "capitals.txt")


def test_the_shipped_model_was_trained_on_this_text():
    "The hash of the whole text that the weights were made from, made again."
    made = json.loads((ASSETS / "tiny" / "pretraining.json").read_text())
    ids = encode_documents(documents(ENC, made["seed"]), load_tokenizer(4096), made["tokens"])
    assert hashlib.sha256(ids.tobytes()).hexdigest() == made["text_sha256"]


def test_the_shipped_weights_are_small():
    assert (ASSETS / "tiny" / "model.safetensors").stat().st_size < 20_000_000
