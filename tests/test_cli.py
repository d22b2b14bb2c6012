"The command line, run as a process, as a person runs it"

import csv
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time

import pytest
import torch

from gpt_course.adapters import load_adapter
from gpt_course.checkpoints import checkpoint_state
from gpt_course.model_folders import load_pretrained
from gpt_course.run_folder import RUN_FILES
from gpt_course.settings import (
    DataConfig,
    GenerationConfig,
    JudgeConfig,
    LoraConfig,
    TrainConfig,
    field_help,
)

COMMAND = [sys.executable, "-m", "gpt_course.cli"]
WIDE = os.environ | {"COLUMNS": "400"}


def gpt_course(*args, **options):
    return subprocess.run(
        [*COMMAND, *map(str, args)],
        capture_output=True,
        text=True,
        timeout=300,
        **options,
    )


def finetune(model, data, out, *more):
    return gpt_course("finetune", "--model", model, "--data", data, "--out", out, *more)


def refused(result, contains):
    "Exit code 2, one message, no traceback."
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    assert result.stderr.startswith("gpt-course"), result.stderr
    assert contains in result.stderr, result.stderr


# help


def test_alone_it_prints_its_help():
    result = gpt_course()
    assert result.returncode == 0 and not result.stderr
    assert result.stdout == gpt_course("--help").stdout
    for command in ("finetune", "respond", "chat", "evaluate", "export", "lab"):
        assert re.search(rf"^ +{command} ", result.stdout, re.M)


@pytest.mark.parametrize(
    "command, groups",
    [
        ("finetune", [DataConfig, TrainConfig, LoraConfig, GenerationConfig]),
        ("respond", [GenerationConfig]),
        ("chat", [GenerationConfig]),
        ("evaluate", [GenerationConfig, JudgeConfig]),
        ("export", []),
        ("lab", []),
    ],
)
def test_help_says_what_the_settings_say(command, groups):
    "Each option with its comment and its default, in groups; and two examples."
    shown = gpt_course(command, "--help", env=WIDE).stdout
    for settings in groups:
        assert settings.__doc__ in shown
        for name, comment in field_help(settings).items():
            option = "--" + name.replace("_", "-")
            default = settings.__dataclass_fields__[name].default
            line = re.search(rf"^  {option}(?!-).*(\n {{20,}}\S.*)*", shown, re.M)[0]
            if (command, settings, name) != ("finetune", GenerationConfig, "seed"):
                assert comment.replace("`", "") in line
            if default is not None and default is not False:
                assert line.endswith(f"(default: {default})")
    assert shown.count(f"\n  gpt-course {command}") >= 2
    # nothing without a word about it
    for option in re.findall(
        r"^  (?:-h, )?(?:--[\w-]+|[A-Z]+).*(?:\n {20,}.*)*", shown
    ):
        assert re.search(r"(?s)\w\s{2,}\w", option)


def test_help_does_not_wait_for_torch():
    code = (
        "import sys, gpt_course, gpt_course.cli; "
        "gpt_course.cli.make_parser(); "
        "sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    )
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0 and not result.stdout and not result.stderr


# finetune


@pytest.fixture(scope="module")
def ran(small_model, small_data, tmp_path_factory):
    "A finished run: its folder, and what the command printed."
    out = tmp_path_factory.mktemp("runs") / "done"
    result = finetune(small_model, small_data, out, "--max-new-tokens", 12)
    assert result.returncode == 0, result.stderr
    return out, result


@pytest.fixture(scope="module")
def finished(ran):
    return ran[0]


def test_finetune_leaves_every_file(finished, small_data):
    assert sorted(p.name for p in finished.iterdir()) == sorted(RUN_FILES)
    records = json.loads(small_data.read_text())
    responses = json.loads((finished / "responses.json").read_text())
    asked = [r["instruction"] for r in records[51:57]]
    assert [r["instruction"] for r in responses] == asked
    names = ["instruction", "input", "output", "response_before", "response"]
    assert all(list(r) == names for r in responses)
    metrics = json.loads((finished / "metrics.json").read_text())
    scores = {"loss", "exact_match", "rouge_l", "token_f1", "n", "seconds"}
    for when in ("before", "after"):
        assert scores <= metrics[when].keys() and metrics[when]["n"] == 6
    assert metrics["after"]["loss"] < metrics["before"]["loss"]
    with open(finished / "history.csv") as f:
        rows = list(csv.DictReader(f))
    columns = "step,epoch,examples_seen,tokens_seen,train_loss,val_loss,lr"
    assert list(rows[0]) == columns.split(",")
    assert len(rows) == 1 + 2 * 7 and int(rows[-1]["examples_seen"]) == 2 * 51
    run = json.loads((finished / "run.json").read_text())
    assert run["settings"]["seed"] == 123
    assert run["versions"]["torch"] == torch.__version__
    assert (finished / "losses.png").read_bytes().startswith(b"\x89PNG")


def test_finetune_ends_with_what_a_person_wants_to_see(ran):
    out, result = ran
    metrics = json.loads((out / "metrics.json").read_text())
    table, answers, places = result.stdout.strip().split("\n\n")
    for name, label in (("loss", "loss"), ("rouge_l", "ROUGE-L")):
        before, after = (metrics[when][name] for when in ("before", "after"))
        line = re.search(rf"^{label}.*", table, re.M)[0]
        assert f"{before:.3f}" in line and f"{after:.3f}" in line
    assert table.splitlines()[0].startswith("6 test records")
    assert re.search(r"ROUGE-L .*\d to \d.*\d to \d", table)
    responses = json.loads((out / "responses.json").read_text())
    for i in (0, 3, 5):
        assert responses[i]["instruction"] in answers
    assert answers.count("  before  ") == answers.count("  after   ") == 3
    assert str(out / "report.html") in places
    assert "\033" not in result.stdout
    assert "answers: 100%" in result.stderr and "fine-tuning: 100%" in result.stderr


def test_finetune_prints_only_json_when_asked_to(small_model, small_data, tmp_path):
    more = ("--json", "--epochs", 1, "--max-new-tokens", 2, "--split-seed", 5)
    result = finetune(small_model, small_data, tmp_path / "run", *more)
    found = json.loads(result.stdout)
    assert found["report"] == str(tmp_path / "run" / "report.html")
    written = json.loads((tmp_path / "run" / "metrics.json").read_text())
    del found["report"]
    assert found == written and written["weights_sha256"]
    assert [g["group"] for g in written["after"]["groups"]] == ["all"]
    responses = json.loads((tmp_path / "run" / "responses.json").read_text())
    records = json.loads(small_data.read_text())
    shuffled = [r["instruction"] for r in responses]
    assert shuffled != [r["instruction"] for r in records[51:57]]


def test_the_model_it_leaves_answers(finished):
    load_pretrained(finished)
    result = gpt_course("respond", finished, "Say the number 7.", "--max-new-tokens", 5)
    assert result.returncode == 0 and not result.stderr


@pytest.mark.parametrize("yours", ["adapter", "tokenizer.json"])
def test_what_lies_where_a_run_would_write_is_left_alone(
    yours, small_model, small_data, tmp_path
):
    (tmp_path / yours).mkdir()
    refused(
        finetune(small_model, small_data, tmp_path),
        f"already has files that a run would write in it ({yours})",
    )
    assert [p.name for p in tmp_path.iterdir()] == [yours]


def test_an_existing_run_is_left_alone(finished, small_model, small_data):
    before = {p.name: p.read_bytes() for p in finished.iterdir()}
    refused(finetune(small_model, small_data, finished), "already has a run in it")
    more = ("--resume", "--max-new-tokens", 12)
    refused(finetune(small_model, small_data, finished, *more), "complete")
    assert before == {p.name: p.read_bytes() for p in finished.iterdir()}


def test_killed_and_resumed_gives_the_same(small_model, small_data, tmp_path):
    args = [small_model, small_data]
    more = [
        "--save-steps",
        50,
        "--max-new-tokens",
        4,
        "--epochs",
        40,
        "--batch-size",
        4,
    ]
    assert finetune(*args, tmp_path / "whole", *more).returncode == 0
    killed = tmp_path / "killed"
    command = ["finetune", "--model", small_model, "--data", small_data, "--out"]
    process = subprocess.Popen(
        [*COMMAND, *map(str, [*command, killed, *more])],
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
    assert (killed / "checkpoint.safetensors").exists()
    assert not (killed / "metrics.json").exists()
    refused(finetune(*args, killed, *more), "--resume")
    other = [*more[:-1], 8, "--resume"]
    refused(finetune(*args, killed, *other), "batch_size 4 → 8")
    result = finetune(*args, killed, *more, "--resume")
    assert result.returncode == 0, result.stderr
    for name in ("history.csv", "model.safetensors", "responses.json"):
        whole = (tmp_path / "whole" / name).read_bytes()
        assert (killed / name).read_bytes() == whole, name


@pytest.mark.parametrize("name, code", [("INT", 130), ("TERM", 143), ("HUP", 129)])
def test_stopped_it_saves_the_step_and_says_how_to_go_on(
    name, code, small_model, small_data, tmp_path
):
    "Long before a checkpoint is due; the rows that are saved are those of the run."
    args = [small_model, small_data, tmp_path / "run", "--epochs", 2000]
    command = ["finetune", "--model", args[0], "--data", args[1], "--out", *args[2:]]
    process = subprocess.Popen(
        [*COMMAND, *map(str, command), "--max-new-tokens", "2"],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        # under nohup or in the background they are ignored, and that is inherited
        preexec_fn=lambda: signal.signal(getattr(signal, f"SIG{name}"), signal.SIG_DFL),
    )
    said = ""
    while "fine-tuning" not in said:
        said += process.stderr.read(1)
    time.sleep(1)
    process.send_signal(getattr(signal, f"SIG{name}"))
    said += process.communicate(timeout=120)[1]
    assert process.returncode == code
    why = "interrupted" if name == "INT" else f"stopped by SIG{name}"
    told = rf"^gpt-course finetune: {why}: step (\d+) of 14000 is saved; the same "
    found = re.search(told + "command with --resume goes on from there$", said, re.M)
    assert found and int(found[1]) > 0 and "Traceback" not in said, said
    left = sorted(path.name for path in (tmp_path / "run").iterdir())
    assert left == ["checkpoint.safetensors", "responses_before.json", "run.json"]
    rows = checkpoint_state(tmp_path / "run" / "checkpoint.safetensors")["rows"]
    assert len(rows) == int(found[1]) + 1


def test_lora_leaves_an_adapter_and_the_merged_model(small_model, small_data, tmp_path):
    out = tmp_path / "run"
    lora = ["--lora-rank", 2, "--lora-target-modules", "c_attn,c_proj"]
    more = ["--gradient-accumulation-steps", 2, "--gradient-checkpointing"]
    result = finetune(small_model, small_data, out, "--max-new-tokens", 4, *lora, *more)
    assert result.returncode == 0 and "LoRA: " in result.stderr, result.stderr
    assert sorted(p.name for p in out.iterdir()) == sorted([*RUN_FILES, "adapter"])
    settings = json.loads((out / "run.json").read_text())["settings"]
    wanted = {
        "lora_rank": 2,
        "lora_alpha": 32.0,
        "gradient_accumulation_steps": 2,
        "gradient_checkpointing": True,
    }
    assert {name: settings[name] for name in wanted} == wanted
    (base, _), (merged, _) = load_pretrained(small_model), load_pretrained(out)
    ids = torch.arange(20)[None]
    with torch.no_grad():
        # it learned something, and the adapter says what
        assert (base(ids) - merged(ids)).abs().max() > 1e-4
        adapted = load_adapter(base, out / "adapter")(ids)
        assert (adapted - merged(ids)).abs().max() < 1e-4


def test_a_run_that_will_not_fit_is_warned_of(
    small_model, small_data, monkeypatch, capsys, tmp_path
):
    from gpt_course import memory
    from gpt_course.cli import main

    monkeypatch.setattr(memory, "available_memory", lambda device: 10**8)
    args = ["--model", small_model, "--data", small_data, "--out", tmp_path / "run"]
    more = ["--epochs", 1, "--max-new-tokens", 2]
    assert main(["finetune", *map(str, [*args, *more])]) == 0
    assert "warning: training needs about 0." in capsys.readouterr().err


# what is refused

GOOD = {"instruction": "Say hi.", "input": "", "output": "Hi."}
LONG = {"instruction": "x y " * 400, "output": "x"}
BAD = {
    "missing": (None, "no such file"),
    "empty": (b"", "is empty"),
    "not JSON": (b"{oops", "not JSON"),
    "one object": (b'{"a": 1}', "record 1: field 'instruction' is missing"),
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
    "long prompt": (json.dumps([GOOD] * 9 + [LONG] * 3).encode(), "tokens"),
    "too few": (json.dumps([GOOD]).encode(), "at least 3"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_data_is_refused_with_one_message(name, small_model, tmp_path):
    content, contains = BAD[name]
    if content is not None:
        (tmp_path / "data.json").write_bytes(content)
    result = finetune(small_model, tmp_path / "data.json", tmp_path / "out")
    refused(result, contains)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "args, contains",
    [
        (["finetun"], "no command 'finetun'; did you mean finetune?"),
        (["finetune", "--epoch", "3"], "did you mean --epochs?"),
        (["finetune", "--epochs", "three"], "invalid int value: 'three'"),
        (["finetune", "--model", "gpt5"], "unknown model 'gpt5'"),
        (["finetune", "--epochs", "0"], "epochs is 0"),
        (["finetune", "--batch-size", "0"], "batch_size is 0"),
        (["finetune", "--device", "abacus"], "'abacus'"),
        (["finetune", "--warmup-steps", "-1"], "warmup_steps is -1"),
        (["finetune", "--lora-rank", "-1"], "lora_rank is -1"),
        (["finetune", "--optimizer", "sgd"], "optimizer is 'sgd'"),
        (["respond", "tiny"], "arguments are required: INSTRUCTION"),
        (["respond", "tiny", "Say", "hi"], "put longer texts in quotes"),
        (["respond", "tiny", "why " * 400], "context is 256"),
        (["respond", "tiny", ""], "empty instruction"),
        (["respond", "tiny", "Hi", "--top-p", "7"], "top_p is 7.0"),
        (["evaluate", "tiny", "--judge", "http://127.0.0.1:9/v1"], "--judge-model"),
        (["evaluate", "tiny", "--samples", "0"], "samples is 0"),
        (["evaluate", "tiny", "--part", "tests"], "invalid choice: 'tests'"),
    ],
)
def test_bad_arguments_are_refused_with_one_line(args, contains, tmp_path):
    result = gpt_course(*args, cwd=tmp_path)
    refused(result, contains)
    assert result.stderr.count("\n") == 1
    assert not any(tmp_path.iterdir())


def test_layers_that_are_not_there_are_refused(small_model, small_data, tmp_path):
    lora = ("--lora-rank", 2, "--lora-target-modules", "c_atn")
    result = finetune(small_model, small_data, tmp_path / "out", *lora)
    refused(result, "'c_atn'")
    assert not (tmp_path / "out").exists()


def test_a_model_folder_that_is_broken_is_refused(small_model, tmp_path):
    (tmp_path / "config.json").write_bytes((small_model / "config.json").read_bytes())
    refused(gpt_course("respond", tmp_path, "Hi"), "model.safetensors")
    weights = (small_model / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(weights[:-100])
    refused(gpt_course("respond", tmp_path, "Hi"), "model.safetensors")


def test_without_network_gpt2_says_what_to_do(tmp_path):
    env = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    refused(gpt_course("respond", "gpt2", "Hi", env=env), "tiny")


# chat


def test_chat_answers_one_line_after_another(small_model, tmp_path):
    lines = ["Say hi.", "", "/input quickly", "Say hi.", "/input", "x " * 600]
    more = ["Say hi.", "/save turns.json", "/save turns.json", "/inptu a", "/help"]
    result = gpt_course(
        *("chat", small_model, "--max-new-tokens", 3),
        input="\n".join([*lines, *more, "/quit", "Say hi."]),
        cwd=tmp_path,
    )
    assert result.returncode == 0, result.stderr
    asked = ("respond", small_model, "Say hi.", "--max-new-tokens", 3, "--input")
    alone = [gpt_course(*asked, text).stdout for text in ("", "quickly")]
    assert result.stdout == alone[0] + alone[1] + alone[0]
    turns = json.loads((tmp_path / "turns.json").read_text("utf-8"))
    assert [turn["input"] for turn in turns] == ["", "quickly", ""]
    assert [turn["output"] for turn in turns[:2]] == [text.strip() for text in alone]
    for said in ("context is 512", "did you mean /input?", "/temperature X"):
        assert said in result.stderr
    assert "Traceback" not in result.stderr


def on_terminal(args, env, typed=()):
    "What a command shows on a terminal where something is typed, prompt by prompt."
    terminal, end = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, *map(str, args)], stdin=end, stdout=end, stderr=end, env=env
    )
    os.close(end)
    shown, typed = b"", list(typed)
    while True:
        ready, _, _ = select.select([terminal], [], [], 120)
        assert ready, shown
        try:
            piece = os.read(terminal, 4096)
        except OSError:  # Linux, when nobody has the other end any more
            break
        if not piece:
            break
        shown += piece
        if typed and shown.endswith((b"> ", b"> \x1b[K")):
            os.write(terminal, typed.pop(0))
            shown += b"|"
    os.close(terminal)
    assert process.wait(timeout=60) == 0, shown
    return shown.decode()


def test_chat_on_a_terminal_calls_earlier_lines_back(small_model):
    pytest.importorskip("readline")
    env = os.environ | {"TERM": "xterm"}
    up = b"\x1b[A\n"
    args = ["chat", small_model, "--max-new-tokens", 3]
    shown = on_terminal(args, env, [b"Say hi.\n", up, b"\x04"])
    assert shown.count("> |Say hi.") == 2


def test_colours_are_for_terminals_only(finished, small_data):
    args = ["evaluate", finished, "--data", small_data, "--max-new-tokens", 2]
    plain = {k: v for k, v in os.environ.items() if k != "NO_COLOR"}
    plain |= {"TERM": "xterm"}
    assert "\033[1mscore" in on_terminal(args, plain)
    assert "\033[1m" not in on_terminal(args, plain | {"NO_COLOR": "1"})


# evaluate


def scores_of(finished, small_data, *more):
    args = ("evaluate", finished, "--data", small_data, "--max-new-tokens", 12)
    result = gpt_course(*args, "--json", *more)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_a_file_is_scored_whole_or_in_part(finished, small_data):
    whole = scores_of(finished, small_data)
    test = scores_of(finished, small_data, "--part", "test")
    assert (whole["n"], test["n"]) == (60, 6)
    metrics = json.loads((finished / "metrics.json").read_text())["after"]
    assert {name: test[name] for name in ("loss", "rouge_l", "end_rate")} == {
        name: pytest.approx(metrics[name]) for name in ("loss", "rouge_l", "end_rate")
    }
    low, high = whole["intervals"]["rouge_l"]
    assert low <= whole["rouge_l"] <= high
    shuffled = scores_of(finished, small_data, "--part", "test", "--split-seed", 5)
    assert shuffled["n"] == 6 and shuffled["loss"] != test["loss"]


def test_a_run_is_scored_on_the_test_part_of_its_own_data(finished, small_data):
    args = ("evaluate", finished, "--max-new-tokens", 12, "--json")
    result = gpt_course(*args)
    assert result.returncode == 0, result.stderr
    assert str(small_data) in result.stderr
    assert json.loads(result.stdout) == scores_of(
        finished, small_data, "--part", "test"
    )


def test_scores_are_a_table_for_people(finished, small_data):
    args = ("evaluate", finished, "--data", small_data, "--max-new-tokens", 2)
    result = gpt_course(*args, "--part", "test")
    lines = result.stdout.splitlines()
    assert lines[0].split("  ")[0] == "score" and lines[0].endswith("95% interval")
    assert re.search(r"^ROUGE-L +0\.\d{3} +0\.\d\d to \d\.\d\d$", result.stdout, re.M)


def test_several_answers_are_drawn_and_one_is_scored(finished, small_data):
    """With one sample the answer is greedy; with more, it is one of the drawn ones, the
    same every time.
    """
    part = ("--part", "test", "--samples")
    greedy = scores_of(finished, small_data, *part, 1)
    drawn = scores_of(finished, small_data, *part, 3)
    assert greedy == scores_of(finished, small_data, "--part", "test")
    assert drawn == scores_of(finished, small_data, *part, 3)
    assert drawn.keys() == greedy.keys() and drawn != greedy


# export


@pytest.mark.parametrize("to, file", [("hf", "tokenizer.json"), ("gguf", "Modelfile")])
def test_export_writes_a_folder_and_keeps_what_is_there(to, file, finished, tmp_path):
    args = ("export", finished, "--to", to, "--out", tmp_path / "out")
    result = gpt_course(*args)
    assert result.returncode == 0, result.stderr
    assert str(tmp_path / "out") in result.stdout
    assert (tmp_path / "out" / file).exists()
    assert "exact match" in (tmp_path / "out" / "README.md").read_text()
    before = {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()}
    refused(gpt_course(*args), "already has files in it")
    assert before == {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()}


def test_export_refuses_what_it_cannot_write(finished, tmp_path):
    args = ("export", finished, "--out", tmp_path / "out")
    refused(gpt_course(*args, "--to", "onnx"), "choose hf")
    env = os.environ | {"HF_HOME": str(tmp_path), "HF_TOKEN": ""}
    refused(gpt_course(*args, "--push", "somebody/model", env=env), "not logged in")


# lab


def test_lab_copies_the_lectures_and_says_what_is_new(tmp_path):
    folder = tmp_path / "course"
    first = gpt_course("lab", folder, "--copy-only")
    assert first.returncode == 0 and "START.md" in first.stdout
    (folder / "01_dataset.ipynb").write_text("mine")
    (folder / "beyond" / "03_lora.ipynb").unlink()
    second = gpt_course("lab", folder, "--copy-only")
    assert second.returncode == 0
    assert second.stdout.strip().endswith("new: beyond/03_lora.ipynb")
    assert (folder / "01_dataset.ipynb").read_text() == "mine"
    refused(gpt_course("lab", folder / "START.md", "--copy-only"), "is a file")
