"""The hub as a source: against a small hub in a thread, and against failures of the library."""

import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub.errors import OfflineModeIsEnabled

from frankenlab.io.errors import UserError
from frankenlab.models.fetch import fetch_data
from frankenlab.models.sources import Source, source_from_config

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_averysecretaccesstoken"


def serve(handler):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def hub_source() -> Source:
    return source_from_config({"hub": "owner/corpus", "revision": COMMIT}, "data.hub", "data")


def git_blob(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


REPOSITORY = {"train/data.parquet": b"large" * 99, "info.json": b"{}", "load.py": b"evil()"}


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of the hub as the library asks for."""

    served = REPOSITORY
    requests: list

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = self.path.split("?")[0]
        self.requests.append((path, self.headers.get("Authorization")))
        files = [
            {"path": name, "oid": git_blob(content), "size": len(content), "type": "file"}
            for name, content in REPOSITORY.items()
        ]
        digest = hashlib.sha256(REPOSITORY["train/data.parquet"]).hexdigest()
        files[0]["lfs"] = {"oid": digest, "sha256": digest, "size": 495, "pointerSize": 128}
        headers = {}
        if path == f"/api/datasets/owner/corpus/revision/{COMMIT}":
            siblings = [{**f, "rfilename": f["path"], "blobId": f["oid"]} for f in files]
            body = {"id": "owner/corpus", "sha": COMMIT, "siblings": siblings}
            content = json.dumps(body).encode()
        elif path == f"/api/datasets/owner/corpus/tree/{COMMIT}":
            content = json.dumps(files).encode()
        elif path.startswith(f"/datasets/owner/corpus/resolve/{COMMIT}/"):
            content = self.served[path.split(COMMIT + "/")[1]]
            headers = {"ETag": f'"{git_blob(content)}"', "X-Repo-Commit": COMMIT}
        else:
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(200)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *arguments):
        pass


def fetch_from_hub(endpoint: str, target: Path) -> subprocess.CompletedProcess:
    """Uses the real library in a process of its own: it reads its settings once, at import."""
    code = (
        "import sys\n"
        "from frankenlab.io.errors import UserError\n"
        "from frankenlab.models.fetch import fetch_data\n"
        "from frankenlab.models.sources import Source\n"
        f"s = Source('hub', 'owner/corpus', {COMMIT!r})\n"
        "try:\n"
        f"    print(sorted(fetch_data(s, {str(target)!r})['files']))\n"
        "except UserError as error:\n"
        "    sys.exit(f'error: {error}')\n"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    environment |= {
        "HF_ENDPOINT": endpoint,
        "HF_TOKEN": TOKEN,
        "HF_HOME": str(target.parent / "hf"),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )


@pytest.mark.slow
def test_the_hub_is_asked_for_data_files_only_and_sees_the_token(tmp_path):
    class Handler(Hub):
        requests = []

    server = serve(Handler)
    done = fetch_from_hub(f"http://127.0.0.1:{server.server_port}", tmp_path / "out/data")
    server.shutdown()
    assert done.stdout == "['info.json', 'train/data.parquet']\n", done.stderr
    assert TOKEN not in done.stdout + done.stderr
    assert any(token == f"Bearer {TOKEN}" for _, token in Handler.requests)
    assert not any(path.endswith("load.py") for path, _ in Handler.requests)
    content = (tmp_path / "out/data/train/data.parquet").read_bytes()
    assert content == REPOSITORY["train/data.parquet"]
    found = sorted(path.name for path in (tmp_path / "out/data").iterdir())
    assert found == [".manifest.json", ".states.json", "info.json", "manifest.json", "train"]


@pytest.mark.slow
@pytest.mark.parametrize("changed", ["info.json", "train/data.parquet"])
def test_a_file_that_is_not_what_the_hub_lists_is_refused(tmp_path, changed):
    class Handler(Hub):
        requests = []
        served = {**REPOSITORY, changed: REPOSITORY[changed][::-1]}

    server = serve(Handler)
    done = fetch_from_hub(f"http://127.0.0.1:{server.server_port}", tmp_path / "out/data")
    server.shutdown()
    assert f"'{changed}' has the hash" in done.stderr and done.returncode == 1
    assert not (tmp_path / "out/data").exists()


@pytest.mark.slow
def test_without_a_network_one_line_says_what_is_missing_and_what_works(tmp_path):
    # Port 9 (discard) refuses connections.
    done = fetch_from_hub("http://127.0.0.1:9", tmp_path / "out/data")
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert done.returncode == 1 and len(errors) == 1, done.stderr
    for part in ("owner/corpus", COMMIT, "cannot be reached", "`path`", "`pypi`", "mirror"):
        assert part in errors[0]
    assert TOKEN not in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "out/data").exists()


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OfflineModeIsEnabled(f"offline {TOKEN}"), "cannot be reached"),
        (ConnectionResetError(104, TOKEN), "cannot be reached"),
        (OSError(28, f"No space for {TOKEN}"), "no space left on device"),
        (RuntimeError(TOKEN), r"download from the hub failed \(RuntimeError\)"),
    ],
)
def test_no_error_of_the_hub_shows_the_token(tmp_path, monkeypatch, error, message):
    def refuse(*arguments, **keywords):
        raise error

    info = SimpleNamespace(siblings=[SimpleNamespace(rfilename="a.json")])
    monkeypatch.setattr(huggingface_hub.HfApi, "repo_info", lambda *a, **k: info)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(UserError, match=message) as caught:
        fetch_data(hub_source(), tmp_path / "data")
    assert TOKEN not in str(caught.value)
    assert caught.value.__suppress_context__


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_repository_that_is_private_or_missing_says_how_to_get_in(tmp_path, monkeypatch, status):
    def refuse(*arguments, **keywords):
        error = RuntimeError(f"Bearer {TOKEN}")
        error.response = SimpleNamespace(status_code=status)
        raise error

    monkeypatch.setattr(huggingface_hub.HfApi, "repo_info", refuse)
    with pytest.raises(UserError, match=rf"HTTP {status}.*HF_TOKEN") as caught:
        fetch_data(hub_source(), tmp_path / "data")
    assert TOKEN not in str(caught.value)


def test_a_file_that_the_repository_lacks_is_named(tmp_path, monkeypatch):
    info = SimpleNamespace(siblings=[SimpleNamespace(rfilename="load.py")])
    monkeypatch.setattr(huggingface_hub.HfApi, "repo_info", lambda *a, **k: info)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *a, **k: pytest.fail("asked"))
    with pytest.raises(UserError, match=r"no file that matches \*.arrow, "):
        fetch_data(hub_source(), tmp_path / "data")
