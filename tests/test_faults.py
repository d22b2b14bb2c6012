"What comes from outside and is wrong is named, and what cannot be right is refused before it does harm"

import base64, json, math, os, pickle, random
from pathlib import Path
import pytest
import torch
from gpt_course.batching import load_tokenizer
from gpt_course.dataset import (
    ASSETS,
    RecordError,
    audit_splits,
    load_records,
    prompt_words,
    split_records,
    write_atomic,
)
from gpt_course.tiny.encyclopedia import limit_rows, read_encyclopedia, read_relation
from gpt_course.evaluation import (
    bootstrap_interval,
    consensus,
    parse_score,
    respond_by_consensus,
)
from gpt_course.finetuning import (
    History,
    TrainConfig,
    finetune,
    load_checkpoint,
    make_optimizer,
)
from gpt_course.generation import KVCache, generate, next_probabilities
from gpt_course.loaders import make_loaders
from gpt_course.lora import add_lora, count_trainable, load_adapter, save_adapter
from gpt_course.losses import summarise
from gpt_course.model import GPT, GPTConfig, init_weights
from gpt_course.pretrained import load_pretrained, save_pretrained, save_tensors
from gpt_course.responses import respond
from gpt_course.tiny.sentences import read_sections
from gpt_course.sharing import whole_folder
from gpt_course.tiny.sheets import (
    practice_cases,
    practised,
    read_labels,
    sentence_sheet,
)


def small(V=300, seed=1, n_positions=64):
    return init_weights(
        GPT(
            GPTConfig(
                vocab_size=V, n_positions=n_positions, n_embd=16, n_layer=2, n_head=2
            )
        ),
        seed,
    ).eval()


# --- records ---

RECORD = {"instruction": "Say hi.", "input": "", "output": "Hi."}


@pytest.mark.parametrize(
    "name, text, said",
    [
        ("a.json", json.dumps([RECORD | {"input": "\ud83d"}]), "half a character"),
        (
            "a.json",
            '[{"instruction": "Say a.", "output": "a", "instruction": "Say b."}]',
            "'instruction' stands twice",
        ),
        (
            "a.jsonl",
            '{"instruction": "Say a.", "output": "a", "output": "b"}',
            "line 1: .*'output' stands twice",
        ),
        ("a.json", "[" * 100_000, "cannot be used as JSON"),
        ("a.jsonl", "[" * 100_000, "line 1: cannot be used as JSON"),
        (
            "a.json",
            f'[{{"instruction": "x", "output": {"1" * 5000}}}]',
            "cannot be used as JSON",
        ),
    ],
)
def test_a_file_that_cannot_be_used_is_named(tmp_path, name, text, said):
    (tmp_path / name).write_text(text, "utf-8")
    with pytest.raises(RecordError, match=f"(?s){name}.*{said}"):
        load_records(tmp_path / name)


def test_the_ending_counts_in_capitals_too_and_a_fault_survives_the_way_between_processes(
    tmp_path,
):
    (tmp_path / "A.JSONL").write_text(json.dumps(RECORD) + "\n" + json.dumps(RECORD))
    assert len(load_records(tmp_path / "A.JSONL")) == 2
    error = RecordError("f", ["a", "b"])
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


@pytest.mark.parametrize(
    "n, train, test, sizes",
    [
        (3, 0.05, 0.9, [1, 1, 1]),
        (10, 0.05, 0.94, [1, 8, 1]),
        (100, 0.57, 0.29, [57, 29, 14]),
        (100, 0.85, 0.10, [85, 10, 5]),
    ],
)
def test_every_part_has_a_record_and_the_portion_asked_for(n, train, test, sizes):
    assert [len(part) for part in split_records([RECORD] * n, train, test)] == sizes


def test_the_audit_reads_every_script():
    asks = lambda text: {"instruction": text, "input": ""}
    assert not audit_splits([asks("दिन")], [asks("दान")], []).leaks
    assert (
        prompt_words(asks("cafe\u0301")) == prompt_words(asks("caf\u00e9")) == ("café",)
    )


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.9, 1.0])
def test_the_audit_finds_what_comparing_all_pairs_finds(threshold):
    g = torch.Generator().manual_seed(0)
    texts = [
        " ".join(f"w{w}" for w in torch.randint(0, 12, (6,), generator=g).tolist())
        for _ in range(240)
    ]
    train, test = [
        [{"instruction": t, "input": ""} for t in part]
        for part in (texts[:200], texts[200:])
    ]
    sets = [set(t.split()) for t in texts]
    known = {tuple(t.split()) for t in texts[:200]}
    wanted, seen = [], set()
    for i, text in enumerate(texts[200:]):
        if tuple(text.split()) in known | seen:
            continue
        seen.add(tuple(text.split()))
        wanted += [
            (f"test[{i}]", f"train[{j}]")
            for j in range(200)
            if len(sets[200 + i] & sets[j]) / len(sets[200 + i] | sets[j]) >= threshold
        ]
    assert [
        (a, b) for a, b, _ in audit_splits(train, test, [], threshold).near
    ] == wanted
    assert wanted or threshold > 0.5


@pytest.mark.skipif(os.name == "nt", reason="links and rights are POSIX's here")
def test_a_file_keeps_its_rights_and_a_link_stays_a_link(tmp_path):
    (tmp_path / "file").write_text("old")
    (tmp_path / "file").chmod(0o600)
    (tmp_path / "link").symlink_to(tmp_path / "file")
    write_atomic(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "file").read_text() == "new"
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o600
    write_atomic(tmp_path / ("n" * 250), "a long name")


# --- tokens ---

LINES = [f"{base64.b64encode(bytes([b])).decode()} {b}" for b in range(256)] + [
    f"{base64.b64encode(b'ab').decode()} 256"
]


@pytest.mark.parametrize(
    "line, text",
    [
        (3, ""),
        (3, "!!! 3"),
        (3, LINES[2].replace(" 2", " 3")),
        (3, LINES[3].replace(" 3", " 9")),
        (3, LINES[3].replace(" 3", " x")),
    ],
)
def test_a_damaged_table_of_tokens_is_named(tmp_path, line, text):
    (tmp_path / "t.tiktoken").write_text(
        "\n".join([*LINES[:line], text, *LINES[line + 1 :]])
    )
    with pytest.raises(ValueError, match="t.tiktoken, line 4"):
        load_tokenizer(258, tmp_path / "t.tiktoken")


def test_a_table_must_be_there_and_hold_every_byte(tmp_path):
    with pytest.raises(ValueError, match="cannot be read"):
        load_tokenizer(258, tmp_path / "none.tiktoken")
    (tmp_path / "t.tiktoken").write_text(
        "\n".join([*LINES[:255], f"{base64.b64encode(b'cd').decode()} 255", LINES[256]])
    )
    with pytest.raises(ValueError, match="lacks the byte 255"):
        load_tokenizer(258, tmp_path / "t.tiktoken")


def _tables(tmp_path):
    "Tokenizers that do not follow from the size of the vocabulary, or only seem to."
    (tmp_path / "gpt2-mine.tiktoken").write_text("\n".join(LINES))
    yield 258, load_tokenizer(258, tmp_path / "gpt2-mine.tiktoken")
    yield 5632, load_tokenizer(5632, ASSETS / "gpt2.tiktoken")
    yield 448, load_tokenizer(400)  # rows without a token
    yield 400, load_tokenizer(400)


def test_a_saved_model_is_loaded_with_its_own_tokenizer(tmp_path):
    text = "Hello cab, say hi to the animals."
    for V, tokenizer in _tables(tmp_path):
        # into one folder, so that each has to remove what the one before needed
        save_pretrained(small(V), tmp_path / "one", tokenizer=tokenizer)
        _, again = load_pretrained(tmp_path / "one")
        assert (again.encode_ordinary(text), again.eot_token) == (
            tokenizer.encode_ordinary(text),
            tokenizer.eot_token,
        ), V
    with pytest.raises(ValueError, match="do not belong together"):
        save_pretrained(small(300), tmp_path / "two", tokenizer=load_tokenizer(400))


# --- models ---


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
    save_pretrained(small(), tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=f"(?s)config.json.*{said}"):
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
    save_pretrained(small(), tmp_path)
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=name):
        load_pretrained(tmp_path)


def test_an_output_matrix_that_is_not_tied_is_refused_and_a_copy_is_passed_over(
    tmp_path,
):
    model = small()
    save_pretrained(model, tmp_path)
    from safetensors.torch import load_file

    tensors = load_file(tmp_path / "model.safetensors")
    save_tensors(
        tmp_path / "model.safetensors",
        tensors | {"lm_head.weight": tensors["wte.weight"].clone()},
    )
    again, _ = load_pretrained(tmp_path)
    assert torch.equal(again.wte.weight, model.wte.weight)
    save_tensors(
        tmp_path / "model.safetensors",
        tensors | {"lm_head.weight": -tensors["wte.weight"]},
    )
    with pytest.raises(ValueError, match="lm_head.weight is not wte.weight"):
        load_pretrained(tmp_path)


def test_generation_refuses_what_it_cannot_do():
    model = small()
    with pytest.raises(ValueError, match="batch_size is -1"):
        generate(model, [[1]], 3, batch_size=-1)
    with pytest.raises(ValueError, match="prompt 2 has the token 300"):
        generate(model, [[1], [300]], 3)
    with pytest.raises(ValueError, match="temperature is nan"):
        generate(model, [[1]], 3, temperature=math.nan)
    assert generate(model, [[1]], 3, temperature=1.0, seed=10**25)
    cache = KVCache(2)
    cache.append(torch.zeros(1, 1, 2, 4), torch.zeros(1, 1, 2, 4))
    with pytest.raises(ValueError, match="3 positions"):
        cache.append(torch.zeros(1, 1, 1, 4), torch.zeros(1, 1, 1, 4))
    with torch.no_grad():
        model.ln_f.weight[0] = math.nan
    with pytest.raises(ValueError, match="NaN"):
        generate(model, [[1]], 3)
    assert (next_probabilities(torch.tensor([20.0, 0, 0]), top_p=1.0) > 0).all()


# --- checkpoints ---


def _job(tmp_path, seed=5, outputs="ok", stop=None):
    records = [
        {"instruction": f"Say {i}.", "input": "", "output": f"{outputs} {i}"}
        for i in range(24)
    ]
    loaders, steps = (
        make_loaders(
            split_records(records), load_tokenizer(300), 160, batch_size=4, seed=seed
        ),
        [],
    )

    def on_step(row):
        steps.append(row)
        if stop and len(steps) == stop:
            raise KeyboardInterrupt

    config = TrainConfig(epochs=2, lr=1e-3, checkpoint_every=1)
    try:
        return finetune(
            small(n_positions=160),
            loaders[0],
            loaders[2],
            config,
            tmp_path / "c.safetensors",
            resume=True,
            progress=False,
            on_step=on_step,
        ), loaders
    except KeyboardInterrupt:
        return None, loaders


def test_a_run_goes_on_with_its_own_rows_only(tmp_path):
    _job(tmp_path, stop=4)
    for other in (dict(seed=6), dict(outputs="no")):
        with pytest.raises(ValueError, match="rows '"):
            _job(tmp_path, **other)
    history, loaders = _job(tmp_path)
    # the loader is whole again
    assert len(history.rows) == 11 and len(list(loaders[0])) == 5
    maps = Path("/proc/self/maps")
    # Windows could not replace a mapped file
    if maps.exists():
        assert "c.safetensors" not in maps.read_text()


def test_a_checkpoint_of_another_model_or_none_is_named(tmp_path):
    path, model = tmp_path / "c.safetensors", add_lora(small(), rank=4)
    optimizer = make_optimizer(model, 1e-3, 0.1)
    state = {
        f"model.{n}": p.detach()[:1].contiguous()
        if n.endswith("lora_A")
        else p.detach()
        for n, p in model.named_parameters()
        if p.requires_grad
    }
    save_tensors(path, state | {"rng": torch.get_rng_state()}, {"state": "{}"})
    with pytest.raises(ValueError, match=r"lora_A is \(1, 16\), need \(4, 16\)"):
        load_checkpoint(path, model, [optimizer])
    save_tensors(path, {"x": torch.zeros(1)})
    with pytest.raises(ValueError, match="not a whole checkpoint"):
        load_checkpoint(path, model, [optimizer])
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(ValueError, match="not a whole checkpoint"):
        load_checkpoint(path, model, [optimizer])


def test_histories_and_settings_of_no_sense_are_named(tmp_path):
    with pytest.raises(ValueError, match="clip is None"):
        TrainConfig(clip=None)
    row = dict(
        step=0,
        epoch=0.0,
        examples_seen=0,
        tokens_seen=0,
        train_loss=None,
        val_loss=2.0,
        lr=0.0,
    )
    with pytest.raises(ValueError, match="no training loss"):
        summarise(History([row]))
    History([row]).save(tmp_path / "h.csv")
    (tmp_path / "h.csv").write_text(
        (tmp_path / "h.csv").read_text().replace("\n0,", "\ninf,")
    )
    with pytest.raises(ValueError, match="h.csv, line 2"):
        History.load(tmp_path / "h.csv")


# --- LoRA ---


def test_a_second_lora_is_refused_and_leaves_the_first(tmp_path):
    other = add_lora(small(), 2, targets="c_fc")
    save_adapter(other, tmp_path, "tiny")
    model = add_lora(small(), 2, targets="c_attn")
    names = [n for n, _ in model.named_parameters()]
    for again in (
        lambda: add_lora(model, 2, targets="c_fc"),
        lambda: load_adapter(model, tmp_path),
    ):
        with pytest.raises(ValueError, match="has LoRA already"):
            again()
        assert [n for n, _ in model.named_parameters()] == names
    with pytest.raises(ValueError, match="LoRA layers"):
        save_pretrained(model, tmp_path / "m")
    frozen = small().requires_grad_(False)
    (tmp_path / "adapter_model.safetensors").unlink()
    save_tensors(tmp_path / "adapter_model.safetensors", {"x": torch.zeros(1)})
    with pytest.raises(ValueError, match="lacks"):
        load_adapter(frozen, tmp_path)
    assert count_trainable(frozen) == 0


# --- exports ---


def test_what_comes_into_a_folder_during_an_export_is_kept(tmp_path):
    target = tmp_path / "export"
    for overwrite in (False, True):
        with pytest.raises(ValueError, match="notes.txt"):
            with whole_folder(target, overwrite) as new:
                (new / "model").write_text("new")
                target.mkdir(exist_ok=True)
                (target / "notes.txt").write_text("mine")
        assert (target / "notes.txt").read_text() == "mine" and not (
            target / "model"
        ).exists()


def test_an_interrupted_exchange_leaves_the_old_export(tmp_path, monkeypatch):
    target = tmp_path / "export"
    with whole_folder(target) as new:
        (new / "model").write_text("old")
    real, calls = os.replace, []

    def replace(a, b):
        calls.append(a)
        if len(calls) == 2:
            raise KeyboardInterrupt
        real(a, b)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(KeyboardInterrupt):
        with whole_folder(target, overwrite=True) as new:
            (new / "model").write_text("new")
    assert (target / "model").read_text() == "old" and [
        p.name for p in tmp_path.iterdir()
    ] == ["export"]


# --- grades, tables, words ---


@pytest.mark.parametrize(
    "reply, grade",
    [
        ("SCORE: 70", 70),
        ("SCORE: -5", None),
        ("SCORE: −5", None),
        ("SCORE: .5", None),
        ("SCORE: 70/100", 70),
    ],
)
def test_a_grade_is_read_or_not(reply, grade):
    assert parse_score(reply) == grade


def test_an_interval_needs_a_level():
    for wrong in (dict(level=95), dict(draws=0)):
        with pytest.raises(ValueError, match="level is"):
            bootstrap_interval([1.0, 0.0], **wrong)


GOOD = (ASSETS / "encyclopedia" / "young_animals.txt").read_text("utf-8")


@pytest.mark.parametrize(
    "change, said",
    [
        (
            lambda t: t.replace("title:", "focus: -3\ntitle:", 1),
            "need a number of rows",
        ),
        (lambda t: t.replace("title:", "often: nan\ntitle:", 1), "a factor"),
        (lambda t: t.replace("title:", "rows: nosuch\ntitle:", 1), "no generator"),
        (
            lambda t: t.split("[table]")[0] + "[table]\nanimal\tyoung\n",
            "no \\[table\\] with rows",
        ),
        (lambda t: t.rstrip("\n") + "\nyak\t \n", "empty cell"),
    ],
)
def test_a_table_that_cannot_be_read_is_named(tmp_path, change, said):
    text = "\n".join(
        line for line in GOOD.split("\n") if not line.startswith(("focus:", "often:"))
    )
    (tmp_path / "t.txt").write_text(change(text), "utf-8")
    with pytest.raises(ValueError, match=f"(?s)t.txt.*{said}"):
        read_relation(tmp_path / "t.txt")
    (tmp_path / "t.txt").write_bytes(text.encode("utf-8-sig"))
    assert read_relation(tmp_path / "t.txt").rows


def test_words_before_the_first_section_are_named(tmp_path):
    (tmp_path / "l.txt").write_text("# words\ncat\tcats\n[animals]\n", "utf-8")
    with pytest.raises(ValueError, match="l.txt, line 2"):
        read_sections(tmp_path / "l.txt")


# --- practice sheets ---


@pytest.mark.parametrize(
    "text, contains",
    [
        ("base: Sentence\n\nno colon\n", "line 3: 'no colon' is not"),
        ("base: A\nbase: B\n", "line 2: .* names a form again"),
    ],
)
def test_a_file_of_labels(tmp_path, text, contains):
    (tmp_path / "labels.txt").write_text(text)
    with pytest.raises(ValueError, match=contains):
        read_labels(tmp_path / "labels.txt")


def test_cases_that_cannot_be_made():
    enc = limit_rows(read_encyclopedia())
    with pytest.raises(ValueError, match="n is 0"):
        practice_cases(random.Random(1), enc, n=0)
    with pytest.raises(ValueError, match=r"base to passive: \d of 9 cases in 9 draws"):
        practice_cases(random.Random(1), enc, n=9, tries=9)
    with pytest.raises(ValueError, match="1 texts for 0 cases"):
        practised([], ["a"])
    enc.sentences = ["Rain falls.", "Snow melts."]
    with pytest.raises(ValueError, match="add some prose"):
        sentence_sheet(random.Random(1), enc)


# --- consensus ---


def test_several_models_draw_together():
    tokenizer, records = (
        load_tokenizer(300),
        [RECORD, RECORD | {"instruction": "Say ho."}],
    )
    one, other = (small(seed=seed, n_positions=256) for seed in (1, 2))
    drawn = [
        respond(m, tokenizer, records * 2, 6, temperature=0.8, batch_size=32)
        for m in (one, other)
    ]
    found = respond_by_consensus(
        [one, other], tokenizer, records, samples=2, max_new_tokens=6
    )
    for i, response in enumerate(found):
        answers = [d[k] for d in drawn for k in (i, i + 2)]
        assert response == answers[consensus([a.text for a in answers])]
    assert respond_by_consensus(
        [one], tokenizer, records, 2, 6
    ) == respond_by_consensus(one, tokenizer, records, 2, 6)
    with pytest.raises(ValueError, match="samples is 2, of 0 models"):
        respond_by_consensus([], tokenizer, records, 2)
