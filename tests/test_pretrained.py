"What a model folder holds, and what is said when it does not hold it"

import json
import os
import re

import pytest
import torch
from safetensors.torch import load_file

from gpt_course import model_folders
from gpt_course.adapters import save_adapter
from gpt_course.checkpoints import save_tensors
from gpt_course.lora import add_lora, lora_parameters
from gpt_course.model import GPT, GPTConfig, init_weights
from gpt_course.model_files import TOKENIZER_TABLES
from gpt_course.model_folders import find_model, load_pretrained, save_pretrained
from gpt_course.pretrained import gpt2_shapes
from gpt_course.tokenizers import load_tokenizer

WRITTEN = [
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
]


def small(V=300, seed=1):
    config = GPTConfig(vocab_size=V, n_positions=64, n_embd=16, n_layer=2, n_head=2)
    return init_weights(GPT(config), seed).eval()


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters()))


# --- reading ---


@pytest.mark.parametrize(
    "change, said",
    [
        ({"layer_norm_epsilon": None}, "layer_norm_epsilon is None"),
        ({"layer_norm_epsilon": "1e-5"}, "layer_norm_epsilon"),
        ({"n_embd": None}, "n_embd is None"),
        ({"n_embd": "8"}, "n_embd is '8'"),
        ({"initializer_range": -1}, "initializer_range"),
    ],
)
def test_a_config_is_checked_before_the_weights(tmp_path, change, said):
    save_pretrained(small(), None, tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=f"(?s)config.json.*{said}"):
        load_pretrained(tmp_path)


def test_what_a_config_leaves_out_is_named(tmp_path):
    save_pretrained(small(), None, tmp_path)
    (tmp_path / "config.json").write_text('{"n_embd": 16, "n_layer": 2}')
    with pytest.raises(ValueError, match="vocab_size, n_positions, n_head is missing"):
        load_pretrained(tmp_path)


@pytest.mark.parametrize(
    "name, text",
    [
        ("config.json", "[]"),
        ("config.json", "null"),
        ("tokenizer.json", "[]"),
        ("tokenizer.json", "{}"),
        ("tokenizer.json", '{"model": null}'),
    ],
)
def test_json_of_another_kind_is_named(tmp_path, name, text):
    save_pretrained(small(), None, tmp_path)
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=name):
        load_pretrained(tmp_path)


def test_a_byte_order_mark_does_no_harm(tmp_path):
    "Windows' editor puts one before a config.json that somebody has looked at."
    save_pretrained(small(), None, tmp_path)
    for name in ("config.json", "tokenizer_config.json"):
        text = (tmp_path / name).read_text("utf-8")
        (tmp_path / name).write_text(text, "utf-8-sig")
    assert same(load_pretrained(tmp_path)[0], small())


def test_an_output_matrix_must_be_the_embedding_again(tmp_path):
    model = small()
    save_pretrained(model, None, tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    copy = tensors["wte.weight"].clone()
    save_tensors(path, tensors | {"lm_head.weight": copy})
    assert same(load_pretrained(tmp_path)[0], model)  # a copy is passed over
    for other in (-copy, copy.half(), copy[:-1]):
        save_tensors(path, tensors | {"lm_head.weight": other})
        with pytest.raises(ValueError, match="lm_head.weight is not wte.weight"):
            load_pretrained(tmp_path)


def test_every_misfit_of_the_weights_is_named_at_once(tmp_path):
    save_pretrained(small(), None, tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    del tensors["ln_f.bias"]
    tensors["prefix.ln_f.bias"] = torch.zeros(16)
    tensors["wpe.weight"] = torch.zeros(3, 16)
    tensors["ln_f.weight"] = torch.zeros(16, dtype=torch.int64)
    save_tensors(path, tensors)
    with pytest.raises(ValueError) as e:
        load_pretrained(tmp_path)
    for said in (
        "ln_f.bias is missing",
        "has unknown prefix.ln_f.bias",
        "wpe.weight is (3, 16), but config.json asks for (64, 16)",
        "ln_f.weight is of type I64",
    ):
        assert said in str(e.value)


@pytest.mark.parametrize(
    "name, data, said",
    [
        ("gpt2-medium355M-sft.pth", b"PK", "gpt2-medium355M-sft.pth is a pickle of"),
        ("pytorch_model.bin", b"PK", "pickle.*from_pretrained.*save_pretrained"),
        ("pytorch_model-00001-of-00002.bin", b"PK", "pickle"),
        ("last.ckpt", b"PK", "last.ckpt is a pickle"),
        ("old.pt", b"\x80\x02\x8a\n", "old.pt is a pickle"),
        ("model-q4.gguf", b"GGUF\3\0\0\0", "a GGUF file, for llama.cpp.*gguf_file"),
        ("hparams.json", b"{}", "hparams.json is a TensorFlow checkpoint"),
        ("model.ckpt.index", b"", "model.ckpt.index is a TensorFlow checkpoint"),
        ("tf_model.h5", b"\x89HDF", "an HDF5 file of Keras or TensorFlow"),
        ("flax_model.msgpack", b"\x81", "weights of Flax"),
        ("model.onnx", b"\x08", "an export to ONNX"),
        ("weights.npz", b"PK", "weights of MLX"),
        ("__0_0.distcp", b"PK", "a sharded checkpoint of PyTorch; consolidate"),
        ("zero_to_fp32.py", b"", "a checkpoint of DeepSpeed"),
        ("gpt2.safetensors", b"", "another name .gpt2.safetensors.; rename"),
        ("model.safetensors.zip", b"PK", "is .*pickle|zip archive"),
        ("model.safetensors.index.json", b"[]", "no object"),
        ("model.safetensors.index.json", b"{}", "weight_map must name a file"),
        ("model.safetensors", b"PK\3\4", "a pickle of PyTorch"),
        ("model.safetensors", b"GGUF\3\0\0\0", "a GGUF file"),
        (
            "model.safetensors",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
            "a pointer of Git LFS",
        ),
        ("model.safetensors", b"<!DOCTYPE html><html>", "a web page"),
        ("model.safetensors", b"", "not a whole safetensors file"),
    ],
)
def test_weights_that_are_something_else_are_called_by_their_name(
    tmp_path, name, data, said
):
    save_pretrained(small(), None, tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=said):
        load_pretrained(tmp_path)


def test_what_is_no_model_folder_is_called_by_its_name(tmp_path):
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(
        '{"base_model_name_or_path": "openai-community/gpt2"}'
    )
    with pytest.raises(ValueError, match="not a LoRA adapter; peft_type must be"):
        load_pretrained(adapter)
    (tmp_path / "model.pth").write_bytes(b"PK")
    with pytest.raises(ValueError, match="model.pth: is a pickle.*give the folder"):
        load_pretrained(tmp_path / "model.pth")
    with pytest.raises(ValueError, match="model.pth is a pickle of PyTorch"):
        load_pretrained(tmp_path)
    inside = tmp_path / "run" / "checkpoint-500"
    save_pretrained(small(), None, inside)
    with pytest.raises(ValueError, match="the model is in a folder of it .checkpoint"):
        load_pretrained(tmp_path / "run")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no such file; a model folder needs"):
        load_pretrained(tmp_path / "empty")
    with pytest.raises(ValueError, match="unknown model 'gpt5'; choose one of tiny"):
        load_pretrained("gpt5")


@pytest.mark.parametrize(
    "rename",
    [
        "_orig_mod.{}".format,
        "module.{}".format,
        "module._orig_mod.transformer.{}".format,
        "_orig_mod.module.{}".format,
        "transformer.{}".format,
        lambda name: re.sub(r"^(h[.]\d+)[.]", r"\1._orig_mod.", name),
        "_fsdp_wrapped_module.{}".format,
    ],
)
def test_prefixes_of_training_are_read(tmp_path, rename):
    save_pretrained(small(), None, tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = {rename(name): t for name, t in load_file(path).items()}
    save_tensors(path, tensors)
    assert same(load_pretrained(tmp_path)[0], small())
    name = next(iter(tensors))
    save_tensors(path, tensors | {f"module.{name}": tensors[name].clone()})
    with pytest.raises(ValueError, match="are both"):
        load_pretrained(tmp_path)


@pytest.mark.parametrize("rename", ["_orig_mod.{}".format, "module.{}".format])
def test_prefixes_of_another_model_are_read(tmp_path, rename):
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=300,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
    )
    hf = transformers.LlamaForCausalLM(config).eval()
    hf.save_pretrained(tmp_path)
    load_tokenizer("gpt2", 300).save(tmp_path, 64)
    path = tmp_path / "model.safetensors"
    tensors = {rename(name): t for name, t in load_file(path).items()}
    save_tensors(path, tensors, {"format": "pt"})
    ids = torch.arange(6)[None]
    with torch.no_grad():
        assert torch.allclose(load_pretrained(tmp_path)[0](ids), hf(ids).logits)


@pytest.mark.parametrize("model_type", ["gpt2", "llama"])
@pytest.mark.parametrize(
    "change",
    [
        {"n_layer": 10**6, "num_hidden_layers": 10**6},
        {"n_layer": 10**18, "num_hidden_layers": 10**18},
        {"n_layer": -1, "num_hidden_layers": -1},
        {"vocab_size": 10**12},
        {"vocab_size": -5},
        {"n_embd": 2**62, "hidden_size": 2**62},
        {"n_embd": 15, "hidden_size": 15},
        {"n_positions": 10**12, "intermediate_size": 10**12},
        {"n_head": True, "num_attention_heads": 10**9},
        {"quantization_config": {"quant_method": "gptq"}},
    ],
    ids=str,
)
def test_an_absurd_config_is_refused_by_the_header(tmp_path, change, model_type):
    "Before a layer is built: the largest of these would take all memory, or for ever."
    save_pretrained(small(), None, tmp_path)
    path = tmp_path / "config.json"
    raw = json.loads(path.read_text())
    if model_type == "llama":
        raw = {"model_type": "llama", "vocab_size": 300, "hidden_size": 16}
        raw |= {"num_hidden_layers": 2, "num_attention_heads": 2}
    path.write_text(json.dumps(raw | change))
    built = []
    real, GPT.__init__ = GPT.__init__, lambda self, c: built.append(c)  # type: ignore
    try:
        with pytest.raises(ValueError, match=str(tmp_path)):
            load_pretrained(tmp_path)
    finally:
        GPT.__init__ = real  # type: ignore
    assert built == []


@pytest.mark.parametrize("shape", [(300, 64, 16, 2, 2), (7, 3, 12, 5, 3)])
def test_the_table_of_shapes_is_what_a_model_holds(shape, tmp_path):
    model = GPT(GPTConfig(*shape))
    table = dict(gpt2_shapes(model.config))
    held = {n: tuple(p.shape) for n, p in model.named_parameters()}
    assert table.keys() == held.keys()
    flipped = {n for n in table if table[n] != held[n]}
    assert all(table[n] == held[n][::-1] for n in flipped)


def sharded(folder):
    save_pretrained(small(), None, folder)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    files = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    parts = [dict(list(tensors.items())[i::2]) for i in (0, 1)]
    for file, part in zip(files, parts):
        save_tensors(folder / file, part)
    listed = {name: file for file, part in zip(files, parts) for name in part}
    index = {"metadata": {}, "weight_map": listed}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return files, parts, index


def test_a_sharded_model_is_read_and_what_is_wrong_with_it_is_named(tmp_path):
    files, parts, index = sharded(tmp_path)
    assert same(load_pretrained(tmp_path)[0], small())
    name = next(iter(parts[0]))
    path = tmp_path / "model.safetensors.index.json"

    def refused(said):
        with pytest.raises(ValueError, match=said):
            load_pretrained(tmp_path)

    save_tensors(tmp_path / files[1], parts[1] | {name: parts[0][name]})
    refused(f"{name} is in {files[1]}, too")
    save_tensors(tmp_path / files[1], {})
    refused("is nowhere")
    (tmp_path / files[1]).unlink()
    refused(f"{files[1]} of its 2 files is missing beside it")
    index["weight_map"][name] = "../" + files[0]
    path.write_text(json.dumps(index))
    refused("must name a file beside it")


def test_a_name_twice_in_a_header_is_refused(tmp_path):
    save_pretrained(small(), None, tmp_path)
    path = tmp_path / "model.safetensors"
    data = path.read_bytes()
    n = int.from_bytes(data[:8], "little")
    header = data[8 : 8 + n].rstrip()
    entry = json.dumps(json.loads(header)["ln_f.bias"])
    header = header[:-1] + f',"ln_f.bias":{entry}}}'.encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + data[8 + n :])
    with pytest.raises(ValueError, match="model.safetensors: .*ln_f.bias|duplicate"):
        load_pretrained(tmp_path)


# --- adapters ---


@torch.no_grad()
def adapted(folder, base):
    model = add_lora(load_pretrained(base)[0], rank=2)
    for name, p in lora_parameters(model).items():
        if name.endswith("lora_B"):
            p.fill_(0.3)
    save_adapter(model, folder, base)
    return model(torch.arange(9)[None])


def test_an_adapter_is_loaded_with_its_base(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_pretrained(small(), load_tokenizer("tiny", 300), "base")
    wanted = adapted("adapter", "base")
    model, tokenizer = load_pretrained("adapter")
    with torch.no_grad():
        got = model(torch.arange(9)[None])
    assert torch.allclose(got, wanted, atol=1e-5)
    assert type(model) is GPT and not any("lora" in n for n, _ in model.named_modules())
    assert tokenizer.tokens() == load_tokenizer("tiny", 300).tokens()
    save_pretrained(model, tokenizer, "merged")  # a plain model, as any other
    assert same(load_pretrained("merged")[0], model)
    load_tokenizer("gpt2", 300).save(tmp_path / "adapter", 64)
    assert load_pretrained("adapter")[1].tokens() != tokenizer.tokens()


def test_an_adapter_whose_base_cannot_be_had_says_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_pretrained(small(), None, "base")
    adapted("adapter", "base")
    config = json.loads((tmp_path / "adapter/adapter_config.json").read_text())

    def refused(base, said):
        changed = config | {"base_model_name_or_path": base}
        (tmp_path / "adapter/adapter_config.json").write_text(json.dumps(changed))
        with pytest.raises(ValueError, match=said):
            load_pretrained("adapter")

    refused("gone", "adapter: is a LoRA adapter of the model 'gone', which cannot be")
    refused("adapter", "which is an adapter itself")
    refused(None, "does not name its base model")
    refused(7, "does not name its base model")
    asked = []

    def fetch(name):
        asked.append(name)
        raise ValueError("no network")

    monkeypatch.setattr(model_folders, "fetch_model", fetch)
    refused("openai-community/gpt2", "of the model 'gpt2', which cannot be had: no net")
    refused("somebody/theirs", "of the model 'hf:somebody/theirs'")
    assert asked == ["gpt2", "hf:somebody/theirs"]


def test_the_home_folder_may_be_meant(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    (tmp_path / "mine").mkdir()
    assert find_model("~/mine") == tmp_path / "mine"


# --- writing ---


def test_a_folder_holds_all_that_an_answer_needs(tmp_path):
    save_pretrained(small(300), None, tmp_path)
    assert names(tmp_path) == WRITTEN
    settings = json.loads((tmp_path / "generation_config.json").read_text())
    assert settings == {
        "do_sample": False,
        "bos_token_id": 299,
        "eos_token_id": 299,
        "pad_token_id": 299,
        "max_length": 64,
    }
    assert load_pretrained(tmp_path)[1].tokens() == load_tokenizer("gpt2", 300).tokens()


def tokenizers():
    "The size of a model and a tokenizer for it, which may have fewer ids."
    yield 300, load_tokenizer("gpt2", 300)
    yield 5632, load_tokenizer("tiny")
    yield 5632, load_tokenizer("gpt2", 5632)
    yield 448, load_tokenizer("gpt2", 400)  # rows without a token
    yield 400, load_tokenizer("tiny", 400)


def test_a_saved_model_is_loaded_with_its_own_tokenizer(tmp_path):
    text = "Hello cab, say hi to the animals."
    for V, tokenizer in tokenizers():
        # into one folder, so that each has to replace the one before
        save_pretrained(small(V), tokenizer, tmp_path)
        model, again = load_pretrained(tmp_path)
        assert same(model, small(V))
        assert again.encode(text) == tokenizer.encode(text)
        assert again.eos_id == tokenizer.eos_id
    assert names(tmp_path) == WRITTEN


def test_what_cannot_be_saved_is_refused_before_a_file_is_touched(tmp_path):
    save_pretrained(small(seed=2), None, tmp_path)
    with pytest.raises(ValueError, match="do not belong together"):
        save_pretrained(small(300), load_tokenizer("gpt2", 400), tmp_path)
    with pytest.raises(ValueError, match="has LoRA layers"):
        save_pretrained(add_lora(small(), 2), None, tmp_path)
    with pytest.raises(ValueError, match="need a GPT or a TransformersModel"):
        save_pretrained(torch.nn.Linear(2, 2), None, tmp_path)
    with pytest.raises(ValueError, match="tokenizer is '.*'; need what load_pret"):
        save_pretrained(small(), str(tmp_path), tmp_path)
    assert same(load_pretrained(tmp_path)[0], small(seed=2))


def test_stale_files_of_a_model_go_and_others_stay(tmp_path):
    stale = ["special_tokens_map.json", "added_tokens.json"]
    stale += ["model-00001-of-00002.safetensors", "model.safetensors.index.json"]
    own = ["notes.txt", "vocabulary.csv", "model.backup.safetensors", "run.json"]
    own += TOKENIZER_TABLES  # nobody reads them beside a tokenizer.json
    for name in stale + own:
        (tmp_path / name).write_text("x")
    save_pretrained(small(), None, tmp_path)
    assert names(tmp_path) == sorted(WRITTEN + own)
    assert load_pretrained(tmp_path)[1].vocab_size == 300


def test_a_failure_while_writing_leaves_the_old_model(tmp_path, monkeypatch):
    save_pretrained(small(seed=2), None, tmp_path)

    def full(*args):
        raise OSError(28, "No space left on device")

    for name in ("save_tensors", "write_json"):
        with monkeypatch.context() as m:
            m.setattr(model_folders, name, full)
            with pytest.raises(OSError, match="No space left"):
                save_pretrained(small(seed=3), load_tokenizer("tiny", 300), tmp_path)
        assert names(tmp_path) == WRITTEN
        model, tokenizer = load_pretrained(tmp_path)
        assert same(model, small(seed=2))
        assert tokenizer.tokens() == load_tokenizer("gpt2", 300).tokens()


def test_a_mixture_of_two_models_is_never_taken_for_one(tmp_path, monkeypatch):
    "At every moment, the folder is the old model, the new one, or none."
    replace, seen = os.replace, []

    def watched(a, b):
        replace(a, b)
        if os.path.dirname(b) == str(tmp_path):
            whole = (tmp_path / "config.json").exists()
            seen.append(same(load_pretrained(tmp_path)[0], new) if whole else None)

    new = small(seed=3)
    save_pretrained(small(seed=2), None, tmp_path)
    monkeypatch.setattr(os, "replace", watched)
    save_pretrained(new, load_tokenizer("tiny", 300), tmp_path)
    assert seen == [None] * (len(WRITTEN) - 1) + [True]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_types_are_stored_and_read(tmp_path, dtype):
    model = small()
    save_pretrained(model, None, tmp_path, dtype)
    again, _ = load_pretrained(tmp_path)
    for a, b in zip(model.parameters(), again.parameters()):
        assert torch.equal(a.to(dtype).float(), b)
    kind = json.loads((tmp_path / "config.json").read_text())["dtype"]
    assert f"torch.{kind}" == str(dtype)
