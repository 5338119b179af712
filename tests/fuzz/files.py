"""Damaged files: every reader ends in success or in one line, whatever is in the file.

A case copies one of the small files or folders below, damages one file in it, and reads it in a
child process. Where the format carries a checksum, a damaged copy must not read as something else
than what was written.
"""

import logging
import random
import shutil
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from frankenlab.io.errors import UserError

from .children import run_in_children
from .mutations import mutate

JSON = (".json",)
# A message of one line is for people: not the contents of a file.
LONGEST_MESSAGE = 1000


@dataclass(frozen=True)
class Subject:
    """A kind of file, or folder of files, and what reads it.

    Attributes:
        make: writes an undamaged one into an empty folder.
        files: pattern of those that are damaged.
        read: reads the folder; what it returns says what was read.
        sealed: a checksum vouches for the file, so that `read` gives what was written or refuses.
    """

    make: Callable[[Path], None]
    files: str
    read: Callable[[Path], Any]
    sealed: bool = False


def run(seed: int, cases: int) -> int:
    """Try so many cases; print those that fail, and return their number."""
    with tempfile.TemporaryDirectory(prefix="fuzz-files-") as folder:
        failures = failures_of(seed, range(cases), Path(folder))
    for case, outcome in failures.items():
        print(f"files: seed {seed}, case {case}: {outcome}")
    print(f"files: {cases} cases, {len(failures)} failures", flush=True)
    return len(failures)


def failures_of(seed: int, cases: range, folder: Path) -> dict[int, str]:
    """Return the cases that fail, with what was damaged and what happened."""
    subjects = subjects_of()
    originals = {}
    for name, subject in subjects.items():
        originals[name] = folder / "originals" / name
        originals[name].mkdir(parents=True)
        subject.make(originals[name])

    def work(case: int) -> str:
        with tempfile.TemporaryDirectory(dir=folder) as place:
            return _one(subjects, originals, seed, case, Path(place) / "it")

    logging.getLogger("transformers").setLevel(logging.ERROR)
    outcomes = run_in_children(work, cases, folder / "log")
    found = {}
    for case, outcome in outcomes.items():
        if not outcome.startswith("fine"):
            name, what, _ = _damage(subjects, originals, seed, case)
            found[case] = f"{name}, {what}: {outcome}"
    return found


def _damage(
    subjects: dict[str, Subject], originals: dict[str, Path], seed: int, case: int
) -> tuple[str, str, dict[str, bytes]]:
    """Return the subject of a case, its damage in words, and the damaged file's contents."""
    name = [*subjects][case % len(subjects)]
    draw = random.Random(f"{seed} {case}")
    files = sorted(originals[name].glob(subjects[name].files))
    path = draw.choice(files)
    contents, what = mutate(draw, path.read_bytes(), path.name.endswith(JSON))
    relative = path.relative_to(originals[name]).as_posix()
    return name, f"{relative} {what}", {relative: contents}


def _one(
    subjects: dict[str, Subject], originals: dict[str, Path], seed: int, case: int, place: Path
) -> str:
    name, _, damaged = _damage(subjects, originals, seed, case)
    subject = subjects[name]
    shutil.copytree(originals[name], place)
    for relative, contents in damaged.items():
        (place / relative).write_bytes(contents)
    try:
        found = subject.read(place)
    except UserError as error:
        text = str(error)
        # A wrong plan is shown with a caret under the fault.
        if not text.strip() or ("\n" in text and not text.endswith("^")):
            return f"a message of {text.count(chr(10)) + 1} lines: {text[:300]}"
        if len(text) > LONGEST_MESSAGE:
            return f"a message of {len(text)} characters: {text[:300]}"
        return "fine: refused"
    except BaseException as error:  # PanicException of a library in Rust is no Exception
        frames = traceback.extract_tb(error.__traceback__)
        ours = [f for f in frames if "frankenlab" in f.filename] or frames
        where = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}"
        return f"{type(error).__name__} at {where}: {str(error)[:200]}"
    if subject.sealed:
        shutil.rmtree(place)
        shutil.copytree(originals[name], place)
        if found is not None and not found == subject.read(place):  # noqa: SIM201 (see Part)
            return "it reads as whole, with other contents"
    return "fine: read"


# --- what is damaged, and what reads it -------------------------------------------------------


@cache
def subjects_of() -> dict[str, Subject]:
    from . import readers

    return readers.SUBJECTS
