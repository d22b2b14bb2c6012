"A batch answers as each prompt would alone, and what cannot be answered is named"

import math
import re

import pytest
import torch

from gpt_course.generation import (
    generate,
    generate_as_completed,
    next_probabilities,
    stream,
)
from gpt_course.model import GPT, GPTConfig, KVCache, init_weights
from gpt_course.settings import GenerationConfig

SHAPE = GPTConfig(vocab_size=97, n_positions=64, n_embd=32, n_layer=2, n_head=4)
GREEDY = GenerationConfig(max_new_tokens=20)
SAMPLED = GenerationConfig(20, temperature=1.0, top_k=30, top_p=0.95, seed=7)


@pytest.fixture(scope="module")
def model():
    model = init_weights(GPT(SHAPE), seed=7).eval()
    with torch.no_grad():
        for p in model.h.parameters():
            p.mul_(12)  # or an untrained model repeats one token
    return model


@pytest.fixture(scope="module")
def prompts():
    "Some share a beginning, two are equal, one is the beginning of others."
    draw = torch.Generator().manual_seed(3)
    texts = [
        torch.randint(0, 96, (n,), generator=draw).tolist() for n in (3, 9, 1, 5, 17)
    ]
    return [[1, 2, 3, 4, *text] for text in texts] + [[1, 2, 3, 4], [7], [7]]


@torch.no_grad()
def naive(model, prompt, config, eos_id=None):
    "Reads the whole text again for each token."
    draw = torch.Generator().manual_seed(config.seed)
    ids = list(prompt)
    while len(ids) < min(len(prompt) + config.max_new_tokens, 64):
        logits = model(torch.tensor([ids]))[0, -1]
        if config.temperature == 0:
            token = logits.argmax().item()
        else:
            p = next_probabilities(
                logits, config.temperature, config.top_k, config.top_p
            )
            token = torch.multinomial(p, 1, generator=draw).item()
        if token == eos_id:
            break
        ids.append(token)
    return ids[len(prompt) :]


def with_seed(config, seed):
    return GenerationConfig(
        config.max_new_tokens, config.temperature, config.top_k, config.top_p, seed
    )


@pytest.mark.parametrize("config", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("inner_padding", [True, False])
def test_batched_single_streamed_and_naive_agree(
    model, prompts, config, inner_padding, monkeypatch
):
    monkeypatch.setattr(GPT, "inner_padding", inner_padding)
    own = [with_seed(config, config.seed + i) for i in range(len(prompts))]
    wanted = [naive(model, p, c) for p, c in zip(prompts, own)]
    for batch_size in (16, 3, 1):
        answers = generate(model, prompts, None, config, batch_size)
        assert [a.ids for a in answers] == wanted
    assert [list(stream(model, p, None, c)) for p, c in zip(prompts, own)] == wanted
    # the prompts that begin alike, without the two that do not
    assert [a.ids for a in generate(model, prompts[:6], None, config)] == wanted[:6]


@pytest.mark.parametrize("config", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_an_answer_says_why_it_ended(model, prompts, config):
    eos = generate(model, prompts, None, config)[0].ids[4]
    answers = generate(model, prompts, eos, config)
    for i, (prompt, answer) in enumerate(zip(prompts, answers)):
        own = with_seed(config, config.seed + i)
        assert answer.ids == naive(model, prompt, own, eos)
        stopped = len(answer.ids) < 20
        assert answer.finish_reason == ("stop" if stopped else "length")
        assert list(stream(model, prompt, eos, own)) == answer.ids
    assert {a.finish_reason for a in answers} == {"stop", "length"}


def test_the_end_of_the_context_ends_the_answer(model):
    [answer] = generate(model, [[1] * 60], None, GREEDY)
    assert (len(answer.ids), answer.finish_reason) == (4, "length")


def test_an_end_token_in_the_last_place_counts(model):
    token = generate(model, [[5]], None, GREEDY)[0].ids[0]
    [answer] = generate(model, [[5]], token, GenerationConfig(max_new_tokens=1))
    assert (answer.ids, answer.finish_reason) == ([], "stop")


def test_answers_come_as_they_are_finished(model, prompts):
    wanted = generate(model, prompts, None, GREEDY, batch_size=2)
    eos = wanted[-1].ids[0]  # the last prompts stop at once
    wanted = generate(model, prompts, eos, GREEDY, batch_size=16)
    came = list(generate_as_completed(model, prompts, eos, GREEDY, batch_size=16))
    assert sorted(i for i, _ in came) == list(range(len(prompts)))
    assert {i for i, _ in came[:2]} == {6, 7}
    assert all(answer == wanted[i] for i, answer in came)
    assert list(generate_as_completed(model, [], None, GREEDY)) == []
    assert generate(model, []) == []


def test_nothing_is_kept_for_a_backward_pass(model):
    assert not any(p.grad is not None for p in model.parameters())
    for token in stream(model, [1, 2], None, GenerationConfig(max_new_tokens=2)):
        assert torch.is_grad_enabled()  # the caller's setting is the caller's
        assert isinstance(token, int)


@pytest.mark.parametrize(
    "prompts, said",
    [
        ("Hello", "prompts is 'Hello'; need a list of prompts, each a list of token"),
        ([5, 17, 40], "prompts[0] is 5; need a list of token ids"),
        (torch.ones(2, 3).long(), "prompts is tensor"),
        (["Hello"], "prompts[0] is 'Hello'; need a list of token ids"),
        ([[1], [1.5]], "prompts[1] is [1.5]; need a list of token ids"),
        ([[1], []], "prompts[1] has 0 tokens; need 1 to 63"),
        ([[1] * 64], "prompts[0] has 64 tokens; need 1 to 63"),
        ([[1], [97]], "prompts[1] has the token 97"),
        ([[-1]], "prompts[0] has the token -1"),
    ],
)
def test_prompts_that_cannot_be_read_are_named(model, prompts, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        generate(model, prompts)


def test_other_arguments_are_named(model):
    with pytest.raises(ValueError, match="prompt is 'Hello'; need a list of token ids"):
        stream(model, "Hello")  # at once, not at the first token
    with pytest.raises(ValueError, match="config is 20; need a GenerationConfig"):
        generate(model, [[1]], None, 20)
    for wrong in (0, -1, 1.5):
        with pytest.raises(ValueError, match=f"batch_size is {wrong}"):
            generate(model, [[1]], batch_size=wrong)
    with pytest.raises(ValueError, match="temperature is nan"):
        generate(model, [[1]], None, GenerationConfig(temperature=math.nan))
    largest = GenerationConfig(max_new_tokens=3, temperature=1.0, seed=2**32 - 1)
    answers = generate(model, [[1], [2]], None, largest)  # the second has a larger one
    assert len(answers) == 2


def test_broken_weights_are_named():
    model = init_weights(GPT(SHAPE)).eval()
    with torch.no_grad():
        model.ln_f.weight[0] = math.nan
    with pytest.raises(ValueError, match="NaN"):
        generate(model, [[1]], None, GREEDY)


def test_without_a_filter_every_token_stays_possible():
    assert (next_probabilities(torch.tensor([20.0, 0, 0]), top_p=1.0) > 0).all()


def test_a_cache_holds_what_it_promised():
    cache = KVCache(2)
    rows = torch.arange(3.0)[:, None, None, None].expand(3, 1, 2, 4)
    cache.append(rows, -rows)
    with pytest.raises(ValueError, match="3 positions, and the cache holds 2"):
        cache.append(rows[:, :, :1], rows[:, :, :1])
    assert len(cache) == 2
    cache.select(torch.tensor([2, 2, 0]))
    assert cache.k[:, 0, 0, 0].tolist() == [2, 2, 0]
    assert cache.v[:, 0, 0, 0].tolist() == [-2, -2, 0]
