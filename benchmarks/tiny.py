"""What `tiny` can be taught: scores on held-out records, over several seeds.

    python benchmarks/tiny.py                            # built-in data, three seeds
    python benchmarks/tiny.py --data lecture --epochs 5  # lecture's data; or a file
    python benchmarks/tiny.py --samples 16               # minimum Bayes risk of 16
    python benchmarks/tiny.py --samples 32 --together    # draws of all seeds' models

Prints one line a run, then the mean. Nothing is written.
"""

import argparse
import statistics
import time

from gpt_course.evaluation import score_responses
from gpt_course.finetuning import finetune
from gpt_course.loaders import make_loaders
from gpt_course.mbr import SAMPLING, respond_by_mbr
from gpt_course.model_folders import load_pretrained
from gpt_course.records import load_data
from gpt_course.responses import respond
from gpt_course.settings import GenerationConfig, TrainConfig

SHOWN = ("exact_match", "rouge_l", "end_rate")
GREEDY = GenerationConfig(max_new_tokens=96)
DRAWN = GenerationConfig(max_new_tokens=96, temperature=SAMPLING.temperature)


def score_greedy(model, tokenizer, records):
    return score_responses(records, respond(model, tokenizer, records, GREEDY))


def score_drawn(models, tokenizer, records, samples):
    drawn = respond_by_mbr(models, tokenizer, records, samples, DRAWN)
    return score_responses(records, drawn)


def run(a, config):
    "A fine-tuned model, and its scores before and after with the seconds it took"
    model, tokenizer = load_pretrained(a.model)
    splits = load_data(a.data).split()
    context = model.config.n_positions
    train, val, _ = make_loaders(splits, tokenizer, context, a.batch_size, config.seed)
    records = splits.val if a.validation else splits.test
    before = score_greedy(model, tokenizer, records)
    start = time.perf_counter()
    rows = finetune(model, train, val, config)
    seconds = time.perf_counter() - start
    after = score_greedy(model, tokenizer, records)
    row = {
        "seed": config.seed,
        "val_loss": rows[-1]["val_loss"],
        "seconds": seconds,
        "before": before["exact_match"],
        **{k: after[k] for k in SHOWN},
    }
    if a.samples > 1:
        drawn = score_drawn(model, tokenizer, records, a.samples)
        row |= {f"{k}_of_{a.samples}": drawn[k] for k in SHOWN}
    return model, row


def arguments():
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--model", default="tiny")
    p.add_argument("--data", default="builtin")
    p.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    p.add_argument("--epochs", type=int, default=2)
    p.add_argument("--lr", type=float)
    p.add_argument("--batch-size", type=int, default=8)
    p.add_argument(
        "--samples", type=int, default=1, help="answers drawn for each record"
    )
    p.add_argument("--bf16", action="store_true", help="matrix products in bfloat16")
    p.add_argument(
        "--together", action="store_true", help="at the end, draw from all models"
    )
    p.add_argument(
        "--validation", action="store_true", help="score the validation part instead"
    )
    return p.parse_args()


def main():
    a = arguments()
    models, rows = [], []
    for seed in a.seeds:
        config = TrainConfig(epochs=a.epochs, lr=a.lr, seed=seed, bf16=a.bf16)
        model, row = run(a, config)
        models.append(model)
        rows.append(row)
        print("  ".join(f"{k} {v:.4g}" for k, v in row.items()), flush=True)
    means = {k: statistics.fmean(r[k] for r in rows) for k in rows[0] if k != "seed"}
    print("mean  " + "  ".join(f"{k} {v:.4g}" for k, v in means.items()))
    if a.together:
        splits, tokenizer = load_data(a.data).split(), load_pretrained(a.model)[1]
        records = splits.val if a.validation else splits.test
        scores = score_drawn(models, tokenizer, records, a.samples)
        shown = "  ".join(f"{k} {scores[k]:.4g}" for k in SHOWN)
        print(f"together, {a.samples} answers of each model  {shown}")


if __name__ == "__main__":
    main()
