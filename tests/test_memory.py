"Memory: the estimate against what the system counts, and the ways to need less against the plain way"

import json, os, sys
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from gpt_course import memory
from gpt_course.batching import load_tokenizer
from gpt_course.dataset import load_data, split_records
from gpt_course.finetuning import (
    TrainConfig,
    finetune,
    make_optimizer,
    summed_loss,
    train_step,
)
from gpt_course.generation import generate
from gpt_course.loaders import make_loaders
from gpt_course.memory import (
    SIZES,
    batch_shape,
    estimate_memory,
    measure_step,
    memory_warning,
)
from gpt_course.model import GPT, GPTConfig, init_weights

RECORDS = load_data("builtin")[:60]
linux = pytest.mark.skipif(
    sys.platform != "linux",
    reason="the estimate's base and allocator are those of Linux",
)


def small(**kw):
    return init_weights(
        GPT(
            GPTConfig(
                **(
                    dict(
                        vocab_size=300,
                        n_positions=1024,
                        n_embd=64,
                        n_layer=2,
                        n_head=2,
                        dropout=0.1,
                    )
                    | kw
                )
            )
        ),
        seed=1,
    )


def run(checkpoint=None, kill_at=None, resume=False, **options):
    "A run of 14 steps, dropout included; `None` if it was killed."
    model = small()
    train, _, val = make_loaders(
        split_records(RECORDS), load_tokenizer(300), 1024, batch_size=4, seed=5
    )

    def on_step(row):
        if row["step"] == kill_at:
            raise KeyboardInterrupt

    config = TrainConfig(
        **dict(epochs=2, accumulate=2, evaluate_every=3, checkpoint_every=5) | options
    )
    try:
        return finetune(
            model,
            train,
            val,
            config,
            checkpoint,
            resume,
            progress=False,
            on_step=on_step,
        ).rows
    except KeyboardInterrupt:
        return None


def bitsandbytes():
    if os.environ.get("CI"):
        import bitsandbytes  # must be there
    else:
        pytest.importorskip(
            "bitsandbytes",
            reason="8-bit AdamW is an optional extra: pip install bitsandbytes",
        )


@linux
@pytest.mark.parametrize("size", ["tiny", "gpt2"])
@pytest.mark.parametrize("batch_size", [1, 4, 8])
def test_the_estimate_is_within_15_percent_of_the_peak(size, batch_size):
    estimate = estimate_memory(SIZES[size], batch_size, 128, 30 * batch_size).total
    if memory.available_memory() < 1.2 * estimate:
        pytest.skip(f"needs {1.2 * estimate / 1e9:.1f} GB of free memory")
    assert estimate == pytest.approx(
        measure_step(SIZES[size], batch_size, 128, 30 * batch_size)["peak"], rel=0.15
    )


@linux
@pytest.mark.parametrize(
    "way",
    [
        dict(checkpoint_activations=True),
        dict(batch_size=2, accumulate=4),
        dict(bf16=True),
        dict(optimizer="adamw8bit"),
    ],
    ids=lambda way: "-".join(way),
)
def test_the_estimate_holds_for_the_ways_to_need_less(way):
    if "optimizer" in way:
        bitsandbytes()
    options = dict(batch_size=8, T=128) | way
    options["scored"] = 30 * options["batch_size"]
    assert estimate_memory(SIZES["tiny"], **options).total == pytest.approx(
        measure_step(SIZES["tiny"], **options)["peak"], rel=0.15
    )


@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("bf16", [False, True])
def test_checkpointing_changes_no_bit(dropout, bf16):
    results = []
    for checkpoint in (False, True):
        model = small(dropout=dropout).train()
        model.checkpoint_activations = checkpoint
        optimizer, ids = make_optimizer(model, 1e-3, 0.1), torch.arange(24).view(2, 12)
        torch.manual_seed(3)
        losses = [
            train_step(
                model, optimizer, [(ids, ids + 1), (ids + 5, ids + 6)], 1e-3, 1.0, bf16
            )[0]
            for _ in range(3)
        ]
        results.append(
            (losses, torch.cat([p.detach().flatten() for p in model.parameters()]))
        )
    assert results[0][0] == results[1][0]
    assert torch.equal(results[0][1], results[1][1])


def test_checkpointing_keeps_less_and_is_off_unless_asked_for():
    def kept(checkpoint):
        total, model = [], small(dropout=0.0).train()
        assert model.checkpoint_activations is False
        model.checkpoint_activations = checkpoint
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t: total.append(t.numel()) or t, lambda t: t
        ):
            summed_loss(
                model,
                torch.zeros(2, 64, dtype=torch.long),
                torch.zeros(2, 64, dtype=torch.long),
            )
        return sum(total)

    assert kept(True) < kept(False) / 3


@torch.no_grad()
def test_checkpointing_leaves_generation_alone():
    model, prompts = small().eval(), [[1, 2, 3], [4, 5]]
    plain = [a.ids for a in generate(model, prompts, 8)]
    model.checkpoint_activations = True
    assert [a.ids for a in generate(model, prompts, 8)] == plain


def test_a_run_may_be_resumed_with_checkpointing_and_stays_the_same(tmp_path):
    whole = run()
    assert run(tmp_path / "ck", kill_at=7) is None
    assert run(tmp_path / "ck", resume=True, checkpoint_activations=True) == whole


def test_eight_bit_states_survive_the_checkpoint_to_the_bit(tmp_path):
    bitsandbytes()
    whole = run(optimizer="adamw8bit")
    assert whole != run()  # it is another optimiser
    # but not much of another
    assert abs(whole[-1]["val_loss"] - run()[-1]["val_loss"]) < 0.05
    assert run(tmp_path / "ck", kill_at=7, optimizer="adamw8bit") is None
    with safe_open(tmp_path / "ck", "pt") as f:
        # states are bytes
        assert any(
            f.get_slice(name).get_dtype() == "U8" and name != "rng" for name in f.keys()
        )
    assert run(tmp_path / "ck", resume=True, optimizer="adamw8bit") == whole


def test_resuming_with_another_optimizer_is_refused(tmp_path):
    run(tmp_path / "ck", kill_at=7)
    with pytest.raises(
        ValueError, match="made with other settings .*optimizer 'adamw' → 'adamw8bit'"
    ):
        if "bitsandbytes" not in sys.modules:
            bitsandbytes()
        run(tmp_path / "ck", resume=True, optimizer="adamw8bit")


def test_a_checkpoint_from_before_the_options_is_resumed(tmp_path):
    run(tmp_path / "ck", kill_at=7)
    with safe_open(tmp_path / "ck", "pt") as f:
        tensors, state = (
            {name: f.get_tensor(name) for name in f.keys()},
            json.loads(f.metadata()["state"]),
        )
    for name in ("optimizer", "bf16"):
        del state["settings"][name]
    save_file(tensors, tmp_path / "ck", {"state": json.dumps(state)})
    assert run(tmp_path / "ck", resume=True) == run()


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ValueError, match="pip install bitsandbytes"):
        make_optimizer(small(), 1e-3, 0.1, "adamw8bit")


def test_bf16_is_close_and_warns_where_it_is_slow(monkeypatch):
    from gpt_course import finetuning

    monkeypatch.setattr(
        finetuning, "bf16_fault", lambda device: "no instructions for it"
    )
    with pytest.warns(UserWarning, match="no instructions"):
        rough = run(bf16=True)
    exact = run()
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
    from gpt_course.finetuning import bf16_fault

    monkeypatch.setattr(
        torch.cpu, "get_capabilities", lambda: capabilities, raising=False
    )
    assert bool(bf16_fault("cpu")) is fault


@pytest.mark.parametrize("size", list(SIZES))
def test_more_work_needs_more_memory_and_each_way_needs_less(size):
    need = lambda batch=8, T=128, **kw: (
        estimate_memory(SIZES[size], batch, T, 30 * batch, **kw).total
    )
    assert need(1) < need(4) < need(8) < need(8, 256)
    assert need(checkpoint_activations=True) < need()
    assert need(trainable=0.01) < need()
    if size in ("gpt2-large", "gpt2-xl"):
        assert need(optimizer="adamw8bit") < need()


def test_the_warning_offers_only_what_fits():
    args = (SIZES["gpt2-medium"], 8, 128, 240)
    total = estimate_memory(*args).total
    assert memory_warning(*args, available=2 * total) == ""
    # no room to spare is too little
    assert memory_warning(*args, available=total) != ""
    tight = memory_warning(*args, available=int(7e9))
    assert (
        "about 8.0 GB" in tight
        and "7.0 GB are there" in tight
        and "These would fit: --checkpoint-activations (6.6 GB)" in tight
    )
    assert (
        "These would fit: LoRA with --checkpoint-activations (2.1 GB). Or"
        in memory_warning(*args, available=int(3e9))
    )
    assert "take a smaller model" in memory_warning(
        *args, available=int(1e9)
    ) and "These" not in memory_warning(*args, available=int(1e9))
    # there is no smaller batch
    assert "--batch-size" not in memory_warning(
        SIZES["gpt2-medium"], 1, 128, 30, available=int(3e9)
    )


def test_the_largest_batch_is_found():
    loader = make_loaders(
        split_records(RECORDS), load_tokenizer(300), 1024, batch_size=4, seed=5
    )[0]
    rows, T, scored = batch_shape(loader)
    assert max(ids.numel() for ids, _ in loader) == rows * T
    assert (rows, T, scored) in [
        (*ids.shape, int((t != -100).sum())) for ids, t in loader
    ]
