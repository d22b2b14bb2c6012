"Downloads, against a server on this machine that serves repositories as the Hub does"

import hashlib
import http.server
import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

from gpt_course import hub
from gpt_course.model import GPT, GPTConfig, init_weights
from gpt_course.model_folders import load_pretrained, save_pretrained

ROOT = Path(__file__).resolve().parent.parent
COMMIT = "607a30d783dfa663caf39e06633721c8d4cfcd7e"  # of gpt2, as pinned
NEWEST = "b" * 40  # what `main` is in the served repositories
SMALL = GPTConfig(vocab_size=300, n_positions=32, n_embd=64, n_layer=2, n_head=4)


class Hub:
    """Repositories and what shall go wrong; `log` has every request as (method, path,
    Range, Authorization)."""

    def __init__(self):
        self.files, self.log, self.statuses, self.cuts, self.announce = (
            {},
            [],
            [],
            [],
            {},
        )
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self):
                outer.answer(self, False)

            def do_GET(self):
                outer.answer(self, True)

            def log_message(self, *args):
                pass

        self.httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.httpd.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.httpd.server_port}"

    def add(self, repo, folder):
        self.files[repo] = {p.name: p.read_bytes() for p in Path(folder).iterdir()}

    def answer(self, request, body):
        # the library asks for more
        if not re.search("/resolve/|/api/models/", request.path):
            return self.missing(request, body, "EntryNotFound")
        self.log.append(
            (
                request.command,
                request.path,
                request.headers.get("Range"),
                request.headers.get("Authorization"),
            )
        )
        if self.statuses:
            if status := self.statuses.pop(0):
                return self.send(request, status, b"busy", {"Retry-After": "0"}, body)
        if match := re.match(
            r"/api/models/([^/]+/[^/]+)/(revision|tree)/", request.path
        ):
            repo, kind = match.groups()
            if repo not in self.files:
                return self.missing(request, body, "RepoNotFound")
            tree = [
                {
                    "type": "file",
                    "path": n,
                    "size": len(d),
                    "oid": hashlib.sha1(d).hexdigest(),
                }
                | (
                    {
                        "lfs": {
                            "oid": self.sha256(n, d),
                            "size": len(d),
                            "pointerSize": 134,
                        }
                    }
                    if n.endswith(".safetensors")
                    else {}
                )
                for n, d in self.files[repo].items()
            ]
            info = {
                "id": repo,
                "modelId": repo,
                "sha": NEWEST,
                "siblings": [{"rfilename": n} for n in self.files[repo]],
                "tags": [],
            }
            return self.send(
                request,
                200,
                json.dumps(tree if kind == "tree" else info).encode(),
                {"Content-Type": "application/json"},
                body,
            )
        match = re.match(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", request.path)
        if not match or match[1] not in self.files:
            return self.missing(request, body, "RepoNotFound")
        if match[3] not in self.files[match[1]]:
            return self.missing(request, body, "EntryNotFound")
        self.file(request, match[2], match[3], self.files[match[1]][match[3]], body)

    def sha256(self, name, data):
        return self.announce.get(name) or hashlib.sha256(data).hexdigest()

    def file(self, request, commit, name, data, body):
        headers = {
            "X-Repo-Commit": NEWEST if commit == "main" else commit,
            "ETag": f'"{hashlib.sha1(data).hexdigest()}"',
            "Accept-Ranges": "bytes",
        }
        if name.endswith(".safetensors"):
            headers |= {
                "X-Linked-Etag": f'"{self.sha256(name, data)}"',
                "X-Linked-Size": str(len(data)),
            }
        start, status = 0, 200
        if wanted := request.headers.get("Range"):
            start, status = int(re.match(r"bytes=(\d+)-", wanted)[1]), 206
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        cut = (
            self.cuts.pop(0)
            if body and name.endswith(".safetensors") and self.cuts
            else None
        )
        self.send(request, status, data[start:], headers, body, cut)

    def missing(self, request, body, code):
        self.send(
            request, 404, b"", {"X-Error-Code": code, "X-Error-Message": code}, body
        )

    def send(self, request, status, data, headers, body, cut=None):
        "`cut`: bytes after which the connection is dropped."
        request.send_response(status)
        for key, value in headers.items():
            request.send_header(key, value)
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        if body:
            request.wfile.write(data[:cut])
        if cut is not None:
            request.close_connection = True


@pytest.fixture
def server(monkeypatch, tmp_path):
    """A Hub with a small model in gpt2's place, and a fresh cache; the library is told
    at run time what it reads at import."""
    s = Hub()
    s.add(
        "openai-community/gpt2",
        save_pretrained(init_weights(GPT(SMALL), seed=7), None, tmp_path / "published"),
    )
    s.data = s.files["openai-community/gpt2"]["model.safetensors"]
    monkeypatch.setitem(hub.CHECKSUMS, "gpt2", hashlib.sha256(s.data).hexdigest())
    from huggingface_hub.utils import _http

    monkeypatch.setattr(constants, "ENDPOINT", s.url)
    monkeypatch.setattr(
        constants,
        "HUGGINGFACE_CO_URL_TEMPLATE",
        s.url + "/{repo_id}/resolve/{revision}/{filename}",
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    # the same module for all: no waiting anywhere
    monkeypatch.setattr(_http.time, "sleep", lambda s: None)
    monkeypatch.setenv("GPT_COURSE_CACHE", str(tmp_path / "ours"))
    _http.close_session()
    s.cache = tmp_path / "hub"
    yield s
    _http.close_session()
    s.httpd.shutdown()
    s.httpd.server_close()


def weights_in(cache):
    """Every file of the cache that could be taken for weights, links followed; a half
    one would be among them."""
    return [
        p
        for p in cache.rglob("*")
        if p.is_file()
        and ("blobs" in p.parts or "snapshots" in p.parts)
        and p.stat().st_size > 2000
    ]


def assert_loaded(server):
    model, _ = load_pretrained("gpt2")
    assert all(
        torch.equal(a, b)
        for a, b in zip(
            model.parameters(), init_weights(GPT(SMALL), seed=7).parameters()
        )
    )
    assert {p.read_bytes() for p in weights_in(server.cache)} == {server.data}


def test_whole_at_the_pinned_commit_and_only_once(server):
    assert_loaded(server)
    assert {path.split("/resolve/")[1].split("/")[0] for _, path, *_ in server.log} == {
        COMMIT
    }
    n = len(server.log)
    assert_loaded(server)
    assert len(server.log) == n  # what is in the cache asks nobody
    from huggingface_hub import scan_cache_dir  # other tools see it

    [repo] = scan_cache_dir(server.cache).repos
    assert repo.repo_id == "openai-community/gpt2" and [
        r.commit_hash for r in repo.revisions
    ] == [COMMIT]


def test_cut_off_in_the_middle_it_is_resumed_where_it_broke(server, monkeypatch):
    half, more = len(server.data) // 2, 5000
    # what is on the disk grows in pieces of this size, else of 10 MB
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)
    server.cuts = [half, more]
    assert_loaded(server)
    asked = [
        int(r.removeprefix("bytes=").removesuffix("-"))
        for method, path, r, _ in server.log
        if r
    ]
    assert (
        len(asked) == 2
        and half - 1000 < asked[0] <= half
        and asked[0] + 4000 < asked[1] <= asked[0] + 5000
    )


def test_cut_off_for_good_nothing_half_stays(server):
    server.cuts = [100] * 50
    with pytest.raises(
        ValueError,
        match="gpt2: could not be fetched .*; (connect to the network and )?try again",
    ):
        load_pretrained("gpt2")
    assert not weights_in(server.cache) and not list(server.cache.rglob("*.incomplete"))
    server.cuts = []
    assert_loaded(server)


def test_a_wrong_checksum_is_refused_and_removed(server):
    wrong = bytearray(server.data)
    wrong[-1] ^= 1
    right, server.data = server.data, bytes(wrong)
    server.files["openai-community/gpt2"]["model.safetensors"] = server.data
    with pytest.raises(
        ValueError, match="sha256 .* does not match .*; it was removed; try again"
    ):
        load_pretrained("gpt2")
    assert not weights_in(server.cache)
    server.data = server.files["openai-community/gpt2"]["model.safetensors"] = right
    assert_loaded(server)


def test_a_file_that_changed_in_the_cache_is_noticed(server):
    assert_loaded(server)
    [blob] = [p for p in weights_in(server.cache) if "blobs" in p.parts]
    data = bytearray(blob.read_bytes())
    data[-1] ^= 1
    blob.write_bytes(data)
    with pytest.raises(ValueError, match="does not match"):
        load_pretrained("gpt2")
    assert_loaded(server)


def test_the_checksum_is_remembered(server, monkeypatch):
    assert_loaded(server)
    monkeypatch.setattr(
        hub.hashlib, "file_digest", lambda *a: pytest.fail("computed again")
    )
    assert_loaded(server)


@pytest.mark.parametrize(
    "statuses", [[429], [503, 500], [None, 429], [None, None, None, 429]]
)
def test_a_busy_server_is_asked_again(server, statuses):
    "Each in turn: the first question, or the download itself."
    server.statuses = statuses
    assert_loaded(server)


@pytest.mark.parametrize("status", [429, 503])
def test_a_server_that_stays_busy_is_named(server, status):
    server.statuses = [status] * 1000
    with pytest.raises(
        ValueError, match=f"answered HTTP {status}; wait a minute and try again"
    ):
        load_pretrained("gpt2")
    assert not weights_in(server.cache)


def test_what_is_not_there_is_named(server):
    del server.files["openai-community/gpt2"]["model.safetensors"]
    with pytest.raises(ValueError, match="a file is missing there"):
        load_pretrained("gpt2")
    with pytest.raises(
        ValueError, match="hf:nobody/nothing: .*no such model, or it is private"
    ):
        load_pretrained("hf:nobody/nothing")
    with pytest.raises(ValueError, match="hf:a b: could not be fetched"):
        load_pretrained("hf:a b")


def test_any_other_model_of_the_hub(server, tmp_path):
    """Another repository, at main or at a revision; what is not needed is not
    downloaded; the announced checksum counts."""
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    bpe = tokenizers.ByteLevelBPETokenizer()
    bpe.train_from_iterator(
        ["some words"], vocab_size=300, special_tokens=["</s>"], show_progress=False
    )
    bpe.save(str(tmp_path / "t.json"))
    folder = tmp_path / "llama"
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=300,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        max_position_embeddings=64,
        bos_token_id=None,
        eos_token_id=0,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(tmp_path / "t.json"), eos_token="</s>"
    ).save_pretrained(folder)
    (folder / "pytorch_model.bin").write_bytes(b"x" * 5000)
    server.add("somebody/llama", folder)
    model, tokenizer = load_pretrained("hf:somebody/llama")
    ids = torch.arange(20)[None]
    with torch.no_grad():
        assert (
            model(ids)
            - transformers.LlamaForCausalLM.from_pretrained(folder)(ids).logits
        ).abs().max() < 1e-4
    assert not [path for _, path, *_ in server.log if path.endswith(".bin")]
    load_pretrained(f"hf:somebody/llama@{'c' * 40}")
    server.add("somebody/broken", folder)
    server.announce["model.safetensors"] = "0" * 64
    with pytest.raises(ValueError, match="does not match 000000000000"):
        load_pretrained("hf:somebody/broken")
    server.httpd.shutdown()
    server.httpd.server_close()
    # from the cache, when nobody answers
    load_pretrained(f"hf:somebody/llama@{'c' * 40}")


def test_a_gpt2_of_somebody_else_is_ours(server, tmp_path):
    server.add("somebody/gpt2", tmp_path / "published")
    assert isinstance(load_pretrained("hf:somebody/gpt2")[0], GPT)


def run(code, **env):
    "What `python -c` prints in this environment, its last line of error, all of it."
    keep = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
    r = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=keep | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | env,
    )
    return r.stdout.strip(), (r.stderr.strip().splitlines() or [""])[-1], r.stderr


LOAD = """
from gpt_course import hub, model_folders
hub.CHECKSUMS.clear()
print(type(model_folders.load_pretrained('gpt2')[0]).__name__)
"""


def test_the_environment_is_respected(server, tmp_path):
    "Endpoint, token, cache, offline: the library's own variables; a bar is shown."
    env = {
        "HF_ENDPOINT": server.url,
        "HF_HOME": str(tmp_path / "home"),
        "HF_TOKEN": "hf_secret",
        "GPT_COURSE_CACHE": str(tmp_path / "ours"),
        "TQDM_POSITION": "-1",
    }  # a bar even where nobody looks
    offline = {"HF_HUB_OFFLINE": "1"}
    out, error, _ = run(LOAD, **env | offline)
    assert (
        not out
        and "HF_HUB_OFFLINE is set, and the files are not in" in error
        and not server.log
    )
    out, error, all_of_it = run(LOAD, **env)
    assert out == "GPT", all_of_it
    assert {auth for *_, auth in server.log} == {
        "Bearer hf_secret"
    } and "model.safetensors: 100%" in all_of_it
    assert (
        tmp_path
        / "home"
        / "hub"
        / "models--openai-community--gpt2"
        / "snapshots"
        / COMMIT
        / "model.safetensors"
    ).exists()
    n = len(server.log)
    assert run(LOAD, **env | offline)[0] == "GPT" and len(server.log) == n


def test_no_network_is_one_clear_message(server):
    server.httpd.shutdown()
    server.httpd.server_close()
    with pytest.raises(
        ValueError,
        match=f"gpt2: .*{server.url} cannot be reached .*connect to the network .*"
        "or use --model tiny",
    ):
        load_pretrained("gpt2")


def test_a_cache_that_cannot_be_written_is_named(server, tmp_path, monkeypatch):
    "Below a file no folder can be made, not even by root."
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "file" / "hub"))
    with pytest.raises(ValueError, match="cannot be written .*; set HF_HOME"):
        load_pretrained("gpt2")


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0,
    reason="only root can become somebody who may not write",
)
def test_a_read_only_cache_is_read(server, tmp_path):
    "Loads for a user who may write neither cache, and says what to do otherwise."
    if not all(folder.stat().st_mode & 0o001 for folder in (ROOT, *ROOT.parents)):
        pytest.skip("this checkout lies in a folder that others may not enter")
    load_pretrained("gpt2")
    for folder in (*tmp_path.parents, tmp_path):
        os.chmod(folder, os.stat(folder).st_mode | 0o055)
    env = {
        "HF_ENDPOINT": server.url,
        "HF_HUB_CACHE": str(server.cache),
        "GPT_COURSE_CACHE": str(tmp_path / "file" / "x"),
        "HOME": "/nonexistent",
    }
    # the libraries may be in a home of root
    become = """
import os, encodings.idna
from huggingface_hub import hf_hub_download, snapshot_download
from gpt_course.model_folders import load_pretrained
load_pretrained('tiny')
os.setuid(65534)
"""
    out, error, all_of_it = run(become + LOAD, **env)
    assert out == "GPT", all_of_it
    other = "load_pretrained('gpt2-medium')"
    server.add("openai-community/gpt2-medium", tmp_path / "published")
    out, error, all_of_it = run(become + other, **env)
    assert (
        "cannot be written (Permission denied); set HF_HOME to a folder that can"
        in error
    ), all_of_it


def test_importing_is_quiet_and_loads_no_library_of_the_hub():
    out, error, _ = run(
        """
import sys, gpt_course.model_folders
libraries = ('huggingface_hub', 'transformers', 'tokenizers')
print([m for m in libraries if m in sys.modules])
"""
    )
    assert out == "[]" and not error
