"""Files of strangers, changed at random: refused with our own error, or rightly read.

A few of each by default, always the same ones; with `GPT_COURSE_PROOF=1` thousands, and
new ones each time (`GPT_COURSE_FUZZ` says how many).
"""

import copy
import json
import os
import shutil
import signal
from contextlib import contextmanager

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn

from gpt_course.adapters import load_adapter, save_adapter
from gpt_course.checkpoints import load_checkpoint, read_header, save_checkpoint
from gpt_course.lora import LoRALinear, add_lora
from gpt_course.model import GPT, GPTConfig, init_weights
from gpt_course.model_folders import load_pretrained, save_pretrained
from gpt_course.pretrained import load_weights
from gpt_course.tokenizers import BPETokenizer, folder_tokenizer, load_tokenizer
from gpt_course.transformers_model import load_transformers_tokenizer

SHAPE = GPTConfig(vocab_size=300, n_positions=16, n_embd=8, n_layer=2, n_head=2)
PROOF = bool(os.environ.get("GPT_COURSE_PROOF"))
COUNT = int(os.environ.get("GPT_COURSE_FUZZ", 3000 if PROOF else 30))
LONGEST_S = 120  # far above what any of these needs, so that only a hang reaches it


def many(share=1.0):
    return settings(
        max_examples=max(5, int(COUNT * share)),
        deadline=None,
        derandomize=not PROOF,
        database=None,
        suppress_health_check=[*HealthCheck],
    )


@contextmanager
def no_hang():
    "An alarm where the system has one."
    if not hasattr(signal, "SIGALRM"):
        yield
        return

    def ring(*_):
        raise AssertionError(f"hangs: more than {LONGEST_S} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(LONGEST_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def outcome(f, *args):
    "What a call gives, or `None` where it refuses with an error of ours."
    with no_hang():
        try:
            return f(*args)
        except ValueError as e:
            # ours have one line that says what to do; a library's has other types, or
            # names none of the files
            assert "/" in str(e), repr(e)
            return None


# --- what is changed, and how ---

ODD = [
    *(None, True, False, 0, 1, -1, 2, 3, 7, 8, 16, 300, 10**6, 10**12, 2**62, 2**64),
    *(-(10**30), 0.5, 1e308, -0.0, float("nan"), float("inf"), "", "gpt2", "llama"),
    *("F32", "I64", "BOOL", "wte.weight", "<|endoftext|>", "c_attn", "../x", "\0"),
    *([], {}, [0, 0], [1, 2, 3], {"content": "x"}, [["a", 0.0]]),
]
VALUES = st.sampled_from(ODD) | st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=6,
)


def places(value, limit=400):
    "Every container in a JSON value, with each of its keys."
    found, left = [], [value]
    while left and len(found) < limit:
        part = left.pop()
        keys = list(part) if isinstance(part, dict) else range(len(part))
        for key in list(keys)[:limit]:
            found.append((part, key))
            if isinstance(part[key], (dict, list)):
                left.append(part[key])
    return found


@st.composite
def changed_json(draw, value, times=2):
    "A JSON value with one or two things replaced, removed, or added."
    value = copy.deepcopy(value)
    for _ in range(draw(st.integers(1, times))):
        found = places(value)
        if not found:
            return value
        part, key = draw(st.sampled_from(found))
        kind = draw(st.sampled_from(["replace", "replace", "remove", "add"]))
        if kind == "replace":
            part[key] = draw(VALUES)
        elif kind == "remove":
            del part[key]
        elif isinstance(part, dict):
            part[draw(st.text(max_size=8) | st.sampled_from(list(part)))] = draw(VALUES)
        else:
            part.append(draw(VALUES))
    return value


@st.composite
def changed_bytes(draw, data):
    "Bytes with some flipped, cut off, put in, or all of them new."
    data = bytearray(data)
    kind = draw(st.sampled_from(["flip", "cut", "insert", "new", "repeat", "length"]))
    if kind == "new":
        return draw(st.binary(max_size=200))
    if kind == "cut":
        return bytes(data[: draw(st.integers(0, len(data)))])
    if kind == "length":
        data[:8] = draw(st.integers(0, 2**64 - 1)).to_bytes(8, "little")
    for _ in range(draw(st.integers(1, 6))):
        # the header is where most can go wrong
        at = draw(
            st.integers(0, min(len(data) - 1, 1500)) | st.integers(0, len(data) - 1)
        )
        if kind == "flip":
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "insert":
            data[at:at] = draw(st.binary(max_size=8))
        elif kind == "repeat":
            data[at:at] = data[at : at + 20]
    return bytes(data)


def parts(data):
    n = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + n]), data[8 + n :]


@st.composite
def changed_tensors(draw, data, fixed=None):
    "A safetensors file whose header, or any of its bytes, is changed."
    if draw(st.booleans()):
        return draw(changed_bytes(data))
    header, rest = parts(data)
    if fixed:
        inside = {key: json.loads(header["__metadata__"][key]) for key in fixed}
        changed = draw(changed_json(inside))
        texts = {key: json.dumps(value) for key, value in changed.items()}
        header["__metadata__"] = header["__metadata__"] | texts
    else:
        header = draw(changed_json(header))
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + rest


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    "A model, an adapter, a checkpoint, and room to change a copy of them."
    home = tmp_path_factory.mktemp("fuzz")
    save_pretrained(init_weights(GPT(SHAPE), seed=1), None, home / "model")
    adapted = add_lora(init_weights(GPT(SHAPE), seed=1), rank=2)
    with torch.no_grad():
        adapted.h[0].attn.c_attn.lora_B.fill_(0.1)
    save_adapter(adapted, home / "adapter", str(home / "model"))
    model, optimizer = trained(3)
    rows = [{"step": n, "train_loss": 1.0} for n in range(4)]
    save_checkpoint(home / "run.safetensors", model, [optimizer], {"rows": rows})
    return home


def trained(steps=0):
    torch.manual_seed(2)
    model = nn.Linear(5, 3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
    for _ in range(steps):
        model(torch.ones(2, 5)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, optimizer


@contextmanager
def changed(folder, name, data):
    "A copy of a folder, with one file replaced."
    copied = folder.with_name(f"{folder.name}-changed")
    shutil.copytree(folder, copied, dirs_exist_ok=True)
    text = data if isinstance(data, bytes) else json.dumps(data).encode()
    (copied / name).write_bytes(text)
    try:
        yield copied
    finally:
        shutil.rmtree(copied)


# --- the files ---


@given(data=st.data())
@many()
def test_weights(home, data):
    whole = (home / "model/model.safetensors").read_bytes()
    raw = data.draw(changed_tensors(whole))
    with changed(home / "model", "model.safetensors", raw) as folder:
        model = outcome(load_weights, GPT(SHAPE), folder / "model.safetensors")
        if model is None:
            return
        stored = load_file(folder / "model.safetensors")
        for name, p in model.named_parameters():
            found = stored.get(name, stored.get(f"transformer.{name}"))
            assert found is not None and found.numel() == p.numel()
            wanted = found.T if found.shape != p.shape or transposed(name) else found
            assert torch.equal(p.nan_to_num(), wanted.float().nan_to_num())


def transposed(name):
    return name.endswith(
        (
            "c_attn.weight",
            "c_proj.weight",
            "c_fc.weight",
        )
    )


@given(data=st.data())
@many(0.5)
def test_config(home, data):
    whole = (home / "model/config.json").read_bytes()
    drawn = changed_json(json.loads(whole)) | changed_bytes(whole)
    with changed(home / "model", "config.json", data.draw(drawn)) as folder:
        loaded = outcome(load_pretrained, folder)
        if loaded is None:
            return
        model, tokenizer = loaded
        shape = read_header(folder / "model.safetensors")["wte.weight"].shape
        assert (model.config.vocab_size, model.config.n_embd) == shape
        assert model.config.n_layer == 2 and tokenizer.vocab_size <= shape[0]
        ids = torch.arange(min(6, model.config.n_positions))[None]
        with torch.no_grad():
            assert model(ids).shape == (1, ids.shape[1], shape[0])


def assert_untouched(model):
    fresh = init_weights(GPT(SHAPE), seed=1)
    assert not any(isinstance(m, LoRALinear) for m in model.modules())
    pairs = zip(model.named_parameters(), fresh.named_parameters(), strict=True)
    assert all(a == b and torch.equal(p, q) for (a, p), (b, q) in pairs)
    assert all(p.requires_grad for p in model.parameters())


def assert_adapter(home, folder):
    model = init_weights(GPT(SHAPE), seed=1)
    if outcome(load_adapter, model, folder) is None:
        assert_untouched(model)
        return
    stored = load_file(folder / "adapter_model.safetensors")
    layers = [m for m in model.modules() if isinstance(m, LoRALinear)]
    assert 2 * len(layers) == len(stored)
    assert all(m.lora_A.isfinite().all() and m.lora_B.isfinite().all() for m in layers)


@pytest.mark.filterwarnings("ignore:.*was trained on other weights")
@given(data=st.data())
@many()
def test_adapter_weights(home, data):
    whole = (home / "adapter/adapter_model.safetensors").read_bytes()
    raw = data.draw(changed_tensors(whole))
    with changed(home / "adapter", "adapter_model.safetensors", raw) as folder:
        assert_adapter(home, folder)


@pytest.mark.filterwarnings("ignore:.*was trained on other weights")
@given(data=st.data())
@many()
def test_adapter_config(home, data):
    whole = (home / "adapter/adapter_config.json").read_bytes()
    drawn = changed_json(json.loads(whole)) | changed_bytes(whole)
    with changed(home / "adapter", "adapter_config.json", data.draw(drawn)) as folder:
        assert_adapter(home, folder)


TEXTS = ["", " the", "It is  3.5 °C.\n", "<|endoftext|>", "naïve 🙂\t\tx"]


def assert_tokenizer(folder, transformers=False):
    def load():
        ours = folder_tokenizer(folder, 300)
        if ours or not transformers:
            return ours
        return load_transformers_tokenizer(folder)

    tokenizer = outcome(load)
    if isinstance(tokenizer, BPETokenizer):
        assert tokenizer.vocab_size <= 300
        assert tokenizer.tokens() == load_tokenizer("gpt2", 300).tokens()[:-1] + [
            "<|endoftext|>"
        ]
        for text in TEXTS:
            ids = tokenizer.encode(text)
            assert tokenizer.decode(ids) == text and tokenizer.eos_id not in ids
    elif tokenizer is not None:
        for text in TEXTS:
            ids = tokenizer.encode(text)
            assert all(type(i) is int for i in ids) and isinstance(
                tokenizer.decode(ids), str
            )


@pytest.mark.parametrize(
    "name, share", [("tokenizer.json", 1), ("tokenizer_config.json", 0.5)]
)
@pytest.mark.parametrize("transformers", [False, True])
@given(data=st.data())
@many()
def test_tokenizer(home, name, share, transformers, data):
    if transformers:
        pytest.importorskip("transformers")
    whole = (home / "model" / name).read_bytes()
    drawn = changed_json(json.loads(whole)) | changed_bytes(whole)
    with changed(home / "model", name, data.draw(drawn)) as folder:
        assert_tokenizer(folder, transformers)


@given(data=st.data())
@many()
def test_checkpoint(home, data):
    whole = (home / "run.safetensors").read_bytes()
    inside = changed_tensors(whole, fixed=("state", "stateless"))
    raw = data.draw(changed_tensors(whole) | inside)
    path = home / "changed.safetensors"
    path.write_bytes(raw)
    model, optimizer = trained(1)
    kept = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    random_state = torch.get_rng_state()
    state = outcome(load_checkpoint, path, model, [optimizer])
    if state is None:
        assert_same(kept, (model.state_dict(), optimizer.state_dict()))
        assert torch.equal(random_state, torch.get_rng_state())
        return
    assert isinstance(state, dict)
    rows = state.get("rows")
    most = len(rows) - 1 if isinstance(rows, list) else float("inf")
    for values in optimizer.state_dict()["state"].values():
        assert 0 <= values["step"].item() <= most
        for name in ("exp_avg", "exp_avg_sq"):
            assert values[name].isfinite().all() and values[name].dtype == torch.float32
            assert values[name].shape in [(3, 5), (3,)]
        assert (values["exp_avg_sq"] >= 0).all()
    model(torch.ones(2, 5)).square().sum().backward()
    optimizer.step()  # and it can go on
    assert all(p.isfinite().all() for p in model.parameters())


def assert_same(a, b):
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for x, y in zip(a, b):
            assert_same(x, y)
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    else:
        assert a == b
