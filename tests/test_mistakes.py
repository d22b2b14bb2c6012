"""The known mistakes of instruction fine-tuning: each test fails where one is made.

1 The end token is not learned. 2 The mean of means. 3 Another prompt in training than
in use. 4 Steps that teach nothing, or nonsense. 5 Truncation makes an end. 6 Resumed is
not the same. 7 Batched answers differ from single ones.
"""

import pytest
import torch

from gpt_course.batching import (
    IGNORE_INDEX,
    collate_examples,
    encode_record,
    fit_examples,
)
from gpt_course.dataset import Records, render_prompt
from gpt_course.finetuning import (
    evaluate_loss,
    finetune,
    make_optimizer,
    summed_loss,
    train_step,
)
from gpt_course.generation import generate
from gpt_course.loaders import (
    InstructionDataset,
    LengthGroupedSampler,
    make_loader,
    make_loaders,
)
from gpt_course.model import GPT, GPTConfig, init_weights
from gpt_course.model_folders import load_pretrained
from gpt_course.records import load_data
from gpt_course.settings import GenerationConfig, TrainConfig
from gpt_course.tokenizers import load_tokenizer
from gpt_course.training_state import Callback, Checkpointer

RECORDS = load_data("builtin")


def small(dropout=0.0):
    shape = GPTConfig(
        vocab_size=400,
        n_positions=512,
        n_embd=32,
        n_layer=2,
        n_head=4,
        dropout=dropout,
    )
    return init_weights(GPT(shape), seed=1)


def tokenizer_of(vocab_size):
    name = "tiny" if vocab_size == 5632 else "gpt2"
    return load_tokenizer(name, vocab_size)


@pytest.mark.parametrize("vocab_size", [400, 4096, 5632, 50257])
def test_1_every_row_supervises_exactly_one_end_token(vocab_size):
    tok = tokenizer_of(vocab_size)
    examples = [encode_record(r, tok) for r in RECORDS]
    _, targets = collate_examples(examples, tok.eos_id)
    assert (targets == tok.eos_id).sum(1).tolist() == [1] * len(RECORDS)


def test_1_an_end_token_in_a_users_text_is_only_words():
    tok = load_tokenizer("gpt2")
    prompt, response = encode_record(
        {
            "instruction": "Explain <|endoftext|>.",
            "input": "",
            "output": "It is <|endoftext|>.",
        },
        tok,
    )
    assert tok.eos_id not in prompt + response
    assert "<|endoftext|>" in tok.decode(response)


@torch.no_grad()
def test_2_validation_loss_does_not_depend_on_batches():
    tok, model = tokenizer_of(400), small().eval()
    dataset = InstructionDataset(RECORDS[:50], tok, 512)
    losses = [
        evaluate_loss(model, make_loader(dataset, b, shuffle=shuffle))
        for b, shuffle in ((1, False), (7, True), (50, False))
    ]
    assert max(losses) - min(losses) < 1e-5


def test_2_accumulated_steps_equal_one_large_step():
    tok = tokenizer_of(400)
    dataset = InstructionDataset(RECORDS[:32], tok, 512)
    results = []
    for size in (8, 1):
        model = small()
        optimizer = make_optimizer(model, 1e-3, 0.1)
        for start in range(0, 32, 8):
            rows = [dataset[i] for i in range(start, start + 8)]
            batches = [
                collate_examples(rows[i : i + size], tok.eos_id)
                for i in range(0, 8, size)
            ]
            train_step(model, optimizer, batches, 1e-3, 1.0)
        results.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert (results[0] - results[1]).abs().max() < 2e-4


def test_3_the_prompt_has_the_same_ids_in_training_and_in_generation():
    tok = load_tokenizer("gpt2")
    for record in RECORDS[:200] + [
        {"instruction": "Count.", "input": "", "output": "\n\n1"},
        {"instruction": "x", "input": " y ", "output": "'s"},
    ]:
        prompt, response = encode_record(record, tok)
        assert prompt == tok.encode(render_prompt(record))
        input_ids, targets = collate_examples([(prompt, response)], tok.eos_id)
        first = (targets[0] != IGNORE_INDEX).nonzero()[0].item()
        assert input_ids[0, : first + 1].tolist() == prompt


def test_4_a_row_without_a_target_is_refused():
    with pytest.raises(ValueError, match="example 1: prompt has 9 tokens"):
        collate_examples([([1], [2]), ([1] * 9, [2])], 5, max_length=8)
    model = small()
    optimizer = make_optimizer(model, 1e-3, 0.0)
    masked = torch.ones(2, 4).long(), torch.full((2, 4), IGNORE_INDEX)
    with pytest.raises(ValueError, match="every target is masked"):
        train_step(model, optimizer, [masked], 1e-3, 1.0)


def test_4_a_loss_that_is_not_finite_stops_the_run():
    model = small()
    with torch.no_grad():
        model.ln_f.weight[0] = float("inf")
    before = [p.clone() for p in model.parameters()]
    optimizer = make_optimizer(model, 1e-3, 0.0)
    batch = collate_examples([([1, 2], [3])], eos_id=5)
    with pytest.raises(FloatingPointError, match="diverged"):
        train_step(model, optimizer, [batch], 1e-3, 1.0)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters()))


def test_5_truncation_never_makes_an_end_token():
    _, targets = collate_examples(
        [([1, 2, 3], list(range(10, 30)))], max_length=8, eos_id=99
    )
    assert 99 not in targets.tolist()[0]
    with pytest.raises(ValueError, match="record 1 "):
        fit_examples([([1] * 5, [2] * 9)], 8)
    assert fit_examples([([1] * 5, [2] * 9), ([1], [2])], 8, "drop")[1] == [1]


class KillAt(Callback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, state):
        if state.step == self.step:
            raise KeyboardInterrupt


@pytest.mark.parametrize("kill_at", [1, 6, 7, 11])
def test_6_resumed_is_the_same_to_the_bit(tmp_path, kill_at):
    splits = Records(RECORDS[:60]).split()
    config = TrainConfig(epochs=2, eval_steps=4, save_steps=3)

    def run(*callbacks):
        model = small(dropout=0.1)
        tok = tokenizer_of(400)
        train, val, _ = make_loaders(splits, tok, 512, batch_size=6, seed=9)
        try:
            rows = finetune(model, train, val, config, callbacks)
        except KeyboardInterrupt:
            return None
        return rows, [p.detach().clone() for p in model.parameters()]

    rows, weights = run()
    assert run(Checkpointer(tmp_path / "ck"), KillAt(kill_at)) is None
    again, weights_again = run(Checkpointer(tmp_path / "ck", resume=True))
    assert rows == again
    assert all(torch.equal(a, b) for a, b in zip(weights, weights_again))


def test_6_the_order_is_a_function_of_seed_and_epoch():
    lengths = [len(r["output"]) for r in RECORDS]
    a, b = (
        LengthGroupedSampler(lengths, 8, seed=4),
        LengthGroupedSampler(lengths, 8, seed=4),
    )
    list(a), list(a)  # using it leaves no trace
    assert a.batches(2) == b.batches(2) != a.batches(3)
    assert sorted(i for batch in a.batches(2) for i in batch) == list(
        range(len(RECORDS))
    )


def test_7_batched_generation_equals_single_with_the_shipped_model():
    model, tok = load_pretrained("tiny")
    prompts = [encode_record(r, tok)[0] for r in RECORDS[:24]]
    config = GenerationConfig(max_new_tokens=24)
    together = generate(model, prompts, tok.eos_id, config, batch_size=24)
    alone = [generate(model, [p], tok.eos_id, config)[0] for p in prompts]
    assert together == alone


@torch.no_grad()
def test_loss_only_where_a_target_is_equals_the_full_loss():
    tok, model = tokenizer_of(400), small().eval()
    input_ids, targets = collate_examples(
        [encode_record(r, tok) for r in RECORDS[:9]], eos_id=tok.eos_id
    )
    loss, n = summed_loss(model, input_ids, targets)
    full = torch.nn.functional.cross_entropy(
        model(input_ids).flatten(0, 1), targets.flatten(), reduction="sum"
    )
    assert abs(loss.item() - full.item()) / n < 1e-5
