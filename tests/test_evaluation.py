"Scores, intervals, and the choice among several answers"

import random

import pytest

from gpt_course.evaluation import (
    SCORE_LABELS,
    bootstrap_interval,
    exact_match,
    mbr_select,
    parse_score,
    respond_by_mbr,
    rouge_l,
    score_responses,
    token_f1,
)
from gpt_course.model import GPT, GPTConfig, init_weights
from gpt_course.responses import Response, respond
from gpt_course.settings import GenerationConfig
from gpt_course.tokenizers import load_tokenizer

RECORD = {"instruction": "Say hi.", "input": "", "output": "Hi."}
DRAWN = GenerationConfig(max_new_tokens=6, temperature=0.8)


def small(seed):
    shape = GPTConfig(vocab_size=300, n_positions=256, n_embd=16, n_layer=2, n_head=2)
    return init_weights(GPT(shape), seed).eval()


def test_the_scores_have_the_names_of_the_table_and_no_others():
    scores = score_responses([RECORD], [Response("Hi", "stop")])
    assert [*scores] == [name for name in SCORE_LABELS if name != "loss"]


def test_the_end_rate_counts_answers_that_ended_by_themselves():
    responses = [Response("", "stop"), Response("", "length"), Response("", "length")]
    assert score_responses([RECORD] * 3, responses)["end_rate"] == 1 / 3


@pytest.mark.parametrize(
    "response, output, exact, f1, rouge",
    [
        ("", "", 1.0, 1.0, 1.0),
        ("", "a", 0.0, 0.0, 0.0),
        ("!", ".", 0.0, 0.0, 0.0),
        ("", "?!", 0.0, 0.0, 0.0),
        ("?!", " ?! ", 1.0, 1.0, 1.0),
        ("-5", "5", 0.0, 0.0, 0.0),
        ("C++", "C", 0.0, 0.0, 0.0),
        ("x < y", "x > y", 0.0, 2 / 3, 2 / 3),
        # characters where no spaces part words
        ("我爱北京。", "我爱南京", 0.0, 0.75, 0.75),
        ("京北", "北京", 0.0, 1.0, 0.5),
        ("A b", "a, B!", 1.0, 1.0, 1.0),
        ("b a", "a b", 0.0, 1.0, 0.5),
        ("a a", "a", 0.0, 2 / 3, 2 / 3),
    ],
)
def test_scores_at_the_edges(response, output, exact, f1, rouge):
    assert exact_match(response, output) == exact
    assert token_f1(response, output) == f1
    assert rouge_l(response, output) == rouge


@pytest.mark.parametrize(
    "reply, grade",
    [
        ("SCORE: 70", 70),
        ("SCORE: -5", None),
        ("SCORE: - 5", None),
        ("SCORE: −5", None),
        ("SCORE: .5", None),
        ("SCORE: 70/100", 70),
        ("score = 70 / 100", 70),
        ("SCORE: 70 out of 100", 70),
        ("SCORE: 70 out of 1000", None),
        ("**Score:** 7.5", None),
        ("SCORE: 101", None),
        ("My SCORE: 70", None),
    ],
)
def test_a_grade_is_read_or_not(reply, grade):
    assert parse_score(reply) == grade


@pytest.mark.parametrize("wrong", [dict(level=95), dict(draws=0)])
def test_an_interval_needs_a_level(wrong):
    with pytest.raises(ValueError, match="level is"):
        bootstrap_interval([1.0, 0.0], **wrong)


def test_an_interval_covers_the_mean_about_as_often_as_it_says():
    rng = random.Random(0)
    covered = 0
    for trial in range(200):
        values = [float(rng.random() < 0.6) for _ in range(60)]
        low, high = bootstrap_interval(values, level=0.9, draws=200, seed=trial)
        covered += low <= 0.6 <= high
    assert 0.84 <= covered / 200 <= 0.95, covered


def test_the_first_of_equal_answers_is_kept():
    assert mbr_select(["a", "b"]) == 0
    with pytest.raises(ValueError, match="no answers"):
        mbr_select([])


def test_several_models_draw_together():
    tokenizer = load_tokenizer("gpt2", 300)
    records = [RECORD, RECORD | {"instruction": "Say ho."}]
    models = [small(seed=1), small(seed=2)]
    drawn = [respond(m, tokenizer, records * 2, DRAWN, batch_size=32) for m in models]
    found = respond_by_mbr(models, tokenizer, records, 2, DRAWN)
    for i, response in enumerate(found):
        answers = [d[k] for d in drawn for k in (i, i + 2)]
        assert response == answers[mbr_select([a.text for a in answers])]
    alone = respond_by_mbr(models[0], tokenizer, records, 2, DRAWN)
    assert respond_by_mbr(models[:1], tokenizer, records, 2, DRAWN) == alone


def test_what_cannot_be_drawn_is_refused():
    tokenizer, model = load_tokenizer("gpt2", 300), small(seed=1)
    with pytest.raises(ValueError, match="samples is 2, of 0 models"):
        respond_by_mbr([], tokenizer, [RECORD], 2)
    with pytest.raises(ValueError, match="temperature is 0"):
        respond_by_mbr(model, tokenizer, [RECORD], 2, GenerationConfig())
