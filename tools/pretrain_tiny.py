"""Run all parts of `tiny`'s pretraining again, each with the code and the text of its own commit.

    python tools/pretrain_tiny.py --out runs/tiny              # hours; interrupted, the same command goes on
    python tools/pretrain_tiny.py --out runs/tiny --list       # only show the commands

The parts stand in gpt_course/assets/tiny/pretraining.json. The same machine gives the same weights each time. They are not
the shipped ones to the bit: part two was shortened while it ran (see its note there).
"""

import argparse, json, os, shutil, subprocess, sys
from pathlib import Path
import torch
from gpt_course.pretrained import load_pretrained, save_pretrained
from gpt_course.tiny.pretraining import mean_weights

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
    "The first part was written before there were parts: let its record look like the later ones"
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
    "The mean of two parts' weights, with the log of the later one"
    (a, tokenizer), (b, _) = load_pretrained(old), load_pretrained(new)
    save_pretrained(mean_weights(a, b), folder, torch.float16, tokenizer)
    for name in ("log.csv", "pretraining.json"):
        shutil.copyfile(new / name, folder / name)


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
