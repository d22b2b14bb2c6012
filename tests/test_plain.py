"""The grammar of plain texts: made again from a seed, on one subject, never a task."""

import hashlib
import re
from itertools import islice
from random import Random

import pytest

from gpt_course.tiny.encyclopedia import documents, read_encyclopedia
from gpt_course.tiny.plain import (
    MAKERS,
    PLOTS,
    WORDS,
    grammar_document,
    plain_document,
    plain_documents,
    read_lists,
    read_patterns,
    read_pieces,
    read_table,
    tell,
    tell_story,
)
from gpt_course.tiny.pretraining import part_documents

DOCS = list(islice(plain_documents(seed=1), 2000))
PRONOUNS = {"he": {"he", "him", "his"}, "she": {"she", "her", "hers"}}
NAMES = {n for names in read_lists("names").values() for n in names[0].split()}
TASKS = re.compile(
    r"(?im)###|^(instruction|response|input)\b|\bwrite (a|an|me|some) (story|text|poem)"
    r"|^(write|describe|explain|summarise|compare|list|name|answer|rewrite)\b"
)


def test_the_texts_follow_from_the_seed():
    found = "\n".join(DOCS[:200])
    assert found == "\n".join(islice(plain_documents(seed=1), 200))
    assert hashlib.sha256(found.encode()).hexdigest()[:16] == "18df6c9a66e2ddfc"
    assert next(plain_documents(seed=2)) != DOCS[0]


def test_texts_are_short_and_whole():
    for doc in DOCS:
        assert WORDS[0] <= len(doc.split()) <= WORDS[1], doc
        assert doc[-1] in ".?!\"'", doc
        assert not re.search(r"[{}|\[\]]|\(|  | [.,]|\.\.|\ba [aeio]\w+", doc), doc


def test_texts_differ():
    assert len(set(DOCS)) >= 1990
    assert len({" ".join(doc.split()[:5]) for doc in DOCS}) >= 1000


@pytest.mark.parametrize("plot", PLOTS)
def test_a_story_keeps_its_hero_its_thing_and_its_place(plot):
    rng = Random(3)
    for _ in range(60):
        words, text = tell_story(rng, plot)
        found = set(re.findall(r"\w+", text))
        other = "she" if words["he"] == "he" else "he"
        assert found & NAMES == {words["hero"]}, text
        assert not {w.lower() for w in found} & PRONOUNS[other], text
        assert words["thing"] in text and words["place"] in text, text
        short = tell(rng, f"{plot} short", words)
        assert words["thing"] in short or words["hero"] in short or plot == "grow"


def test_no_text_is_a_task():
    for text in (*DOCS, *read_pieces()):
        assert not TASKS.search(text), text


def test_a_quarter_names_its_subject_first():
    heads = {slot[0].split()[0] for slot in [["This"], ["Here"]]}
    named = sum(doc.split()[0] in heads for doc in DOCS) / len(DOCS)
    assert 0.15 <= named <= 0.3


def test_tables_are_large_enough_and_fit_the_patterns():
    for name, n in dict(
        things=150, places=60, troubles=60, activities=40, animals=40, people=25
    ).items():
        rows = read_table(name)
        assert len(rows) >= n and len({r[0] for r in rows}) == len(rows), name
    assert len(NAMES) == 60
    for _, remedies, _ in read_table("troubles"):
        assert remedies.count("; ") == 2
    for table in ("mends", "rescues"):
        assert {r[0] for r in read_table(table)} <= {r[0] for r in read_table("things")}
    assert {r[2] for r in read_table("people")} <= {r[0] for r in read_table("places")}
    for plot in PLOTS:
        assert plot in read_patterns() and f"{plot} short" in read_patterns()
    rng = Random(4)
    for make in MAKERS:
        for _ in range(50):
            head, text = make(rng)
            assert head and "{" not in head + text


def test_a_third_of_plain_documents_is_written_by_hand():
    rng, pieces = Random(5), set(read_pieces())
    assert len(pieces) == 480
    share = sum(plain_document(rng) in pieces for _ in range(3000)) / 3000
    assert 0.3 <= share <= 0.37
    assert grammar_document(rng) not in pieces


def test_the_run_reads_as_much_plain_text_and_prose_as_is_asked_for():
    enc = read_encyclopedia()
    usual = list(islice(documents(enc, 7), 300))
    assert usual == list(islice(part_documents(enc, 7, 0), 300))
    pieces, prose = set(read_pieces()), set(enc.prose)
    docs = list(islice(part_documents(enc, 7, 0, plain=1.0), 3000))
    assert 0.13 <= sum(doc in pieces for doc in docs) / 3000 <= 0.2
    docs = list(islice(part_documents(enc, 7, 0, prose=5.0), 3000))
    share = sum(doc.split("\n\n")[0] in prose for doc in docs) / 3000
    assert 0.35 <= share <= 0.46
