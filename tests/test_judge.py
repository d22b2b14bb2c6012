"The judge: what is asked over HTTP, what is read, and what a bad server gets to hear"

import http.server
import json
import threading
import time
from functools import partial

import pytest

from gpt_course.evaluation import ask_endpoint, judge_responses
from gpt_course.responses import Response


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


def test_the_judge_gets_the_question_and_the_grade_is_read(server):
    seen = []

    def answer(path, headers, body):
        seen.append((path, headers["Authorization"], json.loads(body)))
        return chat("Fine.\nSCORE: 70" if len(seen) == 1 else "I like it.")

    ask = partial(ask_endpoint, server(answer) + "/v1/", "llama3", api_key="secret")
    records = [{"instruction": "Say hi.", "input": "", "output": "Hi."}] * 2
    judgement = judge_responses(records, [Response("Hello.", "stop")] * 2, ask)
    assert judgement.scores == [70, None]
    assert judgement.replies == ["Fine.\nSCORE: 70", "I like it."]
    summary = judgement.summary()
    assert (summary["judge_mean"], summary["judge_unreadable"]) == (70, 1)
    path, authorization, body = seen[0]
    assert path == "/v1/chat/completions"
    assert authorization == "Bearer secret"
    assert (body["model"], body["temperature"]) == ("llama3", 0)
    assert "Hello." in body["messages"][0]["content"]


def test_a_judge_needs_an_answer_for_each_record():
    with pytest.raises(ValueError, match="1 responses for 2 records"):
        judge_responses([{"instruction": "a"}] * 2, [Response("b", "stop")], str)


@pytest.mark.parametrize(
    "reply, contains",
    [
        ((404, {}, [b"model not found"]), "HTTP 404 (model not found)"),
        ((500, {"Content-Length": "99"}, [b"half a mess"]), "HTTP 500 (half a mess)"),
        ((200, {}, [b"<html>"]), "not JSON"),
        ((200, {}, [b"\xff\xfe"]), "not JSON"),
        ((200, {}, [b'{"choices": [' + b"[" * 100_000]), "not JSON"),
        ((200, {}, [b'{"error": 1}']), "no choices"),
        ((200, {}, [b"[]"]), "no choices"),
        (chat(["SCORE: 1"]), "no choices"),
        ((200, {"Content-Length": "99"}, [b"{"]), "cannot be reached"),
        ((200, {}, [b" " * 100_000] * 20), "more than 1,000,000 bytes"),
    ],
)
def test_a_server_that_is_no_judge_is_named(server, reply, contains):
    url = server(lambda *_: reply)
    with pytest.raises(ValueError) as e:
        ask_endpoint(url, "m", "hi")
    assert contains in str(e.value)
    assert url in str(e.value)


def test_a_judge_that_says_nothing_is_no_fault(server):
    assert ask_endpoint(server(lambda *_: chat(None)), "m", "hi") == ""


def test_a_redirect_is_not_followed_because_the_key_would_go_with_it(server):
    seen = []

    def thief(path, headers, body):
        seen.append(headers["Authorization"])
        return chat("SCORE: 100")

    elsewhere = server(thief) + "/chat/completions"
    url = server(lambda *_: (307, {"Location": elsewhere}, []))
    with pytest.raises(ValueError, match="HTTP 307 leads elsewhere"):
        ask_endpoint(url, "m", "hi", api_key="secret")
    assert seen == []


def test_a_reply_that_trickles_is_given_up(server):
    def drops():
        for _ in range(100):
            time.sleep(0.05)
            yield b" "

    url = server(lambda *_: (200, {}, drops()))
    start = time.monotonic()
    with pytest.raises(ValueError, match="not complete after 0.3 s"):
        ask_endpoint(url, "m", "hi", timeout_s=0.3)
    assert time.monotonic() - start < 2


def test_a_server_on_this_machine_is_asked_past_the_proxy(server, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert ask_endpoint(server(lambda *_: chat("hi")), "m", "hi") == "hi"


@pytest.mark.parametrize("url", ["file:///etc", "localhost:11434", "ftp://a.b", ""])
def test_only_http_is_spoken(url):
    with pytest.raises(ValueError, match=r"begins with http\(s\)://"):
        ask_endpoint(url, "m", "hi")


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "http://[", "http://a b"])
def test_nobody_there_is_one_clear_message(url):
    with pytest.raises(ValueError, match="cannot be reached .*check --judge"):
        ask_endpoint(url, "m", "hi", timeout_s=2)


def test_a_key_that_cannot_be_sent_is_not_shown():
    with pytest.raises(ValueError, match="cannot be reached") as e:
        ask_endpoint("http://127.0.0.1:9", "m", "hi", api_key="ké\nsecret")
    assert "secret" not in str(e.value)
