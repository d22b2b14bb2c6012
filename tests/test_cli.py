"The command line, run as a process, as a person runs it"

import csv, json, os, signal, subprocess, sys, time
import pytest
import torch
from gpt_course.cli import FILES
from gpt_course.lora import load_adapter
from gpt_course.pretrained import load_pretrained


def gpt_course(*args, **kw):
    return subprocess.run(
        [sys.executable, "-m", "gpt_course.cli", *map(str, args)],
        capture_output=True,
        text=True,
        timeout=300,
        **kw,
    )


def refused(result, contains):
    "Exit code 2, one message, no traceback."
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    assert result.stderr.startswith("gpt-course ") and contains in result.stderr, (
        result.stderr
    )


@pytest.fixture(scope="module")
def finished(small_model, small_data, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "done"
    result = gpt_course(
        "finetune",
        "--model",
        small_model,
        "--data",
        small_data,
        "--out",
        out,
        "--max-new-tokens",
        12,
    )
    assert result.returncode == 0, result.stderr
    return out


def test_finetune_leaves_every_file(finished, small_data):
    assert sorted(p.name for p in finished.iterdir()) == sorted(FILES)
    records = json.loads(small_data.read_text())
    responses = json.loads((finished / "responses.json").read_text())
    assert [r["instruction"] for r in responses] == [
        r["instruction"] for r in records[51:57]
    ]
    assert all(
        list(r) == ["instruction", "input", "output", "response_before", "response"]
        for r in responses
    )
    metrics = json.loads((finished / "metrics.json").read_text())
    for when in ("before", "after"):
        assert {
            "loss",
            "exact_match",
            "rouge_l",
            "token_f1",
            "n",
            "seconds",
        } <= metrics[when].keys() and metrics[when]["n"] == 6
    assert metrics["after"]["loss"] < metrics["before"]["loss"]
    with open(finished / "history.csv") as f:
        rows = list(csv.DictReader(f))
    assert list(
        rows[0]
    ) == "step,epoch,examples_seen,tokens_seen,train_loss,val_loss,lr".split(",")
    assert len(rows) == 1 + 2 * 7 and int(rows[-1]["examples_seen"]) == 2 * 51
    run = json.loads((finished / "run.json").read_text())
    assert (
        run["settings"]["seed"] == 123 and run["versions"]["torch"] == torch.__version__
    )
    assert (finished / "losses.png").read_bytes().startswith(b"\x89PNG")


def test_the_model_it_leaves_answers(finished):
    load_pretrained(finished)
    result = gpt_course("respond", finished, "Say the number 7.", "--max-new-tokens", 5)
    assert result.returncode == 0 and not result.stderr
    transformers = pytest.importorskip("transformers")
    ids = torch.arange(20)[None]
    with torch.no_grad():
        theirs = transformers.GPT2LMHeadModel.from_pretrained(finished)(ids).logits
        assert (load_pretrained(finished)[0](ids) - theirs).abs().max() < 1e-4


def test_several_answers_are_drawn_and_one_is_scored(finished, small_data):
    "With one sample the answer is greedy; with more, it is one of the drawn ones, the same every time."

    def scores(*more):
        result = gpt_course(
            "evaluate", finished, "--data", small_data, "--max-new-tokens", 12, *more
        )
        assert result.returncode == 0, result.stderr
        return {k: v for k, v in json.loads(result.stdout).items() if k != "seconds"}

    greedy, drawn = scores("--samples", 1), scores("--samples", 3)
    assert (
        greedy == scores()
        and drawn == scores("--samples", 3)
        and drawn.keys() == greedy.keys()
        and drawn != greedy
    )


@pytest.mark.parametrize("yours", ["adapter", "vocabulary.tiktoken"])
def test_what_lies_where_a_run_would_write_is_left_alone(
    yours, small_model, small_data, tmp_path
):
    (tmp_path / yours).mkdir()
    refused(
        gpt_course(
            "finetune", "--model", small_model, "--data", small_data, "--out", tmp_path
        ),
        f"already has files that a run would write in it ({yours})",
    )
    assert [p.name for p in tmp_path.iterdir()] == [yours]


def test_an_existing_run_is_left_alone(finished, small_model, small_data):
    before = {p.name: p.read_bytes() for p in finished.iterdir()}
    refused(
        gpt_course(
            "finetune", "--model", small_model, "--data", small_data, "--out", finished
        ),
        "already has a run in it",
    )
    refused(
        gpt_course(
            "finetune",
            "--model",
            small_model,
            "--data",
            small_data,
            "--out",
            finished,
            "--resume",
            "--max-new-tokens",
            12,
        ),
        "complete",
    )
    assert before == {p.name: p.read_bytes() for p in finished.iterdir()}


def test_killed_and_resumed_gives_the_same(small_model, small_data, tmp_path):
    args = [
        "finetune",
        "--model",
        small_model,
        "--data",
        small_data,
        "--max-new-tokens",
        4,
        "--epochs",
        40,
        "--batch-size",
        4,
    ]
    assert gpt_course(*args, "--out", tmp_path / "whole").returncode == 0
    killed = tmp_path / "killed"
    process = subprocess.Popen(
        [sys.executable, "-m", "gpt_course.cli", *map(str, args), "--out", str(killed)],
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    deadline = time.time() + 120
    while (
        not (killed / "checkpoint.safetensors").exists()
        and time.time() < deadline
        and process.poll() is None
    ):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (killed / "checkpoint.safetensors").exists() and not (
        killed / "metrics.json"
    ).exists()
    refused(gpt_course(*args, "--out", killed), "--resume")
    refused(
        gpt_course(*args[:-2], "--batch-size", 8, "--out", killed, "--resume"),
        "batch_size 4 → 8",
    )
    result = gpt_course(*args, "--out", killed, "--resume")
    assert result.returncode == 0, result.stderr
    for name in ("history.csv", "model.safetensors", "responses.json"):
        assert (killed / name).read_bytes() == (
            tmp_path / "whole" / name
        ).read_bytes(), name


GOOD = {"instruction": "Say hi.", "input": "", "output": "Hi."}
BAD = {
    "missing": (None, "no such file"),
    "empty": (b"", "is empty"),
    "not JSON": (b"{oops", "not JSON"),
    "not a list": (b'{"a": 1}', "need a list"),
    "no instruction": (
        json.dumps([GOOD, {"output": "x"}]).encode(),
        "record 2: field 'instruction' is missing",
    ),
    "no output": (
        json.dumps([{"instruction": "x"}, GOOD]).encode(),
        "record 1: field 'output' is missing",
    ),
    "not text": (
        json.dumps([GOOD, GOOD, {"instruction": "x", "output": 3}]).encode(),
        "record 3: field 'output' is a number",
    ),
    "empty output": (
        json.dumps([{"instruction": "x", "output": " "}]).encode(),
        "record 1: field 'output' is empty",
    ),
    "invalid UTF-8": (b'[{"instruction": "caf\xe9", "output": "x"}]', "not UTF-8"),
    "long prompt": (
        json.dumps(
            [GOOD] * 9 + [{"instruction": "x y " * 400, "output": "x"}] * 3
        ).encode(),
        "tokens",
    ),
    "too few": (json.dumps([GOOD]).encode(), "at least 3"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_data_is_refused_with_one_message(name, small_model, tmp_path):
    content, contains = BAD[name]
    if content is not None:
        (tmp_path / "data.json").write_bytes(content)
    result = gpt_course(
        "finetune",
        "--model",
        small_model,
        "--data",
        tmp_path / "data.json",
        "--out",
        tmp_path / "out",
    )
    refused(result, contains)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "args, contains",
    [
        (["finetune", "--model", "gpt5"], "unknown model 'gpt5'"),
        (["finetune", "--epochs", "0"], "epochs is 0"),
        (["finetune", "--batch-size", "0"], "batch_size is 0"),
        (["finetune", "--device", "abacus"], "'abacus'"),
        (["respond", "tiny", "why " * 400], "context is 256"),
        (["respond", "tiny", ""], "instruction is empty"),
        (
            ["respond", "tiny", "Hi", "--top-p", "7", "--temperature", "1"],
            "top_p is 7.0",
        ),
        (["evaluate", "tiny", "--judge", "http://127.0.0.1:9/v1"], "--judge-model"),
        (["evaluate", "tiny", "--samples", "0"], "--samples is 0"),
    ],
)
def test_bad_arguments_are_refused_with_one_message(args, contains, tmp_path):
    refused(gpt_course(*args, cwd=tmp_path), contains)
    assert not any(tmp_path.iterdir())


def test_a_model_folder_that_is_broken_is_refused(small_model, tmp_path):
    (tmp_path / "config.json").write_bytes((small_model / "config.json").read_bytes())
    refused(gpt_course("respond", tmp_path, "Hi"), "model.safetensors: no such file")
    (tmp_path / "model.safetensors").write_bytes(
        (small_model / "model.safetensors").read_bytes()[:-100]
    )
    refused(gpt_course("respond", tmp_path, "Hi"), "not a whole safetensors file")


def test_without_network_gpt2_says_what_to_do(tmp_path):
    env = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    refused(gpt_course("respond", "gpt2", "Hi", env=env), "use --model tiny")


def test_lab_copies_the_lectures_and_keeps_yours(tmp_path):
    assert gpt_course("lab", tmp_path, "--copy-only").returncode == 0
    assert (tmp_path / "01_dataset.ipynb").exists()
    (tmp_path / "01_dataset.ipynb").write_text("mine")
    assert gpt_course("lab", tmp_path, "--copy-only").returncode == 0
    assert (tmp_path / "01_dataset.ipynb").read_text() == "mine"


def test_importing_neither_prints_nor_loads_torch_for_help():
    code = "import sys, gpt_course, gpt_course.cli; sys.exit('torch' in sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True
    )
    assert result.returncode == 0 and not result.stdout and not result.stderr


def test_lora_leaves_an_adapter_and_the_merged_model(small_model, small_data, tmp_path):
    out = tmp_path / "run"
    result = gpt_course(
        "finetune",
        "--model",
        small_model,
        "--data",
        small_data,
        "--out",
        out,
        "--max-new-tokens",
        4,
        "--lora-rank",
        2,
        "--lora-targets",
        "c_attn,c_proj",
        "--accumulate",
        2,
        "--checkpoint-activations",
    )
    assert result.returncode == 0 and "LoRA: " in result.stderr, result.stderr
    assert sorted(p.name for p in out.iterdir()) == sorted([*FILES, "adapter"])
    settings = json.loads((out / "run.json").read_text())["settings"]
    assert (
        settings["lora_rank"],
        settings["lora_alpha"],
        settings["accumulate"],
        settings["checkpoint_activations"],
    ) == (2, 32.0, 2, True)
    (base, _), (merged, _) = load_pretrained(small_model), load_pretrained(out)
    ids = torch.arange(20)[None]
    with torch.no_grad():
        assert (base(ids) - merged(ids)).abs().max() > 1e-4  # it learned something, and
        # the adapter says what
        assert (
            load_adapter(base, out / "adapter")(ids) - merged(ids)
        ).abs().max() < 1e-4


@pytest.mark.parametrize(
    "args, contains",
    [
        (
            ["--lora-rank", "2", "--lora-targets", "c_atn"],
            "target 'c_atn' names no linear layer",
        ),
        (["--lora-rank", "-1"], "rank is -1"),
        (["--optimizer", "sgd"], "optimizer is 'sgd'"),
    ],
)
def test_bad_training_options_are_refused(
    args, contains, small_model, small_data, tmp_path
):
    refused(
        gpt_course(
            "finetune",
            "--model",
            small_model,
            "--data",
            small_data,
            "--out",
            tmp_path / "out",
            *args,
        ),
        contains,
    )
    assert not (tmp_path / "out").exists()


def test_a_run_that_will_not_fit_is_warned_of(
    small_model, small_data, monkeypatch, capsys
):
    import gpt_course.memory as memory
    from gpt_course.cli import _warn_of_memory
    from gpt_course.dataset import load_data, split_records
    from gpt_course.finetuning import TrainConfig
    from gpt_course.loaders import make_loaders

    net, tokenizer = load_pretrained(small_model)
    train = make_loaders(
        split_records(load_data(small_data)), tokenizer, net.config.n_positions
    )[0]
    _warn_of_memory(net, train, TrainConfig(), 1.0)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(memory, "available_memory", lambda device: 10**8)
    _warn_of_memory(net, train, TrainConfig(), 1.0)
    assert capsys.readouterr().err.startswith("warning: training needs about 0.3 GB")


def test_chat_answers_one_instruction_after_another(small_model):
    result = gpt_course(
        "chat",
        small_model,
        "--max-new-tokens",
        3,
        input="Say hi.\n\nSay hi.\nquickly\n\n" + "x " * 600 + "\n\nSay hi.\n\n",
    )
    assert result.returncode == 0, result.stderr
    alone = [
        gpt_course(
            "respond", small_model, "Say hi.", "--input", text, "--max-new-tokens", 3
        ).stdout
        for text in ("", "quickly")
    ]
    answers = result.stdout.replace("instruction> ", "").replace("input> ", "")
    assert answers == alone[0] + alone[1] + alone[0] + "\n"
    assert "context is 512" in result.stderr and "Traceback" not in result.stderr


@pytest.mark.parametrize("to, file", [("hf", "tokenizer.json"), ("gguf", "Modelfile")])
def test_export_writes_a_folder_and_keeps_what_is_there(to, file, finished, tmp_path):
    result = gpt_course("export", finished, "--to", to, "--out", tmp_path / "out")
    assert result.returncode == 0 and str(tmp_path / "out") in result.stdout, (
        result.stderr
    )
    assert (tmp_path / "out" / file).exists() and "exact match" in (
        tmp_path / "out" / "README.md"
    ).read_text()
    before = {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()}
    refused(
        gpt_course("export", finished, "--to", to, "--out", tmp_path / "out"),
        "already has files in it",
    )
    assert before == {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()}


def test_export_refuses_what_it_cannot_write(finished, tmp_path):
    refused(
        gpt_course("export", finished, "--to", "onnx", "--out", tmp_path / "out"),
        "choose hf",
    )
    refused(
        gpt_course(
            "export",
            finished,
            "--out",
            tmp_path / "out",
            "--push",
            "somebody/model",
            env=os.environ | {"HF_HOME": str(tmp_path), "HF_TOKEN": ""},
        ),
        "not logged in",
    )
