"""Install the wheel as a stranger would, in an empty environment elsewhere, and use it.

    python tools/check_wheel.py           # the ten lines, then three lectures
    python tools/check_wheel.py --all     # all lectures of the main path

Nothing of the checkout can be imported there, and nothing is downloaded but packages.
First the wheel alone: how many distributions come with it, and the ten lines. Then its
extra `lab`: the lectures are copied by `gpt-course lab --copy-only` and executed.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

from kernel_env import KERNEL_ENV

ROOT = Path(__file__).resolve().parent.parent
THREE = ["01_dataset", "02_batching", "05_generation"]
# what a plain `import torch` brings: it is not ours to count
TORCH_OWN = {
    "torch", "filelock", "fsspec", "jinja2", "markupsafe", "mpmath", "networkx",
    "setuptools", "sympy", "typing-extensions", "pip",
}  # fmt: skip
MOST = 45
TEN_LINES = """
import json
import gpt_course as gpt
def record(i):
    return {"instruction": f"Say the number {i}.", "output": f"It is {i}."}
json.dump([record(i) for i in range(40)], open("mine.json", "w"))

model = gpt.load("tiny")
data = gpt.load_data("mine.json").split(seed=1)
history = gpt.finetune(model, data, epochs=2)
history.plot("losses.png")
print(model.respond("Give the opposite of 'early'."))
print(gpt.evaluate(model, data.test))
model.save("mine")

answer = model.respond("Say the number 7.")
assert gpt.load("mine").respond("Say the number 7.") == answer
assert "checkout" not in gpt.__file__
"""


def run(command, cwd, **kw):
    "Run a command with an environment from which no network is reached but pip's"
    env = {
        k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL"))
    }
    env |= KERNEL_ENV | {"HF_HUB_OFFLINE": "1", "HOME": str(cwd)}
    if "pip" not in command:
        env |= {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}
        env |= {"no_proxy": "127.0.0.1,localhost"}
    return subprocess.run(command, cwd=cwd, env=env, check=True, text=True, **kw)


def build(folder):
    subprocess.run(
        [sys.executable, "-m", "build", "--outdir", folder, ROOT],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    check = [sys.executable, ROOT / "tools" / "check_dist.py", folder]
    subprocess.run(check, check=True)
    [wheel] = Path(folder).glob("*.whl")
    return wheel


def install(python, what, cwd):
    options = ["-q", "-c", str(ROOT / "constraints.txt")]
    run([python, "-m", "pip", "install", *options, what], cwd)


def distributions(python, cwd):
    command = [python, "-m", "pip", "list", "--format=freeze"]
    listed = run(command, cwd, capture_output=True).stdout.split()
    names = {line.split("==")[0].lower().replace("_", "-") for line in listed}
    return sorted(names - TORCH_OWN - {"gpt-course"})


def execute(python, lecture, cwd):
    start = time.perf_counter()
    command = [python, "-m", "jupyter", "nbconvert", "--to", "notebook", "--execute"]
    run([*command, "--inplace", "--log-level=ERROR", lecture.name], lecture.parent)
    print(f"  {lecture.name} took {time.perf_counter() - start:.0f} s", flush=True)


def main():
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--all", action="store_true", help="all lectures of the main path")
    args = p.parse_args()
    with tempfile.TemporaryDirectory() as tmp:
        home = Path(tmp) / "elsewhere"
        home.mkdir()
        wheel = build(tmp)
        venv.create(home / "env", with_pip=True)
        python = str(home / "env" / "bin" / "python")
        install(python, str(wheel), home)
        names = distributions(python, home)
        print(f"{wheel.name}: {len(names)} distributions besides torch's own")
        if len(names) > MOST:
            sys.exit(f"more than {MOST}: {', '.join(names)}")
        run([python, "-c", TEN_LINES], home)
        install(python, f"{wheel}[lab]", home)
        run([str(home / "env/bin/gpt-course"), "lab", "course", "--copy-only"], home)
        lectures = sorted((home / "course").glob("[0-9]*.ipynb"))
        chosen = lectures if args.all else [f for f in lectures if f.stem in THREE]
        for lecture in chosen:
            execute(python, lecture, home)
        if len(chosen) < len(THREE):
            sys.exit(f"only {len(chosen)} lectures were copied")
        print(f"{len(chosen)} lectures ran from the copied folder")


if __name__ == "__main__":
    main()
