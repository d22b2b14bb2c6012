"What talks to a server, against a real one on this machine"

import hashlib, http.server, json, threading
from functools import partial
import pytest
from gpt_course import dataset
from gpt_course.dataset import fetch_lecture_data
from gpt_course.evaluation import ask_endpoint, judge_responses
from gpt_course.responses import Response


@pytest.fixture
def server():
    "Starts a server whose answers the test chooses: `server(answer)` gives its address; an answer is status, body, bytes sent before it breaks off, headers."
    started = []

    def start(answer):
        class Handler(http.server.BaseHTTPRequestHandler):
            def reply(self):
                length = int(self.headers.get("Content-Length") or 0)
                status, body, *rest = answer(self.path, self.rfile.read(length))
                cut, headers = (rest + [None, {}])[:2] if rest else (None, {})
                self.send_response(status)
                for key, value in headers.items():
                    self.send_header(key, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body[:cut])

            do_GET = do_POST = reply

            def log_message(self, *args):
                pass

        httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        started.append(httpd)
        return f"http://127.0.0.1:{httpd.server_port}"

    yield start
    for httpd in started:
        httpd.shutdown()
        httpd.server_close()


def chat(text):
    return 200, json.dumps(
        {"choices": [{"message": {"role": "assistant", "content": text}}]}
    ).encode()


def test_the_judge_gets_the_question_and_the_grade_is_read(server):
    seen = []

    def answer(path, body):
        seen.append((path, json.loads(body)))
        return chat("Fine.\nSCORE: 70" if len(seen) == 1 else "I like it.")

    url = server(answer)
    records = [{"instruction": "Say hi.", "input": "", "output": "Hi."}] * 2
    judgement = judge_responses(
        records,
        [Response("Hello.", True)] * 2,
        partial(ask_endpoint, url + "/v1/", "llama3"),
    )
    assert judgement.scores == [70, None]
    assert (
        judgement.summary()["judge_mean"] == 70
        and judgement.summary()["judge_unreadable"] == 1
    )
    path, body = seen[0]
    assert (
        path == "/v1/chat/completions"
        and body["model"] == "llama3"
        and body["temperature"] == 0
    )
    assert "Hello." in body["messages"][0]["content"]


@pytest.mark.parametrize(
    "reply, contains",
    [
        ((404, b"model not found"), "HTTP 404 (model not found)"),
        ((200, b"<html>"), "not JSON"),
        ((200, b'{"error": 1}'), "no choices"),
    ],
)
def test_a_server_that_is_no_judge_is_named(server, reply, contains):
    with pytest.raises(ValueError) as e:
        ask_endpoint(server(lambda *_: reply), "m", "hi")
    assert contains in str(e.value)


@pytest.fixture
def waits(monkeypatch):
    "Seconds that would have been waited."
    out = []
    monkeypatch.setattr(dataset.time, "sleep", out.append)
    return out


def test_data_is_downloaded_checked_and_kept(server, tmp_path, capsys):
    data, calls = b"[1, 2]", []

    def answer(path, body):
        calls.append(path)
        return 200, data

    url, digest = server(answer), hashlib.sha256(data).hexdigest()
    for _ in range(2):
        assert fetch_lecture_data(url, digest, tmp_path).read_bytes() == data
    assert len(calls) == 1
    # named to whoever downloads it
    assert capsys.readouterr().err.count("Apache License 2.0") == 1


@pytest.mark.parametrize(
    "first, waited",
    [
        ([(429, b"", None, {"Retry-After": "7"})], [7]),
        ([(503, b""), (500, b"")], [1, 2]),
        ([(200, b"[1, 2]", 3)], [1]),
    ],
)
def test_a_busy_server_and_a_broken_connection_are_tried_again(
    server, tmp_path, waits, first, waited
):
    data, answers = b"[1, 2]", [*first]
    url = server(lambda *_: answers.pop(0) if answers else (200, data))
    assert (
        fetch_lecture_data(url, hashlib.sha256(data).hexdigest(), tmp_path).read_bytes()
        == data
    )
    assert waits == waited


@pytest.mark.parametrize("answer", [(200, b"[1, 2]", 3), (429, b"")])
def test_a_server_that_never_gets_it_done_is_one_clear_message(
    server, tmp_path, waits, answer
):
    with pytest.raises(
        ValueError, match="could not be downloaded .*--data instruction-data.json"
    ):
        fetch_lecture_data(server(lambda *_: answer), "0" * 64, tmp_path)
    assert len(waits) == 3 and not list(tmp_path.iterdir())


def test_a_broken_copy_in_the_cache_is_replaced(server, tmp_path):
    (tmp_path / "instruction-data.json").write_bytes(b"[1, ")
    assert (
        fetch_lecture_data(
            server(lambda *_: (200, b"[1, 2]")),
            hashlib.sha256(b"[1, 2]").hexdigest(),
            tmp_path,
        ).read_bytes()
        == b"[1, 2]"
    )


def test_a_cache_that_cannot_be_written_is_named(server, tmp_path):
    "Below a file no folder can be made, not even by root."
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot be written .*; set GPT_COURSE_CACHE"):
        fetch_lecture_data(
            server(lambda *_: (200, b"[]")),
            hashlib.sha256(b"[]").hexdigest(),
            tmp_path / "file" / "cache",
        )


@pytest.mark.parametrize(
    "answer, contains",
    [
        (lambda *_: (200, b"other"), "does not match"),
        (lambda *_: (404, b""), "could not be downloaded"),
    ],
)
def test_a_bad_download_is_not_kept(server, tmp_path, waits, answer, contains):
    with pytest.raises(ValueError, match=contains):
        fetch_lecture_data(server(answer), "0" * 64, tmp_path)
    assert not list(tmp_path.iterdir()) and not waits  # asking again would not help


def test_no_network_is_one_clear_message(tmp_path):
    with pytest.raises(ValueError, match="--data instruction-data.json"):
        fetch_lecture_data("http://127.0.0.1:9/x", "0" * 64, tmp_path, timeout_s=2)
