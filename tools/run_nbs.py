"""Execute notebooks top to bottom and store their outputs, the same way every time.

    python tools/run_nbs.py                     all below nbs/, the main path first
    python tools/run_nbs.py nbs/02_batching.ipynb nbs/03_loaders.ipynb

Cells that tests skip (`#| eval: false`, or the tag nbval-skip) are not run and keep
what they show. A notebook is written when all of it ran; at the first error nothing of
it is, and the rest waits."""

import argparse
import json
import os
import re
import sys
import time
from pathlib import Path

from kernel_env import set_kernel_env

ROOT = Path(__file__).resolve().parent.parent
SKIP = re.compile(r"^\s*#\s*\|\s*eval:\s*false\s*$", re.M | re.I)
SKIP_EXEC = re.compile(r"^\s*-?\s*skip_exec:\s*true\s*$", re.M | re.I)
WIDGETS = "application/vnd.jupyter.widget-state+json"


def is_skipped(cell):
    return cell.cell_type == "code" and bool(
        SKIP.search(cell.source) or "nbval-skip" in cell.metadata.get("tags", [])
    )


def stable_widget_ids(nb):
    """Number the random ids of widgets in the order in which the notebook shows them;
    drop widgets it does not show
    """
    state = nb.metadata.get("widgets", {}).get(WIDGETS, {}).get("state", {})
    order, queue = {}, re.findall(r'"model_id": "([0-9a-f]{32})"', json.dumps(nb.cells))
    while queue:
        i = queue.pop(0)
        if i in order or i not in state:
            continue
        order[i] = f"{len(order) + 1:032x}"
        queue += re.findall(
            r"IPY_MODEL_([0-9a-f]{32})", json.dumps(state[i], sort_keys=True)
        )
    for i in set(state) - set(order):
        del state[i]
    if not order:
        nb.metadata.pop("widgets", None)
    return json.loads(
        re.sub(r"[0-9a-f]{32}", lambda m: order.get(m[0], m[0]), json.dumps(nb))
    )


def run_nb(path, timeout):
    "Execute the notebook at `path` in its own folder, store its outputs and clean it"
    import nbformat
    from nbclient import NotebookClient
    from nbdev.clean import nbdev_clean

    nb = nbformat.read(path, as_version=4)
    first = nb.cells[0] if nb.cells else None
    if (
        first is not None
        and first.cell_type in ("raw", "markdown")
        and SKIP_EXEC.search(first.source)
    ):
        return "skipped: skip_exec"
    skipped = [c for c in nb.cells if is_skipped(c)]
    for c in skipped:
        c.metadata["tags"] = c.metadata.get("tags", []) + ["skip-execution"]
    NotebookClient(
        nb,
        timeout=timeout,
        kernel_name="python3",
        coalesce_streams=True,
        record_timing=False,
        extra_arguments=["--IPKernelApp.log_level=40"],
        resources={"metadata": {"path": str(path.parent)}},
    ).execute()
    for c in skipped:
        c.metadata["tags"].remove("skip-execution")
        if not c.metadata["tags"]:
            del c.metadata["tags"]

    tmp = path.with_name(f".{path.stem}.tmp")  # whole or not at all
    try:
        nbformat.write(nbformat.from_dict(stable_widget_ids(nb)), tmp)
        os.replace(tmp, path)
    finally:
        tmp.unlink(missing_ok=True)
    nbdev_clean.__wrapped__(fname=str(path))
    return f"{len(skipped)} cells skipped" if skipped else "all cells run"


def notebooks():
    "All notebooks, the main path first, then folder by folder"
    found = (
        f
        for f in (ROOT / "nbs").rglob("*.ipynb")
        if ".ipynb_checkpoints" not in f.parts
    )
    return sorted(found, key=lambda f: (len(f.parts), f))


def main():
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("notebooks", nargs="*", type=Path, help="default: all below nbs/")
    p.add_argument(
        "--timeout", type=int, default=1800, help="seconds that one cell may take"
    )
    args = p.parse_args()
    paths = [f.resolve() for f in args.notebooks] or notebooks()
    missing = [f for f in paths if not f.is_file()]
    if missing:
        sys.exit("no such notebook: " + ", ".join(map(str, missing)))
    set_kernel_env(os.environ)
    os.chdir(ROOT)  # where nbdev finds settings.ini
    from nbclient.exceptions import CellExecutionError, CellTimeoutError

    for f in paths:
        start = time.perf_counter()
        print(f"{f.name:24}", end=" ", flush=True)
        try:
            note = run_nb(f, args.timeout)
        except (CellExecutionError, CellTimeoutError) as e:
            sys.exit(f"failed, not written\n{e}")
        print(f"{time.perf_counter() - start:6.1f} s, {note}", flush=True)


if __name__ == "__main__":
    main()
