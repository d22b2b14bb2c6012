"One text, one record or a list of them is answered; what cannot be is named"

import re
from collections import deque

import pytest
import torch

from gpt_course.dataset import render_prompt
from gpt_course.generation import generate
from gpt_course.model import GPT, GPTConfig, init_weights
from gpt_course.responses import (
    Response,
    compare_responses,
    encode_prompts,
    respond,
    responses_table,
)
from gpt_course.settings import GenerationConfig
from gpt_course.tokenizers import load_tokenizer

SHORT = GenerationConfig(max_new_tokens=6)
# rows of the table above 400 belong to no token
SHAPE = GPTConfig(vocab_size=448, n_positions=256, n_embd=32, n_layer=2, n_head=4)


@pytest.fixture(scope="module")
def model():
    model = init_weights(GPT(SHAPE), seed=3).eval()
    with torch.no_grad():
        for p in model.h.parameters():
            p.mul_(12)
    return model


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer("gpt2", vocab_size=400)


def test_a_text_a_record_and_a_list_are_answered(model, tokenizer):
    [wanted] = respond(model, tokenizer, "Say hi.", SHORT)
    for asked in (
        ["Say hi."],
        {"instruction": "Say hi."},
        {"instruction": "Say hi.", "input": ""},
        [{"instruction": "Say hi.", "output": "Hi."}],
    ):
        assert respond(model, tokenizer, asked, SHORT) == [wanted]
    several = [f"Say {i}." for i in range(5)] + ["Say it" + " again" * 9]
    single = [respond(model, tokenizer, text, SHORT)[0] for text in several]
    assert respond(model, tokenizer, several, SHORT, batch_size=4) == single
    assert respond(model, tokenizer, []) == []
    mixed = ("Say hi.", {"instruction": "Say hi."})
    for sequence in (mixed, [*mixed], deque(mixed)):
        assert respond(model, tokenizer, sequence, SHORT) == [wanted, wanted]


def test_only_new_tokens_are_decoded_and_stripped(model, tokenizer):
    record = {"instruction": "Say: ### Response:", "input": "here"}
    ids = tokenizer.encode(render_prompt(record))
    assert encode_prompts(record, tokenizer, 256) == [ids]
    [answer] = generate(model, [ids], tokenizer.eos_id, SHORT)
    [response] = respond(model, tokenizer, record, SHORT)
    assert response.text == tokenizer.decode(answer.ids).strip()
    assert response.finish_reason == answer.finish_reason


@pytest.mark.parametrize(
    "records, said",
    [
        (5, "records is 5; need a text, a record, or a list"),
        (None, "records is None; need"),
        (b"Say hi.", "records is b'Say hi.'; need"),
        ({"Say hi."}, "records is {'Say hi.'}; need"),
        (["Say hi.", 5], "records: record 2 is 5; need a text, or a record"),
        ([["Say hi."]], "records: record 1 is ['Say hi.']; need a text"),
        ({"instrution": "Say hi."}, "record 1 is missing the field instruction"),
        ([{"instruction": 5}], "record 1 has 5 as instruction; need a text"),
        ([{"instruction": "a", "input": None}], "record 1 has None as input"),
        (["Say hi.", " \n"], "record 2 has an empty instruction"),
        ([1, 2, 3, 4, 5, 6, 7], "… and 2 more"),
    ],
)
def test_what_cannot_be_asked_is_named(model, tokenizer, records, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        respond(model, tokenizer, records)


def test_prompts_that_leave_no_room_are_named(model, tokenizer):
    long = "Explain. " * 200
    with pytest.raises(ValueError, match="record 2 has .* context is 256"):
        respond(model, tokenizer, ["Say hi.", long])


def test_other_arguments_are_named(model, tokenizer):
    with pytest.raises(ValueError, match="config is 5"):
        respond(model, tokenizer, "Say hi.", 5)
    with pytest.raises(ValueError, match="batch_size is 0"):
        respond(model, tokenizer, "Say hi.", batch_size=0)


def test_the_bar_counts_answers_and_is_off_by_default(model, tokenizer, capsys):
    asked = [f"Say {i}." for i in range(5)]
    quiet = respond(model, tokenizer, asked, SHORT)
    assert capsys.readouterr() == ("", "")
    assert respond(model, tokenizer, asked, SHORT, progress=True) == quiet
    out, err = capsys.readouterr()
    assert out == "" and "5/5" in err


def test_answers_stand_side_by_side():
    record = {"instruction": "Say a.", "output": "a"}
    compared = compare_responses([record], [Response("b", "length")], ["a"])
    assert compared == [
        {
            "instruction": "Say a.",
            "input": "",
            "output": "a",
            "response_before": "b",
            "response": "a",
        }
    ]
    with pytest.raises(ValueError, match="1 records, 0 answers before and 1 after"):
        compare_responses([record], [], ["a"])
    table = responses_table([compared[0] | {"response": "a" * 200}], longest=10)
    assert "a" * 10 + " …" in table.markup and "a" * 11 not in table.markup
    with pytest.raises(ValueError, match="record 1 is missing the field output"):
        compare_responses([{"instruction": "Say a."}], ["a"], ["a"])


def test_the_comparison_keeps_kind_and_ring_where_records_have_them():
    plain = {"instruction": "Say hi.", "output": "Hi."}
    [one, two] = compare_responses(
        [plain | {"task": "greetings", "ring": "kind", "part": "test"}, plain],
        ["", ""],
        ["Hi.", "Ho."],
    )
    assert (one["task"], one["ring"]) == ("greetings", "kind")
    assert one.keys() - two.keys() == {"task", "ring"}
