"""The long run can be made again: compiled and in two threads too, every loss is the same to the bit."""

import shutil

import pytest
import torch

from gpt_course.batching import load_tokenizer
from gpt_course.encyclopedia import read_encyclopedia
from gpt_course.model import GPT, GPTConfig, init_weights
from gpt_course.pretraining import make_text, pretrain

SMALL = GPTConfig(vocab_size=4096, n_positions=128, n_embd=64, n_layer=2, n_head=2)


def run(ids, steps):
    model = init_weights(GPT(SMALL), 1)
    rows = pretrain(model, ids, steps, batch_size=8, lr=3e-3, warmup=2, compiled=True, progress=False)
    return [row["loss"] for row in rows], model.state_dict()


@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="needs a C++ compiler: torch.compile on a processor")
def test_compiled_run_repeats_to_the_bit():
    threads, exact = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(2)
    try:
        steps = 30
        ids = make_text(read_encyclopedia(), load_tokenizer(4096), steps * 8 * 128 + 1, seed=3)
        losses, weights = run(ids, steps)
        again, weights_again = run(ids, steps)
    finally:
        torch.set_num_threads(threads)
    assert losses == again
    assert all(torch.equal(w, weights_again[name]) for name, w in weights.items())
    assert torch.are_deterministic_algorithms_enabled() == exact  # the caller's setting is put back
