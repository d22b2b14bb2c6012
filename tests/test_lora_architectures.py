"LoRA on architectures of Transformers against PEFT: layers, numbers, both directions."

import os

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from gpt_course.adapters import load_adapter, save_adapter
from gpt_course.lora import (
    LoRALinear,
    add_lora,
    linear_layers,
    lora_layers,
    lora_parameters,
    merge_lora,
    remove_lora,
)
from gpt_course.transformers_model import TransformersModel

IDS = torch.randint(3, 90, (2, 9), generator=torch.Generator().manual_seed(0))


def needs(name):
    "The module, or a skip; where CI is set, the environment must be whole."
    if os.environ.get("CI"):
        return __import__(name)
    return pytest.importorskip(
        name, reason=f"compares with {name}, which is not installed"
    )


COMMON = {"vocab_size": 96, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
NEW = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 40,
}
GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 40}
NEOX = {n: NEW[n] for n in NEW if n != "num_key_value_heads"}
# class, and the sizes under the names that this architecture has
ARCHITECTURES = {
    "gpt2": ("GPT2", GPT2),
    "gpt_neo": (
        "GPTNeo",
        {
            "hidden_size": 32,
            "num_layers": 2,
            "num_heads": 4,
            "attention_types": [[["global", "local"], 1]],
            "max_position_embeddings": 40,
        },
    ),
    "gptj": ("GPTJ", GPT2 | {"rotary_dim": 4}),
    "gpt_neox": ("GPTNeoX", NEOX),
    "gpt_bigcode": ("GPTBigCode", GPT2),
    "codegen": ("CodeGen", GPT2 | {"rotary_dim": 4}),
    "llama": ("Llama", NEW),
    "mistral": ("Mistral", NEW),
    "qwen2": ("Qwen2", NEW),
    "qwen3": ("Qwen3", NEW | {"head_dim": 8}),
    "phi": ("Phi", NEW),
    "phi3": ("Phi3", NEW),
    "gemma": ("Gemma", NEW | {"head_dim": 8}),
    "olmo": ("Olmo", NEW),
    "stablelm": ("StableLm", NEW),
    "opt": (
        "OPT",
        {
            "hidden_size": 32,
            "word_embed_proj_dim": 16,
            "ffn_dim": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": 40,
        },
    ),
    "bloom": ("Bloom", {"hidden_size": 32, "n_layer": 2, "n_head": 4}),
    "falcon": (
        "Falcon",
        {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4},
    ),
}
MORE = ("gpt_bigcode", "codegen", "qwen3", "phi3", "olmo", "stablelm")
PROOF = os.environ.get("GPT_COURSE_PROOF")
KINDS = [kind for kind in ARCHITECTURES if PROOF or kind not in MORE]


def small(kind, seed=5):
    transformers = needs("transformers")
    name, sizes = ARCHITECTURES[kind]
    torch.manual_seed(seed)
    config = getattr(transformers, f"{name}Config")(**COMMON | sizes)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():  # larger than at the start, so that a slip would show
        for p in model.parameters():
            p.add_(torch.randn(p.shape) * 0.1)
    return model


@torch.no_grad()
def logits(model):
    out = model(IDS)
    return getattr(out, "logits", out)


def assert_close(a, b):
    torch.testing.assert_close(a, b, atol=2e-4, rtol=1e-4)


@torch.no_grad()
def trained(model):
    "As if it had been trained: no B is zero any more."
    generator = torch.Generator().manual_seed(1)
    for name, p in model.named_parameters():
        if "lora_B" in name:
            p.copy_(torch.randn(p.shape, generator=generator) * 0.3)
    return model


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


def test_the_default_layers_are_those_that_peft_calls_all_linear(kind):
    peft = needs("peft")
    settings = peft.LoraConfig(r=2, target_modules="all-linear")
    theirs = peft.get_peft_model(small(kind), settings)
    layer = peft.tuners.lora.LoraLayer
    prefix = "base_model.model."
    names = {
        n.removeprefix(prefix)
        for n, m in theirs.named_modules()
        if isinstance(m, layer)
    }
    assert {*lora_layers(add_lora(small(kind), rank=2))} == names
    assert {*linear_layers(small(kind))} == names


def test_new_lora_changes_nothing_and_removed_it_leaves_nothing(kind):
    model = small(kind)
    before, kinds = logits(model), {n: type(m) for n, m in model.named_modules()}
    weights = {n: p.clone() for n, p in model.named_parameters()}
    add_lora(model, rank=2)
    assert_close(logits(model), before)
    remove_lora(trained(model))
    assert {n: type(m) for n, m in model.named_modules()} == kinds
    assert all(torch.equal(p, weights[n]) for n, p in model.named_parameters())
    assert torch.equal(logits(model), before)


def test_peft_reads_our_adapter_and_gives_the_same_logits(kind, tmp_path, recwarn):
    peft = needs("peft")
    ours = trained(add_lora(TransformersModel(small(kind)), rank=3, alpha=5))
    save_adapter(ours, tmp_path, "base")
    theirs = peft.PeftModel.from_pretrained(small(kind), tmp_path)
    assert_close(logits(theirs), logits(ours))
    assert not torch.allclose(logits(ours), logits(small(kind)), atol=1e-2)
    lost = [w for w in recwarn if "missing adapter keys" in str(w.message)]
    assert lost == []


def test_we_read_pefts_adapter_merge_and_save(kind, tmp_path):
    peft, transformers = needs("peft"), needs("transformers")
    settings = peft.LoraConfig(r=2, lora_alpha=7, target_modules="all-linear")
    theirs = trained(peft.get_peft_model(small(kind), settings)).eval()
    theirs.save_pretrained(tmp_path / "adapter")
    ours = load_adapter(TransformersModel(small(kind)), tmp_path / "adapter")
    assert_close(logits(ours), logits(theirs))
    merge_lora(ours)
    assert_close(logits(ours), logits(theirs.merge_and_unload()))
    remove_lora(ours)
    assert not any(isinstance(m, LoRALinear) for m in ours.modules())
    ours.save(tmp_path / "merged")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert_close(logits(again.eval()), logits(ours))


def test_only_the_small_matrices_get_a_gradient(kind):
    model = trained(add_lora(small(kind), rank=2))
    nn.functional.cross_entropy(
        model(IDS).logits[:, :-1].flatten(0, 1), IDS[:, 1:].flatten()
    ).backward()
    with_gradient = {n for n, p in model.named_parameters() if p.grad is not None}
    assert with_gradient == {*lora_parameters(model)}
    assert all(p.grad.abs().sum() > 0 for p in lora_parameters(model).values())


def test_a_target_is_named_in_full_where_its_end_would_name_another(tmp_path):
    "PEFT would take `more` alone for the normalization too, and refuse it."
    peft = needs("peft")

    def odd():
        model = small("llama")
        model.model.more = nn.LayerNorm(32)
        for layer in model.model.layers:
            layer.mlp.more = nn.Linear(32, 32)
        return model

    ours = trained(add_lora(odd(), rank=2, target_modules="more"))
    save_adapter(ours, tmp_path, "base")
    theirs = peft.PeftModel.from_pretrained(odd(), tmp_path)
    count = sum(isinstance(m, peft.tuners.lora.LoraLayer) for m in theirs.modules())
    assert count == len(lora_layers(ours)) == 2


def test_numbers_that_are_none_are_refused_before_one_is_copied(tmp_path):
    save_adapter(trained(add_lora(small("llama"), rank=2)), tmp_path, "base")
    path = tmp_path / "adapter_model.safetensors"
    stored = load_file(path)
    name = sorted(stored)[3]
    stored[name][0, 0] = float("nan")
    save_file(stored, path)
    model = small("llama")
    before = {n: p.clone() for n, p in model.named_parameters()}
    with pytest.raises(ValueError, match=f"{name}.*infinite or none"):
        load_adapter(model, tmp_path)
    after = dict(model.named_parameters())
    assert before.keys() == after.keys()
    assert all(torch.equal(before[n], after[n]) for n in before)
