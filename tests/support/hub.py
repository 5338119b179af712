"""As much of the Hugging Face hub as the library `datasets` asks for, in a thread."""

import hashlib
import http.server
import io
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import unquote

import pyarrow
import pyarrow.parquet

Files = Mapping[str, bytes]


class Hub:
    """One data set in a repository, of which commits can be added.

    Attributes:
        commits: commit -> path -> content; the last one is the newest.
        requests: the paths that were asked for.
        address: where it is served.
    """

    def __init__(self, name: str, commits: Mapping[str, Files]) -> None:
        self.name, self.commits = name, dict(commits)
        self.requests: list[str] = []
        self.address = ""

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        """Return status, headers and content of what is at a path."""
        self.requests.append(path)
        newest = next(reversed(self.commits))
        _, _, rest = path.partition(f"{self.name}/")
        what, _, rest = rest.partition("/")
        revision, _, name = rest.partition("/")
        commit = newest if revision == "main" else revision
        if commit not in self.commits:
            return 404, {"X-Error-Code": "RevisionNotFound"}, b""
        files = self.commits[commit]
        if what == "resolve" and name in files:
            headers = {"ETag": f'"{_git_blob(files[name])}"', "X-Repo-Commit": commit}
            return 200, headers, files[name]
        if what == "revision":
            names = [{"rfilename": name} for name in files]
            return _as_json({"id": self.name, "sha": commit, "siblings": names})
        if what == "tree":
            return _as_json([_entry(*file) for file in files.items() if file[0].startswith(name)])
        return 404, {"X-Error-Code": "EntryNotFound"}, b""


def data_set(configurations: Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]]) -> Files:
    """Return the files of a repository: configuration -> split -> rows."""
    card, files = "---\nconfigs:\n", {}
    for configuration, splits in configurations.items():
        card += f"- config_name: {configuration}\n  data_files:\n"
        for split, rows in splits.items():
            path, content = f"{configuration}/{split}.parquet", io.BytesIO()
            card += f"  - split: {split}\n    path: {path}\n"
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), content)
            files[path] = content.getvalue()
    return {"README.md": f"{card}---\n".encode(), **files}


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """Serve a hub on this machine."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, headers, content = hub.answer(unquote(self.path.split("?")[0]))
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        do_HEAD = do_GET  # noqa: N815 (the library's name)

        def log_message(self, *arguments: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


def _git_blob(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _entry(path: str, content: bytes) -> dict[str, Any]:
    return {"path": path, "oid": _git_blob(content), "size": len(content), "type": "file"}


def _as_json(value: Any) -> tuple[int, dict[str, str], bytes]:
    return 200, {"Content-Type": "application/json"}, json.dumps(value).encode()
