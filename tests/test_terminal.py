"What a terminal would obey is shown there; files and programs get the text as it is"

import io
import json
import os
import pty
import subprocess
import sys

import pytest

from gpt_course.console import paint
from gpt_course.terminal import visible


class Terminal(io.StringIO):
    def isatty(self):
        return True


def on_terminal(*command):
    "Run something with stdout and stderr on a terminal; what that would have got."
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, *map(str, command)],
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
        env=os.environ | {"TERM": "xterm", "PYTHONIOENCODING": "utf-8"},
    ) as process:
        os.close(theirs)
        got = b""
        while True:
            try:
                piece = os.read(ours, 65536)
            except OSError:  # Linux: the other end is closed
                piece = b""
            if not piece:
                break
            got += piece
        process.wait()
    os.close(ours)
    return got.decode("utf-8", "replace")


def test_every_control_character_is_shown():
    stream = Terminal()
    for code in [*range(0x20), *range(0x7F, 0xA0)]:
        if chr(code) not in "\n\t":
            shown = visible(f"a{chr(code)}b", stream)
            assert shown != f"a{chr(code)}b" and shown.isprintable(), hex(code)
    kept = "a\n\tb é 한국 नमस्ते שלום 🏳️‍🌈 \u200f\u200d"
    assert visible(kept, stream) == kept
    assert visible("\u202egnp.exe", stream) == "<U+202E>gnp.exe"
    assert visible("\x1b[2J", io.StringIO()) == "\x1b[2J"


def test_colours_are_ours_and_nobody_elses(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert paint("\x1b[8mhid", "green", Terminal()) == "\x1b[32m␛[8mhid\x1b[0m"


ANSWER = """
from gpt_course.chat import Chat
class Model:
    def stream(self, record, **generation):
        yield from ("a\\x1b]0;title\\x07", "\\x9b2J", "b\\rc")
Chat(Model()).turn("Say hi.")
"""


def test_an_answer_is_not_obeyed():
    shown = on_terminal("-c", ANSWER)
    assert shown == "a␛]0;title␇␛[2Jb␍c\r\n"
    result = subprocess.run([sys.executable, "-c", ANSWER], capture_output=True)
    assert result.stdout.decode() == "a\x1b]0;title\x07\x9b2Jb\rc\n"


@pytest.mark.parametrize(
    "words",
    [
        ["chat", "no\x1b[2Jmodel"],
        ["chat", "tiny", "--no\x1b[2J"],
        ["no\x1b[2J"],
        ["lab", "a\x1b[2Jb", "--copy-only"],
        ["evaluate", "tiny", "--judge", "http://\x1b[2J/", "--judge-model", "m"],
        ["evaluate", "tiny", "--data", "no\x1b[2Jfile"],
    ],
    ids=lambda words: words[0][:4],
)
def test_what_was_written_on_the_command_line_is_not_obeyed(words, tmp_path):
    code = f"import os; os.chdir({str(tmp_path)!r}); from gpt_course.cli import main; "
    shown = on_terminal("-c", f"{code}raise SystemExit(main({words!r}))")
    assert "\x1b" not in shown
    assert "␛[2J" in shown or r"\x1b[2J" in shown, shown


def test_a_run_ends_with_answers_that_are_not_obeyed(tmp_path):
    row = dict.fromkeys(
        ["instruction", "input", "output", "response_before"], "\x1b[2J"
    )
    row["response"] = "right\x1b[2J"
    (tmp_path / "responses.json").write_text(json.dumps([row | {"output": "right"}]))
    scores = {"loss": 1.0, "exact_match": 0.0, "end_rate": 1.0, "n": 1}
    shown = on_terminal(
        "-c",
        "from gpt_course.console import show_run; "
        "from gpt_course.run_folder import Run; "
        f"show_run(Run({str(tmp_path)!r}), {dict(before=scores, after=scores)!r})",
    )
    assert "␛[2J" in shown and "\x1b[2J" not in shown
