"A run's folder: who may write there, how it goes on, what can be read from it"

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch

from gpt_course import responses
from gpt_course.accidents import Stopped
from gpt_course.checkpoints import checkpoint_state
from gpt_course.files import write_json
from gpt_course.model import GPT, GPTConfig, init_weights
from gpt_course.model_folders import load_pretrained, save_pretrained
from gpt_course.responses import respond
from gpt_course.run_folder import (
    RUN_FILES,
    Run,
    create_run,
    known_license,
    read_run,
    resume_run,
)
from gpt_course.runs import RunConfig, run_finetune
from gpt_course.settings import GenerationConfig

SETTINGS = {"model": "tiny", "data": "a.json", "data_sha256": "12", "lr": 1e-3}


def content(folder):
    return {f.name: f.read_bytes() for f in folder.iterdir() if f.is_file()}


# claiming


def test_a_folder_is_claimed_and_released(tmp_path):
    run = create_run(tmp_path / "new" / "run", SETTINGS)
    record = json.loads(run.record.read_text("utf-8"))
    assert record["settings"] == SETTINGS and "torch" in record["versions"]
    assert run.locked and (run.folder / ".lock").exists()
    run.release()
    assert not run.locked and content(run.folder).keys() == {"run.json"}


def test_the_home_folder_is_meant_by_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert create_run("~/run", SETTINGS).folder == tmp_path / "run"


@pytest.mark.parametrize(
    "yours, what",
    [
        ("adapter", "files that a run would write"),
        ("tokenizer.json", "files that a run would write"),
        ("checkpoint.safetensors", "a run"),
        ("metrics.json", "a run"),
        ("model.safetensors", "a run"),
        ("run.json", "a run"),  # empty, so not one that was only begun
    ],
)
def test_what_a_run_would_replace_is_left_alone(yours, what, tmp_path):
    (tmp_path / yours).write_text("")
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=rf"already has {what} in it \({yours}\)"):
        create_run(tmp_path, SETTINGS)
    assert content(tmp_path) == {yours: b"", "notes.txt": b"mine"}


def test_other_files_do_not_matter_and_a_file_is_no_folder(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    create_run(tmp_path, SETTINGS)
    with pytest.raises(ValueError, match="notes.txt: is a file"):
        create_run(tmp_path / "notes.txt", SETTINGS)


@pytest.mark.parametrize("begin", [create_run, resume_run])
def test_a_run_without_a_checkpoint_is_begun_anew(begin, tmp_path):
    create_run(tmp_path, SETTINGS | {"lr": 1e6}).release()
    run = begin(tmp_path, SETTINGS)
    assert run.read().settings["lr"] == 1e-3
    run.checkpoint.write_text("")
    with pytest.raises(ValueError, match="already has a run in it"):
        create_run(tmp_path, SETTINGS)


BEGIN = """
import sys
from gpt_course.run_folder import create_run, resume_run
begin = resume_run if sys.argv[2] == "resume" else create_run
try:
    run = begin(sys.argv[1], {"model": "tiny", "data": "a.json"})
except ValueError as e:
    print(e, flush=True)
else:
    print("begun", flush=True)
    sys.stdin.read()
"""


def beginner(folder, how):
    "A process that begins or resumes a run, and works until its stdin is closed."
    return subprocess.Popen(
        [sys.executable, "-c", BEGIN, str(folder), how],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("how", ["create", "resume"])
def test_of_several_processes_one_wins_and_a_dead_one_blocks_nobody(how, tmp_path):
    settings = {"model": "tiny", "data": "a.json"}
    if how == "resume":
        run = create_run(tmp_path, settings)
        run.checkpoint.write_text("")
        run.release()
    processes = [beginner(tmp_path, how) for _ in range(3)]
    said = [process.stdout.readline() for process in processes]
    winner = processes[said.index("begun\n")]
    told = f"{tmp_path}: process {winner.pid} on "
    refused = [line for line in said if line.startswith(told)]
    assert sorted([*refused, "begun\n"]) == sorted(said)
    with pytest.raises(ValueError, match="is at work here; wait until it ends, or"):
        resume_run(tmp_path, settings)
    winner.kill()
    for process in processes:
        process.communicate()
    assert resume_run(tmp_path, settings).locked


def test_what_a_killed_run_was_writing_is_removed(tmp_path):
    run = interrupted(tmp_path)
    run.adapter.mkdir()
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    stale = [
        tmp_path / f".checkpoint.safetensors.{dead.pid}-abcd_123.tmp.safetensors",
        run.adapter / f".adapter_model.safetensors.{os.getpid()}-abcdefgh.tmp",
    ]
    yours = [tmp_path / ".notes.tmp", tmp_path / ".a.1-2.tmp", tmp_path / "a.tmp"]
    for path in (*stale, *yours):
        path.write_text("")
    (tmp_path / ".saving-abcdefgh").mkdir()
    (tmp_path / ".saving-abcdefgh" / "model.safetensors").write_text("half")
    run = resume_run(tmp_path, SETTINGS)
    assert not any(path.exists() for path in stale)
    assert all(path.exists() for path in yours)
    assert not (tmp_path / ".saving-abcdefgh").exists()
    run.release()


# resuming


def interrupted(folder):
    run = create_run(folder, SETTINGS)
    run.checkpoint.write_text("")
    run.release()
    return run


def test_a_run_is_resumed_with_the_same_settings_only(tmp_path):
    run = interrupted(tmp_path)
    for changed, said in (
        ({"lr": 2e-3}, "lr 0.001 → 0.002"),
        ({"data_sha256": "34"}, "data_sha256 '12' → '34'"),
        ({"bf16": True}, "bf16 None → True"),
    ):
        with pytest.raises(ValueError, match=f"other settings .*{said}"):
            resume_run(tmp_path, SETTINGS | changed)
    # the same data in another place, and what changes no number
    resume_run(tmp_path, SETTINGS | {"data": "moved/a.json"}).release()
    resume_run(tmp_path, SETTINGS | {"save_minutes": 1.0, "save_steps": 2}).release()
    record = json.loads(run.record.read_text("utf-8"))
    assert len(record["resumed"]) == 2 and record["settings"] == SETTINGS


def test_a_complete_run_is_not_resumed(tmp_path):
    "What it needs no more is removed, if it was killed before it could do that."
    run = interrupted(tmp_path)
    run.metrics.write_text("{}")
    with pytest.raises(ValueError, match="metrics.json: need the scores"):
        resume_run(tmp_path, SETTINGS)
    assert run.checkpoint.exists()
    write_json(run.metrics, {w: {"exact_match": 0.5} for w in ("before", "after")})
    with pytest.raises(ValueError, match="this run is complete; choose another --out"):
        resume_run(tmp_path, SETTINGS)
    assert content(tmp_path).keys() == {"run.json", "metrics.json"}


@pytest.mark.parametrize(
    "text, said",
    [
        (None, "no run.json of a run to resume"),
        ("{", "run.json: not JSON"),
        ("[]", "run.json: JSON, but no object"),
        ("{}", "run.json: has no settings with model and data"),
        ('{"settings": {"model": "tiny"}}', "has no settings with model and data"),
        ('{"settings": {"model": 1, "data": 2}, "versions": 3}', "versions is damaged"),
        ('{"settings": {"model": 1, "data": 2}, "resumed": {}}', "resumed is damaged"),
    ],
)
def test_a_damaged_run_is_not_resumed(text, said, tmp_path):
    run = interrupted(tmp_path)
    run.record.unlink()
    if text is not None:
        run.record.write_text(text)
    before = content(tmp_path)
    with pytest.raises(ValueError, match=said):
        resume_run(tmp_path, SETTINGS)
    assert content(tmp_path) == before


# reading


def test_names_of_models_are_no_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("tiny", "gpt2", "mine"):
        create_run(name, SETTINGS)
    assert read_run("tiny") is None and read_run("gpt2") is None
    assert read_run("mine").settings == SETTINGS
    assert read_run(None) is None and read_run(tmp_path / "none") is None


def test_damaged_scores_are_named(tmp_path):
    run = interrupted(tmp_path)
    for text in ("{", "[]", "{}", '{"before": {}, "after": {"exact_match": 1}}'):
        run.metrics.write_text(text)
        with pytest.raises(ValueError, match="metrics.json: "):
            read_run(tmp_path)


def test_the_licence_is_known_for_our_own_data_and_models_only(tmp_path):
    for base, data, license in (
        ("tiny", "builtin", "mit"),
        ("gpt2", "builtin", "mit"),
        ("gpt2", "lecture", None),
        ("runs/a", "builtin", None),
        ("hf:a/b", "builtin", None),
    ):
        settings = {"model": base, "data": data}
        write_json(tmp_path / "run.json", {"settings": settings})
        assert known_license(tmp_path) == license, settings
    assert known_license("gpt2-xl") == "mit" and known_license("somewhere") is None


# the whole job


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    "A small model and 40 records, as options of a run."
    folder = tmp_path_factory.mktemp("job")
    shape = GPTConfig(vocab_size=400, n_positions=512, n_embd=32, n_layer=2, n_head=4)
    save_pretrained(init_weights(GPT(shape), seed=3), None, folder / "small")
    records = [
        {"instruction": f"Say the number {i}.", "input": "", "output": f"It is {i}."}
        for i in range(40)
    ]
    write_json(folder / "small.json", records)
    return dict(
        model=folder / "small",
        data=str(folder / "small.json"),
        epochs=2,
        batch_size=4,
        lr=1e-3,
        max_new_tokens=4,
        save_steps=3,
    )


def run_in(folder, job, resume=False, **more):
    config = RunConfig.from_options(**job | more, out=folder)
    return run_finetune(config, resume=resume, progress=False, say=lambda text: None)


@pytest.fixture(scope="module")
def whole(job, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    run_in(folder, job)
    return folder


def test_a_run_leaves_every_file_and_nothing_else(whole):
    assert sorted(f.name for f in whole.iterdir()) == sorted(RUN_FILES)
    record = json.loads((whole / "run.json").read_text("utf-8"))
    assert record["settings"]["save_steps"] == 3
    run = read_run(whole)
    assert run.metrics["after"]["loss"] < run.metrics["before"]["loss"]
    assert len(run.history.rows) == 1 + 2 * 9
    page = Run(whole).report.read_text("utf-8")
    assert page.count("<article ") == run.metrics["after"]["n"] + 3  # examples


@pytest.mark.parametrize("steps", [4, 18])
def test_interrupted_and_resumed_gives_the_same(steps, job, whole, tmp_path):
    "Interrupted between two checkpoints, and after the last one."
    from gpt_course import finetuning

    real, done = finetuning.train_step, []

    def train_step(*args, **options):
        if len(done) == steps:
            raise KeyboardInterrupt
        done.append(1)
        return real(*args, **options)

    with pytest.MonkeyPatch.context() as patch:
        if steps < 18:
            patch.setattr(finetuning, "train_step", train_step)
        else:
            patch.setattr("gpt_course.report.render_report", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run_in(tmp_path, job)
    with pytest.raises(ValueError, match="epochs 2 → 3"):
        run_in(tmp_path, job, resume=True, epochs=3)
    metrics = run_in(tmp_path, job, resume=True)
    assert metrics["after"]["seconds"]["resumed"] is True
    assert sorted(f.name for f in tmp_path.iterdir()) == sorted(RUN_FILES)
    for name in ("history.csv", "model.safetensors", "responses.json"):
        assert (tmp_path / name).read_bytes() == (whole / name).read_bytes(), name


def interrupt(*args, **options):
    raise KeyboardInterrupt


def test_a_run_that_diverged_at_once_can_be_tried_again(job, tmp_path):
    with pytest.raises(FloatingPointError):
        run_in(tmp_path, job, lr=1e6, save_steps=100)
    left = sorted(f.name for f in tmp_path.iterdir())
    assert left == ["responses_before.json", "run.json"]
    assert run_in(tmp_path, job)["after"]["loss"] < 10


def test_what_is_wrong_is_said_before_a_folder_is_made(job, tmp_path):
    for wrong, said in (
        (dict(model="gpt5"), "gpt5"),
        (dict(data="none.json"), "none.json"),
        (dict(device="abacus"), "abacus"),
        (dict(lora_rank=2, lora_target_modules="c_atn"), "c_atn"),
    ):
        with pytest.raises(ValueError, match=said):
            run_in(tmp_path / "out", job, **wrong)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("lora_rank", [0, 2])
def test_transformers_answers_from_a_runs_folder_as_it_is(lora_rank, job, tmp_path):
    transformers = pytest.importorskip("transformers")
    run_in(tmp_path, job, lora_rank=lora_rank, lr=1e-2, epochs=4)
    assert (tmp_path / "adapter").exists() == bool(lora_rank)
    model, tokenizer = load_pretrained(tmp_path)
    asked = [f"Say the number {i}." for i in range(60, 70)]
    ours = respond(model, tokenizer, asked, GenerationConfig(max_new_tokens=8))
    pipe = transformers.pipeline("text-generation", str(tmp_path))
    for text, response in zip(asked, ours):
        messages = [{"role": "user", "content": text}]
        [reply] = pipe(messages, max_new_tokens=8)
        assert reply["generated_text"][-1]["content"].strip() == response.text


# what is kept, and of which base


@pytest.fixture
def asked(monkeypatch):
    "How many records each call of `respond` was given."
    real, counts = responses.respond, []

    def respond(model, tokenizer, records, *args, **options):
        counts.append(len(records))
        return real(model, tokenizer, records, *args, **options)

    for module in ("responses", "answers"):
        monkeypatch.setattr(f"gpt_course.{module}.respond", respond)
    return counts


def test_answers_before_are_asked_once(asked, job, whole, tmp_path, monkeypatch):
    "Also where only a part of them was known, and not for other data."
    monkeypatch.setattr("gpt_course.answers.BLOCK", 3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gpt_course.finetuning.train_step", interrupt)
        with pytest.raises(KeyboardInterrupt, match="answers before the training are"):
            run_in(tmp_path, job)
    assert asked == [3, 1]
    kept = json.loads((tmp_path / "responses_before.json").read_text("utf-8"))
    write_json(
        tmp_path / "responses_before.json",
        kept | {"responses": kept["responses"][:3], "scores": {}},
    )
    run_in(tmp_path, job, resume=True)
    assert asked == [3, 1, 1, 3, 1]
    for name in ("history.csv", "model.safetensors", "responses.json"):
        assert (tmp_path / name).read_bytes() == (whole / name).read_bytes(), name

    other = [{"instruction": f"Say {i}.", "output": "No."} for i in range(40)]
    write_json(tmp_path / "other.json", other)
    write_json(tmp_path / "new" / "responses_before.json", kept)
    write_json(tmp_path / "new" / "run.json", {"settings": {"model": 1, "data": 2}})
    asked.clear()
    run_in(tmp_path / "new", job, data=str(tmp_path / "other.json"))
    assert asked == [3, 1, 3, 1]


@pytest.mark.parametrize("lora_rank", [0, 2])
def test_a_run_goes_on_from_its_own_base_only(lora_rank, job, tmp_path):
    "The same weights may lie in another place."
    base, more = tmp_path / "base", dict(lora_rank=lora_rank)
    shutil.copytree(job["model"], base)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gpt_course.report.render_report", interrupt)
        with pytest.raises(KeyboardInterrupt, match="step 18 of 18 is saved"):
            run_in(tmp_path / "run", job, model=base, **more)
    state = checkpoint_state(tmp_path / "run" / "checkpoint.safetensors")
    record = json.loads((tmp_path / "run" / "run.json").read_text("utf-8"))
    known = record["settings"]["base_sha256"]
    assert len(known) == 64 and state["settings"]["base_sha256"] == known
    model, tokenizer = load_pretrained(base)
    with torch.no_grad():
        model.h[0].mlp.c_fc.weight[0, 0] += 1
    save_pretrained(model, tokenizer, base)
    with pytest.raises(
        ValueError, match=rf"weights of '{base}': sha256 {known[:12]} →"
    ):
        run_in(tmp_path / "run", job, model=base, resume=True, **more)
    run_in(tmp_path / "run", job, resume=True, **more)


# stopping


def needs(signum):
    if signal.getsignal(signum) is signal.SIG_IGN:
        pytest.skip("under nohup, or in the background, it is ignored, and stays so")


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_before_the_training_ends_the_run_at_once(name, job, tmp_path):
    signum = getattr(signal, name)
    needs(signum)

    def respond(*args, **options):
        signal.raise_signal(signum)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gpt_course.answers.respond", respond)
        with pytest.raises(Stopped, match="nothing is saved yet; the same") as e:
            run_in(tmp_path, job)
    assert e.value.exit_code == 128 + signum
    assert [f.name for f in tmp_path.iterdir()] == ["run.json"]
    assert signal.getsignal(signum) in (signal.SIG_DFL, signal.default_int_handler)


def test_a_signal_in_a_step_waits_for_its_end_and_a_second_one_does_not(job, tmp_path):
    from gpt_course import finetuning

    needs(signal.SIGINT)
    real, said, signals = finetuning.train_step, [], [signal.SIGTERM]

    def train_step(*args, **options):
        for signum in signals:
            signal.raise_signal(signum)
        return real(*args, **options)

    config = RunConfig.from_options(**job | {"save_steps": None}, out=tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finetuning, "train_step", train_step)
        with pytest.raises(Stopped, match="step 1 of 18 is saved; the same command"):
            run_finetune(config, progress=False, say=said.append)
        assert "\nstopping after this step; Ctrl-C stops at once" in said
        signals.append(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt, match="step 1 of 18 is saved"):
            run_finetune(config, resume=True, progress=False, say=said.append)


# room on the disk


def test_a_disk_that_is_too_full_is_refused_or_warned_of(job, tmp_path, monkeypatch):
    free, said = 10_000, []
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    out = tmp_path / "out"
    with pytest.raises(
        ValueError, match=r"out: 5.* MB will be written, and 0.0 MB are"
    ):
        run_in(out, job)
    assert not out.exists()
    free = 1_000_000
    config = RunConfig.from_options(**job, out=out)
    run_finetune(config, progress=False, say=said.append)
    assert any(line.startswith(f"warning: {out}: ") for line in said)
    assert (out / "metrics.json").exists()


def test_settings_are_there_without_torch():
    start = time.perf_counter()
    code = (
        "import sys; from gpt_course.runs import RunConfig; "
        "RunConfig.from_options(epochs=3).settings(); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    assert time.perf_counter() - start < 5
