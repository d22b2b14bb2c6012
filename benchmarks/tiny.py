"""What `tiny` can be taught: scores on held-out records, over several seeds.

    python benchmarks/tiny.py                                # the built-in data, three seeds
    python benchmarks/tiny.py --data lecture --epochs 5      # the lecture's data; or the path of a JSON file
    python benchmarks/tiny.py --samples 16                   # of 16 drawn answers the one most like the others, beside the greedy one
    python benchmarks/tiny.py --samples 32 --together        # and the one most like the others of those that the models of all seeds draw

Prints one line a run, then the mean. Nothing is written.
"""

import argparse, statistics, time

from gpt_course.dataset import load_data, split_records
from gpt_course.evaluation import respond_by_consensus, score_responses
from gpt_course.finetuning import TrainConfig, finetune
from gpt_course.loaders import make_loaders
from gpt_course.pretrained import load_pretrained
from gpt_course.responses import respond

SHOWN = ("exact_match", "rouge_l", "end_rate")


def run(model, data, config, batch_size, part, samples):
    "Scores on one part of the data before and after fine-tuning, and the seconds it took"
    net, tokenizer = load_pretrained(model)
    parts = split_records(load_data(data))
    train, _, val = make_loaders(
        parts, tokenizer, net.config.n_positions, batch_size, config.seed
    )
    answer = lambda: score_responses(
        parts[part], respond(net, tokenizer, parts[part], max_new_tokens=96)
    )
    before, start = answer(), time.perf_counter()
    history = finetune(net, train, val, config, progress=False)
    seconds = time.perf_counter() - start
    row = {
        "seed": config.seed,
        "val_loss": history.rows[-1]["val_loss"],
        "seconds": seconds,
        "before": before["exact_match"],
        **{k: v for k, v in answer().items() if k in SHOWN},
    }
    if samples > 1:
        drawn = score_responses(
            parts[part],
            respond_by_consensus(
                net, tokenizer, parts[part], samples, max_new_tokens=96
            ),
        )
        row |= {f"{k}_of_{samples}": drawn[k] for k in SHOWN}
    return row, net


def main():
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
        "--samples",
        type=int,
        default=1,
        help="also score the answer most like the others, of so many drawn",
    )
    p.add_argument(
        "--bf16",
        action="store_true",
        help="fine-tune with matrix products in bfloat16: faster where the processor has instructions for it",
    )
    p.add_argument(
        "--together",
        action="store_true",
        help="at the end, draw from the models of all seeds",
    )
    p.add_argument(
        "--validation",
        action="store_true",
        help="score the validation part, to choose settings by",
    )
    a = p.parse_args()
    rows, nets, part = [], [], 2 if a.validation else 1
    for seed in a.seeds:
        row, net = run(
            a.model,
            a.data,
            TrainConfig(epochs=a.epochs, lr=a.lr, seed=seed, bf16=a.bf16),
            a.batch_size,
            part,
            a.samples,
        )
        rows.append(row)
        nets.append(net)
        print("  ".join(f"{k} {v:.4g}" for k, v in rows[-1].items()), flush=True)
    print(
        "mean  "
        + "  ".join(
            f"{k} {statistics.fmean(r[k] for r in rows):.4g}"
            for k in rows[0]
            if k != "seed"
        )
    )
    if a.together:
        records, tokenizer = (
            split_records(load_data(a.data))[part],
            load_pretrained(a.model)[1],
        )
        scores = score_responses(
            records,
            respond_by_consensus(
                nets, tokenizer, records, a.samples, max_new_tokens=96
            ),
        )
        print(
            f"together, {a.samples} answers of each model  "
            + "  ".join(f"{k} {scores[k]:.4g}" for k in SHOWN)
        )


if __name__ == "__main__":
    main()
