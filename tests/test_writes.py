"""Every command, with every write failing in turn: one line, exit code 2, nothing lost.

A write is whatever changes the disk: a temporary file is made, a file is opened to be
written, tensors are saved, a file is flushed or renamed. Each fails as on a full disk.
"""

import builtins
import errno
import io
import json
import os
import stat
import sys
import tempfile
from pathlib import Path

import pytest
from safetensors import SafetensorError

from gpt_course import checkpoints
from gpt_course.cli import main


class Writes:
    "Counts the writes below a folder; one of them fails."

    def __init__(self, folder, failing=0):
        self.folder, self.failing, self.seen = str(folder), failing, []

    def __call__(self, name, path):
        self.seen.append(f"{name} {Path(str(path)).name}")
        if len(self.seen) == self.failing:
            if name == "save_file":
                raise SafetensorError("I/O error: No space left on device")
            full = (errno.ENOSPC, os.strerror(errno.ENOSPC))
            raise OSError(*full) if name == "fsync" else OSError(*full, str(path))

    def watch(self, patch):
        def below(path):
            return not isinstance(path, int) and str(path).startswith(self.folder)

        def watched(place, name, path_of):
            real = getattr(place, name)

            def function(*args, **options):
                path = path_of(*args, **options)
                if path is not None and below(path):
                    self(name, path)
                return real(*args, **options)

            patch.setattr(place, name, function)

        def opened(file, mode="r", *args, **options):
            return file if set(mode) & {*"wax+"} else None

        def flushed(handle):  # a folder may not be flushed everywhere
            is_folder = stat.S_ISDIR(os.fstat(handle).st_mode)
            return None if is_folder else f"{self.folder}/?"

        def new(path, *args, **options):
            return None if os.path.exists(path) else path

        def made(suffix=None, prefix=None, dir=None, text=False):
            return dir

        watched(tempfile, "mkstemp", made)
        watched(tempfile, "mkdtemp", made)
        watched(os, "replace", lambda source, target: target)
        watched(os, "mkdir", new)
        watched(os, "fsync", flushed)
        watched(checkpoints, "save_file", lambda tensors, path, **options: path)
        watched(io, "open", opened)
        patch.setattr(builtins, "open", io.open)


def command(argv, folder, failing=0, typed=""):
    "Exit code, what was written, and what stands on stderr."
    writes, shown = Writes(folder, failing), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdin", io.StringIO(typed))
        patch.setattr(sys, "stderr", shown)
        patch.setattr(sys, "stdout", io.StringIO())
        writes.watch(patch)
        code = main([str(arg) for arg in argv])
    return code, writes.seen, shown.getvalue()


def check(argv, folder, failing, typed=""):
    code, seen, said = command(argv, folder, failing, typed)
    lines = said.replace("\r", "\n").splitlines()
    ours = [line for line in lines if line.startswith(f"gpt-course {argv[0]}: ")]
    where = f"write {failing} of {argv}: {seen[-1]}\n{said}"
    assert code == 2, where
    assert len(ours) == 1 and ours[0] == lines[-1], where
    assert "Traceback" not in said and "No space left" in ours[0], where


def content(folder):
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def spread(count, most=12):
    "Some numbers from 1 to a count, the first and the last among them."
    return sorted({1 + round(i * (count - 1) / (most - 1)) for i in range(most)})


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "few.json"
    records = [
        {"instruction": f"Say {i}.", "input": "", "output": f"{i}"} for i in range(12)
    ]
    path.write_text(json.dumps(records))
    return path


def finetune(model, data, out, *more):
    options = ["--epochs", 1, "--batch-size", 4, "--max-new-tokens", 1]
    where = ["--model", model, "--data", data, "--out", out]
    return ["finetune", *where, *options, "--save-steps", 2, *more]


@pytest.fixture(scope="module")
def whole(small_model, data, tmp_path_factory):
    "A run of which no write failed, and how many it had."
    out = tmp_path_factory.mktemp("whole")
    code, seen, said = command(finetune(small_model, data, out), out)
    assert code == 0, said
    return out, seen


def test_all_kinds_of_writes_are_seen(whole):
    kinds = {line.split()[0] for line in whole[1]}
    temporary = {"mkstemp", "mkdtemp", "mkdir"}
    assert kinds == temporary | {"replace", "fsync", "save_file", "open"}
    for name in ("run.json", "metrics.json", "checkpoint.safetensors", ".lock"):
        assert any(name in line for line in whole[1]), name


@pytest.mark.parametrize("part", range(4))
def test_finetune_ends_well_and_is_resumed_to_the_same(
    part, whole, small_model, data, tmp_path
):
    out, seen = whole
    wanted = (out / "model.safetensors").read_bytes()
    for failing in range(1 + part, len(seen) + 1, 4):
        folder = tmp_path / str(failing)
        folder.mkdir()
        (folder / "notes.txt").write_text("mine")
        argv = finetune(small_model, data, folder)
        check(argv, folder, failing)
        left = content(folder)
        assert left["notes.txt"] == b"mine"
        assert not [name for name in left if ".tmp" in name or ".lock" in name], left
        if failing % 3 == 0:
            assert command([*argv, "--resume"], folder)[0] == 0
            assert (folder / "model.safetensors").read_bytes() == wanted


def test_export_leaves_the_old_export(whole, tmp_path):
    pytest.importorskip("gguf")
    for to in ("hf", "gguf"):
        out = tmp_path / to
        argv = ["export", whole[0], "--to", to, "--out", out, "--overwrite"]
        code, seen, said = command(argv, tmp_path)
        assert code == 0, said
        before = content(tmp_path)
        seen = command(argv, tmp_path)[1]
        for failing in range(1, len(seen) + 1):
            check(argv, tmp_path, failing)
            assert content(tmp_path) == before, failing


def test_lab_keeps_what_is_there(tmp_path):
    out = tmp_path / "course"
    (out / "beyond").mkdir(parents=True)
    (out / "01_dataset.ipynb").write_text("mine")
    argv = ["lab", out, "--copy-only"]
    code, seen, said = command(argv, out)
    assert code == 0, said
    for failing in spread(len(seen)):
        folder = tmp_path / str(failing)
        folder.mkdir()
        (folder / "01_dataset.ipynb").write_text("mine")
        check(["lab", folder, "--copy-only"], folder, failing)
        assert (folder / "01_dataset.ipynb").read_text() == "mine"
        assert not [name for name in content(folder) if ".tmp" in name]


def test_chat_keeps_what_was_saved(whole, tmp_path):
    path = tmp_path / "turns.json"
    argv = ["chat", whole[0], "--max-new-tokens", 1]
    typed = f"Say 1.\n/save {path}\nSay 2.\n/save {path}\n"
    code, seen, said = command(argv, tmp_path, typed=typed)
    assert code == 0 and len(json.loads(path.read_text())) == 2, said
    half = len(seen) // 2
    for failing in range(half + 1, len(seen) + 1):
        path.unlink()
        code, _, said = command(argv, tmp_path, failing, typed)
        assert code == 0 and "cannot be written (No space left" in said, said
        assert len(json.loads(path.read_text())) == 1
        assert [p.name for p in tmp_path.iterdir()] == ["turns.json"]


@pytest.mark.parametrize("name", ["respond", "evaluate"])
def test_those_who_only_read_write_nothing(name, whole, data, tmp_path):
    more = ["Say 1."] if name == "respond" else ["--data", data]
    argv = [name, whole[0], *more, "--max-new-tokens", 1]
    for folder in (whole[0], data.parent):
        code, seen, said = command(argv, folder)
        assert (code, seen) == (0, []), said
