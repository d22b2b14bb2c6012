"Files and folders are written whole or not at all, and what is wrong is named"

import errno
import json
import os
import re
import stat
import subprocess
import sys
import time

import pytest

from gpt_course import files
from gpt_course.files import (
    as_path,
    atomic_folder,
    atomic_path,
    cache_dir,
    first_line,
    need,
    read_json,
    remove_stale,
    some,
    write_atomic,
    write_json,
)

posix = pytest.mark.skipif(os.name == "nt", reason="links and rights are POSIX's here")


@pytest.mark.parametrize(
    "faults, options, text",
    [
        ([], {}, ""),
        (["a"], {}, "a"),
        (list("abcde"), {}, "a; b; c; d; e"),
        (list("abcdefg"), {}, "a; b; c; d; e … and 2 more"),
        ((c for c in "abc"), dict(most=2, sep=", "), "a, b … and 1 more"),
        (list("abc"), dict(most=1, sep="\n  "), "a\n  … and 2 more"),
    ],
)
def test_the_first_faults_are_shown_and_the_rest_counted(faults, options, text):
    assert some(faults, **options) == text


@pytest.mark.parametrize(
    "e, line",
    [
        (ValueError("one\ntwo"), "one"),
        (ValueError("\n one"), "one"),
        (ValueError(), "ValueError"),
        (KeyError("x"), "'x'"),
    ],
)
def test_an_error_in_one_line(e, line):
    assert first_line(e) == line


def test_a_package_that_is_missing_is_named_with_its_extra():
    assert need("os.path", extra="hf") is os.path
    with pytest.raises(ValueError, match="no_such_package") as e:
        need("no_such_package", extra="gguf")
    assert "pip install 'gpt_course[gguf]'" in str(e.value)


def test_a_package_that_breaks_while_it_is_imported_is_named(tmp_path, monkeypatch):
    (tmp_path / "broken_package.py").write_text("import no_such_package")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match="broken_package.*no_such_package"):
        need("broken_package", extra="hf")


def test_a_path_starts_at_home_and_what_is_no_path_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.delenv("GPT_COURSE_CACHE", raising=False)
    assert as_path("~/a") == tmp_path / "a"
    assert cache_dir() == tmp_path / ".cache" / "gpt_course"
    monkeypatch.setenv("GPT_COURSE_CACHE", "~/kept")
    assert cache_dir() == tmp_path / "kept"
    for wrong in (None, 3, "", ["a"]):
        with pytest.raises(ValueError, match="need the name of a file or folder"):
            as_path(wrong)


# --- files ---


@posix
def test_a_file_keeps_its_rights_and_a_link_stays_a_link(tmp_path):
    file, link = tmp_path / "file", tmp_path / "link"
    file.write_text("old")
    file.chmod(0o600)
    link.symlink_to(file)
    assert write_atomic(link, "new") == link
    assert link.is_symlink()
    assert file.read_text() == "new"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(write_atomic(tmp_path / "b", "").stat().st_mode) == 0o644


def test_names_may_be_long_and_folders_missing(tmp_path):
    for letter, count in (("n", 250), ("ñ", 125), ("🙂", 60)):
        name = letter * count  # at most 250 bytes
        assert write_atomic(tmp_path / name, "a").read_text() == "a"
    assert write_atomic(tmp_path / "a" / "b" / "c.txt", "é").read_bytes() == b"\xc3\xa9"


def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = write_atomic(tmp_path / "kept.txt", "old")

    def interrupted():
        with atomic_path(path) as temp:
            assert temp.parent == tmp_path
            assert temp.suffix == ".txt"
            temp.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with pytest.raises(TypeError):
        write_atomic(path, 3)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_library_may_replace_the_temporary_file(tmp_path):
    path = tmp_path / "a.bin"
    with atomic_path(path) as temp:
        other = tmp_path / "other"
        other.write_bytes(b"new")
        os.replace(other, temp)
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_an_exchange_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = write_atomic(tmp_path / "kept.txt", "old")

    def replace(a, b):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", replace)
    told = "kept.txt: cannot be written .No space left on device.; free some space"
    with pytest.raises(OSError, match=told) as e:
        write_atomic(path, "new")
    assert e.value.errno == errno.ENOSPC
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def in_block(path, error):
    with atomic_path(path) as temp:
        temp.write_text("half")
        raise error


@pytest.mark.parametrize(
    "error, same",
    [
        (OSError(errno.ENOSPC, "No space left on device"), False),
        (OSError(errno.EIO, "Input/output error"), False),
        (ConnectionResetError(errno.ECONNRESET, "reset by peer"), True),
        (FileNotFoundError(errno.ENOENT, "No such file", "/other"), True),
        (OSError("told already"), True),
        (KeyError("x"), True),
    ],
)
def test_only_what_concerns_the_file_is_told_in_its_name(error, same, tmp_path):
    path = write_atomic(tmp_path / "kept.txt", "old")
    with pytest.raises(type(error)) as e:
        in_block(path, error)
    assert (e.value is error) == same
    assert ("kept.txt: cannot be written" in str(e.value)) != same
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


@posix
def test_what_cannot_be_written_is_said_with_the_reason(tmp_path):
    write_atomic(tmp_path / "file", "mine")
    with pytest.raises(OSError, match="file/a.txt: cannot be written .*choose another"):
        write_atomic(tmp_path / "file" / "a.txt", "")
    with pytest.raises(OSError, match="x: cannot be written .File name too long"):
        write_atomic(tmp_path / ("x" * 300), "")
    if os.geteuid() != 0:  # whom no right stops
        tmp_path.chmod(0o500)
        with pytest.raises(PermissionError, match="change its rights"):
            write_atomic(tmp_path / "a.txt", "")
        tmp_path.chmod(0o700)


@posix
def test_the_new_name_is_flushed_too(tmp_path, monkeypatch):
    real, flushed = os.fsync, []

    def fsync(handle):
        flushed.append(stat.S_ISDIR(os.fstat(handle).st_mode))
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    write_atomic(tmp_path / "a.txt", "new")
    assert flushed == [False, True]
    export(tmp_path / "export", "one")
    assert flushed[-1]

    def cannot(handle):
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "fsync", cannot)
    assert write_atomic(tmp_path / "b.txt", "new").read_text() == "new"


# --- what killed processes leave ---

KILLED = """
import os, signal, sys
from gpt_course.files import atomic_folder, atomic_path
with atomic_path(sys.argv[1]) as temp, atomic_folder(sys.argv[2]) as new:
    temp.write_text("half")
    (new / "model").write_text("half")
    os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))
"""


def killed_in(folder):
    "What a process leaves that is killed while it writes a file and a folder."
    command = [sys.executable, "-c", KILLED, folder / "a.txt", folder / "export"]
    assert subprocess.run(command).returncode != 0
    return sorted(folder.iterdir())


def test_what_a_killed_process_left_is_removed(tmp_path):
    left = killed_in(tmp_path)
    kinds = [re.sub(r"\d+-\w{8}", "…", path.name) for path in left]
    assert kinds == [".a.txt.….tmp.txt", ".export.….tmp"]
    assert remove_stale(tmp_path, name="b.txt") == []
    assert remove_stale(tmp_path, older_than_s=60) == []
    assert remove_stale(tmp_path, name="a.txt") == [left[0]]
    assert remove_stale(tmp_path) == [left[1]]
    assert remove_stale(tmp_path / "none") == [] == list(tmp_path.iterdir())


def test_what_is_old_is_removed_when_the_same_is_written_again(tmp_path):
    left = killed_in(tmp_path)
    write_atomic(tmp_path / "a.txt", "new")
    export(tmp_path / "export", "new")
    assert all(path.exists() for path in left)  # it might be another machine's
    for path in left:
        os.utime(path, (time.time() - 7200,) * 2)
    write_atomic(tmp_path / "other.txt", "new")
    assert all(path.exists() for path in left)
    write_atomic(tmp_path / "a.txt", "new")
    export(tmp_path / "export", "newer", overwrite=True)
    assert not any(path.exists() for path in left)


def test_what_somebody_is_writing_is_left_alone(tmp_path):
    with atomic_path(tmp_path / "a.txt") as ours:
        assert remove_stale(tmp_path) == []
        process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=-1)
        theirs = tmp_path / f".b.txt.{process.pid}-abcdefgh.tmp.txt"
        theirs.write_text("half")
        assert remove_stale(tmp_path) == []
        # written before that process began: another had this number
        os.utime(theirs, (0, 0))
        assert remove_stale(tmp_path) == [theirs]
        process.communicate()
        assert ours.exists()
    # an earlier process had the number of this one
    path = tmp_path / f".b.txt.{os.getpid()}-abcdefgh.tmp.txt"
    path.write_text("half")
    assert remove_stale(tmp_path) == [path] and files._IN_USE == set()


def test_json_goes_and_comes(tmp_path):
    value = {"name": "Åse", "list": [1, None, 0.5], "none": {}}
    path = write_json(tmp_path / "a.json", value)
    assert read_json(path) == value
    assert "Åse" in path.read_text("utf-8")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert read_json(path) == value


@pytest.mark.parametrize(
    "data, said",
    [
        (None, "no such file"),
        (b"", "not JSON"),
        (b"[]", "no object"),
        (b"null", "no object"),
        (b'{"a": 1', "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 100_000, "not JSON"),
    ],
)
def test_what_is_no_json_object_is_named_and_what_was_needed(tmp_path, data, said):
    path = tmp_path / "a.json"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(ValueError, match=f"a.json: .*{said}.*; need a recipe"):
        read_json(path, "a recipe")


def test_a_folder_is_no_json_file(tmp_path):
    with pytest.raises(ValueError, match="is a folder"):
        read_json(tmp_path)


def test_json_that_cannot_be_written_leaves_the_old_file(tmp_path):
    path = write_json(tmp_path / "a.json", {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": {1, 2}})
    assert json.loads(path.read_text()) == {"a": 1}


# --- folders ---


def export(target, text, overwrite=False):
    with atomic_folder(target, overwrite) as new:
        (new / "model").write_text(text)


def test_a_folder_appears_and_is_replaced_only_on_demand(tmp_path):
    target = tmp_path / "a" / "export"
    export(target, "one")
    with pytest.raises(ValueError, match="already has files in it .model.*overwrite"):
        export(target, "two")
    assert (target / "model").read_text() == "one"
    export(target, "two", overwrite=True)
    assert (target / "model").read_text() == "two"
    assert [p.name for p in target.parent.iterdir()] == ["export"]


def test_an_empty_folder_may_be_there_and_a_file_may_not(tmp_path):
    (tmp_path / "empty").mkdir()
    export(tmp_path / "empty", "one")
    assert (tmp_path / "empty" / "model").read_text() == "one"
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match="is a file"):
        export(tmp_path / "file", "one", overwrite=True)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_failed_export_leaves_nothing(tmp_path):
    def fail():
        with atomic_folder(tmp_path / "export") as new:
            (new / "model").write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_comes_into_a_folder_during_an_export_is_kept(tmp_path, overwrite):
    target = tmp_path / "export"

    def disturbed():
        with atomic_folder(target, overwrite) as new:
            (new / "model").write_text("new")
            target.mkdir()
            (target / "notes.txt").write_text("mine")

    with pytest.raises(ValueError, match="notes.txt, which would be lost"):
        disturbed()
    assert [p.name for p in target.iterdir()] == ["notes.txt"]
    assert [p.name for p in tmp_path.iterdir()] == ["export"]


def test_an_interrupted_exchange_leaves_the_old_folder(tmp_path, monkeypatch):
    target = tmp_path / "export"
    export(target, "old")
    real, calls = os.replace, []

    def replace(a, b):
        calls.append(a)
        if len(calls) == 2:
            raise KeyboardInterrupt
        real(a, b)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(KeyboardInterrupt):
        export(target, "new", overwrite=True)
    assert (target / "model").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["export"]
