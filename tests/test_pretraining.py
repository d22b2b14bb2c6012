"""The long run can be made again: compiled and in two threads too, every loss is the same to the bit. And its vocabulary."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from gpt_course.batching import load_tokenizer
from gpt_course.tiny.encyclopedia import read_encyclopedia
from gpt_course.model import GPT, GPTConfig, init_weights
from gpt_course.pretrained import load_pretrained, save_pretrained
from gpt_course.tiny.pretraining import carry_over, make_text, pretrain

SMALL = GPTConfig(vocab_size=4096, n_positions=128, n_embd=64, n_layer=2, n_head=2)


def run(ids, steps):
    model = init_weights(GPT(SMALL), 1)
    rows = pretrain(
        model,
        ids,
        steps,
        batch_size=8,
        lr=3e-3,
        warmup=2,
        compiled=True,
        progress=False,
    )
    return [row["loss"] for row in rows], model.state_dict()


@pytest.mark.skipif(
    not (shutil.which("g++") or shutil.which("clang++")),
    reason="needs a C++ compiler: torch.compile on a processor",
)
def test_compiled_run_repeats_to_the_bit():
    threads, exact = (
        torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(),
    )
    torch.set_num_threads(2)
    try:
        steps = 30
        ids = make_text(
            read_encyclopedia(), load_tokenizer(4096), steps * 8 * 128 + 1, seed=3
        )
        losses, weights = run(ids, steps)
        again, weights_again = run(ids, steps)
    finally:
        torch.set_num_threads(threads)
    assert losses == again
    assert all(torch.equal(w, weights_again[name]) for name, w in weights.items())
    # the caller's setting is put back
    assert torch.are_deterministic_algorithms_enabled() == exact


def test_a_run_stopped_early_has_the_losses_and_rates_of_the_whole():
    ids = make_text(read_encyclopedia(), load_tokenizer(4096), 6 * 2 * 128 + 1, seed=3)

    def rows(**kw):
        return pretrain(
            init_weights(GPT(SMALL), 1),
            ids,
            batch_size=2,
            warmup=2,
            decay=5,
            progress=False,
            **kw,
        )

    whole = rows(steps=6)
    assert rows(steps=6, until=4) == whole[:4] and rows(steps=6, until=9) == whole


def odd_tokens(tokenizer):
    "Numbers of the tokens that are no text by themselves: parts of a character."
    out = []
    for i in range(tokenizer.n_vocab - 1):
        try:
            tokenizer.decode_single_token_bytes(i).decode()
        except UnicodeDecodeError:
            out.append(i)
    return out


def test_a_carried_model_computes_the_same_where_the_tokens_are_the_same():
    old, new = load_tokenizer(4096), load_tokenizer(5632)
    model = init_weights(GPT(SMALL), 1).eval()
    other = carry_over(model, old, new).eval()
    assert other.config.vocab_size == 5632 and other.config.n_embd == SMALL.n_embd
    old_id = {old.decode_single_token_bytes(i): i for i in range(4095)}
    both = [
        (i, old_id[t])
        for i in range(5631)
        if (t := new.decode_single_token_bytes(i)) in old_id
    ] + [(5631, 4095)]
    assert 2000 < len(both) < 4096
    ids = torch.tensor(both)[
        torch.randperm(len(both), generator=torch.Generator().manual_seed(1))[:100]
    ]
    ours, theirs = other(ids[:, 0][None]), model(ids[:, 1][None])
    assert torch.allclose(ours[..., ids[:, 0]], theirs[..., ids[:, 1]], atol=1e-5)
    row = next(
        i for i in range(256, 5631) if new.decode_single_token_bytes(i) not in old_id
    )
    pieces = old.encode_ordinary(new.decode_single_token_bytes(row).decode())
    assert len(pieces) > 1 and torch.allclose(
        other.wte.weight[row], model.wte.weight[pieces].mean(0)
    )
    assert odd_tokens(new) and torch.isfinite(other.wte.weight).all()


def test_a_saved_model_keeps_its_table(tmp_path):
    "Even if that of a later `tiny` is another: the table lies beside the weights, and is the one that is read."
    V = 5632
    model = init_weights(
        GPT(GPTConfig(vocab_size=V, n_positions=16, n_embd=8, n_layer=1, n_head=2)), 1
    )
    save_pretrained(model, tmp_path / "a", tokenizer=load_tokenizer(V))
    table = tmp_path / "a" / "vocabulary.tiktoken"
    assert (
        load_pretrained(tmp_path / "a")[1].token_byte_values()
        == load_tokenizer(V).token_byte_values()
    )
    lines = table.read_text().splitlines()
    first, second = lines[-1].split()[0], lines[-2].split()[0]
    table.write_text(
        "\n".join([*lines[:-2], f"{first} {V - 3}", f"{second} {V - 2}"]) + "\n"
    )
    theirs = load_pretrained(tmp_path / "a")[1]
    assert theirs.decode_single_token_bytes(V - 2) == load_tokenizer(
        V
    ).decode_single_token_bytes(V - 3)
    table.write_text("\n".join(lines[:300]) + "\n")
    with pytest.raises(
        ValueError, match="vocab_size is 5632.*301.*vocabulary.tiktoken"
    ):
        load_pretrained(tmp_path / "a")
    save_pretrained(
        init_weights(GPT(SMALL), 1), tmp_path / "b", tokenizer=load_tokenizer(4096)
    )
    # GPT-2's: it is in the package
    assert not (tmp_path / "b" / "vocabulary.tiktoken").exists()


def test_the_vocabulary_of_tiny_is_made_from_its_text():
    if not os.environ.get("CI"):
        pytest.importorskip("tokenizers", reason="needs the package tokenizers")
    done = subprocess.run(
        [sys.executable, Path(__file__).parent.parent / "tools" / "tiny_vocabulary.py"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
