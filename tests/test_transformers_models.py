"Models of Transformers that are not GPT-2: small random ones, through the course"

import json
import sys

import pytest
import torch

from gpt_course.batching import IGNORE_INDEX
from gpt_course.dataset import Splits, render_prompt
from gpt_course.evaluation import score_responses
from gpt_course.finetuning import evaluate_loss, finetune
from gpt_course.generation import generate
from gpt_course.loaders import make_loaders
from gpt_course.model import GPT
from gpt_course.model_folders import load_pretrained, read_config, save_pretrained
from gpt_course.protocols import CausalLM, Tokenizer
from gpt_course.responses import respond
from gpt_course.settings import GenerationConfig, TrainConfig
from gpt_course.tokenizers import load_tokenizer
from gpt_course.training_state import Checkpointer
from gpt_course.transformers_model import (
    TransformersModel,
    TransformersTokenizer,
    load_transformers_tokenizer,
)

transformers = pytest.importorskip("transformers")
V = 384
RECORDS = [
    {
        "instruction": f"Say the number {i}.",
        "input": "quickly" if i % 3 == 0 else "",
        "output": f"It is {i}.",
    }
    for i in range(40)
]
SIZES = dict(
    vocab_size=V,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    max_position_embeddings=512,
    bos_token_id=None,
    eos_token_id=0,
)
KINDS = {
    "llama": lambda: transformers.LlamaForCausalLM(
        transformers.LlamaConfig(intermediate_size=64, num_key_value_heads=2, **SIZES)
    ),
    "gpt_neox": lambda: transformers.GPTNeoXForCausalLM(
        transformers.GPTNeoXConfig(intermediate_size=64, **SIZES)
    ),
    "mistral": lambda: transformers.MistralForCausalLM(
        transformers.MistralConfig(
            intermediate_size=64, num_key_value_heads=2, sliding_window=24, **SIZES
        )
    ),
    "bloom": lambda: transformers.BloomForCausalLM(
        transformers.BloomConfig(
            vocab_size=V,
            hidden_size=32,
            n_layer=2,
            n_head=4,
            bos_token_id=None,
            eos_token_id=0,
        )
    ),
    "gpt2 with relu": lambda: transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=V,
            n_positions=512,
            n_embd=32,
            n_layer=2,
            n_head=4,
            activation_function="relu",  # absolute positions
            bos_token_id=None,
            eos_token_id=0,
        )
    ),
}


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    "`theirs(kind)`: a folder as Transformers writes it, with a random model."
    tokenizers, root = (
        pytest.importorskip("tokenizers"),
        tmp_path_factory.mktemp("theirs"),
    )
    bpe = tokenizers.ByteLevelBPETokenizer()
    bpe.train_from_iterator(
        [render_prompt(r) + r["output"] for r in RECORDS],
        vocab_size=V,
        special_tokens=["</s>"],
        show_progress=False,
    )
    bpe.save(str(root / "tokenizer.json"))

    def make(kind):
        if not (folder := root / kind).exists():
            torch.manual_seed(0)
            model = KINDS[kind]()
            with torch.no_grad():
                # off the defaults; answers that vary
                for p in model.parameters():
                    p.add_(torch.randn(p.shape) * 0.3)
            model.save_pretrained(folder)
            transformers.PreTrainedTokenizerFast(
                tokenizer_file=str(root / "tokenizer.json"), eos_token="</s>"
            ).save_pretrained(folder)
        return folder

    return make


def reference(folder):
    return transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32
    ).eval()


def greedy(model, prompt, n, eos=None):
    out = model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        do_sample=False,
        max_new_tokens=n,
        eos_token_id=eos,
        pad_token_id=0,
    )[0, len(prompt) :].tolist()
    return out[: out.index(eos)] if eos in out else out


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_logits_and_batched_greedy_answers_are_those_of_transformers(kind, theirs):
    model, tokenizer = load_pretrained(theirs(kind))
    assert isinstance(model, TransformersModel) and isinstance(model, CausalLM)
    assert isinstance(tokenizer, TransformersTokenizer)
    assert isinstance(tokenizer, Tokenizer)
    assert not model.training
    ref = reference(theirs(kind))
    ids = torch.randint(1, V, (3, 40), generator=torch.Generator().manual_seed(1))
    assert (model(ids) - ref(ids).logits).abs().max() < 1e-4
    # share their first tokens
    alike = [tokenizer.encode(render_prompt(r)) for r in RECORDS[:6]]
    prompts = alike + [ids[0, :1].tolist(), ids[1, :9].tolist()]
    assert len({len(p) for p in alike}) > 1  # there is padding
    twenty = GenerationConfig(max_new_tokens=20)
    for group, batch_size in ((alike, 8), (prompts, 8), (prompts, 1)):
        answers = generate(model, group, None, twenty, batch_size)
        assert [a.ids for a in answers] == [greedy(ref, p, 20) for p in group]
    assert len({tuple(a.ids) for a in answers}) > 3  # not all the same token


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_a_mask_counts_without_caches_too(kind, theirs):
    "The padding of a shorter row is not seen, whichever way the row is read."
    model, _ = load_pretrained(theirs(kind))
    ids = torch.randint(1, V, (2, 30), generator=torch.Generator().manual_seed(2))
    real = torch.ones(2, 30, dtype=torch.bool)
    real[1, :7] = False
    mask = (real[:, None] & torch.ones(30, 30, dtype=torch.bool).tril())[:, None]
    positions = (real.cumsum(1) - 1).clamp(min=0)
    alone = [model.hidden(ids[:1])[0], model.hidden(ids[1:, 7:])[0]]
    for caches in (None, model.make_caches(30)):
        both = model.hidden(ids, positions, mask, caches)
        torch.testing.assert_close(both[0], alone[0], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(both[1, 7:], alone[1], atol=1e-4, rtol=1e-4)
    unpadded = model.hidden(ids, None, mask[:1])
    torch.testing.assert_close(unpadded[0], alone[0], atol=1e-4, rtol=1e-4)


def right(mask):
    mask[1, :, :, 25:] = False


def hole(mask):
    mask[1, :, 10:, 5] = False


def two_texts(mask):
    mask[:, :, 15:, :15] = False


def future(mask):
    mask[0, 0, 3, 8] = True


@pytest.mark.parametrize("change", [right, hole, two_texts, future])
def test_a_mask_that_transformers_cannot_be_told_is_refused(change, theirs):
    model, _ = load_pretrained(theirs("llama"))
    ids = torch.randint(1, V, (2, 30), generator=torch.Generator().manual_seed(2))
    mask = torch.ones(2, 1, 30, 30, dtype=torch.bool).tril()
    change(mask)
    for caches in (None, model.make_caches(30)):
        with pytest.raises(ValueError, match="attn_mask hides more.*pad on the left"):
            model.hidden(ids, None, mask, caches)


@pytest.mark.parametrize("kind", ["llama", "gpt_neox"])
def test_the_course_fine_tunes_answers_scores_and_saves_it(kind, theirs, tmp_path):
    model, tokenizer = load_pretrained(theirs(kind))
    splits = Splits(train=RECORDS[:30], val=RECORDS[36:], test=RECORDS[30:36])
    loaders = make_loaders(splits, tokenizer, model.config.n_positions)
    rows = finetune(model, loaders.train, loaders.val, TrainConfig(epochs=8, lr=1e-2))
    assert rows[-1]["val_loss"] < rows[0]["val_loss"] - 2
    twenty = GenerationConfig(max_new_tokens=20)
    answers = respond(model, tokenizer, splits.test, twenty)
    assert any(a.finish_reason == "stop" for a in answers)  # it has learned to
    save_pretrained(model, tokenizer, tmp_path / "out")
    assert not [p for p in (tmp_path / "out").iterdir() if p.name.startswith(".")]
    ref, tok = (
        reference(tmp_path / "out"),
        transformers.AutoTokenizer.from_pretrained(tmp_path / "out"),
    )
    for record, answer in zip(splits.test, answers):
        prompt = tok.encode(render_prompt(record), add_special_tokens=False)
        assert (
            tok.decode(greedy(ref, prompt, 20, tok.eos_token_id)).strip() == answer.text
        )
    again, again_tok = load_pretrained(tmp_path / "out")
    assert respond(again, again_tok, splits.test, twenty) == answers
    assert evaluate_loss(again, loaders.test) == evaluate_loss(model, loaders.test)
    assert 0 <= score_responses(splits.test, answers)["rouge_l"] <= 1


def test_the_loss_is_the_one_of_transformers(theirs):
    model, tokenizer = load_pretrained(theirs("llama"))
    eight = RECORDS[:8]
    loader = make_loaders(Splits(eight, eight, eight), tokenizer, 512).val
    ref = reference(theirs("llama"))
    total, n = 0.0, 0
    for input_ids, targets in loader:
        supervised = int((targets != IGNORE_INDEX).sum())
        loss = ref(input_ids, labels=targets, shift_labels=targets).loss
        total += loss.item() * supervised
        n += supervised
    assert abs(evaluate_loss(model, loader) - total / n) < 1e-5


class Stop:
    "A callback that interrupts a run."

    def on_train_begin(self, state):
        pass

    def on_step_end(self, state):
        if state.rows[-1]["step"] == 3:
            raise KeyboardInterrupt

    def on_train_end(self, state):
        pass


def test_interrupted_and_resumed_ends_where_uninterrupted_does(theirs, tmp_path):
    splits = Splits(train=RECORDS[:24], val=RECORDS[30:], test=RECORDS[24:30])

    def run(*callbacks):
        model, tokenizer = load_pretrained(theirs("llama"))
        loaders = make_loaders(splits, tokenizer, 512)
        config = TrainConfig(epochs=2, lr=1e-3, save_steps=2)
        rows = finetune(model, loaders.train, loaders.val, config, callbacks)
        return [row["train_loss"] for row in rows], model

    path = tmp_path / "c.safetensors"
    losses, model = run()
    with pytest.raises(KeyboardInterrupt):
        run(Checkpointer(path), Stop())
    resumed, again = run(Checkpointer(path, resume=True))
    assert resumed == losses
    for a, b in zip(model.parameters(), again.parameters()):
        assert torch.equal(a, b)


@pytest.mark.parametrize("kind", ["llama", "gpt_neox"])
def test_gradient_checkpointing_changes_no_gradient(kind, theirs):
    model, _ = load_pretrained(theirs(kind))
    ids = torch.arange(1, 31)[None]

    def gradients():
        model.train().zero_grad()
        model(ids).square().mean().backward()
        return [p.grad.clone() for p in model.parameters() if p.grad is not None]

    plain = gradients()
    model.gradient_checkpointing = True
    assert model.gradient_checkpointing
    kept = gradients()
    model.gradient_checkpointing = False
    assert not model.gradient_checkpointing
    for a, b, c in zip(plain, kept, gradients(), strict=True):
        assert torch.equal(a, b) and torch.equal(a, c)


def test_special_tokens_in_a_text_are_text(theirs):
    "Nobody can end an answer from within an instruction; no token is added."
    tokenizer = load_transformers_tokenizer(theirs("llama"))
    ids = tokenizer.encode("a</s>b")
    assert tokenizer.eos_id not in ids and tokenizer.decode(ids) == "a</s>b"
    assert tokenizer.encode("") == []


def test_half_precision_is_stored_and_read(theirs, tmp_path):
    model, tokenizer = load_pretrained(theirs("llama"))
    save_pretrained(model, tokenizer, tmp_path, torch.float16)
    again, _ = load_pretrained(tmp_path)
    assert all(
        torch.equal(a.half(), b.half()) and b.dtype == torch.float32
        for a, b in zip(model.parameters(), again.parameters())
    )
    assert next(model.parameters()).dtype == torch.float32  # saving changes nothing
    assert (tmp_path / "model.safetensors").stat().st_size < 0.6 * (
        theirs("llama") / "model.safetensors"
    ).stat().st_size


def test_checkpoints_that_are_not_whole_are_refused(theirs, tmp_path):
    import shutil

    from safetensors.torch import load_file, save_file

    folder = tmp_path / "m"
    shutil.copytree(theirs("llama"), folder)
    tensors = load_file(folder / "model.safetensors")
    lost = tensors.pop("model.layers.1.mlp.up_proj.weight")
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    # Transformers itself fills it with noise
    with pytest.raises(ValueError, match="layers.1.mlp.up_proj.weight is missing"):
        load_pretrained(folder)
    data = (theirs("llama") / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[:-5])
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        load_pretrained(folder)
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ValueError, match="pickle"):
        load_pretrained(folder)
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(ValueError, match="no such file"):
        load_pretrained(folder)
    (folder / "model.safetensors").write_bytes(data)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match="no tokenizer that Transformers can load"):
        load_pretrained(folder)
    assert lost is not None


def test_without_transformers_it_is_said_what_is_missing(theirs, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ValueError, match=r"llama: .*pip install 'gpt_course\[hf\]'"):
        load_pretrained(theirs("llama"))


def test_short_and_long_prompts_may_be_answered_together(theirs):
    "Columns of padding do not count: each answer has the context to itself."
    model, tokenizer = load_pretrained(theirs("llama"))
    prompts = [[5] * 500, [7, 8, 9]]
    together = generate(model, prompts, None, GenerationConfig(max_new_tokens=30))
    assert [len(a.ids) for a in together] == [12, 30]
    ref = reference(theirs("llama"))
    assert [a.ids for a in together] == [
        greedy(ref, prompts[0], 12),
        greedy(ref, prompts[1], 30),
    ]
    with pytest.raises(ValueError, match="513 tokens, but the model's context holds"):
        model(torch.ones(1, 513, dtype=torch.long))


def test_a_model_that_bends_its_logits_is_refused(theirs, tmp_path):
    "In Gemma 2, something follows the output matrix; our loss would leave it out."
    torch.manual_seed(0)
    config = transformers.Gemma2Config(
        intermediate_size=64,
        num_key_value_heads=2,
        head_dim=8,
        final_logit_softcapping=0.05,
        **SIZES,
    )
    transformers.Gemma2ForCausalLM(config).save_pretrained(tmp_path)
    load_transformers_tokenizer(theirs("llama")).hf.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="changes its logits"):
        load_pretrained(tmp_path)


def gpt2(tmp_path, tokenizer=None, **changes):
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        **(
            dict(
                vocab_size=V,
                n_positions=64,
                n_embd=32,
                n_layer=2,
                n_head=4,
                bos_token_id=0,
                eos_token_id=0,
            )
            | changes
        )
    )
    model = transformers.GPT2LMHeadModel(config).eval()
    model.save_pretrained(tmp_path)
    if tokenizer:
        tokenizer.hf.save_pretrained(tmp_path)
    return model


@pytest.mark.parametrize(
    "change",
    [
        dict(activation_function="relu"),
        dict(n_inner=40),
        dict(tie_word_embeddings=False),
        dict(scale_attn_by_inverse_layer_idx=True),
    ],
)
@torch.no_grad()
def test_what_config_json_says_decides_not_the_name(change, theirs, tmp_path):
    "A GPT-2 that our network cannot compute goes through Transformers, and is right."
    ref = gpt2(tmp_path, load_transformers_tokenizer(theirs("llama")), **change)
    with pytest.raises(ValueError, match=next(iter(change))):
        read_config(tmp_path / "config.json")
    model, _ = load_pretrained(tmp_path)
    ids = torch.randint(0, V, (2, 64), generator=torch.Generator().manual_seed(0))
    assert (
        isinstance(model, TransformersModel)
        and (model(ids) - ref(ids).logits).abs().max() < 1e-4
    )


def test_a_gpt2_with_another_tokenizer_keeps_it(theirs, tmp_path):
    tokenizer = load_transformers_tokenizer(theirs("llama"))
    gpt2(tmp_path, tokenizer)
    model, tok = load_pretrained(tmp_path)
    assert isinstance(model, GPT) and tok.encode("Say the number") == tokenizer.encode(
        "Say the number"
    )
    save_pretrained(model, tok, tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["eos_token_id"] == tok.eos_id == 0
    _, again = load_pretrained(tmp_path / "out")
    assert isinstance(again, TransformersTokenizer)


def test_gpt2s_own_tokenizer_needs_no_transformers(tmp_path, monkeypatch):
    "Written by Transformers' class from the same merges, it is read as ours."
    ours = load_tokenizer("gpt2", V)
    gpt2(tmp_path, bos_token_id=V - 1, eos_token_id=V - 1)
    vocab = {token: i for i, token in enumerate(ours.tokens())}
    merges = [tuple(m.split(" ")) for m in ours.merges()]
    theirs = transformers.GPT2Tokenizer(vocab=vocab, merges=merges)
    theirs.save_pretrained(tmp_path)

    def refuse(folder):
        raise AssertionError("this tokenizer needs no Transformers")

    monkeypatch.setattr("gpt_course.model_folders.load_transformers_tokenizer", refuse)
    _, tokenizer = load_pretrained(tmp_path)
    text = "Hello cab, naïve 三!"
    assert tokenizer.encode(text) == ours.encode(text) == theirs.encode(text)


def test_its_own_template_and_settings_can_be_kept(theirs, tmp_path):
    model, tokenizer = load_pretrained(theirs("llama"))
    tokenizer.hf.chat_template = "{{ messages[0]['content'] }}"
    model.hf.generation_config.max_new_tokens = 7
    save_pretrained(model, tokenizer, tmp_path, alpaca_template=False)
    template = (tmp_path / "chat_template.jinja").read_text()
    settings = json.loads((tmp_path / "generation_config.json").read_text())
    assert template == tokenizer.hf.chat_template
    assert settings["max_new_tokens"] == 7
    save_pretrained(model, tokenizer, tmp_path)
    assert "### Instruction" in (tmp_path / "chat_template.jinja").read_text()
    settings = json.loads((tmp_path / "generation_config.json").read_text())
    assert "max_new_tokens" not in settings and settings["eos_token_id"] == 0


@pytest.mark.parametrize("kind", ["llama", "gpt_neox"])
def test_the_same_command_fine_tunes_it(kind, theirs, tmp_path):
    "Fine-tune, answer, evaluate, export; the result loads with Transformers alone."
    from gpt_course.cli import main

    data, out = tmp_path / "data.json", tmp_path / "run"
    data.write_text(json.dumps(RECORDS))
    lora = (
        ["--lora-rank", "2", "--lora-target-modules", "q_proj,v_proj"]
        if kind == "llama"
        else ["--gradient-checkpointing"]
    )
    assert (
        main(
            [
                "finetune",
                "--model",
                str(theirs(kind)),
                "--data",
                str(data),
                "--out",
                str(out),
                "--max-new-tokens",
                "4",
                "--lr",
                "0.01",
                *lora,
            ]
        )
        == 0
    )
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["after"]["loss"] < metrics["before"]["loss"]
    answers = [r["response"] for r in json.loads((out / "responses.json").read_text())]
    model, tokenizer = load_pretrained(out)
    assert (
        isinstance(model, TransformersModel)
        and [
            r.text
            for r in respond(
                model, tokenizer, RECORDS[34:38], GenerationConfig(max_new_tokens=4)
            )
        ]
        == answers
    )
    assert reference(out).config.model_type == kind
    if kind == "llama":
        peft = pytest.importorskip("peft")
        adapted = peft.PeftModel.from_pretrained(
            reference(theirs(kind)), out / "adapter"
        )
        ids = torch.arange(1, 20)[None]
        # PEFT reads the adapter
        with torch.no_grad():
            assert (adapted(ids).logits - reference(out)(ids).logits).abs().max() < 1e-4
    assert (
        main(["evaluate", str(out), "--data", str(data), "--max-new-tokens", "4"]) == 0
    )
    assert (
        main(["export", str(out), "--out", str(tmp_path / "hf")]) == 0
        and reference(tmp_path / "hf").config.model_type == kind
    )
    assert (
        main(["export", str(out), "--to", "gguf", "--out", str(tmp_path / "gguf")]) == 2
        and not (tmp_path / "gguf").exists()
    )
