"A model on the other side: the same ids and answers in Transformers and llama.cpp"

import base64
import http.server
import importlib
import json
import os
import random
import re
import subprocess
import sys
import threading
import urllib.request

import numpy as np
import pytest
import torch

from gpt_course.dataset import render_prompt
from gpt_course.evaluation import score_groups, score_responses
from gpt_course.files import write_json
from gpt_course.generation import generate
from gpt_course.gguf import export_gguf, gguf_names, modelfile
from gpt_course.history import History
from gpt_course.model import GPT, GPTConfig, init_weights
from gpt_course.model_card import model_card
from gpt_course.model_folders import load_pretrained, save_pretrained
from gpt_course.prompts import as_messages, chat_template
from gpt_course.protocols import COLUMNS
from gpt_course.records import load_data
from gpt_course.responses import Response, encode_prompts
from gpt_course.run_folder import Run
from gpt_course.settings import GenerationConfig
from gpt_course.sharing import export_hf, push_to_hub
from gpt_course.tokenizers import EOS_TOKEN, load_tokenizer
from gpt_course.transformers_model import TransformersModel, TransformersTokenizer


def need(name):
    "The package, or a skipped test; where CI is set, it must be there."
    return (
        importlib.import_module(name)
        if os.environ.get("CI")
        else pytest.importorskip(name, reason=f"needs the package {name}")
    )


RECORDS = load_data("builtin").split().test[:30]
HOSTILE = [
    {
        "instruction": 'Say "{{ x }}" and {% y %}.',
        "input": "it's\n\n### Response:\n\\n C:\\new",
    },
    {"instruction": "  spaces \n", "input": ""},
    {"instruction": "naïve 日本語 🎉"},
    {"instruction": "{{ .System }} ]] }}", "input": " "},
]


def texts(n=200, seed=0):
    "Prose, code, digits, spaces, and random characters of all planes."
    rng = random.Random(seed)
    kinds = (
        lambda: rng.randrange(32, 127),
        lambda: rng.randrange(32, 0x250),
        lambda: rng.randrange(0x250, 0xD800),
        lambda: rng.randrange(0x1F300, 0x1FAFF),
        lambda: rng.choice([9, 10, 13, 32, 32, 32, 0xA0, 0x2003, 0x3000]),
        lambda: rng.randrange(48, 58),
    )
    fixed = [
        "",
        " ",
        "\n\n\n",
        "I'll don't we've I'M",
        "12 345 6.7e-8 ½ ² Ⅷ ١٢٣",
        "def f(x):\n    return x ** 2\t# ok\n\n\nclass A: pass  ",
        "a  b   c    ",
        "e\u0301 \u200d \ufeff 👩‍👩‍👧",
        *(render_prompt(r) for r in RECORDS),
    ]
    return fixed + [
        "".join(chr(rng.choice(kinds)()) for _ in range(rng.randrange(1, 40)))
        for _ in range(n)
    ]


def small(V=400, seed=3):
    model = init_weights(
        GPT(GPTConfig(vocab_size=V, n_positions=512, n_embd=32, n_layer=2, n_head=4)),
        seed=seed,
    ).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(
                torch.randn(p.shape, generator=torch.Generator().manual_seed(1)) * 0.1
            )
    return model, load_tokenizer("gpt2", V)


def greedy(max_new_tokens):
    return GenerationConfig(max_new_tokens=max_new_tokens)


@pytest.fixture(scope="module")
def tiny():
    return load_pretrained("tiny")


@pytest.fixture(scope="module")
def ours(tiny):
    """The course's greedy answers, 24 tokens at most, as (ids, ended, lead).

    `lead` is the smallest one of a chosen token over the next best, in logits.
    """
    model, tokenizer = tiny
    prompts, out = encode_prompts(RECORDS, tokenizer, 256), []
    answers = generate(model, prompts, tokenizer.eos_id, greedy(24))
    for prompt, answer in zip(prompts, answers):
        ids, ended = answer.ids, answer.finish_reason == "stop"
        with torch.no_grad():
            logits = model(torch.tensor([prompt + ids]))[0, len(prompt) - 1 :]
        best = logits[: len(ids) + ended].topk(2).values
        out.append((ids, ended, (best[:, 0] - best[:, 1]).min().item()))
    # a tie is decided by rounding; there must be enough without
    assert sum(lead > 0.02 for *_, lead in out) >= 15, out
    return out


@pytest.fixture(scope="module")
def hf(tiny, tmp_path_factory):
    return export_hf(*tiny, tmp_path_factory.mktemp("export") / "hf", source="tiny")


@pytest.fixture(scope="module")
def stranger(hf):
    "What somebody else has: Transformers and the folder."
    transformers = need("transformers")
    return transformers.AutoTokenizer.from_pretrained(
        hf
    ), transformers.AutoModelForCausalLM.from_pretrained(hf)


# the tokenizer


@pytest.mark.parametrize("V", [300, 4096, 5632, 50257])
def test_fast_tokenizers_give_the_courses_ids(V, tmp_path):
    tokenizers, transformers = need("tokenizers"), need("transformers")
    tokenizer = load_tokenizer("tiny" if V == 5632 else "gpt2", V)
    tokenizer.save(tmp_path, 256)
    fast = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    auto = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert len(auto) == V and auto.eos_token_id == auto.pad_token_id == V - 1
    for text in texts():
        ids = tokenizer.encode(text)
        assert fast.encode(text).ids == ids == auto(text)["input_ids"], repr(text)
        assert auto.decode(ids) == text
    assert auto("a" + EOS_TOKEN)["input_ids"][-1] == V - 1


# the template


def test_the_template_writes_render_prompt(stranger):
    tokenizer = stranger[0]

    def write(messages, **kw):
        return tokenizer.apply_chat_template(messages, tokenize=False, **kw)

    for r in [*load_data("builtin")[::10], *HOSTILE]:
        prompt = render_prompt(r)
        assert write(as_messages(r), add_generation_prompt=True) == prompt
        assert write(as_messages(r)) + "\n\n### Response:\n" == prompt
        answer = {"role": "assistant", "content": "So.\n"}
        assert write([*as_messages(r), answer]) == prompt + "So.\n" + EOS_TOKEN
        assert write(
            [*as_messages(r), answer, {"role": "user", "content": "B"}],
            add_generation_prompt=True,
        ) == prompt + "So.\n" + EOS_TOKEN + render_prompt({"instruction": "B"})
    with pytest.raises(Exception, match="roles are system"):
        write([{"role": "tool", "content": "x"}])


# Transformers


@torch.no_grad()
def test_transformers_gives_the_same_ids_logits_and_answers(tiny, ours, stranger):
    (model, tokenizer), (their_tokenizer, their_model) = tiny, stranger
    assert not their_model.training and their_model.dtype == torch.float32
    prompts = encode_prompts(RECORDS, tokenizer, 256)
    for record, prompt, (ids, ended, lead) in zip(RECORDS, prompts, ours):
        inputs = their_tokenizer.apply_chat_template(
            as_messages(record),
            add_generation_prompt=True,
            return_tensors="pt",
            return_dict=True,
        )
        assert inputs["input_ids"][0].tolist() == prompt
        assert (
            their_model(**inputs).logits - model(torch.tensor([prompt]))
        ).abs().max() < 1e-3
        out = their_model.generate(**inputs, max_new_tokens=24)[
            0, len(prompt) :
        ].tolist()
        if lead > 1e-3:
            assert out == ids + [tokenizer.eos_id] * ended


@torch.no_grad()
def test_a_padded_batch_gives_the_same_answers(ours, stranger):
    tokenizer, model = stranger
    inputs = tokenizer(
        [render_prompt(r) for r in RECORDS[:6]], padding=True, return_tensors="pt"
    )
    assert (inputs["attention_mask"] == 0).any()
    out = model.generate(**inputs, max_new_tokens=24)[:, inputs["input_ids"].shape[1] :]
    for row, (ids, _, lead) in zip(out.tolist(), ours):
        if lead > 1e-3:
            assert row[: len(ids)] == ids and set(row[len(ids) :]) <= {
                tokenizer.eos_token_id
            }


def test_generation_stops_by_the_exported_settings(tmp_path):
    "At the end token; without it at the end of the context, which GPT-2 cannot pass."
    transformers = need("transformers")
    for token, length in ((399, 1), (65, 512 - 5)):
        model, tokenizer = small()
        with torch.no_grad():  # a model that writes this token, whatever it reads
            model.ln_f.weight.zero_()
            model.ln_f.bias.copy_(model.wte.weight[token] * 100)
            assert int(model(torch.tensor([[1, 2, 3]]))[0, -1].argmax()) == token
        folder = export_hf(model, tokenizer, tmp_path / str(token))
        config = json.loads((folder / "generation_config.json").read_text())
        assert config["eos_token_id"] == config["pad_token_id"] == 399
        out = transformers.AutoModelForCausalLM.from_pretrained(folder).generate(
            torch.tensor([[1, 2, 3, 4, 5]])
        )[0, 5:]
        assert out.tolist() == [token] * length


def test_half_precision_and_other_sizes(tmp_path):
    transformers = need("transformers")
    model, tokenizer = small(V=300)
    export_hf(model, tokenizer, tmp_path / "half", dtype="f16")
    with torch.no_grad():
        theirs = transformers.AutoModelForCausalLM.from_pretrained(
            tmp_path / "half", dtype=torch.float32
        )(torch.arange(30)[None]).logits
        assert (theirs - model(torch.arange(30)[None])).abs().max() < 0.05
    assert (tmp_path / "half" / "model.safetensors").stat().st_size < sum(
        p.numel() for p in model.parameters()
    ) * 2.5
    with pytest.raises(ValueError, match="can be f32 or f16"):
        export_hf(model, tokenizer, tmp_path / "no", dtype="q8_0")
    assert not (tmp_path / "no").exists()


# GGUF


def test_the_file_holds_every_weight(tiny, tmp_path):
    gguf = need("gguf")
    model, tokenizer = tiny
    for dtype in ("f32", "f16", "q8_0"):
        reader = gguf.GGUFReader(
            export_gguf(model, tokenizer, tmp_path / dtype, source="tiny", dtype=dtype)
        )
        found = {t.name: t for t in reader.tensors}
        names = gguf_names(model)
        assert found.keys() == {*names.values()}
        for name, p in model.named_parameters():
            t = found[names[name]]
            back = torch.from_numpy(
                np.array(gguf.dequantize(t.data, t.tensor_type))
            ).reshape(p.shape)
            if dtype == "q8_0" and p.ndim == 2 and name != "wpe.weight":
                blocks = p.reshape(-1, 32)
                # off by half a step, and by 127 times the rounding of the step to 16
                # bits: 2⁻¹¹ of it,
                step = blocks.abs().amax(1, keepdim=True) / 127
                # or, below 6.1e-5, where such numbers are evenly spaced, 2⁻²⁵
                rounding = (step / 2048).clamp(min=2**-25)
                assert (
                    (back.reshape(-1, 32) - blocks).abs()
                    <= step / 2 + 127 * rounding + 1e-7
                ).all()
                assert t.tensor_type == gguf.GGMLQuantizationType.Q8_0
            else:
                assert torch.equal(back, p), (
                    dtype,
                    name,
                )  # the shipped weights are 16-bit numbers
    normal = [1] * (model.config.vocab_size - 1)
    for key, wanted in {
        "general.architecture": "gpt2",
        "general.license": "mit",
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.eos_token_id": model.config.vocab_size - 1,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.ggml.token_type": [*normal, 3],
        "tokenizer.chat_template": chat_template(),
    }.items():
        assert reader.get_field(key).contents() == wanted, key


def open_llama(path, context=256):
    xllamacpp = need("xllamacpp")
    p = xllamacpp.CommonParams()
    p.model.path = str(path)
    p.n_ctx, p.n_parallel = context, 1
    p.verbosity, p.warmup = 0, False
    p.cpuparams.n_threads = p.cpuparams_batch.n_threads = 1
    return xllamacpp.Server(p)


def post(server, path, body):
    request = urllib.request.Request(
        server.listening_address + path,
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as reply:
        return json.loads(reply.read())


@pytest.mark.parametrize("dtype", ["f32", "f16"])
def test_llama_cpp_gives_the_same_ids_prompts_and_answers(tiny, ours, tmp_path, dtype):
    "Messages in, answer out; no setting but the length: all else is in the file."
    need("gguf")
    model, tokenizer = tiny
    server = open_llama(export_gguf(model, tokenizer, tmp_path / "gguf", dtype=dtype))
    for text in texts(60 if dtype == "f32" else 0):
        assert post(server, "/tokenize", {"content": text, "add_special": True})[
            "tokens"
        ] == tokenizer.encode(text), repr(text)
    for r in [*RECORDS, *HOSTILE]:
        assert post(server, "/apply-template", {"messages": as_messages(r)})[
            "prompt"
        ] == render_prompt(r)
    for record, (ids, ended, lead) in zip(RECORDS, ours):
        if lead < 0.02:
            continue  # its cache holds 16-bit floats
        choice = server.handle_chat_completions(
            {"messages": as_messages(record), "max_tokens": 24}
        )["choices"][0]
        assert choice["message"]["content"].strip() == tokenizer.decode(ids).strip()
        assert choice["finish_reason"] == ("stop" if ended else "length")


def test_llama_cpp_runs_the_full_vocabulary(tmp_path):
    need("gguf")
    model, tokenizer = small(V=50257)
    server = open_llama(export_gguf(model, tokenizer, tmp_path / "gguf"), context=512)
    for text in texts(40):
        assert post(server, "/tokenize", {"content": text})[
            "tokens"
        ] == tokenizer.encode(text), repr(text)
    prompt = encode_prompts([HOSTILE[0]], tokenizer, 512)[0]
    [ours] = generate(model, [prompt], tokenizer.eos_id, greedy(8))
    reply = post(
        server,
        "/completion",
        {"prompt": prompt, "n_predict": 8, "return_tokens": True, "temperature": 0},
    )
    assert reply["tokens"] == ours.ids


# Ollama


def fill_go(template, **fields):
    """A small interpreter of Go templates: `{{ .Name }}`, `{{ if .Name }} … {{ end }}`.

    It cuts at `.Response`, as Ollama does on the model's turn.
    """
    out, on = "", [True]
    for i, part in enumerate(re.split(r"\{\{(.*?)\}\}", template, flags=re.S)):
        word = part.strip() if i % 2 else None
        if word is None:
            out += part if all(on) else ""
        elif word == "end":
            on.pop()
        elif word.startswith("if ."):
            on.append(bool(fields[word[4:]]))
        elif word == ".Response":
            return out
        else:
            out += fields[word.removeprefix(".")] if all(on) else ""
    assert on == [True]
    return out


def test_the_modelfile_writes_render_prompt_and_stops():
    text = modelfile("x-F32.gguf", 256)
    [template] = re.findall(r'^TEMPLATE """(.*?)"""$', text, flags=re.S | re.M)
    for r in [*RECORDS, *HOSTILE]:
        assert fill_go(
            template, System=r.get("input", ""), Prompt=r["instruction"]
        ) == render_prompt(r)
    assert template.endswith("{{ .Response }}" + EOS_TOKEN)
    assert dict(
        re.findall(
            r"^PARAMETER (temperature|repeat_penalty|num_ctx) (.*)$", text, flags=re.M
        )
    ) == {"temperature": "0", "repeat_penalty": "1", "num_ctx": "256"}
    assert f'PARAMETER stop "{EOS_TOKEN}"' in text.splitlines() and text.startswith(
        "FROM ./x-F32.gguf\n"
    )


# folders


def test_exports_refuse_before_they_write(tmp_path):
    model, tokenizer = small()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    for export in (export_hf, export_gguf):
        with pytest.raises(ValueError, match="already has files in it"):
            export(model, tokenizer, tmp_path / "out")
        with pytest.raises(ValueError, match="has thesis.txt"):
            export(model, tokenizer, tmp_path / "out", overwrite=True)
    with pytest.raises(ValueError, match="plain name"):
        export_hf(model, tokenizer, tmp_path / "new", name="a/b")
    model.h[0].attn.lora_a = torch.nn.Parameter(torch.zeros(2, 2))
    for export in (export_hf, export_gguf):
        with pytest.raises(ValueError, match="merge its adapters"):
            export(model, tokenizer, tmp_path / "new")
    assert os.listdir(tmp_path) == ["out"] and os.listdir(tmp_path / "out") == [
        "thesis.txt"
    ]


@pytest.fixture
def llama(tmp_path):
    "A small model of another kind, and its tokenizer."
    transformers = need("transformers")
    shape = transformers.LlamaConfig(
        vocab_size=300,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
    )
    load_tokenizer("gpt2", 300).save(tmp_path / "tokenizer", 64)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "tokenizer")
    model = TransformersModel(transformers.LlamaForCausalLM(shape))
    return model, TransformersTokenizer(tokenizer)


def test_a_transformers_model_writes_itself_and_no_gguf(llama, tmp_path):
    transformers = need("transformers")
    folder = export_hf(*llama, tmp_path / "hf")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder)
    assert type(theirs) is transformers.LlamaForCausalLM
    assert "language model of" in (folder / "README.md").read_text("utf-8")
    with pytest.raises(ValueError, match="convert_hf_to_gguf.py"):
        export_gguf(*llama, tmp_path / "gguf")
    with pytest.raises(ValueError, match="tokenizer is a TransformersTokenizer"):
        export_gguf(small(V=300)[0], llama[1], tmp_path / "gguf")
    assert not (tmp_path / "gguf").exists()


def test_a_transformers_model_keeps_its_template_unless_it_learned_ours(
    run, llama, tmp_path
):
    transformers = need("transformers")
    model, tokenizer = llama
    own = "{{ messages[0]['content'] }}"
    tokenizer.hf.chat_template = own
    for source, template in ((None, own), (run, chat_template())):
        folder = tmp_path / f"from-{bool(source)}"
        export_hf(model, tokenizer, folder, source=source)
        found = transformers.AutoTokenizer.from_pretrained(folder)
        assert found.chat_template == template
    assert tokenizer.hf.chat_template == own


# the card


@pytest.fixture
def run(tmp_path):
    "What a run of `gpt-course finetune` leaves, but the model."
    folder = tmp_path / "home of ada" / "run"
    write_json(
        folder / "run.json",
        {
            "settings": {
                "model": "gpt2-medium",
                "data": str(tmp_path / "home of ada" / "letters.json"),
                "epochs": 2,
                "lr": 5e-5,
            },
            "versions": {"gpt_course": "0.1.0"},
        },
    )
    scores = {
        "loss": 0.5,
        "exact_match": 0.25,
        "token_f1": 0.6,
        "rouge_l": 0.55,
        "end_rate": 1.0,
        "repetition": 0.0,
        "n": 40,
    }
    write_json(
        folder / "metrics.json", {"before": scores | {"loss": 3.8}, "after": scores}
    )
    History(
        [
            dict(zip(COLUMNS, (0, 0.0, 0, 0, None, 3.7, 0.0))),
            dict(zip(COLUMNS, (10, 2.0, 80, 900, 0.4, 0.6, 5e-5))),
        ]
    ).to_csv(folder / "history.csv")
    return folder


def card_of(text, tmp_path):
    "As the Hub reads it."
    (tmp_path / "card.md").write_text(text, "utf-8")
    return need("huggingface_hub").ModelCard.load(tmp_path / "card.md").data


def test_the_card_tells_what_the_run_knows_and_hides_the_machine(run, tmp_path):
    model, _ = small()
    text = model_card("letters", model, run)
    for part in (
        "# letters\n",
        "`gpt2-medium`",
        "`letters.json`",
        "| epochs | 2 |",
        "| lr | 5e-05 |",
        "before: validation 3.70",
        "| loss (nats per response token) | 3.800  |              | 0.500 |",
        "Greedy answers to the test records",
        "of which 40 records",
        "25% of its own test records",
        EOS_TOKEN,
        "Not stated. It depends",
    ):
        assert part in text, part
    assert "ada" not in text and str(tmp_path) not in text
    data = card_of(text, tmp_path)
    assert (
        data.license is None
        and data.base_model == "openai-community/gpt2-medium"
        and data.library_name == "transformers"
        and "gpt_course" in data.tags
    )
    assert (
        card_of(
            model_card("letters", model, run, license="cc-by-4.0"), tmp_path
        ).license
        == "cc-by-4.0"
    )


def change(path, **fields):
    write_json(path, json.loads(path.read_text("utf-8")) | fields)


def test_the_card_says_how_the_answers_were_written(run):
    settings = {"model": "tiny", "data": "builtin", "temperature": 0.7}
    change(run / "run.json", settings=settings)
    text = model_card("x", small()[0], run)
    assert "Answers drawn at temperature 0.7 to the test records" in text
    assert "Greedy" not in text


def test_the_card_has_a_line_for_each_ring_with_intervals(run):
    records = [{"instruction": "Say.", "output": "Hi.", "ring": "kind"}] * 3
    records += [{"instruction": "Tell.", "output": "Ho.", "task": "open_talk"}]
    responses = [Response("Hi", "stop")] * 4
    scores = score_responses(records, responses) | {"loss": 0.5}
    scores["groups"] = score_groups(records, responses)
    change(run / "metrics.json", before=scores, after=scores)
    text = model_card("x", small()[0], run)
    assert re.search(r"^\| new kind +\| before \| 3 \| 100.0 \(\d\d–100\)", text, re.M)
    assert re.search(r"^\| +\| after +\| 3 \| 100.0 \(\d\d–100\)", text, re.M)
    assert "100% of its own test records that ask for a short answer" in text


def test_the_card_knows_nothing_of_a_model_that_was_saved_over_a_run(run, tmp_path):
    model, tokenizer = small()
    save_pretrained(model, tokenizer, run)
    left = Run(run).weights_sha256()
    change(run / "metrics.json", weights_sha256=left)
    assert "gpt2-medium" in model_card("x", model, run)
    other, _ = small(seed=2)
    save_pretrained(other, tokenizer, run)
    text = model_card("x", other, run)
    assert "had no record of a run" in text
    assert "0.55" not in text and "gpt2-medium" not in text
    assert card_of(text, tmp_path).license is None


def test_the_card_is_honest_about_runs_that_are_not_there(run, tmp_path):
    model, _ = small()
    (run / "metrics.json").unlink()
    (run / "history.csv").unlink()
    text = model_card("x", model, run)
    assert "None: the run was exported before" in text and "## Losses" not in text
    for source in (None, "tiny", tmp_path):
        assert "had no record of a run" in model_card("x", model, source)
    assert card_of(model_card("x", model, "tiny"), tmp_path).license == "mit"
    assert card_of(model_card("x", model, tmp_path), tmp_path).license is None
    (run / "run.json").write_text("{}")
    with pytest.raises(ValueError, match="has no settings with model and data"):
        model_card("x", model, run)
    (run / "run.json").write_text("{")
    with pytest.raises(ValueError, match="run.json: not JSON"):
        model_card("x", model, run)


def test_the_card_states_the_scores_as_the_hub_reads_them(run, tmp_path):
    model, _ = small()
    data = card_of(model_card("letters", model, run), tmp_path)
    assert data.model_name == "letters"
    found = {r.metric_type: r.metric_value for r in data.eval_results}
    assert found["exact_match"] == 0.25 and found["loss"] == 0.5
    assert {r.dataset_name for r in data.eval_results} == {"letters.json"}


def test_settings_cannot_break_the_cards_tables_or_bring_tags(run, tmp_path):
    settings = {"model": "tiny", "data": "a`<img src=x>|b.json"}
    write_json(run / "run.json", {"settings": settings, "versions": {}})
    text = model_card("x", small()[0], run)
    assert "| data | a`&lt;img src=x>\\|b.json |" in text
    assert "Fine-tuned on `a'<img src=x>|b.json`" in text


def test_only_what_is_known_to_be_mit_is_called_so(run, tmp_path):
    model, _ = small()
    for base, data, license in (
        ("tiny", "builtin", "mit"),
        ("gpt2", "builtin", "mit"),
        ("gpt2", "lecture", None),
        ("tiny", "x.json", None),
        ("runs/a", "builtin", None),
        ("hf:a/b", "builtin", None),
    ):
        write_json(
            run / "run.json",
            {"settings": {"model": base, "data": data}, "versions": {}},
        )
        card = card_of(model_card("x", model, run), tmp_path)
        assert card.license == license, (base, data)
        assert card.base_model == (
            "a/b"
            if base == "hf:a/b"
            else "openai-community/gpt2"
            if base == "gpt2"
            else None
        )


# the Hub


@pytest.fixture
def hub():
    "A server that takes a commit as the Hub does; `hub.requests` and `hub.files`."

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            requests.append((self.path, self.headers.get("Authorization"), body))
            reply = {}
            if self.path == "/api/repos/create":
                reply = {"url": f"{address}/me/letters"}
            if "/preupload/" in self.path:
                reply = {
                    "files": [
                        {
                            "path": f["path"],
                            "uploadMode": "regular",
                            "shouldIgnore": False,
                        }
                        for f in json.loads(body)["files"]
                    ]
                }
            if "/commit/" in self.path:
                lines = [json.loads(line) for line in body.splitlines()]
                files.update(
                    {
                        v["value"]["path"]: base64.b64decode(v["value"]["content"])
                        for v in lines
                        if v["key"] == "file"
                    }
                )
                reply = {
                    "success": True,
                    "commitOid": "0" * 40,
                    "commitUrl": f"{address}/me/letters/commit/{'0' * 40}",
                }
            self.answer(reply)

        def do_GET(self):
            self.answer({"id": "me/letters", "sha": "0" * 40, "siblings": []})

        def answer(self, value, status=200):
            data = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args):
            pass

    requests, files = [], {}
    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    address = f"http://127.0.0.1:{httpd.server_port}"
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    httpd.address, httpd.requests, httpd.files = address, requests, files
    yield httpd
    httpd.shutdown()
    httpd.server_close()


def test_push_uploads_every_file_of_the_export(hub, tmp_path):
    need("huggingface_hub")
    folder = export_hf(*small(), tmp_path / "letters", source="tiny")
    (folder / ".secret").write_text("no")
    url = push_to_hub(folder, "me/letters", token="hf_test", endpoint=hub.address)
    assert url.startswith(hub.address + "/me/letters")
    assert hub.files == {
        p.name: p.read_bytes() for p in folder.iterdir() if p.name != ".secret"
    }
    path, login, body = hub.requests[0]
    assert (
        path == "/api/repos/create"
        and login == "Bearer hf_test"
        and json.loads(body)["name"] == "letters"
    )
    assert (
        json.loads(body).get("private") is True
        or json.loads(body).get("visibility") == "private"
    )


def test_push_says_what_is_missing(tmp_path, monkeypatch):
    huggingface_hub = need("huggingface_hub")
    model, tokenizer = small()
    folder = export_hf(model, tokenizer, tmp_path / "letters")
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    with pytest.raises(ValueError, match="not logged in .*`hf auth login`"):
        push_to_hub(folder, "me/letters")
    with pytest.raises(ValueError, match="states no licence"):
        push_to_hub(folder, "me/letters", private=False)
    with pytest.raises(ValueError, match="has no README.md"):
        push_to_hub(tmp_path, "me/letters")
    with pytest.raises(ValueError, match="me/letters: could not be uploaded"):
        push_to_hub(
            folder, "me/letters", token="hf_test", endpoint="http://127.0.0.1:9"
        )


def test_importing_needs_none_of_the_other_sides_libraries():
    theirs = {"gguf", "transformers", "huggingface_hub", "xllamacpp", "tokenizers"}
    code = f"import sys, gpt_course.sharing; print({theirs!r} & sys.modules.keys())"
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300
    )
    assert out.stdout.strip() == "set()", out.stderr
