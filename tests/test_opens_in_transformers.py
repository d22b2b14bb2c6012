"""A saved folder answers in Transformers as it is: its pipeline, given chat messages,
writes the same text as `respond`.
"""

import pytest
import torch

from gpt_course.dataset import Splits
from gpt_course.finetuning import finetune
from gpt_course.loaders import make_loaders
from gpt_course.lora import add_lora, lora_layers, merge_lora, remove_lora
from gpt_course.model import GPT, GPTConfig, init_weights
from gpt_course.model_folders import load_pretrained, save_pretrained
from gpt_course.prompts import as_messages
from gpt_course.records import load_data
from gpt_course.responses import respond
from gpt_course.settings import TrainConfig
from gpt_course.tokenizers import load_tokenizer
from gpt_course.transformers_model import TransformersModel, TransformersTokenizer

transformers = pytest.importorskip("transformers")
TEST = load_data("builtin").split().test
QUESTIONS = TEST[:20]


def test_the_questions_are_of_both_kinds():
    assert len({bool(r["input"]) for r in QUESTIONS}) == 2


def tiny():
    return load_pretrained("tiny")


def tuned():
    "`tiny` after 20 steps: it has begun to answer."
    model, tokenizer = load_pretrained("tiny")
    records = load_data("builtin")
    splits = Splits(records[:160], records[160:168], records[168:176])
    loaders = make_loaders(splits, tokenizer, model.config.n_positions)
    finetune(model, loaders.train, loaders.val, TrainConfig(epochs=1, lr=5e-4))
    return model, tokenizer


def merged():
    "`tiny` with LoRA that does something, merged and removed."
    model, tokenizer = load_pretrained("tiny")
    add_lora(model, rank=4)
    with torch.no_grad():
        for layer in lora_layers(model).values():
            torch.manual_seed(0)
            layer.lora_B.normal_(0, 0.002)
    return remove_lora(merge_lora(model)), tokenizer


def scattered(model):
    "Random weights that are large enough for answers that vary."
    torch.manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape) * 0.3)
    return model.eval()


def gpt(V, tokenizer):
    shape = GPTConfig(vocab_size=V, n_positions=240, n_embd=32, n_layer=2, n_head=4)
    return scattered(init_weights(GPT(shape))), tokenizer


def their_tokenizer():
    from tokenizers import ByteLevelBPETokenizer

    bpe = ByteLevelBPETokenizer()
    texts = [r["instruction"] + r["output"] for r in load_data("builtin")]
    bpe.train_from_iterator(
        texts, vocab_size=500, special_tokens=["<pad>", "</s>"], show_progress=False
    )
    return TransformersTokenizer(
        transformers.PreTrainedTokenizerFast(
            tokenizer_object=bpe, eos_token="</s>", pad_token="<pad>"
        )
    )


def llama():
    config = transformers.LlamaConfig(
        vocab_size=500,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=240,
        bos_token_id=None,
        eos_token_id=1,
    )
    model = scattered(transformers.LlamaForCausalLM(config))
    with torch.no_grad():
        model.lm_head.weight[0] = 0  # no trained model writes `<pad>`
    # as many published models have it; it must not decide here
    model.generation_config.do_sample = True
    model.generation_config.temperature = 0.6
    return TransformersModel(model), their_tokenizer()


def lora_llama():
    model, tokenizer = llama()
    add_lora(model, rank=2, target_modules="q_proj,v_proj")
    with torch.no_grad():
        torch.manual_seed(1)
        for layer in lora_layers(model).values():
            layer.lora_B.normal_(0, 0.1)  # as large as a trained one, not larger
    return remove_lora(merge_lora(model)), tokenizer


MODELS = {
    "tiny": tiny,
    "tiny, fine-tuned": tuned,
    "tiny, LoRA merged": merged,
    "GPT-2's tokenizer, cut": lambda: gpt(400, None),
    "rows without a token": lambda: gpt(448, load_tokenizer("gpt2", 400)),
    "a tokenizer of Transformers": lambda: gpt(500, their_tokenizer()),
    "Llama": llama,
    "Llama, LoRA merged": lora_llama,
}


@pytest.mark.parametrize("kind", MODELS)
def test_the_pipeline_answers_as_we_do(kind, tmp_path, capfd):
    model, tokenizer = MODELS[kind]()
    save_pretrained(model.eval(), tokenizer, tmp_path)
    model, tokenizer = load_pretrained(tmp_path)
    ours = [r.text for r in respond(model, tokenizer, QUESTIONS)]
    capfd.readouterr()
    answer = transformers.pipeline("text-generation", str(tmp_path), device="cpu")
    theirs = [answer(as_messages(r))[0]["generated_text"][-1] for r in QUESTIONS]
    assert [m["role"] for m in theirs] == ["assistant"] * 20
    assert [m["content"].strip() for m in theirs] == ours
    assert len(set(ours)) > 10  # not always the same
    said = capfd.readouterr().err.splitlines()
    assert [s for s in said if s.strip() and "Loading weights" not in s] == []


def test_template_and_generate_answer_as_we_do(tmp_path):
    "The way of most model cards: `apply_chat_template`, then `generate`, in a batch."
    model, tokenizer = tiny()
    save_pretrained(model, tokenizer, tmp_path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    tok = transformers.AutoTokenizer.from_pretrained(tmp_path)
    inputs = tok.apply_chat_template(
        [as_messages(r) for r in QUESTIONS],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
        padding=True,
    )
    ids = theirs.generate(**inputs)[:, inputs["input_ids"].shape[1] :]
    texts = [t.strip() for t in tok.batch_decode(ids, skip_special_tokens=True)]
    ours = [r.text for r in respond(model, tokenizer, QUESTIONS)]
    # a shorter prompt has less room in a batch that is padded on the left
    whole = [a for a, b in zip(ours, texts) if a == b]
    assert len(whole) >= 18
    assert all(a.startswith(b) for a, b in zip(ours, texts))


def test_no_answer_runs_past_the_context(tmp_path):
    "A model that never stops, asked by a prompt that leaves three positions."
    model, tokenizer = gpt(400, load_tokenizer("gpt2", 400))
    with torch.no_grad():
        model.wte.weight[tokenizer.eos_id] = 0  # its logit is never the largest
    save_pretrained(model, tokenizer, tmp_path)
    answer = transformers.pipeline("text-generation", str(tmp_path), device="cpu")
    text = "a" * 237
    assert len(tokenizer.encode(text)) == 237
    [out] = answer(text, return_tensors=True)
    assert len(out["generated_token_ids"]) == 240
