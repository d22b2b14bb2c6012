"The same numbers as Transformers' GPT-2, in both directions, on random small configurations"
import pytest
import torch
from gpt_course.generation import generate
from gpt_course.model import GPT, GPTConfig, init_weights
from gpt_course.pretrained import load_pretrained, save_pretrained

transformers = pytest.importorskip("transformers")
SHAPES = [dict(vocab_size=300, n_positions=40, n_embd=32, n_layer=2, n_head=4), dict(vocab_size=517, n_positions=64, n_embd=48, n_layer=3, n_head=3),
          dict(vocab_size=1000, n_positions=24, n_embd=64, n_layer=1, n_head=8)]


def random_ids(shape, rows, length, seed=0):
    return torch.randint(0, shape["vocab_size"] - 1, (rows, length), generator=torch.Generator().manual_seed(seed))


def theirs(shape, seed=0):
    torch.manual_seed(seed)
    config = transformers.GPT2Config(**shape, bos_token_id=shape["vocab_size"] - 1, eos_token_id=shape["vocab_size"] - 1)
    model = transformers.GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for p in model.parameters(): p.add_(torch.randn(p.shape) * 0.1)  # biases and LayerNorms off their defaults
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
    for p in ours.parameters(): p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(1)) * 0.1)
    save_pretrained(ours, tmp_path)
    model, info = transformers.GPT2LMHeadModel.from_pretrained(tmp_path, output_loading_info=True)
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
    prompts = [random_ids(shape, 1, 1 + i % room, seed=i)[0].tolist() for i in range(17)]
    answers = generate(ours, prompts, max_new_tokens=room, eos_id=None, batch_size=8)
    for prompt, answer in zip(prompts, answers):
        out = model.generate(torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long), do_sample=False,
                             max_new_tokens=room, eos_token_id=None, pad_token_id=0)
        assert answer.ids == out[0, len(prompt):].tolist()


def test_published_tensor_names_are_read_with_and_without_prefix(tmp_path):
    "OpenAI's files have no prefix and carry masks as `attn.bias`; Transformers writes `transformer.`"
    from safetensors.torch import load_file, save_file
    model = theirs(SHAPES[0])
    model.save_pretrained(tmp_path)
    tensors = {k.removeprefix("transformer."): v for k, v in load_file(tmp_path / "model.safetensors").items() if k != "lm_head.weight"}
    tensors["h.0.attn.bias"] = torch.ones(1, 1, 40, 40).tril()
    save_file(tensors, tmp_path / "model.safetensors")
    ours, _ = load_pretrained(tmp_path)
    ids = random_ids(SHAPES[0], 1, 9)
    with torch.no_grad(): assert (ours(ids) - model(ids).logits).abs().max() < 1e-4
