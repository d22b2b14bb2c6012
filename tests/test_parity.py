"The same numbers as Transformers' GPT-2, in both directions, on small random models"

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from gpt_course.generation import generate
from gpt_course.model import GPT, GPTConfig, init_weights
from gpt_course.model_folders import load_pretrained, save_pretrained
from gpt_course.settings import GenerationConfig

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
    save_pretrained(ours, None, tmp_path)
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
    answers = generate(
        ours, prompts, None, GenerationConfig(max_new_tokens=room), batch_size=8
    )
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
    with pytest.raises(ValueError, match="model-00002-.*is missing"):
        load_pretrained(tmp_path)


MEASURE = """
import json, sys, threading, time
import torch
from gpt_course.model_folders import load_pretrained
load_pretrained("tiny")  # whatever is imported late

def status(key):
    for line in open("/proc/self/status"):
        if line.startswith(key):
            return int(line.split()[1]) * 1024

def watch():
    while not done.is_set():
        seen.append(status("RssAnon"))
        time.sleep(0.001)

before, seen, done = status("RssAnon"), [], threading.Event()
open("/proc/self/clear_refs", "w").write("5")  # the peak of all pages starts here
all_before = status("VmRSS")
watcher = threading.Thread(target=watch)
watcher.start()
model, _ = load_pretrained(sys.argv[1])
done.set()
watcher.join()
print(json.dumps({
    "anonymous": max(*seen, status("RssAnon")) - before,
    "pages of the file, too": status("VmHWM") - all_before,
    "numbers": sum(p.numel() for p in model.parameters()),
    "values": [p.view(-1)[-1].item() for p in model.parameters()],
}))
"""


@pytest.mark.skipif(platform.system() != "Linux", reason="reads /proc")
def test_the_full_gpt2_is_loaded_without_a_second_copy(tmp_path):
    """Loading 124M parameters allocates no more than the model. Pages of the file,
    which the system can take back, come on top, but at most those of one tensor.
    """
    with torch.device("meta"):
        model = GPT(GPTConfig())
    model = model.to_empty(device="cpu")
    with torch.no_grad():
        for i, p in enumerate(model.parameters()):
            p.fill_(i / 256)
    save_pretrained(model, None, tmp_path)
    del model
    size = (tmp_path / "model.safetensors").stat().st_size
    root = Path(__file__).resolve().parent.parent
    r = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
    )
    assert r.returncode == 0, r.stderr
    found = json.loads(r.stdout)
    assert found["numbers"] == 124_439_808
    assert size > 4 * found["numbers"]
    assert found["values"] == [i / 256 for i in range(148)]
    assert 0.9 < found["anonymous"] / size < 1.1
    assert found["pages of the file, too"] / size < 1.5


def test_published_tensor_names_are_read_with_and_without_prefix(tmp_path):
    "OpenAI's files have no prefix, and masks as `attn.bias`."
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
