"The judge: what is asked over HTTP, what is read, and what a bad server gets to hear"

import http.server
import json
import os
import socket
import subprocess
import sys
import threading
import time
from functools import partial

import pytest

from gpt_course import endpoint, judge
from gpt_course.endpoint import ask_endpoint, find_key, is_here, shown_address
from gpt_course.evaluation import judge_responses
from gpt_course.judge import Judge, Replies, open_judge, replies_file
from gpt_course.responses import Response
from gpt_course.settings import JudgeConfig

KEY = "sk-the-secret-1"
PAUSE = threading.Event()  # never set; `time.sleep` is replaced in some tests


@pytest.fixture
def server():
    """`server(answer)` starts a server and gives its address; `answer(path, headers,
    body)` returns status, headers and the pieces of the body, which may come slowly.
    """
    started = []

    def start(answer):
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                status, headers, pieces = answer(self.path, self.headers, body)
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                try:
                    for piece in pieces:
                        self.wfile.write(piece)
                        self.wfile.flush()
                except OSError:
                    pass  # who asked has hung up

            def log_message(self, *args):
                pass

        httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        httpd.daemon_threads = True
        serve = partial(httpd.serve_forever, poll_interval=0.02)
        threading.Thread(target=serve, daemon=True).start()
        started.append(httpd)
        return f"http://127.0.0.1:{httpd.server_port}"

    yield start
    for httpd in started:
        httpd.shutdown()
        httpd.server_close()


def chat(text):
    content = {"choices": [{"message": {"role": "assistant", "content": text}}]}
    return 200, {}, [json.dumps(content).encode()]


@pytest.fixture
def no_waiting(monkeypatch):
    "Seconds that would have been waited."
    waited = []
    monkeypatch.setattr(endpoint.time, "sleep", waited.append)
    return waited


def refusal(*args, **options):
    with pytest.raises(ValueError) as e:
        ask_endpoint(*args, **options)
    return str(e.value)


def in_turn(*replies):
    "Answers one after another; the last one again and again."
    left = list(replies)
    return lambda *_: left.pop(0) if len(left) > 1 else left[0]


# --- what is asked and read ---


def test_the_judge_gets_the_question_and_the_grade_is_read(server):
    seen = []

    def answer(path, headers, body):
        seen.append((path, headers["Authorization"], json.loads(body)))
        return chat("Fine.\nSCORE: 70" if len(seen) == 1 else "I like it.")

    ask = partial(ask_endpoint, server(answer) + "/v1/", "llama3", api_key=KEY)
    records = [{"instruction": "Say hi.", "input": "", "output": "Hi."}] * 2
    judgement = judge_responses(records, [Response("Hello.", "stop")] * 2, ask)
    assert judgement.scores == [70, None]
    assert judgement.replies == ["Fine.\nSCORE: 70", "I like it."]
    summary = judgement.summary()
    assert (summary["judge_mean"], summary["judge_unreadable"]) == (70, 1)
    path, authorization, body = seen[0]
    assert path == "/v1/chat/completions"
    assert authorization == f"Bearer {KEY}"
    assert (body["model"], body["temperature"]) == ("llama3", 0)
    assert "Hello." in body["messages"][0]["content"]


def test_a_judge_needs_an_answer_for_each_record():
    with pytest.raises(ValueError, match="1 responses for 2 records"):
        judge_responses([{"instruction": "a"}] * 2, [Response("b", "stop")], str)


def test_what_stands_behind_a_question_mark_is_sent_and_not_shown(server):
    seen = []

    def answer(path, headers, body):
        seen.append(path)
        return 404, {}, [b"no model for key=" + KEY.encode()]

    said = refusal(server(answer) + f"/v1?key={KEY}&version=3", "m", "hi")
    assert seen == [f"/v1/chat/completions?key={KEY}&version=3"]
    assert KEY not in said and "version" not in said


def test_half_a_character_does_not_reach_a_file(server):
    broken = (200, {}, [rb'{"choices": [{"message": {"content": "\ud800 70"}}]}'])
    assert ask_endpoint(server(lambda *_: broken), "m", "hi") == "? 70"


def test_a_judge_that_says_nothing_is_no_fault(server):
    assert ask_endpoint(server(lambda *_: chat(None)), "m", "hi") == ""


# --- what a bad server gets to hear ---


@pytest.mark.parametrize(
    "reply, contains",
    [
        ((404, {}, [b"model not found"]), "HTTP 404 (model not found); is 'm' the"),
        ((400, {}, [b"too long"]), "HTTP 400 (too long); does it know 'm'"),
        ((500, {"Content-Length": "99"}, [b"half a mess"]), "HTTP 500 (half a mess)"),
        ((501, {}, []), "HTTP 501: it is busy or broken"),
        ((302, {}, []), "HTTP 302 leads elsewhere"),
        ((200, {}, [b"<html>"]), "not JSON"),
        ((200, {}, [b"\xff\xfe"]), "not JSON"),
        ((200, {}, [b'{"choices": [' + b"[" * 100_000]), "not JSON"),
        ((200, {}, [b'{"error": 1}']), "no choices"),
        ((200, {}, [b"[]"]), "no choices"),
        (chat(["SCORE: 1"]), "no choices"),
        ((200, {"Content-Length": "99"}, [b"{"]), "the connection broke off 5 times"),
        ((200, {}, [b" " * 100_000] * 20), "more than 1,000,000 bytes"),
        ((404, {}, [b" " * 100_000] * 20), "HTTP 404; is 'm'"),
    ],
)
def test_a_server_that_is_no_judge_is_named(server, no_waiting, reply, contains):
    url = server(lambda *_: reply)
    said = refusal(url, "m", "hi")
    assert contains in said
    assert said.startswith(f"judge at {url}/chat/completions: ")
    assert len(said) < 600


@pytest.mark.parametrize("url", ["file:///etc", "localhost:11434", "ftp://a.b", ""])
def test_only_http_is_spoken(url):
    assert "begins with http(s)://" in refusal(url, "m", "hi")


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "http://[", "http://a b"])
def test_nobody_there_is_one_clear_message(url, no_waiting):
    said = refusal(url, "m", "hi", timeout_s=2)
    assert "cannot be reached" in said and "start the server" in said
    assert no_waiting == []


@pytest.mark.parametrize("url", ["http://", "http:///v1", "http://h:port/v1"])
def test_what_is_no_address_is_said(url):
    assert "that is no address; check --judge" in refusal(url, "m", "hi")


def test_a_missing_library_for_a_proxy_is_no_traceback(monkeypatch):
    def post(*args):
        raise ImportError("Using SOCKS proxy, but 'socksio' is not installed")

    monkeypatch.setattr(endpoint, "_post", post)
    assert "cannot be reached (Using SOCKS" in refusal("http://a.b", "m", "hi")


# --- the key ---


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed_because_the_key_would_go_with_it(server, status):
    seen = []

    def thief(path, headers, body):
        seen.append(headers["Authorization"])
        return chat("SCORE: 100")

    elsewhere = server(thief) + "/chat/completions"
    url = server(lambda *_: (status, {"Location": elsewhere}, []))
    said = refusal(url, "m", "hi", api_key=KEY)
    assert f"HTTP {status} leads elsewhere ({elsewhere})" in said
    assert seen == []


@pytest.mark.parametrize(
    "status, api_key, contains",
    [
        (401, None, "it wants a key"),
        (403, None, "--judge-key-env"),
        (401, KEY, "the key was refused; check it, and --judge-key-env"),
    ],
)
def test_a_missing_or_wrong_key_is_called_that(server, status, api_key, contains):
    url = server(lambda *_: (status, {}, [b"no access"]))
    said = refusal(url, "m", "hi", api_key=api_key)
    assert f"HTTP {status} (no access): " in said and contains in said
    assert "model name" not in said


def echo(path, headers, body):
    return 400, {}, [json.dumps(dict(headers)).encode()]


def test_a_server_that_repeats_the_key_is_not_quoted(server):
    said = refusal(server(echo), "m", "hi", api_key=KEY)
    assert "Bearer (secret)" in said and KEY not in said
    in_pieces = server(lambda *_: (400, {}, [b"." * 195 + KEY.encode()]))
    assert KEY[:5] not in refusal(in_pieces, "m", "hi", api_key=KEY)
    moved = server(lambda *_: (307, {"Location": f"http://a.b/{KEY}"}, []))
    assert KEY not in refusal(moved, "m", "hi", api_key=KEY)
    reply = server(
        lambda path, headers, _: chat(f"{headers['Authorization']}\nSCORE: 9")
    )
    assert ask_endpoint(reply, "m", "hi", api_key=KEY) == "Bearer (secret)\nSCORE: 9"


def test_a_password_in_the_address_is_sent_and_not_shown(server):
    seen = []

    def answer(path, headers, body):
        seen.append(headers["Authorization"])
        return echo(path, headers, body)

    url = server(answer).replace("//", "//me:pass%20word@")
    said = refusal(url, "m", "hi")
    assert seen == ["Basic bWU6cGFzcyB3b3Jk"]  # me:pass word
    for secret in ("pass word", "pass%20word", "bWU6", "me:"):
        assert secret not in said


@pytest.mark.parametrize(
    "url",
    [
        "http://me:hunter2@127.0.0.1:9/v1",
        "http://me:hunter2@[",
        "http://me:hun/ter2@127.0.0.1:9/v1",
        "http://me:hun?ter2@127.0.0.1:9/v1",
        "ftp://me:hunter2@a.b",
        "http://127.0.0.1:9/v1?key=hunter2",
        "http://127.0.0.1:9/v1#hunter2",
    ],
)
def test_no_message_shows_a_password(url):
    said = refusal(url, "m", "hi", timeout_s=2)
    assert "ter2" not in said and "hun" not in said
    assert "ter2" not in shown_address(url)
    shown = repr(Judge(url, "m", KEY))
    assert "ter2" not in shown and KEY not in shown


@pytest.mark.parametrize("key", ["ké-secret", "two\nlines-secret", "a secret"])
def test_a_key_that_cannot_be_sent_is_not_shown(key):
    said = refusal("http://127.0.0.1:9", "m", "hi", api_key=key)
    assert "the key has a space" in said
    assert "secret" not in said


def test_each_key_goes_to_the_host_that_it_was_given_for(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OTHER", " other-key\n")
    for url in ("https://api.openai.com/v1", "https://eu.api.openai.com:443/v1"):
        assert find_key(url) == KEY
        assert find_key(url, "OTHER") == "other-key"
    for url in (
        "http://api.openai.com/v1",
        "https://api.openai.com.evil.org/v1",
        "https://evil.org/https://api.openai.com/v1",
        "https://api.openai.com@evil.org/v1",
        "https://evilapi.openai.com.org/",
        "http://localhost:11434/v1",
    ):
        assert find_key(url) is None
    monkeypatch.delenv("OPENAI_API_KEY")
    assert find_key("https://api.openai.com/v1") is None


@pytest.mark.parametrize("given", [KEY, "gsk_looks_like_a_name", "EMPTY_ONE"])
def test_the_name_of_a_variable_is_not_repeated_in_case_it_is_a_key(given, monkeypatch):
    monkeypatch.setenv("EMPTY_ONE", " ")
    with pytest.raises(ValueError, match="--judge-key-env") as e:
        find_key("https://a.b", given)
    assert given not in str(e.value)


# --- limits ---


def test_a_reply_that_trickles_is_given_up(server):
    def drops():
        for _ in range(100):
            PAUSE.wait(0.05)
            yield b" "

    url = server(lambda *_: (200, {}, drops()))
    start = time.monotonic()
    said = refusal(url, "m", "hi", timeout_s=0.3)
    assert "no whole reply after 0.3 s" in said and "--judge-timeout" in said
    assert "start the server" not in said
    assert time.monotonic() - start < 2


@pytest.mark.parametrize("first", [b"", b"HTTP/1.1 200 OK\r\nX-Slow: "])
def test_headers_that_trickle_are_given_up_too(first):
    listening = socket.create_server(("127.0.0.1", 0))

    def drip():
        connection, _ = listening.accept()
        try:
            connection.sendall(first or b"H")
            for _ in range(100):
                PAUSE.wait(0.05)
                connection.sendall(b"x" if first else b"")
        except OSError:
            pass
        connection.close()

    threading.Thread(target=drip, daemon=True).start()
    url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    start = time.monotonic()
    assert "no whole reply after 0.3 s" in refusal(url, "m", "hi", timeout_s=0.3)
    assert time.monotonic() - start < 2
    listening.close()


def test_an_error_that_trickles_is_still_an_error(server):
    def drops():
        for _ in range(100):
            PAUSE.wait(0.05)
            yield b"no key "

    url = server(lambda *_: (401, {}, drops()))
    assert "HTTP 401 (no key" in refusal(url, "m", "hi", timeout_s=0.3)


def test_a_server_on_this_machine_is_asked_past_the_proxy(server, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    url = server(lambda *_: chat("hi"))
    for host in ("127.0.0.1", "localhost", "0.0.0.0"):
        assert ask_endpoint(url.replace("127.0.0.1", host), "m", "hi") == "hi"


def test_which_host_is_this_one():
    here = "localhost LOCALHOST. a.localhost 127.0.0.1 127.8.9.1 ::1 ::ffff:127.0.0.1"
    here += f" 0.0.0.0 :: {socket.gethostname()}"
    assert all(map(is_here, here.split()))
    for host in ("a.b", "10.0.0.1", "mylocalhost", "localhost.evil.org", "::2"):
        assert not is_here(host)


# --- patience ---


@pytest.mark.parametrize(
    "status, after, waits",
    [
        (429, "7", 7),
        (429, "0.5", 0.5),
        (408, None, 1),
        (500, "", 1),
        (503, "soon", 1),
        (529, "inf", 1),
        (429, "-3", 1),
        (503, "Wed, 21 Oct 2015 07:28:00 GMT", 0),
    ],
)
def test_a_busy_server_is_asked_again_when_it_says(
    server, no_waiting, status, after, waits
):
    headers = {} if after is None else {"Retry-After": after}
    url = server(in_turn((status, headers, [b"busy"]), chat("hi")))
    said = []
    assert ask_endpoint(url, "m", "hi", say=said.append) == "hi"
    assert no_waiting == [waits]
    assert f"HTTP {status}; asking again in " in said[0]


def test_a_busy_server_is_not_asked_for_ever(server, no_waiting):
    url = server(lambda *_: (429, {}, [b"quota used up"]))
    assert "HTTP 429 (quota used up): it is busy" in refusal(url, "m", "hi")
    assert no_waiting == [1, 2, 4, 8]
    no_waiting.clear()
    url = server(lambda *_: (429, {"Retry-After": "86400"}, []))
    assert "it is busy or broken, for 86400 s" in refusal(url, "m", "hi")
    assert no_waiting == []


def test_a_connection_that_breaks_is_tried_again(server, no_waiting):
    half = (200, {"Content-Length": "999"}, [b'{"choices"'])
    assert ask_endpoint(server(in_turn(half, half, chat("hi"))), "m", "hi") == "hi"
    assert no_waiting == [1, 2]


# --- many questions ---


def test_the_first_reply_may_take_long_and_so_may_one_after_a_silence(monkeypatch):
    now, limits = [0.0], []

    def ask(url, model, prompt, limit_s, *_):
        limits.append(limit_s)
        return "hi"

    monkeypatch.setattr(judge, "ask_endpoint", ask)
    monkeypatch.setattr(judge.time, "monotonic", lambda: now[0])
    asked = Judge("http://a.b", "m")
    for now[0] in (0, 10, 20, 320):
        asked("hi")
    assert limits == [600, 120, 120, 600]
    Judge("http://a.b", "m", timeout_s=30)("hi")
    assert limits[-1] == 30


def test_a_broken_judgement_goes_on_where_it_stopped(server, tmp_path, no_waiting):
    asked, path = [], tmp_path / "new" / "replies.jsonl"

    def answer(path, headers, body):
        asked.append(json.loads(body)["messages"][0]["content"])
        return (404, {}, []) if len(asked) == 3 else chat(f"SCORE: {len(asked)}")

    url = server(answer)
    replies = Replies(Judge(url, "m", KEY), path)
    replies.greet()
    assert replies("a") == "SCORE: 2"
    with pytest.raises(ValueError, match="HTTP 404.* 1 replies are kept in .*jsonl"):
        replies("b")
    again = Replies(Judge(url, "m"), path)
    assert [again("a"), again("b")] == ["SCORE: 2", "SCORE: 4"]
    assert asked == ["Say hi.", "a", "b", "b"]
    # another model is another judge
    assert Replies(Judge(url, "n"), path)("a") == "SCORE: 5"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(x["judge"], x["prompt"]) for x in lines] == [
        ("m", "a"),
        ("m", "b"),
        ("n", "a"),
    ]
    assert KEY not in path.read_text()


@pytest.mark.parametrize("cut", [1, 5, 10, 30, -2])
def test_a_torn_line_is_asked_again(tmp_path, monkeypatch, cut):
    monkeypatch.setattr(judge, "ask_endpoint", lambda *_: "SCORE: 1\n  ü")
    path = tmp_path / "replies.jsonl"
    replies = Replies(Judge("http://me:secret@a.b/v1", "m"), path)
    replies("a")
    first = path.read_bytes()
    replies("b")
    whole = path.read_bytes()
    path.write_bytes(first + whole[len(first) :][:cut])
    again = Replies(Judge("http://a.b/v1", "m"), path)
    assert list(again.known) == ["a"]
    again("b")
    assert path.read_bytes() == whole
    assert b"secret" not in whole


@pytest.mark.parametrize(
    "content",
    [b"my notes\n", b"x", b'[{"instruction": "a"}]', b'{"judge": 3}\n', b"\x00" * 99],
)
def test_a_file_of_somebody_else_is_left_alone(tmp_path, content):
    path = tmp_path / "mine"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="mine: holds something else"):
        Replies(Judge("http://a.b/v1", "m"), path)
    assert path.read_bytes() == content


def test_what_is_no_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path, tmp_path / "fifo", "/dev/null"):
        with pytest.raises(ValueError, match="is no regular file"):
            Replies(Judge("http://a.b/v1", "m"), path)


def test_where_replies_lie(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "runs" / "first"
    run.mkdir(parents=True)
    assert replies_file("runs/first/").as_posix() == "runs/first-judge.jsonl"
    assert replies_file(str(run)) == tmp_path / "runs" / "first-judge.jsonl"
    assert replies_file("tiny").as_posix() == "tiny-judge.jsonl"
    assert replies_file("hf:a/b").as_posix() == "hf-a-b-judge.jsonl"
    monkeypatch.chdir(run)
    assert replies_file(".") == tmp_path / "runs" / "first-judge.jsonl"


def test_a_judge_is_checked_before_anything_is_begun(tmp_path):
    def opened(**options):
        return open_judge(JudgeConfig(**options), "tiny", say=lambda line: None)

    assert opened() is None
    with pytest.raises(ValueError, match="--judge and --judge-model belong together"):
        opened(judge_model="m")
    with pytest.raises(ValueError, match="begins with http"):
        opened(judge="file:///etc", judge_model="m")
    with pytest.raises(ValueError, match="--judge-key-env"):
        opened(judge="http://a.b", judge_model="m", judge_key_env="NOT_THERE")
    with pytest.raises(ValueError, match="is no regular file"):
        opened(judge="http://a.b", judge_model="m", judge_out=str(tmp_path))


# --- from the command line ---


def evaluate(model, data, url, *more, **environment):
    command = [sys.executable, "-m", "gpt_course.cli", "evaluate", str(model)]
    command += ["--data", str(data), "--max-new-tokens", "2", "--judge", url]
    return subprocess.run(
        [*command, "--judge-model", "m", *map(str, more)],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | environment,
    )


@pytest.fixture
def few(tmp_path):
    path = tmp_path / "few.json"
    record = {"instruction": "Say hi.", "input": "", "output": "Hi."}
    others = [record | {"input": text} for text in "ab"]
    path.write_text(json.dumps([record, *others]))
    return path


def test_a_judgement_from_the_command_line(server, small_model, few, tmp_path):
    seen, broken = [], [True]

    def answer(path, headers, body):
        seen.append(headers["Authorization"])
        if len(seen) == 4 and broken.pop():
            return 403, {}, [KEY.encode()]
        return chat("\x1b[2JFine.\nSCORE: 70")

    url, out = server(answer), tmp_path / "kept.jsonl"
    more = ("--judge-key-env", "MY_KEY", "--judge-out", out)
    result = evaluate(small_model, few, url, *more, MY_KEY=KEY)
    assert result.returncode == 2, result.stderr
    assert "the key was refused" in result.stderr
    assert f"2 replies are kept in {out}" in result.stderr
    result = evaluate(small_model, few, url, *more, "--json", MY_KEY=KEY)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["judge_mean"] == 70
    assert f"its replies are kept in {out} (2 from before)" in result.stderr
    assert seen == [f"Bearer {KEY}"] * 6  # hi, 1, 2, 3; hi, 3
    assert KEY not in result.stderr + out.read_text()


def test_if_no_reply_can_be_read_one_is_shown(server, small_model, few, tmp_path):
    url = server(lambda *_: chat("I would say\x1b[2J it is good."))
    out = tmp_path / "kept.jsonl"
    result = evaluate(small_model, few, url, "--judge-out", out, OPENAI_API_KEY=KEY)
    assert result.returncode == 0, result.stderr
    assert r"I would say\x1b[2J it is good." in result.stderr
    assert "0 grades, and 3 that could not be read" in result.stdout
