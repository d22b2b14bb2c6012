"What a model folder holds, and what is said when it does not hold it"

import json
import os

import pytest
import torch
from safetensors.torch import load_file

from gpt_course import pretrained
from gpt_course.checkpoints import save_tensors
from gpt_course.lora import add_lora
from gpt_course.model import GPT, GPTConfig, init_weights
from gpt_course.pretrained import find_model, load_pretrained, save_pretrained
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
    tensors["_orig_mod.ln_f.bias"] = torch.zeros(16)
    tensors["wpe.weight"] = torch.zeros(3, 16)
    tensors["ln_f.weight"] = torch.zeros(16, dtype=torch.int64)
    save_tensors(path, tensors)
    with pytest.raises(ValueError) as e:
        load_pretrained(tmp_path)
    for said in (
        "ln_f.bias is missing",
        "has unknown _orig_mod.ln_f.bias",
        "wpe.weight is (3, 16), but config.json asks for (64, 16)",
        "ln_f.weight is of type I64",
    ):
        assert said in str(e.value)


@pytest.mark.parametrize(
    "name, data, said",
    [
        ("gpt2-medium355M-sft.pth", b"PK", "as a pickle only .gpt2-medium355M-sft.pth"),
        ("pytorch_model.bin", b"PK", "as a pickle only"),
        ("last.ckpt", b"PK", "as a pickle only"),
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
    with pytest.raises(
        ValueError, match="LoRA adapter of the model 'openai-community/gpt2'"
    ):
        load_pretrained(adapter)
    (tmp_path / "model.pth").write_bytes(b"PK")
    with pytest.raises(ValueError, match="model.pth: is a file; give the folder"):
        load_pretrained(tmp_path / "model.pth")
    with pytest.raises(ValueError, match="as a pickle only .model.pth"):
        load_pretrained(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no such file; a model folder needs"):
        load_pretrained(tmp_path / "empty")
    with pytest.raises(ValueError, match="unknown model 'gpt5'; choose one of tiny"):
        load_pretrained("gpt5")


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
    stale = ["merges.txt", "vocab.json", "added_tokens.json", "tokenizer.model"]
    stale += ["model-00001-of-00002.safetensors", "model.safetensors.index.json"]
    own = ["notes.txt", "vocabulary.csv", "model.backup.safetensors", "run.json"]
    for name in stale + own:
        (tmp_path / name).write_text("x")
    save_pretrained(small(), None, tmp_path)
    assert names(tmp_path) == sorted(WRITTEN + own)


def test_a_failure_while_writing_leaves_the_old_model(tmp_path, monkeypatch):
    save_pretrained(small(seed=2), None, tmp_path)

    def full(*args):
        raise OSError(28, "No space left on device")

    for name in ("save_tensors", "write_json"):
        with monkeypatch.context() as m:
            m.setattr(pretrained, name, full)
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
