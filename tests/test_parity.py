"The same numbers as Transformers' GPT-2, in both directions, on random small configurations"

import os, platform, subprocess, sys
from pathlib import Path
import pytest
import torch
from gpt_course.generation import generate
from gpt_course.model import GPT, GPTConfig, init_weights
from gpt_course.pretrained import load_pretrained, save_pretrained

transformers = pytest.importorskip("transformers")
SHAPES = [
    dict(vocab_size=300, n_positions=40, n_embd=32, n_layer=2, n_head=4),
    dict(vocab_size=517, n_positions=64, n_embd=48, n_layer=3, n_head=3),
    dict(vocab_size=1000, n_positions=24, n_embd=64, n_layer=1, n_head=8),
]


def random_ids(shape, rows, length, seed=0):
    return torch.randint(
        0,
        shape["vocab_size"] - 1,
        (rows, length),
        generator=torch.Generator().manual_seed(seed),
    )


def theirs(shape, seed=0):
    torch.manual_seed(seed)
    config = transformers.GPT2Config(
        **shape,
        bos_token_id=shape["vocab_size"] - 1,
        eos_token_id=shape["vocab_size"] - 1,
    )
    model = transformers.GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        # biases and LayerNorms off their defaults
        for p in model.parameters():
            p.add_(torch.randn(p.shape) * 0.1)
    return model


@pytest.mark.parametrize("shape", SHAPES)
@torch.no_grad()
def test_we_read_what_transformers_writes(shape, tmp_path):
    model = theirs(shape)
    model.save_pretrained(tmp_path)
    ours, _ = load_pretrained(tmp_path)
    ids = random_ids(shape, 3, shape["n_positions"])
    assert (ours(ids) - model(ids).logits).abs().max() < 1e-4


@pytest.mark.parametrize("shape", SHAPES)
@torch.no_grad()
def test_transformers_reads_what_we_write(shape, tmp_path):
    ours = init_weights(GPT(GPTConfig(**shape)), seed=5).eval()
    for p in ours.parameters():
        p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(1)) * 0.1)
    save_pretrained(ours, tmp_path)
    model, info = transformers.GPT2LMHeadModel.from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert not info["missing_keys"] and not info["unexpected_keys"]
    ids = random_ids(shape, 2, shape["n_positions"])
    assert (ours(ids) - model.eval()(ids).logits).abs().max() < 1e-4


@pytest.mark.parametrize("shape", SHAPES)
@torch.no_grad()
def test_greedy_generation_equals_token_by_token(shape, tmp_path):
    model = theirs(shape, seed=2)
    model.save_pretrained(tmp_path)
    ours, _ = load_pretrained(tmp_path)
    room = shape["n_positions"] // 2
    prompts = [
        random_ids(shape, 1, 1 + i % room, seed=i)[0].tolist() for i in range(50)
    ]
    answers = generate(ours, prompts, max_new_tokens=room, eos_id=None, batch_size=8)
    for prompt, answer in zip(prompts, answers):
        out = model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            do_sample=False,
            max_new_tokens=room,
            eos_token_id=None,
            pad_token_id=0,
        )
        assert answer.ids == out[0, len(prompt) :].tolist()


@torch.no_grad()
def test_several_files_are_read_as_one(tmp_path):
    "Large models are saved in shards, with an index that says which tensor is where."
    model = theirs(SHAPES[1])
    model.save_pretrained(tmp_path, max_shard_size="100KB")
    assert (tmp_path / "model.safetensors.index.json").exists() and not (
        tmp_path / "model.safetensors"
    ).exists()
    ids = random_ids(SHAPES[1], 2, 64)
    assert (load_pretrained(tmp_path)[0](ids) - model(ids).logits).abs().max() < 1e-4
    next(tmp_path.glob("model-00002-*.safetensors")).unlink()
    with pytest.raises(ValueError, match="model-00002-.*no such file"):
        load_pretrained(tmp_path)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_types_are_converted_and_pieces_join(tmp_path, dtype):
    "Tensors are read some rows at a time: small pieces, and pieces that do not divide the rows, give the same."
    from gpt_course.pretrained import read_header

    ours = init_weights(GPT(GPTConfig(**SHAPES[0])), seed=5)
    save_pretrained(ours, tmp_path, dtype)
    again, _ = load_pretrained(tmp_path)
    assert all(
        torch.equal(a.to(dtype).float(), b)
        for a, b in zip(ours.parameters(), again.parameters())
    )
    stored = read_header(tmp_path / "model.safetensors")["h.0.attn.c_attn.weight"]
    for chunk in (1, 1000, 1 << 30):
        place = torch.full((96, 32), torch.nan)
        stored.read_into(place.T, chunk)
        assert torch.equal(place, again.h[0].attn.c_attn.weight)


MEASURE = """
import json, sys
import torch
from gpt_course.pretrained import load_pretrained
from gpt_course.batching import load_tokenizer
load_tokenizer()
load_pretrained("tiny")  # whatever is imported late
status = lambda key: next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(key))
open("/proc/self/clear_refs", "w").write("5")  # the peak starts here
before = status("VmRSS")
model, _ = load_pretrained(sys.argv[1])
peak = status("VmHWM") - before
print(json.dumps([peak, sum(p.numel() for p in model.parameters()), [p.view(-1)[-1].item() for p in model.parameters()]]))
"""


@pytest.mark.skipif(platform.system() != "Linux", reason="reads /proc")
def test_the_full_gpt2_is_loaded_without_a_second_copy(tmp_path):
    "Peak memory of loading 124M parameters, pages of the file included: below 1.3 times the file."
    import json

    with torch.device("meta"):
        model = GPT(GPTConfig())
    model = model.to_empty(device="cpu")
    with torch.no_grad():
        for i, p in enumerate(model.parameters()):
            p.fill_(i / 256)
    save_pretrained(model, tmp_path)
    del model
    size, root = (
        (tmp_path / "model.safetensors").stat().st_size,
        Path(__file__).resolve().parent.parent,
    )
    r = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
    )
    assert r.returncode == 0, r.stderr
    peak, numbers, values = json.loads(r.stdout)
    assert (
        numbers == 124_439_808
        and size > 4 * numbers
        and values == [i / 256 for i in range(148)]
    )
    assert peak > 0.9 * size  # else this measured nothing
    assert peak < 1.3 * size, f"{peak / size:.2f} times the file"


def test_published_tensor_names_are_read_with_and_without_prefix(tmp_path):
    "OpenAI's files have no prefix and carry masks as `attn.bias`; Transformers writes `transformer.`"
    from safetensors.torch import load_file, save_file

    model = theirs(SHAPES[0])
    model.save_pretrained(tmp_path)
    tensors = {
        k.removeprefix("transformer."): v
        for k, v in load_file(tmp_path / "model.safetensors").items()
        if k != "lm_head.weight"
    }
    tensors["h.0.attn.bias"] = torch.ones(1, 1, 40, 40).tril()
    save_file(tensors, tmp_path / "model.safetensors")
    ours, _ = load_pretrained(tmp_path)
    ids = random_ids(SHAPES[0], 1, 9)
    with torch.no_grad():
        assert (ours(ids) - model(ids).logits).abs().max() < 1e-4
