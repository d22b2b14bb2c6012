"Scores, intervals, and the choice among several answers"

import random

import pytest

from gpt_course.evaluation import (
    LONGEST_SHORT,
    RING_LABELS,
    SCORE_LABELS,
    bootstrap_interval,
    exact_match,
    is_open,
    mean_interval,
    parse_score,
    prompt_overlap,
    rouge_l,
    score_groups,
    score_intervals,
    score_responses,
    token_f1,
)
from gpt_course.mbr import mbr_select, respond_by_mbr
from gpt_course.model import GPT, GPTConfig, init_weights
from gpt_course.records import load_data
from gpt_course.responses import Response, respond
from gpt_course.scores import Scores, score_tables, table_text
from gpt_course.settings import GenerationConfig
from gpt_course.tokenizers import load_tokenizer

RECORD = {"instruction": "Say hi.", "input": "", "output": "Hi."}
DRAWN = GenerationConfig(max_new_tokens=6, temperature=0.8)


def small(seed):
    shape = GPTConfig(vocab_size=300, n_positions=256, n_embd=16, n_layer=2, n_head=2)
    return init_weights(GPT(shape), seed).eval()


def test_the_scores_have_the_names_of_the_table_and_no_others():
    both = [RECORD, RECORD | {"task": "open_talk"}]
    scores = score_responses(both, [Response("Hi", "stop")] * 2)
    assert [*scores] == [name for name in SCORE_LABELS if name != "loss"]
    short = score_responses([RECORD], [Response("Hi", "stop")])
    assert scores.keys() - short.keys() == {"overlap"}


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


# short and open answers, rings


def record(output, **fields):
    return {"instruction": "Describe a river.", "input": "", "output": output} | fields


@pytest.mark.parametrize(
    "fields, output, found",
    [
        ({}, "Wet.", False),
        ({"task": "open_describe"}, "Wet.", True),
        ({"task": "reopen_"}, "Wet.", False),
        ({"task": "lesson_sums"}, "so " * (LONGEST_SHORT + 1), True),
        ({}, "so " * LONGEST_SHORT, False),
        ({}, "so, " * LONGEST_SHORT + "...", False),
    ],
)
def test_what_is_open_is_said_by_the_task_or_by_the_length(fields, output, found):
    assert is_open(record(output, **fields)) == found


def test_the_rule_knows_the_open_part_of_the_built_in_data():
    records = load_data("builtin")
    by_name = [r["task"].startswith("open_") for r in records]
    assert [is_open(r) for r in records] == by_name and sum(by_name) > 400


def test_the_overlap_counts_long_words_of_instruction_and_input_once():
    asked = record("", input="Danube, Danube, it is long")  # describe river danube long
    assert prompt_overlap(asked, "The Danube is a river. The Danube!") == 2 / 4
    assert prompt_overlap(asked, "it is a") == 0
    assert prompt_overlap({"instruction": "Go on."}, "on") == 1 / 2
    assert prompt_overlap({"instruction": "?"}, "on") == 0


def test_an_open_answer_has_no_exact_match_however_right_it_is():
    told = record("It is wet.", task="open_describe")
    scores = score_responses([told], [Response("It is wet.", "stop")])
    assert "exact_match" not in scores and "token_f1" not in scores
    assert scores["rouge_l"] == 1.0
    # and it does not dilute that of the short ones
    both = score_responses([told, record("Wet.")], [Response("Wet.", "stop")] * 2)
    assert both["exact_match"] == 1.0 and both["n"] == 2


def ringed():
    "Right in the near ring, wrong in the far one; two open ones."
    rings = ["kind", "subject", "subject", "wording", "kind"]
    records = [record("Wet.", ring=ring, task="t") for ring in rings]
    records += [record("It is wet.", ring="subject", task="open_describe")] * 2
    texts = ["Dry.", "Wet", "wet", "Dry.", "Dry.", "A river is wet.", "No."]
    ends = ["stop", "stop", "length", "stop", "stop", "stop", "length"]
    return records, [Response(*pair) for pair in zip(texts, ends, strict=True)]


def test_every_ring_is_scored_on_its_own_records():
    groups = score_groups(*ringed())
    found = {(g["answers"], g["group"]): g for g in groups}
    assert list(found) == [
        ("short", "subject"),
        ("short", "wording"),
        ("short", "kind"),
        ("short", "all"),
        ("open", "subject"),
        ("open", "all"),
    ]
    assert [g["n"] for g in groups] == [2, 1, 2, 5, 2, 2]
    exact = [g["scores"]["exact_match"]["mean"] for g in groups[:4]]
    assert exact == [1.0, 0.0, 0.0, 0.4]
    assert found["short", "subject"]["scores"]["end_rate"]["mean"] == 0.5
    open_scores = found["open", "all"]["scores"]
    assert open_scores.keys() == {"rouge_l", "end_rate", "repetition", "overlap"}
    assert open_scores["overlap"]["mean"] == (1 / 2 + 0) / 2  # describe, river


def test_every_score_lies_in_its_interval_which_is_that_of_its_records():
    records, responses = ringed()
    for group in score_groups(records, responses):
        for score in group["scores"].values():
            assert 0 <= score["low"] <= score["mean"] <= score["high"] <= 1
    [short, *_] = [g for g in score_groups(records, responses) if g["group"] == "all"]
    exact = short["scores"]["exact_match"]
    assert (exact["low"], exact["high"]) == mean_interval([0.0, 1.0, 1.0, 0.0, 0.0])


def test_records_without_rings_are_one_group_that_says_what_the_means_say():
    records = [record("Wet."), record("Dry.")]
    responses = [Response("wet", "stop"), Response("so", "length")]
    [group] = score_groups(records, responses)
    assert (group["answers"], group["group"], group["n"]) == ("short", "all", 2)
    means, ends = (
        score_responses(records, responses),
        score_intervals(records, responses),
    )
    for name, score in group["scores"].items():
        assert score["mean"] == means[name]
        assert (score["low"], score["high"]) == ends[name]


def test_groups_can_be_those_of_any_field_and_of_names_we_do_not_know():
    records = [record("Wet.", task=task, ring=7) for task in ("b", "a", "b")]
    responses = [Response("wet", "stop")] * 3
    found = [(g["group"], g["n"]) for g in score_groups(records, responses, by="task")]
    assert found == [("b", 2), ("a", 1), ("all", 3)]
    assert [g["group"] for g in score_groups(records, responses)] == ["7", "all"]


def test_the_table_of_rings_has_every_group_and_fits_a_terminal():
    records, responses = ringed()
    groups = score_groups(records * 20, responses * 20)
    scores = {"loss": 0.5, "n": 140, "groups": groups}
    _, short, open_ones = score_tables({"before": scores, "after": scores})
    labels = [RING_LABELS[ring] for ring in ("subject", "wording", "kind", "all")]
    assert [row[0] for row in short[1::2]] == labels
    assert {row[0] for row in short[2::2]} == {""}
    assert [row[1] for row in short[1:]] == ["before", "after"] * 4
    assert [row[2] for row in short[1::2]] == ["40", "20", "40", "100"]
    assert short[0][3:] == ["exact match", "token F1", "ROUGE-L", "that end"]
    assert "exact match" not in open_ones[0]
    assert short[2][3].startswith("100.0 (") and short[8][3].startswith("40.0 (")
    text = table_text(short, markdown=False)
    assert max(map(len, text.splitlines())) <= 88


def test_scores_of_several_rings_show_a_line_for_each():
    records, responses = ringed()
    shown = str(
        Scores(
            score_responses(records, responses),
            score_intervals(records, responses),
            responses,
            score_groups(records, responses),
        )
    )
    for label in RING_LABELS.values():
        assert f"| {label} " in shown
    assert "open, %" in shown and "40.0 (" in shown
