"LoRA against PEFT, in both directions; the frozen stays; resumed is the same"

import copy
import json
import os
import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from gpt_course.adapters import load_adapter, save_adapter
from gpt_course.checkpoints import save_tensors
from gpt_course.finetuning import finetune
from gpt_course.loaders import make_loaders
from gpt_course.lora import (
    LoRALinear,
    add_lora,
    lora_layers,
    lora_parameters,
    merge_lora,
    remove_lora,
    unmerge_lora,
)
from gpt_course.model import GPT, GPTConfig, count_parameters, init_weights
from gpt_course.model_folders import load_pretrained, save_pretrained
from gpt_course.records import load_records
from gpt_course.settings import TrainConfig
from gpt_course.tokenizers import load_tokenizer
from gpt_course.training_state import Callback, Checkpointer
from gpt_course.transformers_model import TransformersModel

SHAPE = GPTConfig(vocab_size=300, n_positions=40, n_embd=32, n_layer=2, n_head=4)
IDS = torch.randint(0, 299, (3, 20), generator=torch.Generator().manual_seed(0))


def needs(name):
    "The module, or a skip; where CI is set, the environment must be whole."
    if os.environ.get("CI"):
        return __import__(name)
    return pytest.importorskip(
        name, reason=f"compares with {name}, which is not installed"
    )


def small_gpt(seed=5):
    model = init_weights(GPT(SHAPE), seed=seed).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(
                torch.randn(p.shape, generator=torch.Generator().manual_seed(seed))
                * 0.1
            )
    return model


def small_llama(seed=5):
    transformers = needs("transformers")
    torch.manual_seed(seed)
    return transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=300,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=40,
            bos_token_id=1,
            eos_token_id=2,
            initializer_range=0.2,
        )
    ).eval()


@torch.no_grad()
def trained(model, seed=1):
    "As if it had been trained: no B is zero any more."
    gen = torch.Generator().manual_seed(seed)
    for name, p in lora_parameters(model).items():
        if name.endswith("lora_B"):
            p.copy_(torch.randn(p.shape, generator=gen) * 0.3)
    return model


@torch.no_grad()
def logits(model, ids=IDS):
    out = model(ids)
    return getattr(out, "logits", out)


def gap(a, b):
    return (a - b).abs().max().item()


def state(model):
    return {n: p.detach().clone() for n, p in model.named_parameters()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


# The start


def test_new_lora_changes_nothing_and_freezes_the_base():
    model = small_gpt()
    before, names = logits(model), {n for n, _ in model.named_parameters()}
    assert add_lora(model, rank=4, dropout=0.5) is model
    # also: a model in evaluation mode stays in it, dropout is off
    assert torch.equal(logits(model), before)
    assert {n for n, p in model.named_parameters() if not p.requires_grad} == names
    assert {n for n, p in model.named_parameters() if p.requires_grad} == set(
        lora_parameters(model)
    )
    assert count_parameters(model, trainable_only=True) == 2 * 4 * (
        32 + 96 + 32 + 32 + 32 + 128 + 128 + 32
    )


def test_start_depends_on_the_seed_alone():
    a, b, c = (
        add_lora(small_gpt(seed=i), rank=4, seed=s) for i, s in ((1, 7), (2, 7), (1, 8))
    )
    assert all(
        torch.equal(p, q)
        for p, q in zip(lora_parameters(a).values(), lora_parameters(b).values())
    )
    assert not torch.equal(
        lora_parameters(a)["h.0.attn.c_attn.lora_A"],
        lora_parameters(c)["h.0.attn.c_attn.lora_A"],
    )


@pytest.mark.parametrize(
    "target_modules, count",
    [
        ("c_attn", 2),
        ("c_proj", 4),
        ("attn.c_proj", 2),
        ("c_attn,mlp.c_fc", 4),
        (["h.1.attn.c_attn"], 1),
        (None, 8),
    ],
)
def test_targets_are_ends_of_names(target_modules, count):
    model = add_lora(small_gpt(), rank=2, target_modules=target_modules)
    assert len(lora_layers(model)) == count


def test_output_layer_and_attentions_with_weights_of_their_own_are_left_alone():
    model = add_lora(small_llama(), rank=2)
    assert {n.rpartition(".")[2] for n in lora_layers(model)} == {
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
    }
    # nn.MultiheadAttention reads its weight past `forward`
    with pytest.raises(ValueError, match="'out_proj' names no linear layer"):
        add_lora(
            nn.ModuleDict({"attn": nn.MultiheadAttention(8, 2), "fc": nn.Linear(8, 8)}),
            rank=2,
            target_modules="out_proj",
        )


# PEFT


@pytest.fixture(scope="module")
def base_folder(tmp_path_factory):
    return save_pretrained(small_gpt(), None, tmp_path_factory.mktemp("base"))


@pytest.mark.parametrize("target_modules", [None, "c_attn", "attn.c_proj"])
def test_peft_reads_our_adapter(base_folder, tmp_path, target_modules, recwarn):
    peft, transformers = needs("peft"), needs("transformers")
    base, _ = load_pretrained(base_folder)
    ours = trained(add_lora(base, rank=4, alpha=12, target_modules=target_modules))
    save_adapter(ours, tmp_path, base_folder)
    theirs = peft.PeftModel.from_pretrained(
        transformers.GPT2LMHeadModel.from_pretrained(base_folder), tmp_path
    ).eval()
    # nothing that PEFT had to fix
    assert not [
        w
        for w in recwarn
        if "fan_in_fan_out" in str(w.message) or "missing" in str(w.message)
    ]
    assert gap(logits(ours), logits(theirs)) < 1e-4
    assert gap(logits(ours), logits(small_gpt())) > 0.1  # the adapter does something
    assert same(
        state(load_adapter(load_pretrained(base_folder)[0], tmp_path)), state(ours)
    )
    # transposes our change, since the file stores (in, out)
    merged = theirs.merge_and_unload()
    assert gap(logits(merge_lora(ours)), logits(merged)) < 1e-4
    assert (
        gap(ours.h[0].attn.c_proj.weight, merged.transformer.h[0].attn.c_proj.weight.T)
        < 1e-6
    )


@pytest.mark.parametrize(
    "targets", [["c_attn"], ["c_attn", "c_proj", "c_fc"], "all-linear"]
)
def test_we_read_pefts_adapter(base_folder, tmp_path, targets):
    peft, transformers = needs("peft"), needs("transformers")
    config = peft.LoraConfig(
        task_type="CAUSAL_LM",
        r=3,
        lora_alpha=9,
        lora_dropout=0.1,
        target_modules=targets,
    )
    theirs = peft.get_peft_model(
        transformers.GPT2LMHeadModel.from_pretrained(base_folder), config
    ).eval()
    with torch.no_grad():
        for n, p in theirs.named_parameters():
            if "lora_B" in n:
                p.normal_(std=0.3, generator=torch.Generator().manual_seed(2))
    theirs.save_pretrained(tmp_path)
    ours = load_adapter(load_pretrained(base_folder)[0], tmp_path)
    assert gap(logits(ours), logits(theirs)) < 1e-4
    assert gap(logits(ours), logits(small_gpt())) > 0.1
    assert next(iter(lora_layers(ours).values())).dropout == 0.1


def test_a_llama_in_both_directions_and_its_dropout(tmp_path):
    peft = needs("peft")
    ours = trained(
        add_lora(
            small_llama(), rank=4, alpha=8, dropout=0.3, target_modules="q_proj,v_proj"
        )
    )
    # PEFT asks the Hub about names that are no folders
    save_adapter(ours, tmp_path / "ours", tmp_path)
    theirs = peft.PeftModel.from_pretrained(small_llama(), tmp_path / "ours").eval()
    assert gap(logits(ours), logits(theirs)) < 1e-4
    assert gap(logits(ours), logits(small_llama())) > 0.1
    dropped = []
    for model in (ours.train(), theirs.train()):
        torch.manual_seed(3)
        dropped.append(logits(model))
    # dropout at the same place, by the same draws
    assert gap(*dropped) < 1e-4 and gap(dropped[0], logits(ours.eval())) > 0.01
    theirs.save_pretrained(tmp_path / "theirs")
    again = load_adapter(small_llama(), tmp_path / "theirs")
    assert same(state(again), state(ours))


def test_the_config_names_the_base_as_the_hub_does(tmp_path):
    model = add_lora(small_gpt(), rank=2, target_modules="c_proj,c_attn")
    save_adapter(model, tmp_path, "gpt2-medium")
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "openai-community/gpt2-medium"
    assert config["target_modules"] == ["c_attn", "c_proj"]  # short where that is exact


def test_an_adapter_on_another_base_of_the_same_shape_warns(tmp_path):
    "The base may be wrapped, or come from another file; not its numbers."
    base = small_gpt()
    save_adapter(trained(add_lora(base, rank=2)), tmp_path / "a", "somewhere")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_adapter(small_gpt(), tmp_path / "a")
        save_adapter(merge_lora(base), tmp_path / "merged", "somewhere")
        load_adapter(small_gpt(), tmp_path / "merged")  # of which base, nobody knows
    other = small_gpt()
    with torch.no_grad():
        other.wpe.weight[0, 0] += 1e-6
    with pytest.warns(UserWarning, match="adapter_model.safetensors: was trained on"):
        load_adapter(other, tmp_path / "a")


# Merging


def test_merge_unmerge_remove(tmp_path):
    model = trained(add_lora(small_gpt(), rank=4, dropout=0.2))
    beside, weights = logits(model), state(model)
    assert gap(logits(merge_lora(model)), beside) < 1e-4
    once = state(model)
    assert not torch.equal(
        once["h.0.attn.c_attn.weight"], weights["h.0.attn.c_attn.weight"]
    )
    assert same(state(merge_lora(model)), once)  # merged twice is merged once
    assert gap(logits(unmerge_lora(model)), beside) < 1e-4
    assert max(gap(p, weights[n]) for n, p in model.named_parameters()) < 1e-6
    again = state(model)
    assert same(state(unmerge_lora(model)), again)
    remove_lora(merge_lora(model))
    assert {n for n, _ in model.named_parameters()} == {
        n for n, _ in small_gpt().named_parameters()
    } and all(p.requires_grad for p in model.parameters())
    assert (
        gap(logits(load_pretrained(save_pretrained(model, None, tmp_path))[0]), beside)
        < 1e-4
    )


def test_transformers_reads_the_merged_model(tmp_path):
    transformers = needs("transformers")
    model = trained(add_lora(small_gpt(), rank=4))
    beside = logits(model)
    save_pretrained(remove_lora(merge_lora(model)), None, tmp_path)
    theirs, info = transformers.GPT2LMHeadModel.from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert (
        not info["missing_keys"]
        and not info["unexpected_keys"]
        and gap(logits(theirs.eval()), beside) < 1e-4
    )


@pytest.mark.parametrize("wrap", [lambda model: model, TransformersModel])
def test_removing_leaves_frozen_what_was_frozen(wrap):
    model = wrap(small_llama())
    names = [name for name, _ in model.named_parameters()]
    frozen = {name for name in names if "embed" in name or "layers.0" in name}
    assert frozen
    for name, p in model.named_parameters():
        p.requires_grad_(name not in frozen)
    remove_lora(merge_lora(copy.deepcopy(add_lora(model, rank=2))))
    remove_lora(model)
    for name, p in model.named_parameters():
        assert p.requires_grad == (name not in frozen)


def test_removing_unmerged_gives_the_base_back_to_the_bit():
    assert same(
        state(remove_lora(trained(add_lora(small_gpt(), rank=4)))), state(small_gpt())
    )


def test_half_precision_bases_keep_their_type():
    model = trained(
        add_lora(
            small_llama().to(torch.bfloat16), rank=4, target_modules="q_proj,v_proj"
        )
    )
    assert logits(model).dtype == torch.bfloat16
    # small steps would be rounded away in half precision
    assert {p.dtype for p in lora_parameters(model).values()} == {torch.float32}
    merge_lora(model)
    assert {p.dtype for n, p in model.named_parameters() if "lora" not in n} == {
        torch.bfloat16
    }


# Training


class KillAt(Callback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, state):
        if state.step == self.step:
            raise KeyboardInterrupt


def tuned(data, *callbacks):
    "Eight steps of LoRA, dropout in model and adapter; model, its base and the rows."
    shape = GPTConfig(
        vocab_size=400, n_positions=512, n_embd=16, n_layer=1, n_head=2, dropout=0.1
    )
    model = init_weights(GPT(shape))
    base = state(model)
    add_lora(model, rank=2, alpha=4, dropout=0.2)
    splits = load_records(data).split()
    tokenizer = load_tokenizer("gpt2", 400)
    train, val, _ = make_loaders(splits, tokenizer, 512, batch_size=7, seed=5)
    config = TrainConfig(epochs=1, lr=1e-2, eval_steps=3, save_steps=3)
    try:
        return model, base, finetune(model, train, val, config, callbacks)
    except KeyboardInterrupt:
        return None


def test_training_leaves_the_frozen_weights_bit_identical_and_resumes_to_the_bit(
    small_data, tmp_path
):
    model, base, rows = tuned(small_data)
    after = state(model)
    assert same({n: after[n] for n in base}, base)
    # every B has moved
    assert all(p.abs().sum() > 0 for n, p in lora_parameters(model).items())
    assert rows[-1]["train_loss"] < rows[1]["train_loss"]
    path = tmp_path / "ck.safetensors"
    assert tuned(small_data, Checkpointer(path), KillAt(5)) is None
    stored = load_file(path)
    # a checkpoint holds the adapter, not the base
    assert {n.removeprefix("model.") for n in stored if n.startswith("model.")} == set(
        lora_parameters(model)
    )
    resumed, _, again = tuned(small_data, Checkpointer(path, resume=True))
    assert again == rows and same(state(resumed), after)


# Faults


@pytest.mark.parametrize(
    "settings, faults",
    [
        (dict(rank=0), ["rank is 0; need a whole number"]),
        (dict(rank=2.5), ["rank is 2.5"]),
        (dict(rank=True), ["rank is True"]),
        (dict(rank=33), ["rank is 33", "above 32"]),
        (dict(alpha=0), ["alpha is 0; need a number above 0"]),
        (dict(alpha=float("nan")), ["alpha is nan"]),
        (dict(dropout=1.0), ["dropout is 1.0"]),
        (
            dict(target_modules="q_proj"),
            [
                "target_modules: 'q_proj' names no linear layer; "
                "this model has c_attn, c_fc, c_proj"
            ],
        ),
        (dict(target_modules="attn"), ["target_modules: 'attn'"]),
        (dict(target_modules=["c_attn", "wte"]), ["target_modules: 'wte'"]),
        (dict(target_modules=[]), ["target_modules is empty"]),
        (dict(target_modules=""), ["target_modules: ''"]),
        (
            dict(rank=-1, alpha=-1, dropout=2, target_modules="c_attn,x"),
            ["rank is -1", "alpha is -1", "dropout is 2", "target_modules: 'x'"],
        ),
    ],
)
def test_bad_settings_are_one_error_and_change_nothing(settings, faults):
    model = small_gpt()
    with pytest.raises(ValueError) as e:
        add_lora(model, **{"rank": 2} | settings)
    assert all(f in str(e.value) for f in faults)
    assert same(state(model), state(small_gpt())) and all(
        p.requires_grad for p in model.parameters()
    )


def test_a_second_lora_is_refused_and_leaves_the_first(tmp_path):
    save_adapter(add_lora(small_gpt(), 2, target_modules="c_fc"), tmp_path, "tiny")
    model = add_lora(small_gpt(), 2, target_modules="c_attn")
    names = [n for n, _ in model.named_parameters()]
    with pytest.raises(ValueError, match="has LoRA already; call remove_lora first"):
        add_lora(model, 2, target_modules="c_fc")
    with pytest.raises(ValueError, match="has LoRA already"):
        load_adapter(model, tmp_path)
    assert [n for n, _ in model.named_parameters()] == names
    with pytest.raises(ValueError, match="LoRA layers"):
        save_pretrained(model, None, tmp_path / "m")


def test_where_there_is_no_lora_this_is_said():
    for f in (merge_lora, unmerge_lora, remove_lora, lora_parameters):
        with pytest.raises(ValueError, match="no LoRA layers"):
            f(small_gpt())


def test_a_refused_adapter_leaves_frozen_what_was_frozen(tmp_path):
    save_adapter(add_lora(small_gpt(), 2), tmp_path, "tiny")
    save_tensors(tmp_path / "adapter_model.safetensors", {"x": torch.zeros(1)})
    frozen = small_gpt().requires_grad_(False)
    with pytest.raises(ValueError, match="lora_A.weight is missing"):
        load_adapter(frozen, tmp_path)
    assert count_parameters(frozen, trainable_only=True) == 0


def test_in_our_wrapper_an_adapter_has_the_names_it_has_without(tmp_path):
    wrapped = TransformersModel(small_llama())
    assert add_lora(wrapped, rank=2) is wrapped
    trained(wrapped)
    save_adapter(wrapped, tmp_path, "base")
    stored = load_file(tmp_path / "adapter_model.safetensors")
    assert "base_model.model.model.layers.0.mlp.up_proj.lora_A.weight" in stored
    bare = load_adapter(small_llama(), tmp_path)
    assert torch.equal(logits(bare), logits(wrapped))
    again = load_adapter(TransformersModel(small_llama()), tmp_path)
    assert torch.equal(logits(again), logits(wrapped))


def no_config(folder):
    (folder / "adapter_config.json").unlink()


def no_tensors(folder):
    (folder / "adapter_model.safetensors").unlink()


def half_a_file(folder):
    (folder / "adapter_model.safetensors").write_bytes(
        (folder / "adapter_model.safetensors").read_bytes()[:-100]
    )


def not_json(folder):
    (folder / "adapter_config.json").write_text("{")


def setting(**changes):
    def change(folder):
        path = folder / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def tensors(change):
    def rewrite(folder):
        stored = load_file(folder / "adapter_model.safetensors")
        change(stored)
        save_file(stored, folder / "adapter_model.safetensors")

    return rewrite


KEY = "base_model.model.transformer.h.1.mlp.c_fc.lora_B.weight"


@pytest.mark.parametrize(
    "damage, words",
    [
        (no_config, "adapter_config.json: no such file"),
        (no_tensors, "adapter_model.safetensors: no such file"),
        (half_a_file, "not a whole safetensors file"),
        (not_json, "not JSON"),
        (setting(peft_type="IA3"), "not a LoRA adapter"),
        (setting(r=None), "r is missing"),
        (setting(use_dora=True), "use_dora = True"),
        (setting(use_rslora=True), "use_rslora = True"),
        (setting(rank_pattern={"c_fc": 8}), "rank_pattern"),
        (setting(bias="all"), "bias = 'all'"),
        (setting(init_lora_weights="pissa"), "init_lora_weights = 'pissa'"),
        (setting(something_new=1), "something_new = 1"),
        (setting(target_modules="c_.*"), "target_modules is 'c_.*'"),
        (setting(target_modules=["q_proj"]), "does not fit this model"),
        (setting(r="four"), "does not fit this model"),
        (setting(lora_alpha="x"), "alpha is 'x'"),
        (setting(r=3), "need (3, 32)"),
        (tensors(lambda t: t.pop(KEY)), f"{KEY} is missing"),
        (tensors(lambda t: t.update(more=torch.ones(1))), "has unknown more"),
    ],
)
def test_a_bad_adapter_is_refused_by_file_and_leaves_the_model_alone(
    tmp_path, damage, words
):
    save_adapter(trained(add_lora(small_gpt(), rank=4)), tmp_path, "base")
    damage(tmp_path)
    model = small_gpt()
    with pytest.raises(ValueError) as e:
        load_adapter(model, tmp_path)
    assert words in str(e.value) and str(tmp_path) in str(e.value)
    assert same(state(model), state(small_gpt())) and not any(
        isinstance(m, LoRALinear) for m in model.modules()
    )


def test_saved_whole_or_not_at_all(tmp_path, monkeypatch):
    model = trained(add_lora(small_gpt(), rank=4))
    save_adapter(model, tmp_path, "base")
    before = (tmp_path / "adapter_model.safetensors").read_bytes()
    monkeypatch.setattr(
        "gpt_course.checkpoints.save_file",
        lambda *a, **k: (_ for _ in ()).throw(OSError("disk full")),
    )
    with pytest.raises(OSError):
        save_adapter(trained(model, seed=9), tmp_path, "base")
    assert (tmp_path / "adapter_model.safetensors").read_bytes() == before
    assert {p.name for p in tmp_path.iterdir()} == {
        "adapter_model.safetensors",
        "adapter_config.json",
    }
