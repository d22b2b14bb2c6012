"A checkpoint is written whole, read to the bit, and refused where it does not fit"

import json
import math
import sys

import pytest
import torch
from torch import nn

from gpt_course.checkpoints import (
    checkpoint_state,
    load_checkpoint,
    read_header,
    save_checkpoint,
    save_tensors,
)
from gpt_course.lora import add_lora
from gpt_course.model import GPT, GPTConfig, init_weights


def small(seed=1, rank=0):
    config = GPTConfig(vocab_size=300, n_positions=16, n_embd=16, n_layer=2, n_head=2)
    model = init_weights(GPT(config), seed)
    return add_lora(model, rank=rank) if rank else model


def adamw(model):
    params = [p for p in model.parameters() if p.requires_grad]
    return torch.optim.AdamW(params, lr=1e-3, fused=True)


def adamw8bit(model):
    bitsandbytes = pytest.importorskip("bitsandbytes")
    params = [p for p in model.parameters() if p.requires_grad]
    return bitsandbytes.optim.AdamW8bit(params, lr=1e-3)


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=1e-2, momentum=0.9)


def learn(model, optimizers, steps):
    ids = torch.randint(0, 300, (2, 16), generator=torch.Generator().manual_seed(1))
    losses = []
    for _ in range(steps):
        logits = nn.functional.dropout(model(ids[:, :-1]), 0.1)  # draws, too
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def trained(model):
    return [p.detach().clone() for p in model.parameters()]


def equal(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("make", [adamw, adamw8bit, sgd])
@pytest.mark.parametrize("rank", [0, 2])
def test_a_resumed_run_is_the_undisturbed_one_to_the_bit(tmp_path, make, rank):
    if make is sgd and rank:
        pytest.skip("nothing new")
    path = tmp_path / "c.safetensors"
    model = small(rank=rank)
    optimizer = make(model)
    learn(model, [optimizer], 3)
    save_checkpoint(path, model, [optimizer], {"step": 3})
    losses = learn(model, [optimizer], 3)

    other = small(seed=1, rank=rank)
    fresh = make(other)
    with torch.no_grad():
        for p in other.parameters():
            if p.requires_grad:
                p.add_(1.0)
    assert load_checkpoint(path, other, [fresh]) == {"step": 3}
    assert learn(other, [fresh], 3) == losses
    assert equal(trained(model), trained(other))


def test_what_has_no_state_yet_is_resumed_without_one(tmp_path):
    "A parameter that no gradient has reached, or an optimizer before its first step."
    path = tmp_path / "c.safetensors"
    model = nn.ModuleDict({"used": nn.Linear(2, 2), "unused": nn.Linear(2, 2)})
    optimizer = adamw(model)
    save_checkpoint(path, model, [optimizer], {})
    load_checkpoint(path, model, [optimizer])
    assert optimizer.state_dict()["state"] == {}
    model["used"](torch.ones(2)).sum().backward()
    optimizer.step()
    save_checkpoint(path, model, [optimizer], {})
    fresh = adamw(model)
    load_checkpoint(path, model, [fresh])
    assert fresh.state_dict()["state"].keys() == {0, 1}


def changed(name):
    "A checkpoint of `small()`, its tensors and its header, with one thing wrong."

    def of(tensors, header):
        first = "optimizer.0.0.exp_avg"
        states = {n for n in tensors if n.startswith("optimizer.")}
        step, every = (
            "optimizer.0.0.step",
            {n.removeprefix("optimizer.") for n in states},
        )
        every = sorted({name.rpartition(".")[0] for name in every})
        half = {n for n in states if n.startswith("optimizer.0.1")}
        renamed = {n.replace("optimizer.0.0.", "optimizer.0.999."): n for n in states}
        return {
            "short state": (tensors | {first: torch.zeros(3)}, header),
            "state of another type": (
                tensors | {first: tensors[first].double()},
                header,
            ),
            "no states": ({n: tensors[n] for n in tensors.keys() - states}, header),
            "half of the states": (
                {n: tensors[n] for n in tensors.keys() - half},
                header,
            ),
            "a state of no parameter": (
                {n: t for n, t in tensors.items() if n not in states}
                | {new: tensors[old] for new, old in renamed.items()},
                header,
            ),
            "one more optimizer": (
                tensors | {"optimizer.1.0.step": torch.zeros(())},
                header,
            ),
            "numbers that are none": (
                tensors | {first: tensors[first] * math.nan},
                header,
            ),
            "weights that are infinite": (
                tensors | {"model.ln_f.bias": torch.full((16,), math.inf)},
                header,
            ),
            "squares below 0": (
                tensors | {first + "_sq": -tensors[first + "_sq"]},
                header,
            ),
            "a count below 0": (tensors | {step: torch.tensor(-1.0)}, header),
            "more steps than rows": (tensors | {step: torch.tensor(2.0)}, header),
            "no step count": (tensors | {step: torch.tensor(math.nan)}, header),
            "a random state of noise": (
                tensors | {"rng": torch.full_like(tensors["rng"], 255)},
                header,
            ),
            "all said to have no state": (
                {n: tensors[n] for n in tensors.keys() - states},
                header | {"stateless": json.dumps([*every])},
            ),
            "a stateless one that is no parameter": (
                tensors,
                header | {"stateless": '["0.99"]'},
            ),
            "a stateless one that is no text": (
                tensors,
                header | {"stateless": "[[]]"},
            ),
            "no rng": ({n: tensors[n] for n in tensors.keys() - {"rng"}}, header),
            "short rng": (tensors | {"rng": tensors["rng"][:100]}, header),
            "weights of another type": (
                tensors | {"model.ln_f.bias": torch.zeros(16).half()},
                header,
            ),
            "a weight too many": (tensors | {"model.x": torch.zeros(1)}, header),
            "no state": (tensors, {"stateless": "[]"}),
            "no header": (tensors, None),
            "a state that is no object": (tensors, header | {"state": "[]"}),
            "a state that is no JSON": (tensors, header | {"state": "{"}),
            "a deep state": (tensors, header | {"state": "[" * 100_000}),
            "no list of parameters": (tensors, header | {"stateless": "{}"}),
        }[name]

    return of


FAULTS = {
    "numbers that are none": "exp_avg has numbers that are infinite or none",
    "weights that are infinite": "ln_f.bias has numbers that are infinite or none",
    "squares below 0": "exp_avg_sq has squares below 0",
    "a count below 0": "step is -1, need 0 to 1",
    "more steps than rows": "step is 2, need 0 to 1",
    "no step count": "step has numbers that are infinite or none",
    "a random state of noise": "rng is no random state",
    "all said to have no state": "it has no state of an optimizer, after 1 steps",
    "a stateless one that is no parameter": "names what is no parameter",
    "a stateless one that is no text": "names what is no parameter",
    "short state": r"optimizer.0.0.exp_avg is F32 \(3,\), need F32 \(300, 16\)",
    "state of another type": r"exp_avg is F64 \(300, 16\), need F32",
    "no states": "optimizer.0.0.step is missing",
    "half of the states": r"optimizer.0.1.* is missing",
    "a state of no parameter": "has unknown optimizer.0.999",
    "one more optimizer": "has unknown optimizer.1.0.step",
    "no rng": "rng is missing",
    "short rng": r"rng is U8 \(100,\)",
    "weights of another type": r"ln_f.bias is F16 \(16,\), need F32",
    "a weight too many": "has unknown model.x",
    "no state": "not a whole checkpoint .KeyError",
    "no header": "not a whole checkpoint",
    "a state that is no object": "not a whole checkpoint",
    "a state that is no JSON": "not a whole checkpoint",
    "a deep state": "not a whole checkpoint .RecursionError",
    "no list of parameters": "not a whole checkpoint",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_a_save_would_not_have_written_is_refused(tmp_path, fault):
    "A state that is too short would make fused AdamW write outside of it."
    path = tmp_path / "c.safetensors"
    model = small()
    optimizer = adamw(model)
    learn(model, [optimizer], 1)
    save_checkpoint(path, model, [optimizer], {"rows": [{}, {}]})
    tensors = {n: t.read().clone() for n, t in read_header(path).items()}
    header = {"state": '{"rows": [{}, {}]}', "stateless": "[]"}
    tensors, header = changed(fault)(tensors, header)
    save_tensors(path, tensors, header)

    learn(model, [optimizer], 1)
    weights = trained(model)
    states = json.dumps(optimizer.state_dict()["state"], default=torch.Tensor.tolist)
    rng = torch.get_rng_state()
    with pytest.raises(ValueError, match=f"c.safetensors: .*{FAULTS[fault]}"):
        load_checkpoint(path, model, [optimizer])
    # and nothing has changed
    assert equal(trained(model), weights)
    assert torch.equal(torch.get_rng_state(), rng)
    now = json.dumps(optimizer.state_dict()["state"], default=torch.Tensor.tolist)
    assert now == states
    assert all(p.grad is None for p in model.parameters())
    assert optimizer.param_groups[0]["lr"] == 1e-3


def test_a_checkpoint_of_another_model_or_none_is_named(tmp_path):
    path, model = tmp_path / "c.safetensors", small(rank=4)
    other = small(rank=2)
    save_checkpoint(path, other, [adamw(other)], {})
    with pytest.raises(
        ValueError, match=r"lora_A is F32 \(2, 16\), need F32 \(4, 16\)"
    ):
        load_checkpoint(path, model, [adamw(model)])
    path.write_bytes(path.read_bytes()[:20])
    for read in (
        checkpoint_state,
        lambda path: load_checkpoint(path, model, [adamw(model)]),
    ):
        with pytest.raises(ValueError, match="not a whole checkpoint"):
            read(path)
        with pytest.raises(ValueError, match="not a whole checkpoint"):
            read(tmp_path / "none.safetensors")


@pytest.mark.skipif(sys.platform == "win32", reason="limits are POSIX's here")
def test_a_full_disk_leaves_the_old_file_and_is_an_oserror(tmp_path):
    import resource
    import signal

    path = tmp_path / "c.safetensors"
    save_tensors(path, {"a": torch.ones(3)})
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(OSError, match="c.safetensors: cannot be written .*4.0 MB"):
            save_tensors(path, {"a": torch.ones(1_000_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, old)
    assert [p.name for p in tmp_path.iterdir()] == ["c.safetensors"]
    assert torch.equal(read_header(path)["a"].read(), torch.ones(3))
