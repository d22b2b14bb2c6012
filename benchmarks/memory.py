"""Memory: what a fine-tuning step takes at its peak, measured and estimated, and the time of a step.

    python benchmarks/memory.py                                  # tiny and gpt2 (random weights); needs 5 GB
    python benchmarks/memory.py --sizes gpt2-medium --ways       # and each way to need less

Each measurement is a fresh process with one thread; nothing is written.
"""

import argparse

import torch
from gpt_course.memory import SIZES, compare_ways, estimate_memory, measure_step


def show(what, peak, estimate, seconds):
    print(
        f"{what:44} measured {peak / 1e9:6.2f} GB   estimated {estimate / 1e9:6.2f} GB ({estimate / peak - 1:+6.1%})   {seconds:7.2f} s a step",
        flush=True,
    )


def main():
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--sizes", nargs="+", default=["tiny", "gpt2"], choices=list(SIZES))
    p.add_argument(
        "--scored", type=int, default=30, help="supervised positions in a row"
    )
    p.add_argument(
        "--ways",
        action="store_true",
        help="also measure each way to need less, at 8 rows of 128 a step",
    )
    a = p.parse_args()
    print(f"torch {torch.__version__}, one thread")
    for size in a.sizes:
        for B, T in ((1, 128), (4, 128), (8, 128), (4, 256)):
            run = measure_step(SIZES[size], B, T, a.scored * B)
            show(
                f"{size}, {B} rows of {T}",
                run["peak"],
                estimate_memory(SIZES[size], B, T, a.scored * B).total,
                run["seconds"],
            )
        for w in compare_ways(SIZES[size], scored=a.scored) if a.ways else ():
            show(f"{size}, {w['way']}", w["peak"], w["estimate"], w["seconds"])


if __name__ == "__main__":
    main()
