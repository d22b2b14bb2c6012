"""The long run can be made again: compiled and in two threads too, every loss is the
same to the bit. And its vocabulary.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from gpt_course.files import read_json, write_json
from gpt_course.model import GPT, GPTConfig, init_weights
from gpt_course.model_folders import load_pretrained, save_pretrained
from gpt_course.tiny import pretraining
from gpt_course.tiny.encyclopedia import read_encyclopedia
from gpt_course.tiny.pretraining import carry_over, make_text, pretrain
from gpt_course.tokenizers import load_tokenizer

SMALL = GPTConfig(vocab_size=4096, n_positions=128, n_embd=64, n_layer=2, n_head=2)
CUT = load_tokenizer("gpt2", 4096)


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
    threads = torch.get_num_threads()
    exact = torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(2)
    try:
        steps = 30
        ids = make_text(read_encyclopedia(), CUT, steps * 8 * 128 + 1, seed=3)
        losses, weights = run(ids, steps)
        again, weights_again = run(ids, steps)
    finally:
        torch.set_num_threads(threads)
    assert losses == again
    assert all(torch.equal(w, weights_again[name]) for name, w in weights.items())
    # the caller's setting is put back
    assert torch.are_deterministic_algorithms_enabled() == exact


def test_a_run_stopped_early_has_the_losses_and_rates_of_the_whole():
    ids = make_text(read_encyclopedia(), CUT, 6 * 2 * 128 + 1, seed=3)

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


def test_an_interrupted_run_puts_back_what_it_changed(tmp_path, monkeypatch):
    def interrupt(*_):
        assert torch.are_deterministic_algorithms_enabled()
        raise KeyboardInterrupt

    monkeypatch.setattr(pretraining, "save_checkpoint", interrupt)
    exact = torch.are_deterministic_algorithms_enabled()
    model = init_weights(GPT(SMALL), 1)
    ids = make_text(read_encyclopedia(), CUT, 3 * 128 + 1, seed=3)
    path = tmp_path / "c.safetensors"
    with pytest.raises(KeyboardInterrupt):
        pretrain(
            model,
            ids,
            3,
            batch_size=1,
            checkpoint=path,
            checkpoint_every=2,
            progress=False,
        )
    assert torch.are_deterministic_algorithms_enabled() == exact
    assert not model.training


def odd_tokens(tokenizer):
    "Numbers of the tokens that are no text by themselves: parts of a character."
    out = []
    for i in range(tokenizer.eos_id):
        try:
            tokenizer.token_bytes(i).decode()
        except UnicodeDecodeError:
            out.append(i)
    return out


def test_a_carried_model_computes_the_same_where_the_tokens_are_the_same():
    old, new = CUT, load_tokenizer("tiny")
    model = init_weights(GPT(SMALL), 1).eval()
    other = carry_over(model, old, new).eval()
    assert other.config.vocab_size == 5632
    assert other.config.n_embd == SMALL.n_embd
    old_id = {old.token_bytes(i): i for i in range(4095)}
    both = [
        (i, old_id[new.token_bytes(i)])
        for i in range(5631)
        if new.token_bytes(i) in old_id
    ]
    both.append((5631, 4095))
    assert 2000 < len(both) < 4096
    order = torch.randperm(len(both), generator=torch.Generator().manual_seed(1))
    ids = torch.tensor(both)[order[:100]]
    ours, theirs = other(ids[:, 0][None]), model(ids[:, 1][None])
    assert torch.allclose(ours[..., ids[:, 0]], theirs[..., ids[:, 1]], atol=1e-5)
    row = next(i for i in range(256, 5631) if new.token_bytes(i) not in old_id)
    pieces = old.encode(new.token_bytes(row).decode())
    assert len(pieces) > 1
    assert torch.allclose(other.wte.weight[row], model.wte.weight[pieces].mean(0))
    assert odd_tokens(new)
    assert torch.isfinite(other.wte.weight).all()


def test_a_saved_model_keeps_its_tokenizer(tmp_path):
    """Even if that of a later `tiny` is another: it lies beside the weights, and is the
    one that is read.
    """
    tiny = load_tokenizer("tiny")
    V = tiny.vocab_size
    shape = GPTConfig(vocab_size=V, n_positions=16, n_embd=8, n_layer=1, n_head=2)
    save_pretrained(init_weights(GPT(shape), 1), tiny, tmp_path)
    assert load_pretrained(tmp_path)[1].tokens() == tiny.tokens()
    # another tokenizer: the last two tokens and merges exchange their places
    saved = read_json(tmp_path / "tokenizer.json")
    vocab, merges = saved["model"]["vocab"], saved["model"]["merges"]
    last, second_last = tiny.tokens()[V - 2], tiny.tokens()[V - 3]
    vocab[last], vocab[second_last] = V - 3, V - 2
    merges[-1], merges[-2] = merges[-2], merges[-1]
    write_json(tmp_path / "tokenizer.json", saved)
    other = load_pretrained(tmp_path)[1]
    assert other.token_bytes(V - 2) == tiny.token_bytes(V - 3)


def test_the_vocabulary_of_tiny_is_made_from_its_text():
    if not os.environ.get("CI"):
        pytest.importorskip("tokenizers", reason="needs the package tokenizers")
    done = subprocess.run(
        [sys.executable, Path(__file__).parent.parent / "tools" / "tiny_vocabulary.py"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
