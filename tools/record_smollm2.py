"""Fine-tune SmolLM2-135M on open records by LoRA, and record its answers before and
after, for the lectures: gpt_course/assets/smollm2_answers.json.

    python tools/record_smollm2.py part1.jsonl part2.jsonl

A record is a line of JSON with `instruction`, `input`, `output`, `task`, `wording` and
`ring`. Those of the ring `train` are trained on; of the others (`subject`, `wording`
and `kind`) about a hundred are asked before and after, spread evenly over the kinds,
and the rest gives the validation loss. Set OMP_NUM_THREADS for the number of threads.
"""

import argparse
import json
import platform
import sys
import time
from collections import defaultdict
from importlib.metadata import version
from pathlib import Path

import torch

import gpt_course
from gpt_course import load
from gpt_course.dataset import Records, Splits
from gpt_course.evaluation import score_responses
from gpt_course.files import ASSETS, write_json
from gpt_course.finetuning import finetune
from gpt_course.loaders import make_loaders
from gpt_course.lora import add_lora, merge_lora, remove_lora
from gpt_course.memory import peak_memory, return_freed_memory
from gpt_course.responses import respond
from gpt_course.settings import GenerationConfig, LoraConfig, TrainConfig
from gpt_course.smollm2 import smollm2_weights

# asked in each kind of a ring; of the ring `wording`, both wordings in turn
ASKED = {"subject": 3, "wording": 4, "kind": 15}
TRAIN = TrainConfig(epochs=2, lr=4e-4, gradient_checkpointing=True, eval_steps=25)
LORA = LoraConfig(lora_rank=8)
BATCH_SIZE = 4
GREEDY = GenerationConfig(max_new_tokens=128)
SHOWN = ("instruction", "input", "output", "task", "ring")


def read(paths):
    lines = [line for path in paths for line in Path(path).open(encoding="utf-8")]
    return [json.loads(line) for line in lines if line.strip()]


def spread(records, n):
    "The first `n`, taking one wording after the other"
    by_wording = defaultdict(list)
    for record in records:
        by_wording[record["wording"]].append(record)
    ranked = [(i, w, r) for w, rs in by_wording.items() for i, r in enumerate(rs)]
    return [r for _, _, r in sorted(ranked, key=lambda x: x[:2])[:n]]


def choose(records):
    "Those that are trained on, those that are not asked, and those that are"
    train = [r for r in records if r["ring"] == "train"]
    asked = []
    for ring, n in ASKED.items():
        found = [r for r in records if r["ring"] == ring]
        for task in dict.fromkeys(r["task"] for r in found):
            asked += spread([r for r in found if r["task"] == task], n)
    rest = [r for r in records if r["ring"] != "train" and r not in asked]
    return train, rest, asked


def plain(records):
    return Records({k: r[k] for k in SHOWN[:3]} for r in records)


def tune(model, loaders):
    "Train in place; the rows of the history, and the minutes by clock and processor"
    network = model.network
    add_lora(network, LORA.lora_rank, LORA.lora_alpha, seed=TRAIN.seed)
    start, worked = time.perf_counter(), time.process_time()
    rows = finetune(network, loaders.train, loaders.val, TRAIN)
    minutes = {
        "finetune": round((time.perf_counter() - start) / 60, 1),
        "finetune_processor": round((time.process_time() - worked) / 60, 1),
    }
    remove_lora(merge_lora(network))
    return rows, minutes


def scores_by_ring(asked, responses):
    # with their `task`, which says that they are open
    scores = {"all": score_responses(asked, responses)}
    for ring in ASKED:
        chosen = [i for i, r in enumerate(asked) if r["ring"] == ring]
        records = [asked[i] for i in chosen]
        scores[ring] = score_responses(records, [responses[i] for i in chosen])
    return scores


def about(rows, minutes):
    "Everything that is needed to repeat it"
    losses = [[r["epoch"], r["val_loss"]] for r in rows if r["val_loss"] is not None]
    return {
        "weights": smollm2_weights(),
        "date": time.strftime("%Y-%m-%d"),
        "settings": {
            "epochs": TRAIN.epochs,
            "lr": TRAIN.lr,
            "batch_size": BATCH_SIZE,
            "lora_rank": LORA.lora_rank,
            "lora_alpha": LORA.lora_alpha,
            "gradient_checkpointing": TRAIN.gradient_checkpointing,
            "bf16": TRAIN.bf16,
            "max_new_tokens": GREEDY.max_new_tokens,
            "temperature": GREEDY.temperature,
            "seed": TRAIN.seed,
        },
        "minutes": minutes,
        "peak_gb": round(peak_memory() / 1e9, 2),
        "validation_loss": [[round(e, 2), round(v, 3)] for e, v in losses],
        "versions": {
            "gpt_course": gpt_course.__version__,
            "python": platform.python_version(),
            "machine": platform.machine(),
            "torch_threads": torch.get_num_threads(),
            **{name: version(name) for name in ("torch", "transformers", "gguf")},
        },
    }


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("records", nargs="+", help="files of records, JSON lines")
    out = ASSETS / "smollm2_answers.json"
    parser.add_argument("--out", type=Path, default=out, help=f"default: {out.name}")
    options = parser.parse_args()
    return_freed_memory()
    train, rest, asked = choose(read(options.records))
    print(f"{len(train)} trained on, {len(asked)} asked", file=sys.stderr)
    model = load("smollm2", device="cpu")
    loaders = make_loaders(
        Splits(plain(train), plain(rest), plain(asked)),
        model.tokenizer,
        model.network.config.n_positions,
        BATCH_SIZE,
        TRAIN.seed,
    )
    start = time.perf_counter()
    before = respond(model.network, model.tokenizer, plain(asked), GREEDY)
    rows, minutes = tune(model, loaders)
    after = respond(model.network, model.tokenizer, plain(asked), GREEDY)
    total = (time.perf_counter() - start) / 60
    found = about(rows, minutes)
    found["minutes"]["with_answers"] = round(total, 1)
    found["records"] = {"train": len(train), "val": len(rest), "asked": len(asked)}
    whens = {"before": before, "after": after}
    by_ring = {when: scores_by_ring(asked, given) for when, given in whens.items()}
    found["scores"] = {when: scores["all"] for when, scores in by_ring.items()}
    found["by_ring"] = {
        ring: {when: scores[ring] for when, scores in by_ring.items()} for ring in ASKED
    }
    found["answers"] = [
        {k: r[k] for k in SHOWN} | {"before": b.text, "after": a.text}
        for r, b, a in zip(asked, before, after, strict=True)
    ]
    write_json(options.out, found)
    print(json.dumps(found["scores"], indent=2))


if __name__ == "__main__":
    main()
