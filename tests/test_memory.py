"""Memory: the estimate against what the system counts, and each way to need less
against the plain way.
"""

import importlib
import os
import sys

import pytest
import torch
from safetensors import safe_open
from torch.utils.data import DataLoader

from gpt_course import memory
from gpt_course.dataset import split_records
from gpt_course.finetuning import (
    finetune,
    make_optimizer,
    summed_loss,
    train_step,
)
from gpt_course.generation import generate
from gpt_course.loaders import make_loaders
from gpt_course.memory import (
    SIZES,
    STRATEGIES,
    batch_shape,
    bf16_fault,
    estimate_memory,
    measure_step,
    memory_warning,
    return_freed_memory,
)
from gpt_course.model import GPT, GPTConfig, init_weights
from gpt_course.records import load_data
from gpt_course.settings import GenerationConfig, TrainConfig
from gpt_course.tokenizers import load_tokenizer
from gpt_course.training_state import Callback, Checkpointer

RECORDS = load_data("builtin")[:60]
linux = pytest.mark.skipif(
    sys.platform != "linux",
    reason="the estimate's base and allocator are those of Linux",
)


def small(dropout=0.1):
    shape = GPTConfig(300, 1024, n_embd=64, n_layer=2, n_head=2, dropout=dropout)
    return init_weights(GPT(shape), seed=1)


def loaders():
    tokenizer = load_tokenizer("gpt2", 300)
    return make_loaders(split_records(RECORDS), tokenizer, 1024, batch_size=4, seed=5)


class KillAt(Callback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, state):
        if state.step == self.step:
            raise KeyboardInterrupt


def run(checkpoint=None, kill_at=None, resume=False, **options):
    "The rows of a run of 14 steps, dropout included; `None` if it was killed."
    callbacks = [KillAt(kill_at)]
    if checkpoint:
        callbacks.append(Checkpointer(checkpoint, resume))
    settings = dict(gradient_accumulation_steps=2, eval_steps=3, save_steps=5)
    config = TrainConfig(epochs=2, **(settings | options))
    train, val, _ = loaders()
    try:
        return finetune(small(), train, val, config, callbacks)
    except KeyboardInterrupt:
        return None


def need_bitsandbytes():
    if os.environ.get("CI"):
        importlib.import_module("bitsandbytes")  # must be there
    else:
        reason = "8-bit AdamW is an extra: pip install 'gpt_course[8bit]'"
        pytest.importorskip("bitsandbytes", reason=reason)


# --- the estimate ---


@linux
@pytest.mark.parametrize("size", ["tiny", "gpt2"])
@pytest.mark.parametrize("batch_size", [1, 4, 8])
def test_the_estimate_is_within_15_percent_of_the_peak(size, batch_size):
    estimate = estimate_memory(SIZES[size], batch_size, 128, 30 * batch_size).total
    if memory.available_memory() < 1.2 * estimate:
        pytest.skip(f"needs {1.2 * estimate / 1e9:.1f} GB of free memory")
    measured = measure_step(SIZES[size], batch_size, 128, 30 * batch_size)
    assert estimate == pytest.approx(measured["peak"], rel=0.15)


@linux
@pytest.mark.parametrize(
    "strategy",
    [
        dict(gradient_checkpointing=True),
        dict(batch_size=2, gradient_accumulation_steps=4),
        dict(bf16=True),
        dict(optimizer="adamw8bit"),
    ],
    ids=lambda strategy: "-".join(strategy),
)
def test_the_estimate_holds_for_the_ways_to_need_less(strategy):
    if "optimizer" in strategy:
        need_bitsandbytes()
    options = dict(batch_size=8, T=128) | strategy
    options["supervised"] = 30 * options["batch_size"]
    estimate = estimate_memory(SIZES["tiny"], **options).total
    measured = measure_step(SIZES["tiny"], **options)
    assert estimate == pytest.approx(measured["peak"], rel=0.15)


@pytest.mark.parametrize("size", list(SIZES))
def test_more_work_needs_more_memory_and_each_way_needs_less(size):
    def need(batch=8, T=128, **options):
        return estimate_memory(SIZES[size], batch, T, 30 * batch, **options).total

    assert need(1) < need(4) < need(8) < need(8, 256)
    assert need(gradient_checkpointing=True) < need()
    assert need(trainable=0.01) < need()
    if size in ("gpt2-large", "gpt2-xl"):
        assert need(optimizer="adamw8bit") < need()


def test_a_fault_in_the_measured_process_is_shown():
    config = GPTConfig(64, 64, n_embd=16, n_layer=1, n_head=2)
    with pytest.raises(RuntimeError, match="(?s)ended with 1 .*optimizer is 'sgd'"):
        measure_step(config, 1, 16, 5, optimizer="sgd")


def test_a_strategy_whose_package_cannot_be_imported_is_left_out(tmp_path, monkeypatch):
    "Also if it is installed, such as without the library that it needs."
    (tmp_path / "bitsandbytes.py").write_text("raise ImportError('libcudart')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "bitsandbytes", raising=False)
    monkeypatch.setattr(memory, "measure_step", lambda *_, **__: {"peak": 1})
    rows = memory.compare_strategies(SIZES["tiny"])
    assert [r["strategy"] for r in rows] == [s for s in STRATEGIES if "8-bit" not in s]


# --- gradient checkpointing ---


@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("bf16", [False, True])
def test_checkpointing_changes_no_bit(dropout, bf16):
    results = []
    ids = torch.arange(24).view(2, 12)
    batches = [(ids, ids + 1), (ids + 5, ids + 6)]
    for checkpointing in (False, True):
        model = small(dropout).train()
        model.gradient_checkpointing = checkpointing
        optimizer = make_optimizer(model, 1e-3, 0.1)
        torch.manual_seed(3)
        losses = [
            train_step(model, optimizer, batches, 1e-3, 1.0, bf16)[0] for _ in range(3)
        ]
        weights = torch.cat([p.detach().flatten() for p in model.parameters()])
        results.append((losses, weights))
    assert results[0][0] == results[1][0]
    assert torch.equal(results[0][1], results[1][1])


def test_checkpointing_keeps_less_and_is_off_unless_asked_for():
    def kept(checkpointing):
        total = []
        model = small(dropout=0.0).train()
        assert model.gradient_checkpointing is False
        model.gradient_checkpointing = checkpointing

        def pack(t):
            total.append(t.numel())
            return t

        zeros = torch.zeros(2, 64, dtype=torch.long)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            summed_loss(model, zeros, zeros)
        return sum(total)

    assert kept(True) < kept(False) / 3


@torch.no_grad()
def test_checkpointing_leaves_generation_alone():
    model, prompts = small().eval(), [[1, 2, 3], [4, 5]]
    config = GenerationConfig(max_new_tokens=8)
    plain = generate(model, prompts, config=config)
    model.gradient_checkpointing = True
    assert generate(model, prompts, config=config) == plain


def test_a_run_may_be_resumed_with_checkpointing_and_stays_the_same(tmp_path):
    whole = run()
    assert run(tmp_path / "ck", kill_at=7) is None
    assert run(tmp_path / "ck", resume=True, gradient_checkpointing=True) == whole


# --- the 8-bit optimizer and bfloat16 ---


def test_eight_bit_states_survive_the_checkpoint_to_the_bit(tmp_path):
    need_bitsandbytes()
    whole, usual = run(optimizer="adamw8bit"), run()
    assert whole != usual  # it is another optimizer
    # but not much of another
    assert abs(whole[-1]["val_loss"] - usual[-1]["val_loss"]) < 0.05
    assert run(tmp_path / "ck", kill_at=7, optimizer="adamw8bit") is None
    with safe_open(tmp_path / "ck", "pt") as f:
        names = [name for name in f.keys() if name != "rng"]
        # states are bytes
        assert "U8" in {f.get_slice(name).get_dtype() for name in names}
    assert run(tmp_path / "ck", resume=True, optimizer="adamw8bit") == whole


def test_resuming_with_another_optimizer_is_refused(tmp_path):
    need_bitsandbytes()
    run(tmp_path / "ck", kill_at=7)
    said = "made with other settings .*optimizer 'adamw' → 'adamw8bit'"
    with pytest.raises(ValueError, match=said):
        run(tmp_path / "ck", resume=True, optimizer="adamw8bit")


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ValueError, match=r"bitsandbytes.*gpt_course\[8bit\]"):
        make_optimizer(small(), 1e-3, 0.1, "adamw8bit")


def test_bf16_is_close():
    rough, exact = run(bf16=True), run()
    assert rough != exact
    assert abs(rough[-1]["train_loss"] - exact[-1]["train_loss"]) < 0.05


@pytest.mark.parametrize(
    "capabilities, fault",
    [
        ({"avx512_bf16": False, "architecture": "x86_64"}, True),
        ({"amx_bf16": True}, False),
        ({}, True),
    ],
)
def test_bf16_asks_the_processor(monkeypatch, capabilities, fault):
    monkeypatch.setattr(
        torch.cpu, "get_capabilities", lambda: capabilities, raising=False
    )
    assert bool(bf16_fault("cpu")) is fault


# --- what is there ---


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr(memory.platform, "libc_ver", lambda: ("", ""))
    monkeypatch.setattr(memory.ctypes, "CDLL", None)
    assert return_freed_memory() is False


def test_the_warning_offers_only_what_fits():
    args = (SIZES["gpt2-medium"], 8, 128, 240)
    total = estimate_memory(*args).total
    assert memory_warning(*args, available=2 * total) == ""
    # no room to spare is too little
    assert memory_warning(*args, available=total) != ""
    tight = memory_warning(*args, available=int(7e9))
    assert "about 8.0 GB" in tight
    assert "7.0 GB are there" in tight
    assert "These would fit: --gradient-checkpointing (6.6 GB)" in tight
    assert (
        "These would fit: LoRA with --gradient-checkpointing (2.1 GB). Or"
        in memory_warning(*args, available=int(3e9))
    )
    hopeless = memory_warning(*args, available=int(1e9))
    assert "take a smaller model" in hopeless
    assert "These" not in hopeless


def test_the_warning_names_options_that_keep_the_batch_of_a_step():
    def warn(batch_size, available, steps=1):
        return memory_warning(
            SIZES["gpt2"],
            batch_size,
            512,
            30 * batch_size,
            available=int(available),
            gradient_accumulation_steps=steps,
        )

    assert "--batch-size 4 --gradient-accumulation-steps 2 (" in warn(8, 5e9)
    assert "--batch-size 1 --gradient-accumulation-steps 24 (" in warn(8, 4e9, 3)
    # there is no smaller batch
    assert "--batch-size" not in warn(1, 2e9)


def test_the_largest_batch_is_found():
    loader = loaders().train
    rows, T, supervised = batch_shape(loader)
    assert max(ids.numel() for ids, _ in loader) == rows * T
    shapes = [(*ids.shape, int((t != -100).sum())) for ids, t in loader]
    assert (rows, T, supervised) in shapes


def test_a_loader_of_another_kind_is_named():
    with pytest.raises(ValueError, match="has a BatchSampler; need one made by"):
        batch_shape(DataLoader([1, 2], batch_size=1))
