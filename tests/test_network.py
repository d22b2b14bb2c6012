"Downloads, from a real server on this machine that misbehaves on demand"

import hashlib
import http.server
import threading
from dataclasses import dataclass, field

import pytest

from gpt_course import downloads
from gpt_course.downloads import download
from gpt_course.records import fetch_lecture_data

DATA = b"[1, 2]"
DIGEST = hashlib.sha256(DATA).hexdigest()


@dataclass
class Answer:
    status: int = 200
    body: bytes = DATA
    cut: int | None = None  # bytes that are sent before the connection breaks off
    headers: dict[str, str] = field(default_factory=dict)


BUSY, BROKEN = Answer(503, b""), Answer(cut=3)


@pytest.fixture
def server():
    """`server(*answers)` starts a server and gives its address; it answers in this
    order, the last answer again and again.
    """
    started = []

    def start(*answers):
        left = list(answers)

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                answer = left.pop(0) if len(left) > 1 else left[0]
                self.send_response(answer.status)
                length = str(len(answer.body))
                for name, value in (
                    {"Content-Length": length} | answer.headers
                ).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(answer.body[: answer.cut])
                httpd.count += 1

            def log_message(self, *args):
                pass

        httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        httpd.count = 0
        thread = threading.Thread(target=httpd.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        started.append(httpd)
        return f"http://127.0.0.1:{httpd.server_port}/data.json"

    start.asked = lambda: sum(httpd.count for httpd in started)
    yield start
    for httpd in started:
        httpd.shutdown()
        httpd.server_close()


@pytest.fixture
def waits(monkeypatch):
    "Seconds that would have been waited."
    out = []
    monkeypatch.setattr(downloads.time, "sleep", out.append)
    return out


@pytest.mark.parametrize(
    "first, waited",
    [
        ([], []),
        ([Answer(429, b"", headers={"Retry-After": "7"})], [7]),
        ([Answer(503, b"", headers={"Retry-After": "9999"})], [60]),
        ([Answer(503, b"", headers={"Retry-After": "Fri, 1 Jan 2027"})], [1]),
        ([BUSY, Answer(500, b"")], [1, 2]),
        ([BROKEN], [1]),
        ([BROKEN, BUSY, BROKEN], [1, 2, 4]),
    ],
)
def test_a_busy_server_and_a_broken_connection_are_tried_again(
    server, tmp_path, waits, first, waited
):
    url = server(*first, Answer())
    assert download(url, tmp_path / "a" / "data.json", DIGEST).read_bytes() == DATA
    assert waits == waited


def test_a_file_that_has_moved_is_followed(server, tmp_path):
    url = server(Answer(302, b"", headers={"Location": "/elsewhere"}), Answer())
    assert download(url, tmp_path / "data.json", DIGEST).read_bytes() == DATA


@pytest.mark.parametrize(
    "answer, said",
    [
        (Answer(body=b"other"), "does not match"),
        (Answer(404, b""), r"could not be downloaded \(HTTP 404 Not Found\)"),
        (
            Answer(body=b"plain text", headers={"Content-Encoding": "gzip"}),
            "be downloaded",
        ),
    ],
)
def test_a_bad_download_is_not_kept_and_not_tried_again(
    server, tmp_path, waits, answer, said
):
    path = tmp_path / "data.json"
    path.write_text("old")
    with pytest.raises(ValueError, match=said):
        download(server(answer), path, DIGEST)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    assert waits == []
    assert server.asked() == 1


@pytest.mark.parametrize("answer", [BROKEN, Answer(429, b"")])
def test_a_server_that_never_gets_it_done_is_one_clear_message(
    server, tmp_path, waits, answer
):
    with pytest.raises(ValueError, match="could not be downloaded"):
        download(server(answer), tmp_path / "data.json", DIGEST)
    assert len(waits) == 3
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:9/x", "ftp://localhost/x", "data.json", "http://[", ""]
)
def test_an_address_where_nobody_is_gets_one_clear_message(tmp_path, waits, url):
    with pytest.raises(ValueError, match="could not be downloaded"):
        download(url, tmp_path / "data.json", DIGEST, timeout_s=2)
    assert waits == []
    assert list(tmp_path.iterdir()) == []


def test_a_proxy_that_needs_another_package_is_one_clear_message(tmp_path, monkeypatch):
    monkeypatch.setenv("all_proxy", "socks5://127.0.0.1:9")
    with pytest.raises(ValueError, match="could not be downloaded .*socksio"):
        download("http://example.org/x", tmp_path / "data.json", DIGEST, timeout_s=2)


# --- the lecture's data set ---


def test_data_is_downloaded_once_and_its_author_named(server, tmp_path, capsys):
    url = server(Answer())
    for _ in range(2):
        assert fetch_lecture_data(url, DIGEST, tmp_path).read_bytes() == DATA
    assert server.asked() == 1
    assert capsys.readouterr().err.count("Apache License 2.0") == 1


def test_a_broken_copy_in_the_cache_is_replaced(server, tmp_path):
    (tmp_path / "instruction-data.json").write_bytes(b"[1, ")
    assert fetch_lecture_data(server(Answer()), DIGEST, tmp_path).read_bytes() == DATA


def test_a_cache_that_cannot_be_written_is_named(server, tmp_path):
    "Below a file no folder can be made, not even by root."
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot be written .*; set GPT_COURSE_CACHE"):
        fetch_lecture_data(server(Answer()), DIGEST, tmp_path / "file" / "cache")


@pytest.mark.parametrize("answer", [BROKEN, BUSY, Answer(404, b""), Answer(body=b"")])
def test_who_cannot_have_it_is_told_the_way_without(server, tmp_path, waits, answer):
    with pytest.raises(ValueError, match="data set: .*--data instruction-data.json"):
        fetch_lecture_data(server(answer), DIGEST, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_no_network_is_one_clear_message(tmp_path):
    with pytest.raises(ValueError, match="--data instruction-data.json"):
        fetch_lecture_data("http://127.0.0.1:9/x", DIGEST, tmp_path, timeout_s=2)
