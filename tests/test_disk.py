"A folder belongs to one process, as long as that lives; and room is looked at first"

import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest

from gpt_course import disk
from gpt_course.disk import FolderLock, check_space, free_bytes

HOLD = """
import sys
from gpt_course.disk import FolderLock
lock = FolderLock(sys.argv[1])
print(lock.acquire(), flush=True)
sys.stdin.read()
"""


def holder(folder):
    "Another process that holds the lock, or has ended because it could not."
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    return process, process.stdout.readline()


def test_another_process_is_named_and_a_killed_one_holds_nothing(tmp_path):
    process, said = holder(tmp_path)
    assert said == "True\n"
    lock = FolderLock(tmp_path)
    with pytest.raises(ValueError, match=f"{tmp_path}: process {process.pid} on "):
        lock.acquire()
    process.kill()
    process.communicate()
    assert (tmp_path / ".lock").exists()  # but nobody holds it
    assert lock.acquire() and lock.acquire  # the file of a dead process is taken over
    second, said = holder(tmp_path)
    assert said == "" and f"process {os.getpid()} on " in second.communicate()[1]
    lock.release()
    lock.release()  # is no fault
    assert list(tmp_path.iterdir()) == []


def test_two_in_one_process_exclude_each_other(tmp_path):
    first, second = FolderLock(tmp_path / "new"), FolderLock(tmp_path / "new")
    assert first.acquire()
    with pytest.raises(ValueError, match="is at work here"):
        second.acquire()
    first.release()
    assert second.acquire()
    second.release()


def test_a_file_that_was_removed_meanwhile_is_not_taken_for_the_lock(
    tmp_path, monkeypatch
):
    "Its owner removes it between our opening and our locking it."
    real, times = disk._lock, []

    def lock(handle):
        times.append(handle)
        if len(times) == 1:
            (tmp_path / ".lock").unlink()
        real(handle)

    monkeypatch.setattr(disk, "_lock", lock)
    ours = FolderLock(tmp_path)
    assert ours.acquire() and len(times) == 2
    with pytest.raises(ValueError, match="is at work here"):
        FolderLock(tmp_path).acquire()
    ours.release()


def test_where_there_are_no_locks_the_caller_hears_of_it(tmp_path, monkeypatch):
    def lock(handle):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(disk, "_lock", lock)
    lock = FolderLock(tmp_path)
    assert not lock.acquire()
    lock.release()


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OSError, match="file/.lock: cannot be written"):
        FolderLock(tmp_path / "file").acquire()
    assert (tmp_path / "file").read_text() == "mine"


def test_room_is_that_of_the_nearest_folder_there_is(tmp_path, monkeypatch):
    asked = []

    def disk_usage(path):
        asked.append(path)
        return SimpleNamespace(free=2_500_000)

    monkeypatch.setattr(shutil, "disk_usage", disk_usage)
    folder = tmp_path / "a" / "b"
    assert free_bytes(folder) == 2_500_000 and asked == [tmp_path]
    assert check_space(folder, most=2_500_000, least=10) == ""
    told = check_space(folder, most=3_000_000, least=2_000_000)
    assert told.startswith(f"{folder}: 3.0 MB will be written, and 2.5 MB are free; ")
    with pytest.raises(ValueError, match="3.0 MB will be written, and 2.5 MB are free"):
        check_space(folder, most=3_000_000, least=2_600_000)
