"""Time and memory of what comes before training, for many records, and how they grow.

    python benchmarks/size.py                      10,000 and 100,000 records
    python benchmarks/size.py 10000 100000 1000000

Records are made from a seed: instructions of a few kinds with words of a large
vocabulary, some prompts that occur again, and some that nearly do. Each size runs in a
process of its own, which reads and checks a JSONL file, splits and audits the records,
and makes token ids, once with an empty cache and once from it. Times are CPU seconds;
the exponent is 1 where time grows in proportion. Memory is the most that the process
held, beyond what it held after its imports; what lies in memory-mapped files counts
too.
"""

import argparse
import json
import math
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from itertools import accumulate
from pathlib import Path

KINDS = [
    "Rewrite the following sentence in the passive voice.",
    "Give three synonyms of the word below.",
    "Which of these does not belong with the others?",
    "Summarize the passage in one sentence, in your own words.",
    "Translate the sentence into plain English for a child of ten years.",
    "Is the statement true or false? Explain your answer.",
]
VOCABULARY = 200_000


def write_records(path, n, seed=1):
    "About 350 bytes a record"
    rng = random.Random(seed)
    weights = list(accumulate(1 / rank for rank in range(1, VOCABULARY)))
    words = [f"w{rng.randrange(10**5)}{'aeiou'[i % 5]}" for i in range(1, VOCABULARY)]

    def text(least, most):
        chosen = rng.choices(words, cum_weights=weights, k=rng.randint(least, most))
        return " ".join(chosen)

    earlier = []
    with open(path, "w") as file:
        for _ in range(n):
            given = text(8, 28)
            draw = rng.random()
            if earlier and draw < 0.02:  # the same again
                given = rng.choice(earlier)
            elif earlier and draw < 0.04:  # and one that is nearly the same
                given = rng.choice(earlier) + " " + rng.choice(words)
            if len(earlier) < 1000:
                earlier.append(given)
            record = {
                "instruction": rng.choice(KINDS),
                "input": given,
                "output": text(5, 25),
            }
            file.write(json.dumps(record) + "\n")


def peak_mb():
    scale = 1e6 if sys.platform == "darwin" else 1e3
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale


def measure(path):
    "One line of JSON for each stage"
    from gpt_course.dataset import audit_splits, split_records
    from gpt_course.limits import cap_splits
    from gpt_course.loaders import InstructionDataset
    from gpt_course.records import load_records
    from gpt_course.tokenizers import load_tokenizer

    tokenizer = load_tokenizer("gpt2")
    tokenizer.encode("warm")
    before = peak_mb()

    def stage(name, act):
        start = time.process_time()
        result = act()
        seconds = time.process_time() - start
        told = {"stage": name, "seconds": seconds, "mb": peak_mb() - before}
        print(json.dumps(told), flush=True)
        return result

    records = stage("read and check", lambda: load_records(path))
    splits = split_records(records, seed=1)
    del records
    audit = stage("audit all parts", lambda: audit_splits(splits))
    print(json.dumps({"audit": str(audit)}), flush=True)
    capped = cap_splits(splits)
    stage("audit as in a run", lambda: audit_splits(capped))
    dataset = stage(
        "tokenize", lambda: InstructionDataset(splits.train, tokenizer, 1024)
    )
    del dataset
    dataset = stage(
        "tokens from the cache",
        lambda: InstructionDataset(splits.train, tokenizer, 1024),
    )
    stage("lengths", dataset.lengths)


def run(n, folder):
    path = folder / "records.jsonl"
    write_records(path, n)
    print(f"{n:,} records, {path.stat().st_size / 1e6:,.1f} MB", flush=True)
    env = os.environ | {"GPT_COURSE_CACHE": str(folder / f"cache-{n}")}
    command = [sys.executable, __file__, "--measure", str(path)]
    done = subprocess.run(
        command, env=env, stdout=subprocess.PIPE, text=True, check=True
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def main():
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("sizes", nargs="*", type=int, default=[10_000, 100_000])
    p.add_argument("--measure", help=argparse.SUPPRESS)
    args = p.parse_args()
    if args.measure:
        return measure(args.measure)
    before = {}
    with tempfile.TemporaryDirectory() as folder:
        for n in args.sizes:
            for told in run(n, Path(folder)):
                if "audit" in told:
                    print(f"  {told['audit']}")
                    continue
                name, seconds = told["stage"], told["seconds"]
                grown = ""
                if name in before:
                    smaller, earlier = before[name]
                    exponent = math.log(seconds / earlier) / math.log(n / smaller)
                    grown = f"   exponent {exponent:4.2f}"
                before[name] = n, max(seconds, 1e-3)
                print(f"  {name:22} {seconds:8.2f} s {told['mb']:7.0f} MB{grown}")


if __name__ == "__main__":
    main()
