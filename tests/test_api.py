"The face: ten lines and one import, what it takes, and what a wrong call says"

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

import gpt_course as gpt
from gpt_course.finetuning import default_lr
from gpt_course.loaders import Loaders, make_loaders
from gpt_course.lora import LoRALinear, add_lora
from gpt_course.model import GPT, GPTConfig, init_weights
from gpt_course.model_folders import load_pretrained
from gpt_course.scores import Scores
from gpt_course.tokenizers import load_tokenizer

NAMES = [
    *("load", "load_data", "finetune", "evaluate", "Model", "History", "Records"),
    *("Splits", "TrainConfig", "LoraConfig", "GenerationConfig", "RecordError"),
]
SHORT = {"epochs": 1, "batch_size": 16, "progress": False}


@pytest.fixture
def model(small_model):
    return gpt.load(small_model, device="cpu")


@pytest.fixture(scope="module")
def records(small_data):
    return gpt.load_data(str(small_data))


# the names


@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_there(name):
    assert name in dir(gpt) and name in gpt.__all__
    assert getattr(gpt, name).__doc__


def test_importing_costs_nothing():
    "Less than 50 ms beyond the interpreter, without torch; the names come when asked."
    code = (
        "import sys, time; t = time.perf_counter(); import gpt_course; "
        "seconds = time.perf_counter() - t; "
        "print(seconds, 'torch' in sys.modules, 'load' in dir(gpt_course))"
    )
    best = 9.0
    for _ in range(3):
        command = [sys.executable, "-c", code]
        said = subprocess.run(command, capture_output=True, text=True, check=True)
        seconds, torch_there, load_there = said.stdout.split()
        best = min(best, float(seconds))
        assert (torch_there, load_there) == ("False", "True")
    assert best < 0.05


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'laod'"):
        gpt.laod  # noqa: B018
    with pytest.raises(ImportError):
        from gpt_course import laod  # noqa: F401


def test_the_version_is_where_nbdev_writes_it():
    text = Path(gpt.__file__).read_text("utf-8")
    assert re.findall(r'^__version__ *= *"(.+)"$', text, re.M) == [gpt.__version__]
    assert (Path(gpt.__file__).parent / "py.typed").exists()


# the ten lines


def test_the_ten_lines_run(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = [
        {"instruction": f"Say the number {i}.", "output": f"It is {i}."}
        for i in range(40)
    ]
    Path("mine.json").write_text(json.dumps(made))

    model = gpt.load("tiny")  # holds network and tokenizer
    data = gpt.load_data("mine.json").split(seed=1)  # .train .val .test
    history = gpt.finetune(model, data, epochs=2)  # a bar; rows that plot themselves
    history.plot("losses.png")
    print(model.respond("Give the opposite of 'early'."))  # text, record or list
    print(gpt.evaluate(model, data.test))
    model.save("mine")

    shown = capsys.readouterr()
    assert "fine-tuning: 100%" in shown.err
    assert re.search(
        r"\| exact match +\| \d\.\d{3} +\| 0\.\d\d to \d\.\d\d +\|", shown.out
    )
    assert Path("losses.png").read_bytes().startswith(b"\x89PNG")
    assert len(history.rows) == 1 + 2 * 5 and len(data.test) == 4
    again = gpt.load("mine")
    questions = ["Say the number 7.", {"instruction": "Say hi.", "input": "quickly"}]
    assert again.respond(questions) == model.respond(questions)


def test_the_saved_folder_answers_in_transformers(tmp_path, model):
    transformers = pytest.importorskip("transformers")
    model.save(tmp_path)
    pipe = transformers.pipeline("text-generation", str(tmp_path), device="cpu")
    for i in range(5):
        text = f"Say the number {i}."
        [reply] = pipe([{"role": "user", "content": text}], max_new_tokens=9)
        ours = model.respond(text, max_new_tokens=9)
        assert reply["generated_text"][-1]["content"].strip() == ours


# what it takes


def test_respond_takes_a_text_a_record_or_a_list(model):
    record = {"instruction": "Say hi.", "input": "quickly"}
    alone = [model.respond(r, max_new_tokens=5) for r in ("Say hi.", record)]
    assert all(isinstance(answer, str) for answer in alone)
    assert model.respond(["Say hi.", record], max_new_tokens=5) == alone
    assert model.respond([record], max_new_tokens=5) == alone[1:]
    assert model.respond(("Say hi.", record), max_new_tokens=5) == alone
    streamed = ["".join(model.stream(r, max_new_tokens=5)) for r in ("Say hi.", record)]
    assert [text.strip() for text in streamed] == alone
    again = {"temperature": 1.0, "seed": 4, "max_new_tokens": 5}
    assert model.respond("Say hi.", **again) == model.respond("Say hi.", **again)
    assert "Model(" in repr(model) and "parameters, on cpu" in repr(model)


def weights(model):
    return {name: p.clone() for name, p in model.network.state_dict().items()}


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_records_splits_and_loaders_give_the_same(small_model, records):
    found = []
    for kind in ("records", "splits", "loaders"):
        model, options = gpt.load(small_model, device="cpu"), {"batch_size": 16}
        data = list(records)
        if kind != "records":
            data = records.split()
        if kind == "loaders":
            context = model.network.config.n_positions
            data, options = make_loaders(data, model.tokenizer, context, 16), {}
        history = gpt.finetune(model, data, epochs=1, progress=False, **options)
        found.append((history.rows, weights(model)))
    for rows, state in found[1:]:
        assert rows == found[0][0] and equal(state, found[0][1])


def test_a_plain_network_is_taken_with_and_without_tokenizer(small_model, records):
    network, tokenizer = load_pretrained(small_model)
    history = gpt.finetune(network, records, tokenizer=tokenizer, **SHORT)
    assert history.rows[-1]["val_loss"] < history.rows[0]["val_loss"]
    assert not network.training
    fresh = init_weights(GPT(network.config), seed=3)
    gpt.finetune(fresh, records, **SHORT)  # GPT-2's, cut to the model's vocabulary
    scores = gpt.evaluate(network, records[:3], max_new_tokens=3, progress=False)
    assert scores["n"] == 3


def test_a_model_of_transformers_is_taken(records):
    transformers = pytest.importorskip("transformers")
    from tokenizers import ByteLevelBPETokenizer

    bpe = ByteLevelBPETokenizer()
    texts = [r["instruction"] + r["output"] for r in records]
    bpe.train_from_iterator(texts, 300, special_tokens=["</s>"], show_progress=False)
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token="</s>"
    )
    config = transformers.LlamaConfig(
        vocab_size=300,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=400,
        eos_token_id=0,
    )
    theirs = transformers.LlamaForCausalLM(config)
    before = theirs.lm_head.weight.detach().clone()
    history = gpt.finetune(theirs, records, tokenizer=tokenizer, **SHORT)
    assert history.rows[-1]["val_loss"] < history.rows[0]["val_loss"]
    assert not torch.equal(theirs.lm_head.weight, before)  # in place
    with pytest.raises(ValueError, match="tokenizer is None; need the tokenizer"):
        gpt.finetune(theirs, records, **SHORT)


# fine-tuning


def highest_rate(history):
    return max(row["lr"] for row in history.rows)


def test_the_learning_rate_is_chosen_by_what_is_trained(small_model, records):
    rates = {}
    for rank in (0, 2):
        model = gpt.load(small_model, device="cpu")
        options = SHORT | {"lora_rank": rank, "warmup_steps": 0}
        rates[rank] = highest_rate(gpt.finetune(model, records, **options))
    usual = default_lr(load_pretrained(small_model)[0])
    assert rates == {0: pytest.approx(usual), 2: pytest.approx(10 * usual)}
    model = gpt.load(small_model, device="cpu")
    history = gpt.finetune(model, records, lr=0.5e-3, warmup_steps=0, **SHORT)
    assert highest_rate(history) == pytest.approx(0.5e-3)


def test_lora_is_merged_and_gone(model, records, tmp_path):
    before, names = weights(model), list(model.network.state_dict())
    gpt.finetune(model, records, lora_rank=2, **SHORT)
    assert list(model.network.state_dict()) == names
    assert not any(isinstance(m, LoRALinear) for m in model.network.modules())
    assert all(p.requires_grad for p in model.network.parameters())
    changed = {name for name, p in weights(model).items() if not p.equal(before[name])}
    assert changed and all("c_" in name for name in changed)
    gpt.finetune(model, records, lora_rank=2, **SHORT)  # and once more


def test_what_was_frozen_before_lora_is_frozen_after_it(model, records):
    for name, p in model.network.named_parameters():
        p.requires_grad_("ln" not in name)
    before = [p.requires_grad for p in model.network.parameters()]
    gpt.finetune(model, records, lora_rank=2, **SHORT)
    assert [p.requires_grad for p in model.network.parameters()] == before


def test_what_could_not_be_saved_is_refused_before_training(model, records, tmp_path):
    add_lora(model.network, rank=2)
    before, out = weights(model), tmp_path / "run"
    with pytest.raises(ValueError, match="^model has LoRA layers.*save_adapter"):
        gpt.finetune(model, records, out=out, **SHORT)
    assert equal(weights(model), before) and not out.exists()
    gpt.finetune(model, records, **SHORT)  # without a folder, LoRA alone is trained
    assert not equal(weights(model), before)


def test_interrupted_training_leaves_a_model_that_can_be_used(
    model, records, monkeypatch
):
    from gpt_course import finetuning

    real, steps = finetuning.train_step, []

    def train_step(*args, **options):
        if len(steps) == 2:
            raise KeyboardInterrupt
        steps.append(1)
        return real(*args, **options)

    before = weights(model)
    monkeypatch.setattr(finetuning, "train_step", train_step)
    with pytest.raises(KeyboardInterrupt):
        gpt.finetune(model, records, lora_rank=2, lr=1e-2, **SHORT)
    assert list(model.network.state_dict()) == list(before)
    assert not equal(weights(model), before) and not model.network.training
    assert model.respond("Say hi.", max_new_tokens=2) is not None


def test_the_result_can_be_written(model, records, tmp_path):
    out = tmp_path / "run"
    history = gpt.finetune(model, records, out=out, **SHORT)
    assert {"model.safetensors", "history.csv", "losses.png", "tokenizer.json"} <= {
        f.name for f in out.iterdir()
    }
    assert gpt.History.from_csv(out / "history.csv").rows == history.rows
    ours = model.respond("Say hi.", max_new_tokens=5)
    assert gpt.load(out).respond("Say hi.", max_new_tokens=5) == ours
    state = weights(model)
    with pytest.raises(ValueError, match="^out is .*nothing was changed"):
        gpt.finetune(model, records, out=out, **SHORT)
    assert equal(weights(model), state)


# scores


def test_scores_are_a_dict_and_a_table(model, records):
    scores = gpt.evaluate(model, records[:5], max_new_tokens=6, progress=False)
    assert isinstance(scores, dict) and json.loads(json.dumps(scores)) == scores
    names = {"exact_match", "token_f1", "rouge_l", "end_rate", "repetition"}
    assert scores.keys() == names | {"loss", "n"} and scores.intervals.keys() == names
    for name, (low, high) in scores.intervals.items():
        assert low <= scores[name] <= high
    assert [r.text for r in scores.responses] == model.respond(
        records[:5], max_new_tokens=6
    )
    table = scores._repr_markdown_()
    assert table == str(scores) == repr(scores)
    assert len({line.count("|") for line in table.splitlines()}) == 1
    assert not hasattr(scores, "_repr_html_")


def test_intervals_of_shares():
    scores = Scores({"end_rate": 0.5, "n": 2}, {"end_rate": (0.0, 1.0)})
    assert scores.tables() == [
        [
            ["score", "value", "95% interval"],
            ["answers that end by themselves", "0.500", "0.00 to 1.00"],
            ["records", "2", ""],
        ]
    ]


def test_of_several_answers_the_most_typical_is_scored(model, records):
    options = {"max_new_tokens": 6, "progress": False}
    one, some = (gpt.evaluate(model, records[:4], samples=n, **options) for n in (1, 3))
    assert one.keys() == some.keys()
    assert gpt.evaluate(model, records[:4], samples=3, **options) == some


def test_the_bar_is_shown_for_several_answers_too(model, records, capsys):
    for progress in (False, True):
        options = {"max_new_tokens": 2, "samples": 3, "progress": progress}
        gpt.evaluate(model, records[:4], **options)
        assert ("12/12" in capsys.readouterr().err) == progress


# wrong calls


def wrong_calls():
    record = {"instruction": "Say hi.", "output": "Hi."}
    good = [record] * 5
    plain = Loaders(*[DataLoader([1, 2])] * 3)
    splits = gpt.Splits(good, good, good)
    shape = GPTConfig(vocab_size=400, n_positions=64, n_embd=8, n_layer=1, n_head=1)
    random = init_weights(GPT(shape))

    def finetune(*args, **options):
        return lambda model: gpt.finetune(model, *args, **options)

    def evaluate(*args, **options):
        return lambda model: gpt.evaluate(model, *args, **options)

    def respond(*args, **options):
        return lambda model: model.respond(*args, **options)

    return {
        # the table of the review
        "an empty text": (respond(""), "record 1 has an empty instruction"),
        "no text": (respond(7), "records is 7; need a text"),
        "a list of numbers": (respond([7]), "record 1 is 7; need a text"),
        "no instruction": (respond({"input": "x"}), "missing the field instruction"),
        "a prompt too long": (respond("x " * 600), "context is 512"),
        "a part of a step": (finetune(good, epochs=1.5), "epochs is 1.5; need a whole"),
        "warm-up": (finetune(good, warmup_steps=-1), "warmup_steps is -1; need"),
        "weight decay": (finetune(good, weight_decay=-1), "weight_decay is -1; need"),
        "a record too long": (
            finetune([*good, {"instruction": "x", "output": "y " * 600}]),
            "512",
        ),
        # names of options
        "a wrong option": (finetune(good, epoch=1), "did you mean epochs?"),
        "of another function": (respond("Hi.", epochs=1), "epochs is no setting"),
        "a wrong option of evaluate": (
            evaluate(good, max_tokens=1),
            "did you mean max_new_tokens?",
        ),
        # models
        "a name as model": (
            lambda model: gpt.finetune("tiny", good),
            "model is 'tiny'; need a model: load('tiny') gives one",
        ),
        "a name to evaluate": (
            lambda model: gpt.evaluate("tiny", good),
            "model is 'tiny'; need a model",
        ),
        "a module as model": (
            lambda model: gpt.finetune(torch.nn.Linear(1, 1), good),
            "model is of type Linear; need a Model",
        ),
        "two tokenizers": (
            finetune(good, tokenizer=load_tokenizer("gpt2")),
            "tokenizer is of type BPETokenizer; need none here",
        ),
        "a name as tokenizer": (
            lambda model: gpt.finetune(random, good, tokenizer="gpt2"),
            "tokenizer is 'gpt2'; need the tokenizer",
        ),
        "a tokenizer that is too large": (
            lambda model: gpt.finetune(
                random, good, tokenizer=load_tokenizer("gpt2", 401)
            ),
            "tokenizer has 401 ids, and the model has a vocabulary of 400",
        ),
        "the same to evaluate": (
            lambda model: gpt.evaluate(random, good, tokenizer=load_tokenizer("gpt2")),
            "tokenizer has 50,257 ids, and the model",
        ),
        "data of another model": (
            finetune(make_loaders(splits, load_tokenizer("gpt2"), 512)),
            "data.train has the token 50256, and the model",
        ),
        "a number to load": (lambda model: gpt.load(7), "name is 7; need the name"),
        "an unknown model": (lambda model: gpt.load("gpt5"), "gpt5"),
        # data
        "a file as data": (
            finetune("mine.json"),
            "data is 'mine.json'; need records: load_data('mine.json') reads them",
        ),
        "one record": (finetune(record), "need a list of records"),
        "nothing": (finetune(None), "data is None; need a list of records"),
        "empty": (finetune([]), "data has 0 records; need at least 3"),
        "two records": (finetune(good[:2]), "data has 2 records; need at least 3"),
        "texts": (finetune(["Hi."] * 3), "each of the 3 records: is a text"),
        "a wrong record": (
            finetune([*good, {"instruction": "x"}]),
            "record 6: field 'output' is missing",
        ),
        "an empty part": (finetune(splits._replace(val=[])), "data.val"),
        "a plain tuple": (finetune((good, good, good)), "data is of type tuple"),
        "a loader": (finetune(DataLoader(good)), "data is of type DataLoader"),
        "plain loaders": (finetune(plain), "train_loader: found a BatchSampler"),
        "an idle option": (
            finetune(splits, split_seed=3),
            "split_seed is 3, but data is Splits",
        ),
        "splits to evaluate": (
            evaluate(splits),
            "records is of type Splits; need one of its parts, such as data.test",
        ),
        "a file to evaluate": (
            evaluate("mine.json"),
            "records is 'mine.json'; need records: load_data('mine.json') reads them",
        ),
        "nothing to evaluate": (evaluate([]), "records"),
        "no samples": (evaluate(good, samples=0), "samples is 0; need at least 1"),
        "a part of a sample": (evaluate(good, samples=1.5), "samples is 1.5; need"),
        "samples that are all the same": (
            evaluate(good, samples=2, temperature=0),
            "temperature is 0: all samples would be the same answer",
        ),
        # values
        "a temperature": (respond("Hi.", temperature=-1), "temperature is -1; need"),
        "a rank": (finetune(good, lora_rank=-1), "lora_rank is -1; need"),
        "layers": (
            finetune(good, lora_rank=2, lora_target_modules="c_atn"),
            "'c_atn'",
        ),
        "a folder": (lambda model: model.save(""), "need the name of a file or folder"),
    }


@pytest.mark.parametrize("name", wrong_calls())
def test_a_wrong_call_names_argument_found_and_needed(name, model):
    call, contains = wrong_calls()[name]
    before, start = weights(model), time.perf_counter()
    with pytest.raises(ValueError) as e:
        call(model)
    assert contains in str(e.value)
    assert equal(weights(model), before)
    assert time.perf_counter() - start < 30  # before the work, not after it
