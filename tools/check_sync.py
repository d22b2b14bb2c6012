"""Do notebooks and package agree, and are the notebooks clean?

Exports and cleans a copy of the tree and compares every file with the original, byte
for byte. The tree itself is only read, and git is not asked."""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REMEDY = {
    "nbs": ("nbdev_clean", "not clean"),
    "gpt_course": ("nbdev_export", "not what the notebooks export"),
}


def contents(root):
    "Every notebook and every module below `root`: path to bytes"
    fs = [*root.glob("nbs/**/*.ipynb"), *root.glob("gpt_course/**/*.py")]
    fs = (
        f for f in fs if not any(p.startswith(".") for p in f.relative_to(root).parts)
    )
    return {f.relative_to(root).as_posix(): f.read_bytes() for f in fs}


def export_and_clean(root):
    for name, func in (
        ("nbdev.doclinks", "nbdev_export"),
        ("nbdev.clean", "nbdev_clean"),
    ):
        r = subprocess.run(
            [sys.executable, "-c", f"from {name} import {func}; {func}.__wrapped__()"],
            cwd=root,
            capture_output=True,
            text=True,
        )
        if r.returncode:
            sys.exit(f"{func} failed:\n{r.stdout}{r.stderr}")


def main():
    before = contents(ROOT)
    with tempfile.TemporaryDirectory() as tmp:
        copy = Path(tmp).resolve() / "copy"
        copy.mkdir()
        shutil.copy(ROOT / "settings.ini", copy)
        for name, data in before.items():
            # modules are made anew, so that one whose notebook is gone shows up
            if name.endswith(".py") and name != "gpt_course/__init__.py":
                continue
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_bytes(data)
        (copy / "gpt_course").mkdir(exist_ok=True)
        export_and_clean(copy)
        after = contents(copy)

    wrong = [
        name
        for name in sorted({*before, *after})
        if before.get(name) != after.get(name)
    ]
    for name in wrong:
        remedy, fault = REMEDY[name.split("/")[0]]
        if name not in after:
            print(
                f"{name}: no notebook exports it; delete it, or write it in a notebook"
            )
        elif name not in before:
            print(f"{name}: missing; run {remedy}")
        else:
            print(f"{name}: {fault}; run {remedy}")
    if wrong:
        sys.exit(
            f"notebooks and package are out of step in {len(wrong)} of "
            f"{len({*before, *after})} files. Modules are generated: edit the "
            "notebook, then run nbdev_export and nbdev_clean"
        )
    print(f"notebooks and package agree ({len(before)} files)")


if __name__ == "__main__":
    main()
