"""Train `tiny` in the ways that the lecture on the losses compares, and record what
happened: gpt_course/assets/runs/.

    OMP_NUM_THREADS=1 python tools/record_runs.py gpt_course/assets/runs
    python tools/record_runs.py FOLDER --only all-2-epochs few-12-epochs-a

Each run leaves NAME.csv, its history, and NAME.json, what was set and what was scored
at the end. All of them are on the short kinds of `builtin`. `answers` is another run:
the main job, on all kinds and with all defaults; it leaves answers.json, every test
record with the answers before and after.

A run whose files are there and were made with these weights and these settings is not
made again, so the script may be stopped and started. About twenty minutes on one
thread.
"""

# ruff: noqa: E402
import argparse
import json
import os
import random
import time
from dataclasses import asdict, dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path

from kernel_env import set_kernel_env

set_kernel_env(os.environ)  # as notebooks and tests have it, before torch is imported

import torch

from gpt_course.checkpoints import weights_sha256
from gpt_course.evaluation import exact_match
from gpt_course.files import write_json
from gpt_course.finetuning import (
    Callback,
    default_lr,
    evaluate_loss,
    finetune,
    summed_loss,
)
from gpt_course.history import History
from gpt_course.loaders import make_loaders
from gpt_course.model_folders import load_pretrained
from gpt_course.records import Records, load_data
from gpt_course.responses import respond
from gpt_course.settings import GenerationConfig, TrainConfig

MODEL, DATA = "tiny", "builtin"
BATCH_SIZE, MAX_LENGTH = 8, 256
ASKED = 40  # records of each ring, and of the training part
RINGS = ("subject", "wording", "kind")
GREEDY = GenerationConfig(max_new_tokens=48)
# steps after which the validation loss is measured, besides every `eval_steps`: most
# happens at the start
EARLY = (1, 2, 3, 4, 5, 7, 10, 15, 20, 30, 40)


@dataclass(frozen=True)
class Run:
    "One cell of the grid."

    name: str  # of its files
    records: int | None  # drawn from the training part; `None` for all
    epochs: int
    times: int = 1  # the default learning rate, times this
    draw: int = 0  # which records; also the seed of their order
    eval_steps: int = 25


FEW = [
    Run(f"few-12-epochs{at}-{'abc'[draw]}", 40, 12, times, draw, eval_steps=10)
    for draw in range(3)
    for times, at in ((1, ""), (5, "-5x"))
]
RUNS = [
    Run("all-2-epochs", None, 2),
    *FEW[:2],
    Run("all-2-epochs-5x", None, 2, times=5),
    Run("some-12-epochs", 200, 12),
    Run("all-6-epochs", None, 6, eval_steps=40),
    *FEW[2:],
]


class MeasureEarly(Callback):
    "The validation loss after the first steps too."

    def __init__(self, loader):
        self.loader = loader

    def on_step_end(self, state):
        if state.step in EARLY and state.rows[-1]["val_loss"] is None:
            state.rows[-1]["val_loss"] = evaluate_loss(state.model, self.loader)


def is_short(record):
    return not record["task"].startswith("open_")


def short_splits():
    "The three parts, without the kinds that are answered in several sentences."
    splits = load_data(DATA).split()
    return type(splits)(*(Records(filter(is_short, part)) for part in splits))


def drawn(records, n, draw):
    "The first `n` of a shuffle, so that a larger draw holds the smaller ones."
    if n is None:
        return records
    return Records(random.Random(draw).sample(records, len(records))[:n])


def text_loss(model, tokenizer):
    "Mean loss per token of plain text: answers to open instructions, without prompts."
    texts = [r["output"] for r in load_data(DATA).split().val if not is_short(r)]
    total, tokens = 0.0, 0
    with torch.no_grad():
        for text in texts:
            ids = torch.tensor([tokenizer.encode(text)])
            loss, n = summed_loss(model, ids[:, :-1], ids[:, 1:])
            total, tokens = total + loss.item(), tokens + n
    return total / tokens


def right(model, tokenizer, records):
    "How many answers are the wanted words."
    responses = respond(model, tokenizer, records, GREEDY)
    scores = (exact_match(a.text, r["output"]) for a, r in zip(responses, records))
    return int(sum(scores))


def scores(model, tokenizer, trained, test):
    "Right answers of those asked, for each ring and for records of the training part."
    groups = {"trained on": trained}
    groups |= {ring: [r for r in test if r["ring"] == ring] for ring in RINGS}
    asked = {name: drawn(found, ASKED, draw=0) for name, found in groups.items()}
    return {
        name: [right(model, tokenizer, records), len(records)]
        for name, records in asked.items()
    }


def settings(run, lr, weights):
    "What a file must say to be of this run."
    return asdict(run) | {"lr": lr, "batch_size": BATCH_SIZE, "weights": weights}


def is_done(folder, run, wanted):
    about = folder / f"{run.name}.json"
    if not about.exists() or not about.with_suffix(".csv").exists():
        return False
    return json.loads(about.read_text("utf-8"))["settings"] == wanted


def record(folder, run, splits):
    "Make one run, and write its two files, the one that says *done* last."
    model, tokenizer = load_pretrained(MODEL)
    lr = run.times * default_lr(model)
    wanted = settings(run, lr, weights_sha256(list(model.parameters()))[:16])
    if is_done(folder, run, wanted):
        print(f"{run.name}: is there")
        return
    before = text_loss(model, tokenizer)
    train = drawn(splits.train, run.records, run.draw)
    parts = splits._replace(train=train)
    loaders = make_loaders(parts, tokenizer, MAX_LENGTH, BATCH_SIZE, seed=run.draw)
    config = TrainConfig(epochs=run.epochs, lr=lr, eval_steps=run.eval_steps)
    start = time.process_time()
    early = MeasureEarly(loaders.val)
    history = History(finetune(model, loaders.train, loaders.val, config, [early]))
    minutes = (time.process_time() - start) / 60
    about = {
        "settings": wanted,
        "exact_match": scores(model, tokenizer, train, splits.test),
        "text_loss": [round(before, 4), round(text_loss(model, tokenizer), 4)],
        "minutes": round(minutes, 1),
        "torch": version("torch"),
    }
    history.to_csv(folder / f"{run.name}.csv")
    write_json(folder / f"{run.name}.json", about)
    print(
        f"{run.name}: {minutes:.1f} minutes\n{history.summary()}\n{about}", flush=True
    )


def answer_rows(test, before, after):
    "The test records, each with its answers."
    fields = ("instruction", "input", "output", "task", "ring")
    return [
        {field: record[field] for field in fields}
        | {"before": a.text, "after": b.text}
        | {"before_ended": a.finish_reason == "stop"}
        | {"after_ended": b.finish_reason == "stop"}
        for record, a, b in zip(test, before, after, strict=True)
    ]


def record_answers(folder):
    "The main job: all kinds, all defaults; every answer to the test part."
    path = folder / "answers.json"
    model, tokenizer = load_pretrained(MODEL)
    weights = weights_sha256(list(model.parameters()))[:16]
    wanted = asdict(TrainConfig()) | {"lr": default_lr(model), "weights": weights}
    if path.exists() and json.loads(path.read_text("utf-8"))["settings"] == wanted:
        print("answers: are there")
        return
    splits = load_data(DATA).split()
    before = respond(model, tokenizer, splits.test)
    loaders = make_loaders(splits, tokenizer, model.config.n_positions)
    finetune(model, loaders.train, loaders.val)
    after = respond(model, tokenizer, splits.test)
    answers = answer_rows(splits.test, before, after)
    about = {"date": date.today().isoformat(), "settings": wanted, "answers": answers}
    write_json(path, about)
    right = sum(exact_match(row["after"], row["output"]) for row in answers)
    print(f"answers: {right:.0f} of {len(answers)} as wanted", flush=True)


def main():
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("folder", type=Path, help="where the files go")
    names = ["answers", *(run.name for run in RUNS)]
    p.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME")
    args = p.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    if "answers" in args.only:
        record_answers(args.folder)
    splits = short_splits()
    for run in RUNS:
        if run.name in args.only:
            record(args.folder, run, splits)


if __name__ == "__main__":
    main()
