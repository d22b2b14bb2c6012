"""Speed as ratios, measured in one run: this package against Transformers on the same weights and records.

    make bench        or        .venv/bin/python benchmarks/run.py --steps 20

Training: useful (unpadded) tokens a second, forward, backward and AdamW, batches of 8.
Generation: new tokens a second, greedy, 32 prompts, 32 tokens each, no stop.
The two take turns, so that a machine whose speed drifts is fair to both; the median counts.
"""

import argparse, statistics, tempfile, time

import torch
import transformers
from gpt_course.batching import collate_examples, encode_record
from gpt_course.dataset import load_data, split_records
from gpt_course.finetuning import make_optimizer, train_step
from gpt_course.generation import generate
from gpt_course.loaders import InstructionDataset, LengthGroupedSampler
from gpt_course.pretrained import load_pretrained, save_pretrained


def timed(f):
    start = time.perf_counter()
    f()
    return time.perf_counter() - start


def their_step(model, optimizer, ids, targets, mask):
    "As a careful user of Transformers writes it: labels masked by position, attention mask given."
    labels = torch.full_like(ids, -100)
    # the model shifts; the last target has no position of its own
    labels[:, 1:] = targets[:, :-1]
    model(input_ids=ids, attention_mask=mask, labels=labels).loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def training(ours, theirs, dataset, steps):
    import random

    shuffled = random.Random(1).sample(range(len(dataset)), len(dataset))
    plain = [shuffled[i : i + 8] for i in range(0, len(shuffled), 8)]
    grouped = LengthGroupedSampler(dataset.lengths(), 8).batches(0)
    random.Random(2).shuffle(grouped)
    lengths, collate = (
        dataset.lengths(),
        lambda rows: collate_examples(
            [dataset[i] for i in rows], dataset.max_length, dataset.eos_id
        ),
    )
    mine, other = (
        make_optimizer(ours, 1e-4, 0.1),
        torch.optim.AdamW(theirs.parameters(), lr=1e-4, weight_decay=0.1, fused=True),
    )
    ours.train()
    theirs.train()
    rates = {"ours": [], "theirs": []}
    for step in range(steps + 1):
        a, b = collate(grouped[step]), collate(plain[step])
        mask = torch.zeros_like(b[0])
        for row, i in enumerate(plain[step]):
            mask[row, : lengths[i]] = 1
        took = {
            "ours": timed(lambda: train_step(ours, mine, [a], 1e-4, 1.0)),
            "theirs": timed(lambda: their_step(theirs, other, *b, mask)),
        }
        if step == 0:
            continue  # warm-up
        rates["ours"].append(sum(lengths[i] for i in grouped[step]) / took["ours"])
        rates["theirs"].append(sum(lengths[i] for i in plain[step]) / took["theirs"])
    return {k: statistics.median(v) for k, v in rates.items()}


def generation(ours, theirs, prompts, repeats=3):
    ours.eval()
    theirs.eval()
    longest, new = max(map(len, prompts)), 32
    ids = torch.tensor([[0] * (longest - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
    rates = {"ours": [], "theirs": []}
    for _ in range(repeats):
        rates["ours"].append(
            new
            * len(prompts)
            / timed(
                lambda: generate(
                    ours, prompts, new, eos_id=None, batch_size=len(prompts)
                )
            )
        )
        with torch.no_grad():
            rates["theirs"].append(
                new
                * len(prompts)
                / timed(
                    lambda: theirs.generate(
                        ids,
                        attention_mask=mask,
                        do_sample=False,
                        min_new_tokens=new,
                        max_new_tokens=new,
                        eos_token_id=None,
                        pad_token_id=0,
                    )
                )
            )
    return {k: statistics.median(v) for k, v in rates.items()}


def main():
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--model", default="tiny")
    p.add_argument("--steps", type=int, default=20)
    args = p.parse_args()
    transformers.utils.logging.set_verbosity_error()
    train, test, _ = split_records(load_data("builtin"))
    ours, tokenizer = load_pretrained(args.model)
    with tempfile.TemporaryDirectory() as folder:
        save_pretrained(ours, folder)
        theirs = transformers.GPT2LMHeadModel.from_pretrained(folder)
    dataset = InstructionDataset(train, tokenizer, ours.config.n_positions)
    prompts = [encode_record(r, tokenizer)[0] for r in test[:32]]
    print(
        f"{args.model}, torch {torch.__version__}, transformers {transformers.__version__}, {torch.get_num_threads()} threads"
    )
    for name, result in (
        ("training, useful tokens/s", training(ours, theirs, dataset, args.steps)),
        ("generation, new tokens/s", generation(ours, theirs, prompts)),
    ):
        print(
            f"{name:28} ours {result['ours']:8.0f}   Transformers {result['theirs']:8.0f}   ratio {result['ours'] / result['theirs']:.2f}"
        )


if __name__ == "__main__":
    main()
