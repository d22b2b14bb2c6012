"""Memory of a fine-tuning step at its peak, measured and estimated, and its time.

    python benchmarks/memory.py     # tiny and gpt2 with random weights; needs 5 GB
    python benchmarks/memory.py --sizes gpt2-medium --strategies

With --strategies, each way to need less as well. Each measurement is a fresh process
with one thread; nothing is written.
"""

import argparse

import torch

from gpt_course.memory import SIZES, compare_strategies, estimate_memory, measure_step


def show(what, peak, estimate, seconds):
    print(
        f"{what:44} measured {peak / 1e9:6.2f} GB   estimated {estimate / 1e9:6.2f} GB "
        f"({estimate / peak - 1:+6.1%})   {seconds:7.2f} s a step",
        flush=True,
    )


def main():
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--sizes", nargs="+", default=["tiny", "gpt2"], choices=list(SIZES))
    p.add_argument(
        "--supervised", type=int, default=30, help="supervised positions in a row"
    )
    p.add_argument(
        "--strategies", action="store_true", help="each way to need less, as well"
    )
    a = p.parse_args()
    print(f"torch {torch.__version__}, one thread, 8 rows of 128 positions a step")
    for size in a.sizes:
        config = SIZES[size]
        if a.strategies:
            for row in compare_strategies(config, supervised=a.supervised):
                name = f"{size}, {row['strategy']}"
                show(name, row["peak"], row["estimate"], row["seconds"])
            continue
        supervised = 8 * a.supervised
        run = measure_step(config, supervised=supervised)
        estimate = estimate_memory(config, supervised=supervised).total
        show(size, run["peak"], estimate, run["seconds"])


if __name__ == "__main__":
    main()
