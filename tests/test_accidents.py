"Signals, closed pipes, full disks and errors of libraries: one line, one exit code"

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from gpt_course.accidents import (
    Boundary,
    Stopped,
    StopSignals,
    plain_error,
    plain_errors,
)

COMMAND = [sys.executable, "-m", "gpt_course.cli"]
posix = pytest.mark.skipif(os.name == "nt", reason="signals and pipes are POSIX's here")


class PanicException(BaseException):
    "As the Rust part of tiktoken raises it."


class SafetensorError(Exception):
    pass


class AcceleratorError(RuntimeError):
    pass


def ended(error, capsys):
    "Exit code, and what a person reads."
    with Boundary("gpt-course chat") as boundary:
        raise error
    return boundary.code, capsys.readouterr().err


@pytest.mark.parametrize(
    "error, kind, said",
    [
        (SafetensorError("I/O error"), OSError, "safetensors file .* .I/O error"),
        (PanicException("StackOverflow"), ValueError, "the tokenizer has failed at"),
        (MemoryError(), MemoryError, "memory is not enough"),
        (MemoryError("Unable to allocate 9 TiB"), MemoryError, "enough .Unable to"),
        (
            RuntimeError("[enforce] DefaultCPUAllocator: can't allocate memory"),
            MemoryError,
            "memory is not enough .*lora_rank",
        ),
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
            MemoryError,
            "memory is not enough .CUDA out of memory",
        ),
        (RuntimeError("MPS backend out of memory"), MemoryError, "is not enough"),
        (AcceleratorError("CUDA error: an illegal"), OSError, "the GPU has failed"),
        (RuntimeError("cuDNN error: NOT_SUPPORTED"), OSError, "the GPU has failed"),
    ],
)
def test_errors_of_libraries_become_plain(error, kind, said, capsys):
    with pytest.raises(kind, match=said) as e, plain_errors():
        raise error
    assert e.value.__cause__ is error
    code, line = ended(error, capsys)
    assert code == 2 and line == f"gpt-course chat: {e.value}\n"
    # once more changes nothing
    assert plain_error(e.value) is None


@pytest.mark.parametrize(
    "error",
    [
        ValueError("record 3: the text 'out of memory' is too long"),
        OSError("x: cannot be written"),
        FloatingPointError("the loss is nan"),
        KeyError("lr"),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        KeyboardInterrupt(),
        SystemExit(3),
    ],
)
def test_all_others_stay_what_they_are(error):
    with pytest.raises(type(error)) as e, plain_errors():
        raise error
    assert e.value is error


def test_a_fault_of_the_program_says_how_to_see_where(capsys, monkeypatch):
    code, said = ended(KeyError("lr"), capsys)
    assert code == 1 and said.count("\n") == 1
    assert "a fault of this program (KeyError: 'lr'); with GPT_COURSE_TRACE" in said
    monkeypatch.setenv("GPT_COURSE_TRACEBACK", "1")
    code, said = ended(KeyError("lr"), capsys)
    assert code == 1 and "Traceback" in said and "test_accidents.py" in said


def test_a_raw_error_of_the_system_is_named(capsys):
    code, said = ended(FileNotFoundError(2, "No such file", "a.json"), capsys)
    assert code == 2
    assert said == "gpt-course chat: a.json: cannot be read or written (No such file)\n"


def test_behind_the_boundary_everything_is_as_before(capsys):
    streams = sys.stdout, sys.stderr
    handlers = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(SystemExit), Boundary("gpt-course"):
        raise SystemExit(2)
    with Boundary("gpt-course") as boundary:
        print("hello")
        sys.stderr.write("you\n")
    assert boundary.code == 0 and capsys.readouterr() == ("hello\n", "you\n")
    assert (sys.stdout, sys.stderr) == streams
    assert handlers == [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]


# signals


@posix
def test_a_signal_that_was_ignored_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignals():
            signal.raise_signal(signal.SIGHUP)
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_outside_the_main_thread_signals_are_left_alone():
    faults = []

    def work():
        try:
            with StopSignals() as signals:
                signals.check()
        except BaseException as e:
            faults.append(e)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert faults == []


def test_what_came_while_somebody_waited_is_raised_afterwards():
    said = []
    with StopSignals(said.append) as signals:
        signals.waits = True
        signal.raise_signal(signal.SIGTERM)
        assert signals.asked == signal.SIGTERM and len(said) == 1
        with pytest.raises(Stopped) as e:
            signals.check()
        assert e.value.exit_code == 143


def test_a_print_that_is_interrupted_does_not_break_the_handler():
    def say(message):
        raise RuntimeError("reentrant call")

    with StopSignals(say) as signals:
        signals.waits = True
        signal.raise_signal(signal.SIGTERM)
        assert signals.asked == signal.SIGTERM


# streams


@pytest.fixture(scope="session")
def full():
    "A file in which there is never room."
    path = Path(os.environ.get("FULL", "/dev/full"))
    if not path.is_char_device():
        pytest.skip("this system has no /dev/full")
    return str(path)


@posix
@pytest.mark.parametrize(
    "command, code, said",
    [
        ("respond tiny 'Say hi.' | true", 0, ""),
        ("--help | true", 0, ""),
        ("evaluate tiny --part test --max-new-tokens 1 2>&1 | head -1 >&2", 0, "answ"),
        ("respond tiny 'Say hi.' >&-", 0, ""),
        ("respond tiny '' 2>&-", 2, ""),
        ("respond tiny 'Say hi.' --max-new-tokens 2 <&- >&- 2>&-", 0, ""),
        ("chat tiny --max-new-tokens 2 <&-", 0, "Each instruction"),
    ],
)
def test_streams_may_be_closed(command, code, said, tmp_path):
    shell = f'set -o pipefail; "$PY" -m gpt_course.cli {command}'
    result = subprocess.run(
        ["bash", "-c", shell],
        env=os.environ | {"PY": sys.executable},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == code, result.stderr
    assert "Traceback" not in result.stderr and "Exception" not in result.stderr
    assert said in result.stderr
    assert said or not result.stderr
    assert not any(tmp_path.iterdir())


def test_streams_may_be_full(full):
    "Of what nobody can read, nothing is said; of an answer, it is."
    with open(full, "w") as nowhere:
        respond = [*COMMAND, "respond", "tiny"]
        options = dict(stdout=nowhere, stderr=subprocess.PIPE, text=True)
        result = subprocess.run([*respond, "Say hi."], **options)
        assert result.returncode == 2
        said = "the output: cannot be read or written (No space left on device)"
        assert result.stderr == f"gpt-course respond: {said}\n"
        result = subprocess.run([*respond, ""], stderr=nowhere)
        assert result.returncode == 2


@posix
def test_a_run_goes_on_when_nobody_reads_its_messages(
    small_model, small_data, tmp_path
):
    "The terminal's pipe is closed in the middle of the training."
    args = ["--model", small_model, "--data", small_data, "--out", tmp_path / "run"]
    process = subprocess.Popen(
        [*COMMAND, "finetune", *map(str, args), "--max-new-tokens", "2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    process.stderr.readline()
    process.stderr.close()
    process.stdout.read()
    assert process.wait(timeout=120) == 0
    assert (tmp_path / "run" / "metrics.json").exists()
