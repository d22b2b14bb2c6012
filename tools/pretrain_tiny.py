"""Run all parts of `tiny`'s pretraining again, each with the code and the text of its
own commit.

    python tools/pretrain_tiny.py --out runs/tiny          # hours; see below
    python tools/pretrain_tiny.py --out runs/tiny --list   # only show the commands

Interrupted, the same command goes on.

The parts stand in gpt_course/assets/tiny/pretraining.json. The same machine gives the
same weights each time. They are not the shipped ones to the bit: part two was shortened
while it ran (see its note there).
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import load_file

from gpt_course.checkpoints import save_tensors

ROOT = Path(__file__).resolve().parent.parent
MADE = ROOT / "gpt_course" / "assets" / "tiny" / "pretraining.json"


def checkout(commit, folder):
    "A work tree of `commit` in `folder`"
    if not folder.exists():
        subprocess.run(
            ["git", "worktree", "add", "--detach", str(folder), commit],
            cwd=ROOT,
            check=True,
        )


def as_parts(folder):
    "The first part was written before there were parts: give it the later form"
    f = folder / "pretraining.json"
    made = json.loads(f.read_text())
    if "parts" in made:
        return
    f.write_text(json.dumps({"parts": [made]}))
    head, *rows = (folder / "log.csv").read_text().splitlines()
    (folder / "log.csv").write_text(
        "\n".join([f"part,{head}", *(f"1,{row}" for row in rows)]) + "\n"
    )


def mean_folder(new, old, folder):
    """The mean of two parts' weights, with all other files of the later one: what the
    code of its commit wrote, the code of the next part's commit can read.
    """
    shutil.copytree(new, folder, dirs_exist_ok=True)
    name = "model.safetensors"
    with safe_open(new / name, "pt") as f:
        metadata = f.metadata()
    a, b = load_file(old / name), load_file(new / name)
    mean = {n: ((a[n].float() + b[n].float()) / 2).to(b[n].dtype) for n in b}
    save_tensors(folder / name, mean, metadata)


def main():
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument(
        "--out",
        type=Path,
        required=True,
        help="folder for work trees, checkpoints and weights",
    )
    p.add_argument("--list", action="store_true", help="show the commands, and stop")
    a = p.parse_args()
    out, start = a.out.resolve(), None
    for i, part in enumerate(json.loads(MADE.read_text())["parts"], 1):
        code, made = out / f"code-{i}", out / f"part-{i}"
        cmd = [
            sys.executable,
            "-m",
            # its name at the commits of all parts; today gpt_course.tiny.pretraining
            "gpt_course.pretraining",
            "--out",
            str(made),
            *part["command"].split(),
        ] + (["--start", str(start)] if start else [])
        print(f"# part {i}, commit {part['commit']}\n{' '.join(cmd)}", flush=True)
        start = made / "tiny"
        if a.list:
            if "mean_with" in part:
                start = made / "mean"
            continue
        if not (start / "pretraining.json").exists():
            checkout(part["commit"], code)
            subprocess.run(
                cmd, cwd=code, env=os.environ | {"PYTHONPATH": str(code)}, check=True
            )
        as_parts(start)
        if "mean_with" in part:
            mean_folder(
                start, out / f"part-{part['mean_with']}" / "tiny", made / "mean"
            )
            start = made / "mean"
    print(f"the weights: {start}")


if __name__ == "__main__":
    main()
