"""Generated inputs: what is accepted is right, what is refused is one clear error.

A fixed part always runs: the same `FIXED` inputs for each test. With GPT_COURSE_PROOF=1
in the environment it is `PROOF` new ones for each, some 100,000 in all.
"""

import csv
import gzip
import io
import json
import math
import os
import tempfile
import unicodedata
from collections import Counter
from dataclasses import fields

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.configuration import set_hypothesis_home_dir

from gpt_course.batching import IGNORE_INDEX, collate_examples, fit_examples
from gpt_course.dataset import (
    Records,
    Splits,
    audit_splits,
    prompt_words,
    render_prompt,
    split_records,
)
from gpt_course.evaluation import (
    exact_match,
    parse_score,
    repetition,
    rouge_l,
    score_response,
    token_f1,
)
from gpt_course.finetuning import cosine_with_warmup
from gpt_course.generation import generate, next_probabilities
from gpt_course.loaders import LengthGroupedSampler
from gpt_course.model import GPT, GPTConfig, init_weights
from gpt_course.normalize import words
from gpt_course.prompts import prompt_parts
from gpt_course.records import (
    FIELDS,
    RecordError,
    load_records,
    parse_fields,
    validate_records,
)
from gpt_course.responses import Response
from gpt_course.settings import (
    DataConfig,
    GenerationConfig,
    JudgeConfig,
    LoraConfig,
    TrainConfig,
)
from gpt_course.terminal import visible

PROVING = bool(os.environ.get("GPT_COURSE_PROOF"))
FIXED, PROOF = 60, 5500  # inputs for each test
SHARES = []  # of them, test by test

set_hypothesis_home_dir(tempfile.mkdtemp())  # nothing is left in the checkout


def fuzz(*strategies, share=1.0, **named):
    "Run a test on many inputs; where one takes longer, on a share of them."
    SHARES.append(share)
    many = settings(
        max_examples=max(10, int((PROOF if PROVING else FIXED) * share)),
        derandomize=not PROVING,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    return lambda test: many(given(*strategies, **named)(test))


def refused(call, *args, **options):
    "`None` if the call is refused by a clear `ValueError`; else in a list, its result."
    try:
        return [call(*args, **options)]
    except ValueError as e:
        # one of ours says what it was about; those of libraries and of Python do not
        assert type(e) in (ValueError, RecordError), repr(e)
        assert len(str(e)) > 20, repr(e)
        return None


# --- files ---

ANY_TEXT = st.text(max_size=40)
FULL_TEXT = ANY_TEXT.filter(str.strip)
NAMES = [*FIELDS, "prompt", "question", "response", "answer", "context", "messages"]
RECORD = st.fixed_dictionaries(
    {"instruction": FULL_TEXT, "input": ANY_TEXT, "output": FULL_TEXT}
)


def is_right(records):
    "Everything that later rooms rely on."
    assert type(records) is Records and records
    assert len({r.place for r in records}) == len(records)
    for record in records:
        assert all(type(record[name]) is str for name in FIELDS)
        assert record["instruction"].strip() and record["output"].strip()
        "".join(record[name] for name in FIELDS).encode()  # no half characters


PIECES = [
    *(b"{", b"}", b"[", b"]", b":", b",", b"\n", b"\r", b" ", b'"', b"null", b"NaN"),
    *(b'{"instruction": "a", "output": "b"}', b'"instruction":', b'"output":', b'"x"'),
    *(b"instruction,output\n", b"a,b\n", b"\t", b";", b"\xff\xfe", b"\xfe\xff", b"\0"),
    *(
        b"\xef\xbb\xbf",
        b"\x1f\x8b",
        b"PAR1",
        b"PK\3\4",
        b"\x80\4",
        b"1e999",
        b"-",
        b"9",
    ),
]
SOUP = st.lists(st.sampled_from(PIECES) | st.binary(max_size=8), max_size=12)


@fuzz(SOUP.map(b"".join))
def test_any_bytes_are_records_or_a_fault(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "soup"
    path.write_bytes(data)
    for found in refused(load_records, path) or []:
        is_right(found)


def as_csv(records, delimiter):
    text = io.StringIO(newline="")
    writer = csv.DictWriter(
        text, FIELDS, delimiter=delimiter, quoting=csv.QUOTE_ALL, lineterminator="\n"
    )
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue()


def as_lines(records):
    return "\n".join(json.dumps(r, ensure_ascii=False) for r in records)


WRITERS = {
    "list": lambda records: json.dumps(records, ensure_ascii=False),
    "pretty": lambda records: json.dumps(records, indent=2),
    "wrapped": lambda records: json.dumps({"n": len(records), "rows": records}),
    "columns": lambda rs: json.dumps({name: [r[name] for r in rs] for name in FIELDS}),
    "lines": as_lines,
    "csv": lambda records: as_csv(records, ","),
    "tsv": lambda records: as_csv(records, "\t"),
    "semicolons": lambda records: as_csv(records, ";"),
}
ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"]
FILES = st.tuples(
    st.lists(RECORD, min_size=1, max_size=4),
    st.sampled_from(sorted(WRITERS)),
    st.sampled_from(ENCODINGS),
    st.booleans(),
)


def written(records, kind, encoding, zipped):
    data = WRITERS[kind](records).encode(encoding)
    return gzip.compress(data) if zipped else data


@fuzz(FILES)
def test_what_is_written_is_read(tmp_path_factory, file):
    records = file[0]
    path = tmp_path_factory.getbasetemp() / "written"
    path.write_bytes(written(*file))
    found = load_records(path)
    is_right(found)
    assert found == records


@fuzz(FILES, st.data())
def test_a_damaged_file_is_refused_or_read_right(tmp_path_factory, file, draw):
    data = bytearray(written(*file))
    for _ in range(draw.draw(st.integers(1, 3))):
        at = draw.draw(st.integers(0, len(data)))
        change = draw.draw(st.sampled_from(["cut", "drop", "put", "flip"]))
        if change == "cut":
            del data[at:]
        elif change == "drop":
            del data[at : at + 3]
        elif change == "put":
            data[at:at] = draw.draw(st.binary(min_size=1, max_size=3))
        elif at < len(data):
            data[at] ^= 1 << draw.draw(st.integers(0, 7))
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(bytes(data))
    for found in refused(load_records, path) or []:
        is_right(found)


# --- records ---

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | ANY_TEXT,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from([*NAMES, "role", "content", "text"]) | ANY_TEXT,
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
ROLES = st.sampled_from(["user", "assistant", "system", "human", "gpt", "tool"])
TURNS = st.lists(
    st.fixed_dictionaries({"role": ROLES, "content": FULL_TEXT}), min_size=1, max_size=6
)


@fuzz(st.lists(JSON, max_size=4) | JSON)
def test_anything_is_records_or_a_fault(value):
    for found in refused(validate_records, value) or []:
        is_right(found)
        for record, row in zip(found, value, strict=True):
            texts = json.dumps(row, ensure_ascii=False)
            for name in FIELDS:  # nothing is invented
                assert json.dumps(record[name], ensure_ascii=False)[1:-1] in texts


@fuzz(st.lists(TURNS, min_size=1, max_size=3))
def test_of_a_conversation_a_question_and_its_answer_are_taken(talks):
    found = refused(validate_records, [{"messages": turns} for turns in talks])
    for records in found or []:
        for record, turns in zip(records, talks, strict=True):
            spoken = [(t["role"], t["content"]) for t in turns]
            pairs = list(zip(spoken, spoken[1:]))
            assert any(
                asked[1] == record["instruction"]
                and asked[0] in ("user", "human")
                and answered == (answered[0], record["output"])
                and answered[0] in ("assistant", "gpt")
                for asked, answered in pairs
            )
            first = spoken[0]
            assert record["input"] == (first[1] if first[0] == "system" else "")


FIELD_NAMES = st.sampled_from([*NAMES, "title", "body", ""]) | ANY_TEXT
TOLD = (
    st.none()
    | ANY_TEXT
    | st.lists(st.tuples(FIELD_NAMES, FIELD_NAMES), max_size=4).map(
        lambda pairs: ",".join(f"{a}={b}" for a, b in pairs)
    )
    | st.dictionaries(FIELD_NAMES, FIELD_NAMES, max_size=4)
)


@fuzz(TOLD, st.dictionaries(FIELD_NAMES, FULL_TEXT, max_size=5))
def test_what_a_person_says_of_fields_is_followed_or_refused(told, row):
    for parsed in refused(parse_fields, told) or []:
        assert set(parsed) <= {*FIELDS, "messages"}
        for records in refused(validate_records, [row], fields=told) or []:
            is_right(records)
            for ours, theirs in parsed.items():
                if ours in FIELDS:
                    assert records[0][ours] == row[theirs]


# --- template, splitting, audit ---


@fuzz(FULL_TEXT, ANY_TEXT)
def test_the_prompt_holds_both_texts_and_ends_alike(instruction, context):
    parts = prompt_parts()
    prompt = render_prompt({"instruction": instruction, "input": context})
    paired = parts.opening_paired + instruction + parts.before_input + context
    opening = paired if context else parts.opening + instruction
    assert prompt == opening + parts.response
    assert parts.response.endswith("### Response:\n")
    if not context:
        assert prompt == render_prompt({"instruction": instruction})


NUMBER = st.floats() | st.integers(-3, 3) | st.floats(0, 1) | st.none() | ANY_TEXT
PART = st.sampled_from([None, "train", "val", "test", "", 3])


@fuzz(
    st.lists(st.tuples(RECORD, PART), max_size=12),
    NUMBER,
    NUMBER,
    st.none() | st.integers() | st.floats() | st.booleans(),
)
def test_parts_have_all_records_once(pairs, train, test, seed):
    records = [r if p is None else r | {"part": p} for r, p in pairs]
    for parts in refused(split_records, records, train, test, seed) or []:
        assert all(type(part) is Records and part for part in parts)
        whole = [json.dumps(r) for part in parts for r in part]
        assert Counter(whole) == Counter(map(json.dumps, records))


@fuzz(st.lists(RECORD, max_size=8), st.floats(0, 1.2) | st.just(math.nan))
def test_the_audit_finds_every_prompt_that_is_there_twice(records, threshold):
    parts = Splits(*(Records(records[i::3]) for i in range(3)))
    for audit in refused(audit_splits, parts, threshold) or []:
        prompts = [prompt_words(r) for r in records]
        again = len(prompts) - len(set(prompts))
        assert len(audit.duplicates) + len(audit.leaks) == again
        assert all(threshold - 1e-3 <= share <= 1 for *_, share in audit.near)


# --- batches ---

IDS = st.lists(st.integers(0, 50), max_size=9)
EXAMPLES = st.lists(st.tuples(IDS, IDS), max_size=5)
LIMIT = st.integers(-1, 20) | st.none()


@fuzz(EXAMPLES, st.integers(0, 50), LIMIT, st.booleans())
def test_a_batch_asks_for_the_response_and_one_end(examples, eos, limit, only):
    for batch in refused(collate_examples, examples, eos, limit, only) or []:
        assert batch.input_ids.shape == batch.targets.shape
        assert len(batch.input_ids) == len(examples)
        rows = zip(examples, batch.input_ids.tolist(), batch.targets.tolist())
        for (prompt, response), ids, targets in rows:
            row = [*prompt, *response, eos]
            n = min(len(row) - 1, len(ids))
            assert ids == row[:n] + [eos] * (len(ids) - n)
            first = len(prompt) - 1 if only else 0
            wanted = [IGNORE_INDEX] * first + row[first + 1 : n + 1]
            assert targets == wanted + [IGNORE_INDEX] * (len(ids) - n)


@fuzz(EXAMPLES, st.integers(-1, 20), st.sampled_from(["error", "drop", "truncate", ""]))
def test_rows_that_are_kept_fit(examples, limit, on_overflow):
    for kept, places in refused(fit_examples, examples, limit, on_overflow) or []:
        assert [examples[i] for i in places] == kept
        assert places == sorted(set(places))
        lost = set(range(len(examples))) - set(places)
        assert all(sum(map(len, examples[i])) > limit for i in lost)
        if on_overflow != "truncate":
            assert all(sum(map(len, e)) <= limit for e in kept)
        assert all(len(prompt) <= limit for prompt, _ in kept)


@fuzz(
    st.lists(st.integers(1, 99), max_size=40),
    st.integers(-1, 9),
    st.integers(0, 2**32),
    st.booleans(),
    st.integers(0, 5),
)
def test_an_epoch_has_each_row_once(lengths, size, seed, shuffle, epoch):
    for sampler in refused(LengthGroupedSampler, lengths, size, seed, shuffle) or []:
        batches = sampler.batches(epoch)
        assert sorted(i for batch in batches for i in batch) == [*range(len(lengths))]
        assert all(1 <= len(batch) <= size for batch in batches)
        assert len(batches) == len(sampler)
        assert batches == sampler.batches(epoch)


# --- settings ---

VALUE = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([0, 1, 2**31, 2**32, 2**63, 2**64, 10**400, -1])
    | st.floats()
    | st.floats(0, 2)
    | ANY_TEXT
    | st.sampled_from(["error", "adamw", "builtin", "a=b"])
    | st.lists(st.integers(), max_size=2)
    | st.dictionaries(ANY_TEXT, ANY_TEXT, max_size=2)
)
GROUPS = [DataConfig, TrainConfig, LoraConfig, GenerationConfig, JudgeConfig]


@fuzz(st.sampled_from(GROUPS), st.data())
def test_settings_are_refused_or_can_be_used(group, data):
    names = st.sampled_from([f.name for f in fields(group)])
    options = data.draw(st.dictionaries(names, VALUE, min_size=1, max_size=3))
    for config in refused(group, **options) or []:
        for name, value in options.items():
            assert getattr(config, name) is value
            if isinstance(value, (int, float)):
                assert math.isfinite(float(value)) and 0 <= value < 2**32
        json.dumps(vars(config))


@fuzz(
    st.integers(1, 10**6),
    st.floats(1e-9, 1),
    st.floats(0, 0.999) | st.integers(0, 10**6).map(float),
)
def test_the_learning_rate_stays_between_nothing_and_its_peak(steps, lr, warmup):
    TrainConfig(lr=lr, warmup_steps=warmup)
    for step in {0, 1, steps // 2, steps - 1}:
        assert 0 < cosine_with_warmup(step, steps, lr, warmup) <= lr * (1 + 1e-9)


SAMPLING = st.fixed_dictionaries(
    {
        "temperature": st.floats(0.001, 1000) | st.floats(),
        "top_k": st.none() | st.integers(-1, 12) | st.just(10**9),
        "top_p": st.none() | st.floats(0, 1) | st.floats(),
    }
)
LOGITS = st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=10)


@fuzz(SAMPLING, LOGITS)
def test_what_is_drawn_from_is_a_distribution(asked, numbers):
    for config in refused(GenerationConfig, **asked) or []:
        if config.temperature == 0:
            continue
        logits = torch.tensor(numbers)
        probs = next_probabilities(
            logits, config.temperature, config.top_k, config.top_p
        )
        assert probs.shape == logits.shape
        assert (probs >= 0).all()
        assert math.isclose(probs.sum().item(), 1, rel_tol=1e-5)
        # the likeliest is kept, or one that differs by less than the arithmetic sees
        assert logits[probs > 0].max() >= logits.max() - 1e-6
        if config.top_k:
            assert (probs > 0).sum() <= config.top_k


TINY = GPTConfig(vocab_size=20, n_positions=16, n_embd=8, n_layer=1, n_head=2)
NETWORK = init_weights(GPT(TINY), seed=0).eval()
PROMPT = st.lists(st.integers(-1, 21), max_size=17)


@fuzz(st.lists(PROMPT, max_size=3), SAMPLING, st.integers(1, 9), share=0.3)
def test_answers_end_in_time(prompts, asked, most):
    for config in refused(GenerationConfig, max_new_tokens=most, **asked) or []:
        for found in refused(generate, NETWORK, prompts, 3, config) or []:
            assert len(found) == len(prompts)
            for prompt, one in zip(prompts, found):
                assert len(one.ids) <= min(most, TINY.n_positions - len(prompt) + 1)
                assert 3 not in one.ids
                assert all(0 <= token < TINY.vocab_size for token in one.ids)


# --- scores ---

SPEECH = st.text(
    st.characters(exclude_categories=["Cs"])
    | st.sampled_from("aé\u0301किी你กิ\u200d\u200c-+.,'’<>=🙂👍1²٣"),
    max_size=25,
)


@fuzz(SPEECH, SPEECH)
def test_scores_are_shares_and_the_same_text_has_all(a, b):
    for score in (exact_match, token_f1, rouge_l):
        assert 0 <= score(a, b) <= 1
        assert score(a, b) == pytest.approx(score(b, a))
        assert score(a, a) == 1
        for form in ("NFC", "NFD"):
            assert score(unicodedata.normalize(form, a), a) == 1
    assert exact_match(a, b) <= rouge_l(a, b) <= token_f1(a, b) + 1e-12
    assert 0 <= repetition(a) < 1 or not words(a)
    for output in (b, b + " word" * 50):
        record = {"instruction": a, "input": "", "output": output}
        scores = score_response(record, Response(a, "stop"))
        assert all(0 <= value <= 1 for value in scores.values())


@fuzz(SPEECH)
def test_words_are_found_again_in_words(text):
    found = words(text)
    assert not any(word.isspace() or not word for word in found)
    assert words(f"  {text}\n") == found
    for form in ("NFC", "NFD"):
        assert words(unicodedata.normalize(form, text)) == found


@fuzz(ANY_TEXT | st.from_regex(r"(SCORE|Final score|Grade): [-0-9./ ]{0,9}.*"))
def test_a_grade_is_readable_or_not(reply):
    score = parse_score(reply)
    assert score is None or (type(score) is int and 0 <= score <= 100)


class Terminal(io.StringIO):
    def isatty(self):
        return True


@fuzz(
    st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from("\x1b\x9b\x07"))
)
def test_nothing_on_a_terminal_gives_orders(text):
    shown = visible(text, Terminal())
    assert not any(unicodedata.category(c) == "Cc" and c not in "\n\t" for c in shown)
    assert not Counter(filter(str.isalnum, text)) - Counter(shown)


def test_there_are_as_many_as_the_page_says():
    assert 100_000 <= sum(SHARES) * PROOF < 120_000
