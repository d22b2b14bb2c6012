"Run the notebooks as tests: nbval, made to fit notebooks that nbdev_clean has cleaned"

import os
import platform
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "tools"))
from kernel_env import set_kernel_env

set_kernel_env(os.environ)  # before any test imports torch

NOEVAL = re.compile(r"^\s*#\s*\|\s*eval:\s*false\s*$", re.M | re.I)
SKIP_EXEC = re.compile(r"^\s*-?\s*skip_exec:\s*true\s*$", re.M | re.I)

# The outputs were stored on x86-64. Another processor adds in another order, and
# training carries that from the last digit to the first: there the cells run, and what
# they assert must hold, but their outputs are not compared. GPT_COURSE_COMPARE=1 or 0
# overrides.
COMPARE = (
    os.environ.get(
        "GPT_COURSE_COMPARE",
        str(int(platform.machine().lower() in ("x86_64", "amd64"))),
    )
    == "1"
)


def pytest_configure(config):
    if not COMPARE:
        config.option.nbval_lax = True


def pytest_report_header(config):
    how = (
        "compared with the stored ones"
        if COMPARE
        else f"not compared ({platform.machine()}; GPT_COURSE_COMPARE=1 does)"
    )
    return f"outputs of notebooks: {how}"


def pytest_itemcollected(item):
    cell = getattr(item, "cell", None)
    if cell is None:
        return
    if NOEVAL.search(cell.source) or skips_execution(item.parent.nb):
        item.options["skip"] = True
    # nbdev_clean nulls the count, which nbval takes for "never run" and refuses, or
    # does not compare
    elif cell.execution_count is None:
        cell.execution_count = 0


def skips_execution(nb):
    "Does the front matter of `nb` (its first cell) say that nbdev shall not run it?"
    return (
        bool(nb.cells)
        and nb.cells[0].cell_type in ("raw", "markdown")
        and bool(SKIP_EXEC.search(nb.cells[0].source))
    )
