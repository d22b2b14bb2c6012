"""How long it takes to start: importing the package, and the help of the command.

    python benchmarks/start.py

Whole processes, each after a warm-up, the median of several. Importing is given beyond
what the interpreter itself takes; the two are measured in turn.
"""

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

COMMAND = str(Path(sys.executable).parent / "gpt-course")


def seconds(command):
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main():
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--runs", type=int, default=11)
    runs = p.parse_args().runs
    bare, package = (
        [sys.executable, "-c", ""],
        [sys.executable, "-c", "import gpt_course"],
    )
    pairs = [(seconds(bare), seconds(package)) for _ in range(runs + 1)][1:]
    beyond = statistics.median(b - a for a, b in pairs)
    print(f"import gpt_course       {1000 * beyond:6.0f} ms beyond the interpreter")
    took = [seconds([COMMAND, "--help"]) for _ in range(runs + 1)][1:]
    print(f"gpt-course --help       {1000 * statistics.median(took):6.0f} ms")
    took = [seconds([COMMAND, "finetune", "--help"]) for _ in range(runs + 1)][1:]
    print(f"gpt-course finetune -h  {1000 * statistics.median(took):6.0f} ms")


if __name__ == "__main__":
    main()
