"""Kill small runs with SIGKILL, resume them to the end, and compare every bit.

    python tests/kills.py --kills 200

At a random moment, or exactly while a file is written: a temporary file is made, is
half written, is about to be flushed, renamed, or has just been. Now and then it is
SIGINT, SIGTERM or SIGHUP instead, which a run may answer. Afterwards weights, history,
answers, scores and adapter must be those of an undisturbed run, and nothing else may
lie in the folder. Now and then another process tries to work in the same folder, and
must be refused. Not part of `make test`, but of `make proof`.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import hashlib
import importlib
import json
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import safetensors.torch
import torch

from gpt_course import checkpoints, cli
from gpt_course.model import GPT, GPTConfig, init_weights
from gpt_course.model_folders import save_pretrained
from gpt_course.run_folder import RUN_FILES
from gpt_course.tokenizers import load_tokenizer

COMMON = ["--batch-size", "4", "--lr", "1e-3", "--max-new-tokens", "4"]
CONFIGS = {
    "steps": ["--save-steps", "3"],
    "minutes": ["--save-minutes", "0.001"],
    "end only": [],
    "LoRA": ["--lora-rank", "2", "--lora-dropout", "0.1", "--save-steps", "4"],
    "accumulated": [
        *("--gradient-accumulation-steps", "2", "--gradient-checkpointing"),
        *("--save-steps", "2"),
    ],
    "sampled": ["--temperature", "0.8", "--epochs", "3", "--save-steps", "5"],
}
# imported before the first fork, because that takes longer than a run
USED = ("answers", "callbacks", "history", "lora", "memory", "report", "runs")
SIGNALS = 3 * [signal.SIGKILL] + [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
COMPARED = ("model.safetensors", "history.csv", "responses.json")


def prepare(folder: Path) -> None:
    "A random model of two layers with a part of the shipped tokenizer, and 40 records."
    shape = GPTConfig(
        vocab_size=400, n_positions=512, n_embd=32, n_layer=2, n_head=4, dropout=0.1
    )
    tokenizer = load_tokenizer("tiny", 400)
    save_pretrained(init_weights(GPT(shape), seed=3), tokenizer, folder / "small")
    records = [
        {"instruction": f"Say the number {i}.", "output": f"It is {i}."}
        for i in range(40)
    ]
    (folder / "data.json").write_text(json.dumps(records))


class Moments:
    "Counts the moments at which files change, in a child process; dies at one of them."

    def __init__(self, deadly: int | None):
        self.count, self.deadly = 0, deadly

    def __call__(self, what: str) -> None:
        self.count += 1
        if self.count == self.deadly:
            print(f"killed {what}", flush=True)
            os.kill(os.getpid(), signal.SIGKILL)

    def watch(self) -> None:
        "Put a moment before and after whatever changes the disk."
        for place, name in (
            (tempfile, "mkstemp"),
            (tempfile, "mkdtemp"),
            (os, "fsync"),
            (os, "replace"),
            (os, "unlink"),
            (os, "mkdir"),
        ):
            setattr(place, name, self._around(name, getattr(place, name)))
        checkpoints.save_file = self._half(safetensors.torch.save_file)
        write = Path.write_bytes

        def write_bytes(path, data):
            if self.count + 1 == self.deadly:
                write(path, data[: len(data) // 2])
            self(f"while {path.name} is written")
            return write(path, data)

        Path.write_bytes = write_bytes

    def _around(self, name, function):
        def watched(*args, **options):
            self(f"before {name}")
            result = function(*args, **options)
            self(f"after {name}")
            return result

        return watched

    def _half(self, save_file):
        def watched(tensors, path, metadata=None):
            save_file(tensors, path, metadata=metadata)
            if self.count + 1 == self.deadly:
                os.truncate(path, os.path.getsize(path) // 2)
            self("while tensors are written")

        return watched


class Attempt:
    "A process that runs the command; forked, so that nothing is imported again."

    def __init__(self, argv: list[str], log: Path, deadly: int | None = None):
        self.log, self.moments = log, log.with_suffix(".count")
        self.pid = os.fork()
        if self.pid == 0:
            self._child(argv, deadly)

    def _child(self, argv: list[str], deadly: int | None) -> None:
        code = 99
        try:
            handle = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(handle, 1)
            os.dup2(handle, 2)
            sys.stdout, sys.stderr = (open(fd, "w", closefd=False) for fd in (1, 2))
            moments = Moments(deadly)
            moments.watch()
            code = cli.main(argv)
            self.moments.write_text(str(moments.count))
        finally:
            sys.stdout.flush()
            os._exit(code)

    def alive(self) -> bool:
        "Without taking its exit code."
        flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, self.pid, flags) is None

    def wait(self) -> int:
        "Its exit code; negative: the signal that ended it."
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def said(self) -> str:
        return self.log.read_text("utf-8", errors="replace")


def fingerprint(run: Path) -> dict[str, str]:
    "Hashes of what must be the same."
    found = {}
    adapter = sorted((run / "adapter").glob("*")) if (run / "adapter").is_dir() else []
    for path in [*(run / name for name in COMPARED), *adapter]:
        found[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    metrics = json.loads((run / "metrics.json").read_text("utf-8"))
    for when in ("before", "after"):
        metrics[when].pop("seconds")
    found["metrics.json"] = json.dumps(metrics)
    return found


def leftovers(run: Path) -> list[str]:
    "Whatever a complete run does not have."
    adapter = {"adapter", "adapter/adapter_config.json"}
    known = {*RUN_FILES, *adapter, "adapter/adapter_model.safetensors"}
    return sorted({p.relative_to(run).as_posix() for p in run.rglob("*")} - known)


class Harness:
    def __init__(self, folder: Path, seed: int):
        self.folder, self.random = folder, random.Random(seed)
        self.kills, self.rivals = collections.Counter(), 0
        self.faults: list[str] = []
        self.whole: dict[str, tuple[dict[str, str], float, int]] = {}

    def argv(self, name: str, out: str, *more: str) -> list[str]:
        model, data = self.folder / "small", self.folder / "data.json"
        where = ["--model", str(model), "--data", str(data), "--out", out]
        return ["finetune", *where, *COMMON, *CONFIGS[name], *more]

    def undisturbed(self, name: str) -> None:
        "What it must be, how long it takes, and how many moments it has."
        out = self.folder / f"whole-{name}"
        start = time.perf_counter()
        attempt = Attempt(self.argv(name, str(out)), self.folder / "whole.log")
        if attempt.wait() != 0:
            raise SystemExit(f"the undisturbed run failed:\n{attempt.said()}")
        seconds = time.perf_counter() - start
        moments = int(attempt.moments.read_text())
        self.whole[name] = fingerprint(out), seconds, moments

    def rival(self, name: str, out: Path, victim: Attempt) -> None:
        "Another process in the same folder, while the first is at work there."

        def owns():
            with contextlib.suppress(OSError):
                return f"process {victim.pid} on " in (out / ".lock").read_text()
            return False

        while victim.alive() and not owns():
            time.sleep(0.005)
        os.kill(victim.pid, signal.SIGSTOP)
        if victim.alive() and owns():
            log = self.folder / "rival.log"
            rival = Attempt(self.argv(name, str(out), "--resume"), log)
            code = rival.wait()
            self.rivals += 1
            if code != 2 or "is at work here" not in rival.said():
                self.faults.append(f"{out.name}: a rival ended with {code}")
        os.kill(victim.pid, signal.SIGCONT)

    def kill(self, name: str, out: Path, resume: bool) -> bool:  # was it killed?
        "One attempt with an early end."
        _, seconds, moments = self.whole[name]
        more = ["--resume"] if resume else []
        exact = self.random.random() < 0.7
        deadly = self.random.randrange(1, moments + 1) if exact else None
        attempt = Attempt(
            self.argv(name, str(out), *more), self.folder / "victim.log", deadly
        )
        signum = signal.SIGKILL
        if not exact:
            if self.random.random() < 0.5:
                self.rival(name, out, attempt)
            time.sleep(self.random.uniform(0, seconds))
            signum = self.random.choice(SIGNALS)
            with contextlib.suppress(ProcessLookupError):
                os.kill(attempt.pid, signum)
        code = attempt.wait()
        if code in (-signum, 128 + signum):
            said = [line for line in attempt.said().splitlines() if "killed " in line]
            what = f"by {signum.name} at a random moment"
            if code == 128 + signum:
                what = f"by {signum.name}, and saved what there was"
            self.kills[said[-1].split("killed ")[1] if said else what] += 1
            return True
        if code not in (0, 2):
            self.faults.append(f"{out.name}: exit code {code}: {attempt.said()[-500:]}")
        return False

    def run(self, name: str, number: int, times: int) -> int:  # kills
        "One run, killed some times and then resumed to the end."
        out, killed, tries = self.folder / f"run-{number}", 0, 0
        while killed < times and tries < 4 * times:
            killed += self.kill(name, out, resume=tries > 0)
            tries += 1
        end = Attempt(self.argv(name, str(out), "--resume"), self.folder / "end.log")
        code = end.wait()
        complete = "this run is complete" in end.said()
        if code != 0 and not (code == 2 and complete):
            self.faults.append(f"{out.name} ({name}): {code}: {end.said()[-800:]}")
            return killed
        wanted, found = self.whole[name][0], fingerprint(out)
        for file in wanted.keys() | found.keys():
            if wanted.get(file) != found.get(file):
                self.faults.append(f"{out.name} ({name}): {file} is another one")
        if left := leftovers(out):
            self.faults.append(f"{out.name} ({name}): left over: {', '.join(left)}")
        return killed


def main() -> int:
    parser = argparse.ArgumentParser(description="Kill runs and resume them.")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    if not hasattr(os, "fork"):
        print("this needs fork, which this system does not have; nothing was tried")
        return 0
    torch.set_num_threads(1)
    for room in USED:
        importlib.import_module(f"gpt_course.{room}")
    importlib.import_module("matplotlib.backends.backend_agg")
    start, killed, runs = time.perf_counter(), 0, 0
    with tempfile.TemporaryDirectory() as folder:
        harness = Harness(Path(folder), options.seed)
        # in a child, so that no thread of PyTorch is there when this process forks
        if (pid := os.fork()) == 0:
            prepare(Path(folder))
            os._exit(0)
        os.waitpid(pid, 0)
        for name in CONFIGS:
            harness.undisturbed(name)
        while killed < options.kills:
            name = list(CONFIGS)[runs % len(CONFIGS)]
            times = min(harness.random.randint(1, 4), options.kills - killed)
            killed += harness.run(name, runs, times)
            runs += 1
        for what, count in harness.kills.most_common():
            print(f"{count:5} killed {what}")
    minutes = (time.perf_counter() - start) / 60
    print(
        f"{killed} kills in {runs} runs of {len(CONFIGS)} kinds, {harness.rivals} "
        f"rivals refused, {len(harness.faults)} faults; took {minutes:.1f} minutes"
    )
    print(*harness.faults, sep="\n")
    return bool(harness.faults)


if __name__ == "__main__":
    sys.exit(main())
