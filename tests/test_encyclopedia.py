"What tiny read, what it is asked, and that the second is not in the first"

import hashlib
import json
import os
import re
from collections import Counter, defaultdict
from dataclasses import replace
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path

import pytest
from safetensors import safe_open

from gpt_course.dataset import audit_splits
from gpt_course.files import ASSETS, cache_dir
from gpt_course.model import GPTConfig
from gpt_course.records import LECTURE_SHA256, RecordError, load_data, load_records
from gpt_course.tiny import encyclopedia, pretraining
from gpt_course.tiny.encyclopedia import (
    FOCUS_ROWS,
    ROWS,
    ask_kind,
    ask_lesson,
    ask_open,
    data_card,
    documents,
    fill,
    find_questions,
    limit_rows,
    make_records,
    read_encyclopedia,
    read_lessons,
    read_open_records,
    read_relation,
    ring_report,
)
from gpt_course.tiny.pretraining import (
    TINY,
    encode_documents,
    make_text,
    part_documents,
)
from gpt_course.tokenizers import load_tokenizer

ENC = read_encyclopedia()
SMALL = limit_rows(ENC)
LESSONS = read_lessons()
OPEN = read_open_records()
ASKED = [r for r in SMALL.relations if r.asked]
GENERATED = {r.name for r in ENC.relations if r.generator}
# from part seven on; those before it read what earlier code wrote
PARTS = json.loads((ASSETS / "tiny" / "pretraining.json").read_text("utf-8"))["parts"][
    6:
]


# --- tables and records ---


@pytest.mark.parametrize("relation", ENC.relations, ids=lambda r: r.name)
def test_a_relation_has_what_it_needs(relation):
    assert (
        len(relation.names) >= 3
        and len(relation.wordings) >= 8
        and len(relation.tasks) >= 3
    )
    told = " ".join(relation.names + relation.wordings)
    for instruction, _, _ in relation.tasks:
        assert "{" in instruction or instruction not in told
    for row in relation.rows:
        for template in (
            *relation.names,
            *relation.wordings,
            *(t for task in relation.tasks + relation.tests for t in task),
        ):
            assert "{" not in fill(template, row)


def test_a_lesson_has_what_it_needs_and_is_not_told():
    assert {r.name for r in LESSONS} & {r.name for r in ENC.relations} == set()
    for lesson in LESSONS:
        assert not lesson.told and lesson.asked and not lesson.names
        subjects = [row[lesson.subject] for row in lesson.rows]
        assert len(subjects) == len(set(subjects)), lesson.name
        for row in lesson.rows:
            for task in lesson.tasks + lesson.tests:
                assert "{" not in "".join(fill(text, row) for text in task)


@pytest.mark.parametrize(
    "relation", [r for r in ASKED if not r.kept] + LESSONS, ids=lambda r: r.name
)
def test_a_kind_has_four_wordings_for_training_and_two_for_tests(relation):
    asked = [task[:2] for task in relation.tasks]
    kept = [task[:2] for task in relation.tests]
    assert len(set(asked)) == len(asked) >= 4
    assert len(set(kept)) == len(kept) == 2
    assert not set(asked) & set(kept)
    # an answer to a kept wording has a form that training has shown
    assert {t[2] for t in relation.tests} <= {t[2] for t in relation.tasks}


def test_subjects_are_unique_so_that_a_question_has_one_answer():
    for relation in ENC.relations:
        subjects = [row[relation.subject] for row in relation.rows]
        assert len(subjects) == len(set(subjects)), relation.name
        if subjects:
            assert relation.unasked <= set(subjects), relation.name
    unasked = {
        (r.name, subject) for r in ENC.relations if r.generator for subject in r.unasked
    }
    assert unasked and not unasked & {
        (r["task"], r["input"]) for r in load_data("builtin")
    }


def test_the_smaller_world_has_the_rows_that_the_headers_ask_for():
    small = limit_rows(ENC)
    for whole, part in zip(ENC.relations, small.relations):
        assert len(part.rows) == min(len(whole.rows), whole.focus or FOCUS_ROWS), (
            whole.name
        )
        # in their order, none twice
        assert [r for r in whole.rows if r in part.rows] == list(part.rows), whole.name
    assert any(0 < r.focus < len(r.rows) for r in ENC.relations) and any(
        r.focus >= len(r.rows) > FOCUS_ROWS for r in ENC.relations
    )
    assert [len(r.rows) for r in limit_rows(ENC, 5).relations] == [
        min(len(r.rows), r.focus or 5) for r in ENC.relations
    ]


def test_the_shipped_records_and_their_card_are_what_the_code_makes():
    records = make_records(SMALL)
    assert load_data("builtin") == records
    assert (ASSETS / "builtin.md").read_text("utf-8") == data_card(records, ENC)


def test_the_command_says_that_a_file_is_old_and_writes_it(
    tmp_path, capsys, monkeypatch
):
    # quick
    monkeypatch.setattr(
        encyclopedia, "make_records", lambda enc: load_data("builtin")[:100]
    )
    with pytest.raises(SystemExit):
        encyclopedia.main(["--folder", str(tmp_path)])
    assert "run with --write" in capsys.readouterr().out and not list(
        tmp_path.iterdir()
    )
    encyclopedia.main(["--write", "--folder", str(tmp_path)])
    assert sorted(f.name for f in tmp_path.iterdir()) == ["builtin.json", "builtin.md"]
    (tmp_path / "builtin.md").write_text("old")
    with pytest.raises(SystemExit):
        encyclopedia.main(["--folder", str(tmp_path)])


def test_a_kind_asks_about_a_row_once_and_in_the_wordings_of_its_ring():
    capitals = next(r for r in ASKED if r.name == "capitals")
    found = ask_kind(capitals, ENC.lexicon, seed=5)
    assert Counter(q.ring or q.part for q in found) == ROWS
    assert len({q.row["country"] for q in found}) == len(found) == sum(ROWS.values())
    for q in found:
        assert q.task in (capitals.tests if q.ring == "wording" else capitals.tasks)
    used = Counter(q.task for q in found if q.part == "train")
    assert set(used) == set(capitals.tasks)
    assert max(used.values()) - min(used.values()) <= 1
    assert {q.task for q in found if q.ring == "wording"} == set(capitals.tests)
    assert found == ask_kind(capitals, ENC.lexicon, seed=5)
    assert found != ask_kind(capitals, ENC.lexicon, seed=6)
    few = replace(capitals, rows=capitals.rows[:5])
    with pytest.raises(ValueError, match="capitals: 5 rows; 5 are held out"):
        ask_kind(few, ENC.lexicon, seed=5)
    kept = ask_kind(replace(capitals, kept=True, tests=()), ENC.lexicon, seed=5)
    assert {(q.part, q.ring) for q in kept} == {("test", "kind")}


def test_a_lesson_asks_about_every_row_in_several_wordings():
    for lesson in LESSONS:
        forms = {task[2] for task in lesson.tasks}
        train = [q for q in ask_lesson(lesson, 5) if q.part == "train"]
        asked = Counter((q.row[lesson.subject], q.task[2]) for q in train)
        assert len(asked) == len(lesson.rows) * len(forms), lesson.name
        assert min(asked.values()) == max(asked.values()) >= 2, lesson.name
        test = [q for q in ask_lesson(lesson, 5) if q.part == "test"]
        assert [q.task for q in test] == list(lesson.tests)


def test_every_wording_for_tests_is_used_and_only_there():
    records = load_data("builtin")
    short = [r for r in records if not r["task"].startswith("open_")]
    ways = defaultdict(lambda: defaultdict(set))
    for q in find_questions(SMALL, LESSONS, short):
        ways[q.relation.name][q.ring or q.part].add(q.task)
    for relation in [*ASKED, *LESSONS]:
        of = ways[relation.name]
        if relation.kept:
            assert set(of) == {"kind"}
            continue
        assert of["train"] == set(relation.tasks), relation.name
        assert of["wording"] == set(relation.tests), relation.name
        assert of["subject"] | of["val"] <= set(relation.tasks)
    assert sum(r.kept for r in ASKED) == 8
    silent = {r.name for r in ENC.relations if not r.asked}
    assert silent and not silent & {r["task"] for r in records}


def test_the_parts_share_no_prompt_and_a_ring_is_as_new_as_it_says():
    records = load_data("builtin")
    splits = records.split()
    audit = audit_splits(splits)
    assert not audit.leaks and not audit.duplicates
    report = {o.name: o for o in ring_report(ENC, records)}
    assert sorted(report) == [
        "lesson wording",
        "open kind",
        "open subject",
        "open wording",
        "short kind",
        "short subject",
        "short wording",
    ]
    for name, o in report.items():
        assert o.kind == (0 if "kind" in name else o.n), o
        assert o.wording == (o.n if "subject" in name else 0), o
        assert o.subject == o.fact == (o.n if "lesson" in name else 0), o
        assert o.n >= 20, o
    assert sum(o.n for o in report.values()) == len(splits.test)
    # of what is told, the rows of tables only
    tables = {r.name for r in ASKED if r.rows}
    for name, o in report.items():
        ring = name.split()[1]
        asked = [r for r in splits.test if r["ring"] == ring and r["task"] in tables]
        assert o.told == (len(asked) if "short" in name else 0), o


def test_a_fact_that_two_kinds_tell_is_in_one_part_only():
    "Also when the rows are drawn with other seeds."
    for seed in (1, 2):
        records = make_records(SMALL, seed=seed)
        assert audit_splits(records.split()).leaks == []
        for o in ring_report(ENC, records, seed=seed):
            assert o.subject == o.fact == (o.n if "lesson" in o.name else 0), o


# --- the open part ---


def test_the_open_records_are_thirteen_kinds():
    kinds = {r["task"] for r in OPEN}
    assert len(OPEN) >= 440 and len(kinds) == 13
    by_ring = Counter(r["ring"] for r in OPEN)
    assert by_ring["train"] >= 300 and by_ring["kind"] == 40
    kept = {r["task"] for r in OPEN if r["ring"] == "kind"}
    assert kept == {"open_compare", "open_dialogue"}
    assert len({r["output"] for r in OPEN}) == len(OPEN)
    asked = ask_open(OPEN)
    assert Counter(r["part"] for r in asked)["train"] == by_ring["train"]
    assert {r["task"] for r in asked if r["part"] == "val"} == kinds - kept
    of = defaultdict(set)
    number = {(r["instruction"], r["input"]): r["wording"] for r in OPEN}
    for r in asked:
        if r.get("ring") == "wording":
            of[r["task"]].add(number[r["instruction"], r["input"]])
    assert {len(ways) for ways in of.values()} == {2} and set(of) == kinds - kept


@pytest.mark.parametrize(
    "change, said",
    [
        (dict(task="story"), "record 1: task is 'story'"),
        (dict(ring="all"), "record 1: ring is 'all'"),
        (dict(wording="1"), "record 1: wording is '1'"),
        (dict(output="Short."), "record 1: an answer of 1 words"),
        (dict(wording=5), r"open_story: wordings \[1, 2, 3, 4, 5\] in training"),
        (dict(ring="kind"), "open_story: wordings .* in training"),
        (dict(ring="subject", wording=6), "'subject' has a wording that training"),
    ],
)
def test_faults_of_an_open_record_are_named(tmp_path, change, said):
    path = tmp_path / "open.jsonl"
    records = [OPEN[0] | change, *OPEN[1:]]
    path.write_text("\n".join(map(json.dumps, records)), "utf-8")
    with pytest.raises(RecordError, match=said):
        read_open_records(path)
    path.write_text("\n".join(map(json.dumps, [OPEN[1], *OPEN[1:]])), "utf-8")
    with pytest.raises(RecordError, match="record 2: .* for a second time"):
        read_open_records(path)


# --- faults ---


def test_faults_name_file_and_line(tmp_path):
    good = (ASSETS / "encyclopedia" / "capitals.txt").read_text("utf-8")
    for change, contains in (
        (good.replace("\nFrance\t", "\nFrance"), "cells, need 2"),
        (good.replace("title:", "titel:"), "the header has no title"),
        (good.replace("subject: country", "subject: land"), "no column 'land'"),
        (good.replace("Tell me the capital", "|"), "found 4 parts"),
        (good.replace("[tests]", "[wordings]"), "6 .tasks. and 0 .tests.; a kind"),
        ("no header\n" + good, "line 1"),
    ):
        assert change != good
        (tmp_path / "capitals.txt").write_text(change)
        with pytest.raises(ValueError, match=contains):
            read_relation(tmp_path / "capitals.txt")


@pytest.mark.parametrize(
    "line",
    [
        "focus: x",
        "focus: 2.5",
        "often: much",
        "asked: perhaps",
        "swap: maybe",
        "ways: 0",
    ],
)
def test_faults_of_the_header_name_file_and_field(tmp_path, line):
    good = re.sub(
        r"(?m)^(focus|often|asked|swap|ways):.*\n",
        "",
        (ASSETS / "encyclopedia" / "capitals.txt").read_text("utf-8"),
    )
    (tmp_path / "capitals.txt").write_text(f"{line}\n{good}")
    key, value = line.split(": ")
    with pytest.raises(
        ValueError, match=rf"capitals.txt: header has .*{key}: '{value}'"
    ):
        read_relation(tmp_path / "capitals.txt")


@pytest.mark.parametrize(
    "line, found",
    [
        ("focus: 7", (7, 1.0, True, False)),
        ("focus: all", (10**6, 1.0, True, False)),
        ("often: 0.5", (0, 0.5, True, False)),
        ("asked: no", (0, 1.0, False, False)),
        ("asked: in tests", (0, 1.0, True, False)),
        ("asked: yes but Chad", (0, 1.0, True, False, "Chad")),
        ("swap: yes", (0, 1.0, True, True)),
    ],
)
def test_the_header_says_how_much_is_read(tmp_path, line, found):
    good = re.sub(
        r"(?m)^(focus|often|asked|swap|ways):.*\n",
        "",
        (ASSETS / "encyclopedia" / "capitals.txt").read_text("utf-8"),
    )
    (tmp_path / "capitals.txt").write_text(f"{line}\n{good}")
    relation = read_relation(tmp_path / "capitals.txt")
    assert (
        relation.focus,
        relation.often,
        relation.asked,
        relation.swap,
        *relation.unasked,
    ) == found
    assert relation.kept == ("in tests" in line)


# --- the text ---


def kept(documents, docs):
    "The documents, and each of them in the list `docs` as it is read."
    for doc in documents:
        docs.append(doc)
        yield doc


def shares(part):
    "Practice sheets and plain texts for each other document, and how much prose."
    return part.get("sheets", 0), part.get("plain", 0), part.get("prose", 1)


@pytest.fixture(scope="session")
def parts():
    """The documents of each part of the long run that this code made, and their token
    ids; without one, those of a part as long as the last.
    """
    out = []
    tokenizer = load_tokenizer("tiny")
    tokens = 3900 * 8 * TINY.n_positions + 1
    for part in PARTS or [dict(seed=2, tokens=tokens, focus_rows=FOCUS_ROWS)]:
        docs = []
        found = part_documents(ENC, part["seed"], part["focus_rows"], *shares(part))
        ids = encode_documents(kept(found, docs), tokenizer, part["tokens"])
        out.append((part, docs, ids))
    return out


@pytest.fixture(scope="session")
def text(parts):
    "All documents of these parts, and some about the whole world."
    return [doc for _, docs, _ in parts for doc in docs] + list(
        islice(documents(ENC, seed=2), 10_000)
    )


def test_the_shipped_model_was_trained_on_this_text(parts):
    "The hash of the whole text that the weights were made from, made again."
    for part, _, ids in parts:
        assert (
            make_text(
                ENC,
                load_tokenizer("tiny"),
                5000,
                part["seed"],
                part["focus_rows"],
                *shares(part),
            )
            == ids[:5000]
        ).all()
        if PARTS:
            assert hashlib.sha256(ids.tobytes()).hexdigest() == part["text_sha256"], (
                part
            )
    if not PARTS:
        pytest.skip(
            "all parts of the run in pretraining.json were made by earlier code"
        )


def test_the_shipped_weights_are_small():
    assert (ASSETS / "tiny" / "model.safetensors").stat().st_size < 25_000_000


def test_no_instruction_stands_in_the_text(text):
    whole = "\n".join(text)
    assert "### " not in whole and "Below is an instruction" not in whole
    for instruction in {r["instruction"] for r in load_data("builtin") if r["input"]}:
        if len(instruction.split()) > 2:
            assert instruction not in whole, instruction


# --- the probe: does a record stand in the text as prompt and output together? ---
#
# Compared are lower-case words without punctuation. A record's prompts are its
# instruction, and what the instruction is
# about: the input, or the part in quotes; each if it has at least four words. (A
# shorter input names a thing. A text that
# tells facts names things and tells what they are: that is counted below, not
# forbidden.) Prompt and output stand together
# if at most 200 characters of one document lie between them, or if the output contains
# the prompt and stands there at all.
# Both must be whole sentences, or whole parts in quotes or after a colon. If one is
# only a part of a longer sentence ("This
# bird sings in the tree every day."), the pair is near: that is counted, and must stay
# rare.

REACH, LEAST = 200, 4
_QUOTED = re.compile(r"""(?:^|[\s(:])['"‘“](.+?)['"’”](?=[\s.,:;?!)]|$)""")
# between two words: a sentence or a quoted part ends
_CUT = re.compile(r"""[.?!:;"“”‘()\n]|\s['’]|['’]\s|^'|'$""")


def words(text):
    "Letters and digits only: what a text can be searched by, with its places."
    return re.findall(r"[^\W_]+", text.lower())


def prompts_of(record):
    about = (
        [record["input"]] if record["input"] else _QUOTED.findall(record["instruction"])
    )
    return [
        part for part in [record["instruction"], *about] if len(words(part)) >= LEAST
    ]


def needles(texts):
    return {w for text in texts if len(w := tuple(words(text))) >= LEAST}


def places(texts, docs):
    """Where texts stand in the documents: tuple of words to pairs (document, number of
    the first word); 300 pairs at most.
    """
    starts, found = defaultdict(list), defaultdict(list)
    for needle in needles(texts):
        starts[needle[:LEAST]].append(needle)
    for doc in docs:
        w = words(doc)
        for i, gram in enumerate(zip(*(w[k:] for k in range(LEAST)))):
            for needle in starts.get(gram, ()):
                if tuple(w[i : i + len(needle)]) == needle and len(found[needle]) < 300:
                    found[needle].append((doc, i))
    return found


@lru_cache(maxsize=1000)
def parse(doc):
    """The words of a document, and the numbers of the words before which a sentence or
    a quoted part begins or ends.
    """
    spans = [m.span() for m in re.finditer(r"[^\W_]+", doc.lower())]
    assert [doc.lower()[i:j] for i, j in spans] == words(doc)
    gaps = zip([0] + [j for _, j in spans], [i for i, _ in spans] + [len(doc)])
    return words(doc), {k for k, (i, j) in enumerate(gaps) if _CUT.search(doc[i:j])} | {
        0,
        len(spans),
    }


def together(record, prompt, doc, start, whole=True):
    """Do the prompt, which begins with word `start` of the document, and the output
    stand close?
    """
    (p, p_cuts), (o, o_cuts), (w, cuts) = (
        parse(prompt),
        parse(record["output"]),
        parse(doc),
    )
    if o == p and not (
        record["output"] in doc and prompt in doc.replace(record["output"], "")
    ):
        # they differ in capitals and punctuation only: then these must be there too
        return False

    def at(needle):
        return [
            i
            for i in range(len(w) - len(needle) + 1)
            if w[i : i + len(needle)] == needle
        ]

    def stands(i, n, own):
        return (
            not whole
            or {i, i + n} <= cuts
            and {c - i for c in cuts if i <= c <= i + n} <= own
        )

    if not stands(start, len(p), p_cuts):
        return False
    # words of the prompt are no answer
    inside = (
        {i for j in at(p) for i in range(j, j + len(p))} if len(o) < len(p) else set()
    )
    for i in at(o):
        if i in inside or not stands(i, len(o), o_cuts):
            continue
        between = w[start + len(p) : i] if i > start else w[i + len(o) : start]
        if len(" ".join(between)) <= REACH or p in [
            o[k : k + len(p)] for k in range(len(o))
        ]:
            return True
    return False


def found_together(records, found, whole=True):
    return [
        (record, prompt, doc)
        for record in records
        for prompt in prompts_of(record)
        for doc, start in found.get(tuple(words(prompt)), ())
        if together(record, prompt, doc, start, whole)
    ]


def lecture_records():
    "The lecture's data set, from where it can be had without the network, or `None`."
    here = Path(__file__).parent.parent
    for path in (
        os.environ.get("GPT_COURSE_LECTURE_DATA"),
        here.parent / "shared" / "data" / "instruction-data.json",
        cache_dir() / "instruction-data.json",
    ):
        if (
            path
            and Path(path).exists()
            and hashlib.sha256(Path(path).read_bytes()).hexdigest() == LECTURE_SHA256
        ):
            return load_records(path)


@pytest.fixture(scope="session")
def found(text):
    """Where the prompts and outputs of all records stand in the text; one pass for both
    data sets.
    """
    records = load_data("builtin") + (lecture_records() or [])
    return places([t for r in records for t in (*prompts_of(r), r["output"])], text)


def test_the_probe_finds_what_is_planted():
    record = dict(
        instruction="Put the sentence into the past tense.",
        input="She walks to the old mill.",
        output="She walked to the old mill.",
    )
    for doc, whole, near in (
        (
            "She walks to the old mill. Yesterday: she walked to the old mill!",
            True,
            True,
        ),
        (
            "'She walked to the old mill' was yesterday; now 'she walks to the old "
            "mill'",
            True,
            True,
        ),
        ("Today she walks to the old mill. She walked to the old mill.", False, True),
        (
            "She walks to the old mill. "
            + "Then it rains. " * 20
            + "She walked to the old mill.",
            False,
            False,
        ),
        ("Where she walks. To the old mill. She walked to the old mill.", False, True),
        ("She walks to the old mill. She walks to the old mill.", False, False),
        ("She walked to the old mill.", False, False),
        (
            "Put the sentence into the past tense: she walked to the old mill.",
            True,
            True,
        ),
    ):
        found = places(prompts_of(record), [doc])
        assert (
            bool(found_together([record], found)),
            bool(found_together([record], found, whole=False)),
        ) == (whole, near), doc
    quoted = dict(
        instruction="Change 'She can't swim in it.' into a question.",
        input="",
        output="Can't she swim in it?",
    )
    assert "She can't swim in it." in prompts_of(quoted)
    part = dict(
        instruction="Name the subject.",
        input="The old dog barks at night.",
        output="The old dog",
    )
    assert not found_together(
        [part],
        places(
            prompts_of(part),
            ["The old dog barks at night. The old dog barks at night."],
        ),
    )
    assert found_together(
        [part],
        places(
            prompts_of(part),
            ["The old dog barks at night. Its subject is 'the old dog'."],
        ),
    )


def some(found):
    return [
        (r["instruction"], r["input"], r["output"], doc[:200])
        for r, _, doc in found[:5]
    ]


def test_no_record_of_builtin_stands_in_the_text_as_prompt_and_output(found):
    "Facts of tables are told, so there only the instruction counts as a prompt."
    records = [
        r if r["task"] in GENERATED else r | {"input": " "}
        for r in load_data("builtin")
    ]
    assert not (there := found_together(records, found)), some(there)
    near = {
        (r["task"], r["instruction"], r["input"])
        for r, _, _ in found_together(records, found, whole=False)
    }
    print(
        f"\n{len(near)} of {len(records)} records stand in the text as parts of longer "
        f"sentences: {dict(Counter(task for task, _, _ in near))}"
    )
    assert len(near) < 0.01 * len(records), near


# Numbers of the lecture's records that do stand in the text that `tiny` has read,
# counted from 0.
# 57: a row of `phrases_spanish`; 470: a row of `phrases_french`; 755, a training
# record: one of WordNet's examples, put into
# another tense by a generator; 935, the first test record, and 1094, a validation
# record: made by the generator of similes.
# Scores on the lecture's test records are reported without what 935 adds.
KNOWN = {57, 470, 755, 935, 1094}


def test_no_record_of_the_lecture_stands_in_the_text_as_prompt_and_output(found):
    records = lecture_records()
    if records is None:
        pytest.skip(
            "the lecture's data set is not here: give its path in "
            "GPT_COURSE_LECTURE_DATA, or fetch it once with load_data('lecture')"
        )
    told = [r for r in records if found.get(tuple(words(r["output"])))]
    kinds = Counter(" ".join(words(r["instruction"])[:3]) for r in told)
    near = {records.index(r) for r, _, _ in found_together(records, found, whole=False)}
    print(
        f"\n{len(told)} of {len(records)} outputs stand in the text as sentences; by "
        "the first words of the instruction:"
    )
    print(
        "".join(f"  {n:4} {kind}\n" for kind, n in kinds.most_common())
        + f"records that stand there as parts of longer sentences: {sorted(near)}"
    )
    there = [
        f for f in found_together(records, found) if records.index(f[0]) not in KNOWN
    ]
    assert not there, (sorted({records.index(r) for r, _, _ in there}), some(there))


# --- the same command, the same weights ---


@pytest.fixture
def run(tmp_path, monkeypatch):
    """`run(name, ...)` does a short part of a run in a small shape, in the folder
    `name`; `stop=n` kills it after its n-th checkpoint.
    """
    monkeypatch.setattr(
        pretraining,
        "TINY",
        GPTConfig(vocab_size=5632, n_positions=64, n_embd=32, n_layer=2, n_head=2),
    )
    monkeypatch.setattr(
        pretraining,
        "pretrain",
        partial(pretraining.pretrain, checkpoint_every=2, progress=False),
    )
    save = pretraining.save_checkpoint

    def go(name, *more, stop=0):
        left = [stop]

        def saving(*args):
            save(*args)
            left[0] -= 1
            if not left[0]:
                raise KeyboardInterrupt

        monkeypatch.setattr(pretraining, "save_checkpoint", saving)
        pretraining.main(
            [
                "--out",
                str(tmp_path / name),
                "--steps",
                "6",
                "--batch-size",
                "2",
                "--warmup",
                "2",
                "--decay",
                "3",
                *map(str, more),
            ]
        )

    go.folder = tmp_path
    return go


def _result(folder):
    with safe_open(folder / "checkpoint.safetensors", "pt") as f:
        rows = json.loads(f.metadata()["state"])["rows"]
    return [row["loss"] for row in rows], *(
        (folder / "tiny" / name).read_bytes()
        for name in ("model.safetensors", "log.csv", "pretraining.json")
    )


@pytest.mark.parametrize(
    "first", [None, "before"], ids=["from random weights", "from an earlier part"]
)
def test_a_run_is_repeated_and_resumed_to_the_bit(run, first):
    start = ()
    if first:
        run(first, "--seed", 1)
        start = ("--start", run.folder / first / "tiny", "--seed", 2)
    run("once", *start)
    run("again", *start)
    with pytest.raises(KeyboardInterrupt):
        run("broken", *start, stop=2)
    assert not (run.folder / "broken" / "tiny").exists()
    run("broken", *start)
    once = _result(run.folder / "once")
    assert len(once[0]) == 6 and len(set(once[0])) == 6
    assert once == _result(run.folder / "again") == _result(run.folder / "broken")
    parts = json.loads(once[3])["parts"]
    assert [p["seed"] for p in parts] == ([1, 2] if first else [1]) and {
        p["tokens"] for p in parts
    } == {6 * 2 * 64 + 1}
    log = once[2].decode().splitlines()
    assert [line.split(",")[:3] for line in log[1:]] == [
        ["1", "1", "128"],
        ["2", "1", str(769 + 128)],
    ][: len(parts)]
