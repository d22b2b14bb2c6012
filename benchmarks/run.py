"""Speed as ratios, measured in one run: this package against Transformers.

    make bench        or        .venv/bin/python benchmarks/run.py --steps 20

Same weights and records. Training: useful (unpadded) tokens a second, forward, backward
and AdamW, batches of 8. Generation: new tokens a second, greedy, 32 prompts, 32 tokens
each, no stop. The two take turns, so that a machine whose speed drifts is fair to both;
the median counts.
"""

import argparse
import random
import statistics
import tempfile
import time

import torch
import transformers

from gpt_course.batching import collate_examples, encode_record
from gpt_course.finetuning import make_optimizer, train_step
from gpt_course.generation import generate
from gpt_course.loaders import InstructionDataset, LengthGroupedSampler
from gpt_course.model_folders import load_pretrained, save_pretrained
from gpt_course.records import load_data
from gpt_course.settings import GenerationConfig


def timed(f, *args):
    start = time.perf_counter()
    f(*args)
    return time.perf_counter() - start


def their_step(model, optimizer, input_ids, targets, mask):
    "As a careful user of Transformers writes it: masked by position"
    labels = torch.full_like(input_ids, -100)
    # the model shifts; the last target has no position of its own
    labels[:, 1:] = targets[:, :-1]
    model(input_ids=input_ids, attention_mask=mask, labels=labels).loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def attention_mask(input_ids, lengths):
    mask = torch.zeros_like(input_ids)
    for row, n in enumerate(lengths):
        mask[row, :n] = 1
    return mask


def plain_batches(n):
    shuffled = random.Random(1).sample(range(n), n)
    return [shuffled[i : i + 8] for i in range(0, n, 8)]


def training(ours, theirs, dataset, steps):
    lengths = dataset.lengths()
    grouped = LengthGroupedSampler(lengths, 8).batches(0)
    random.Random(2).shuffle(grouped)
    mine = make_optimizer(ours, 1e-4, 0.1)
    other = torch.optim.AdamW(
        theirs.parameters(), lr=1e-4, weight_decay=0.1, fused=True
    )
    ours.train()
    theirs.train()
    rates = {"ours": [], "theirs": []}
    for our_rows, their_rows in list(zip(grouped, plain_batches(len(dataset))))[
        : steps + 1
    ]:
        a, b = (
            collate_examples(
                [dataset[i] for i in rows], dataset.eos_id, dataset.max_length
            )
            for rows in (our_rows, their_rows)
        )
        mask = attention_mask(b.input_ids, [lengths[i] for i in their_rows])
        took_ours = timed(train_step, ours, mine, [a], 1e-4, 1.0)
        took_theirs = timed(their_step, theirs, other, *b, mask)
        rates["ours"].append(sum(lengths[i] for i in our_rows) / took_ours)
        rates["theirs"].append(sum(lengths[i] for i in their_rows) / took_theirs)
    return {k: statistics.median(v[1:]) for k, v in rates.items()}  # one is a warm-up


def generation(ours, theirs, prompts, repeats=3):
    ours.eval()
    theirs.eval()
    longest, new = max(map(len, prompts)), 32
    ids = torch.tensor([[0] * (longest - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
    config = GenerationConfig(max_new_tokens=new)
    options = dict(do_sample=False, min_new_tokens=new, max_new_tokens=new)

    @torch.no_grad()
    def their_answers():
        theirs.generate(
            ids, attention_mask=mask, eos_token_id=None, pad_token_id=0, **options
        )

    rates = {"ours": [], "theirs": []}
    for _ in range(repeats):
        took = timed(generate, ours, prompts, None, config, len(prompts))
        rates["ours"].append(new * len(prompts) / took)
        rates["theirs"].append(new * len(prompts) / timed(their_answers))
    return {k: statistics.median(v) for k, v in rates.items()}


def main():
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--model", default="tiny")
    p.add_argument("--steps", type=int, default=20)
    args = p.parse_args()
    transformers.utils.logging.set_verbosity_error()
    splits = load_data("builtin").split()
    ours, tokenizer = load_pretrained(args.model)
    with tempfile.TemporaryDirectory() as folder:
        save_pretrained(ours, tokenizer, folder)
        theirs = transformers.GPT2LMHeadModel.from_pretrained(folder)
    dataset = InstructionDataset(splits.train, tokenizer, ours.config.n_positions)
    prompts = [encode_record(r, tokenizer)[0] for r in splits.test[:32]]
    print(
        f"{args.model}, torch {torch.__version__}, transformers "
        f"{transformers.__version__}, {torch.get_num_threads()} threads"
    )
    for name, result in (
        ("training, useful tokens/s", training(ours, theirs, dataset, args.steps)),
        ("generation, new tokens/s", generation(ours, theirs, prompts)),
    ):
        mine, other = result["ours"], result["theirs"]
        print(
            f"{name:28} ours {mine:8.0f}   Transformers {other:8.0f}   "
            f"ratio {mine / other:.2f}"
        )


if __name__ == "__main__":
    main()
