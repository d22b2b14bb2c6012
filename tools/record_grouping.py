"""What the order of the rows does to the loss: short trainings of `tiny`, recorded.

    python tools/record_grouping.py                      about 4 minutes on a free core
    python tools/record_grouping.py --seeds 1 --rows 64  a quick look

The same records of `builtin` once through, in three orders (`shuffled`, `grouped` by
length, `sorted` by length), by the plain loop of lecture 7; a few seeds where there is
chance. The losses go to `gpt_course/assets/runs/grouping.csv`, for lecture 3."""

import argparse
import csv
import random
import sys
import time
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader

from gpt_course.batching import collate_examples
from gpt_course.loaders import InstructionDataset, LengthGroupedSampler
from gpt_course.model_folders import load_pretrained
from gpt_course.records import load_data

OUT = Path(__file__).resolve().parent.parent / "gpt_course/assets/runs/grouping.csv"
BATCH, EVAL_STEPS, LR = 8, 10, 2e-4
# of the sampler: how many batches are sorted together
ORDERS = {
    "shuffled": {"pool": 1},
    "grouped": {"pool": 16},
    "sorted": {"shuffle": False},
}


def loader(dataset, **order):
    sampler = LengthGroupedSampler(dataset.lengths(), BATCH, **order)
    collate = partial(collate_examples, eos_id=dataset.eos_id)
    return DataLoader(dataset, batch_sampler=sampler, collate_fn=collate)


def loss_of(model, batch, reduction="mean"):
    logits = model(batch.input_ids).flatten(0, 1)
    return F.cross_entropy(logits, batch.targets.flatten(), reduction=reduction)


@torch.no_grad()
def validation_loss(model, batches):
    model.eval()
    total = sum(loss_of(model, b, "sum").item() for b in batches)
    model.train()
    return total / sum((b.targets != -100).sum().item() for b in batches)


def rows_of_a_run(train, val, order, seed):
    "One training, once through; a row for every few steps."
    model, _ = load_pretrained("tiny")
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR)
    batches = loader(train, seed=seed, **ORDERS[order])
    checks = list(loader(val, shuffle=False))
    for step, batch in enumerate(batches):
        loss = loss_of(model.train(), batch)
        row = {"order": order, "seed": seed, "step": step, "train": loss.item()}
        if step % EVAL_STEPS == 0:
            yield row | {"val": validation_loss(model, checks)}
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    last = {"order": order, "seed": seed, "step": len(batches), "train": ""}
    yield last | {"val": validation_loss(model, checks)}


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3, help="runs of each order")
    parser.add_argument("--rows", type=int, default=320, help="training records")
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    _, tokenizer = load_pretrained("tiny")
    splits = load_data("builtin").split()
    chosen = random.Random(1).sample(splits.train, args.rows)
    train = InstructionDataset(chosen, tokenizer, max_length=256)
    val = InstructionDataset(splits.val, tokenizer, max_length=256)
    found = []
    for order in ORDERS:
        # without chance, all seeds are the same
        seeds = 1 if order == "sorted" else args.seeds
        for seed in range(1, seeds + 1):
            start = time.perf_counter()
            found += rows_of_a_run(train, val, order, seed)
            took = f"{time.perf_counter() - start:.0f} s"
            print(f"{order}, seed {seed}: {found[-1]['val']:.3f}, took {took}")
            sys.stdout.flush()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with args.out.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, found[0], lineterminator="\n")
        writer.writeheader()
        for row in found:
            train_loss = row["train"] if row["train"] == "" else f"{row['train']:.4f}"
            writer.writerow(row | {"train": train_loss, "val": f"{row['val']:.4f}"})


if __name__ == "__main__":
    main()
