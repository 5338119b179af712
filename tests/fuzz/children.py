"""Work that may kill its process, done in forked children: a bus error costs one case."""

import faulthandler
import os
import resource
import select
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

# Of one case. Every reader here takes a fraction of a second for a whole file of these sizes.
SECONDS = 30
# Beyond what the process has when it is forked.
MORE_MEMORY = 3 << 30


def run_in_children(work: Callable[[int], str], cases: Sequence[int], log: Path) -> dict[int, str]:
    """Return what `work` says of each case; of one that kills its process, or never ends, that.

    Args:
        work: gets a case's number; returns one line.
        log: gets what the children write on stdout and stderr.
    """
    found: dict[int, str] = {}
    while len(found) < len(cases):
        left = [case for case in cases if case not in found]
        found |= _one_child(work, left, log)
    return found


def _one_child(work: Callable[[int], str], cases: Sequence[int], log: Path) -> dict[int, str]:
    """Return the outcomes up to the first case that the child does not survive."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.close(reading)
            _child(work, cases, writing, log)
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    found: dict[int, str] = {}
    current, hung, pending = None, False, b""
    with os.fdopen(reading, "rb", buffering=0) as pipe:
        while True:
            ready, _, _ = select.select([pipe], [], [], SECONDS)
            if not ready:
                hung = True
                os.kill(pid, signal.SIGKILL)
                break
            block = pipe.read(1 << 16)
            if not block:
                break
            *lines, pending = (pending + block).split(b"\n")
            for line in lines:
                kind, number, text = line.decode(errors="replace").split(" ", 2)
                current = int(number) if kind == "begin" else None
                if kind == "end":
                    found[int(number)] = text
    _, status = os.waitpid(pid, 0)
    if hung:
        died = f"no end within {SECONDS} seconds"
    else:
        code = os.waitstatus_to_exitcode(status)
        died = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
    if current is not None:
        found[current] = died
    elif hung or not found:
        raise RuntimeError(f"a child of the fuzzer did nothing: {died}; see {log}")
    return found


def _child(work: Callable[[int], str], cases: Sequence[int], pipe: int, log: Path) -> None:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MORE_MEMORY, used + MORE_MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    faulthandler.disable()  # pytest would print every thread of the child
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for standard in (1, 2):
        os.dup2(descriptor, standard)
    sys.stdout = sys.stderr = open(descriptor, "w", buffering=1)  # noqa: SIM115
    for case in cases:
        os.write(pipe, b"begin %d \n" % case)
        outcome = " ".join(work(case).split())
        os.write(pipe, b"end %d %s\n" % (case, outcome.encode(errors="replace")[:3000]))
