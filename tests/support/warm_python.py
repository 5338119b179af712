"""Python processes that start with libraries imported: forks of one process that has imported them.

    subprocess.run([*warm_python(), "-m", "snakemake", ...])

Most of what a tiny job takes is the import of libraries. Here each process has its own arguments,
environment, folder and streams as ever, and imports the package itself from where PYTHONPATH says;
the libraries alone are there before. The jobs of a Snakemake in such a process are such processes
too.

Tests of what a process imports, of signals, and of `sitecustomize` modules need `sys.executable`.
"""

import atexit
import gc
import importlib
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import traceback
from functools import cache
from pathlib import Path

# Kept: they end when their stdin does.
SERVERS: list[subprocess.Popen] = []

CLIENT = Path(__file__).with_name("warm_python_client.py")

ENVIRONMENT = {
    # The hub's libraries read at their import that jobs may not ask it.
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    # Threads of OpenBLAS and of Arrow's allocator, of which a fork has no copy.
    "OPENBLAS_NUM_THREADS": "1",
    "JE_ARROW_MALLOC_CONF": "background_thread:false",
}

# What Snakemake and the jobs import of the libraries.
LIBRARIES = (
    "IPython",
    "altair",
    "datasets",
    "docutils.core",
    "lm_eval.tasks",
    "nbclient",
    "nbconvert",
    "papermill",
    "pyarrow.parquet",
    "pydantic",
    "safetensors.torch",
    "scipy.stats",
    "snakemake.cli",
    "tokenizers",
    "torch",
    "transformers.modeling_utils",
    "transformers.tokenization_utils_base",
    "vl_convert",
)


@cache
def warm_python() -> tuple[str, ...]:
    """Return the beginning of a command that is `python` with libraries imported (Linux), or only
    `python` (elsewhere)."""
    if sys.platform != "linux":
        return (sys.executable,)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    # An address that is no file and goes with its socket.
    listener.bind(f"\0frankenlab-warm-{os.getpid()}")
    listener.listen(64)
    environment = os.environ | ENVIRONMENT
    environment.pop("PYTHONPATH", None)
    server = subprocess.Popen(
        [sys.executable, __file__, str(listener.fileno())],
        cwd="/",
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        pass_fds=[listener.fileno()],
    )
    listener.close()
    SERVERS.append(server)
    return _command(os.getpid())


def _command(server: int) -> tuple[str, ...]:
    return (sys.executable, "-IS", str(CLIENT), f"frankenlab-warm-{server}")


def main(listener: socket.socket) -> None:
    """Fork for each process that is asked for, until stdin ends."""
    for name in LIBRARIES:
        importlib.import_module(name)
    gc.freeze()
    _have_jobs_start_alike(" ".join(_command(os.getppid())))
    # Nobody waits for those that wait.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while sys.stdin not in select.select([listener, sys.stdin], [], [])[0]:
        connection, _ = listener.accept()
        if not os.fork():
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            listener.close()
            _serve(connection)
        connection.close()


def _have_jobs_start_alike(python: str) -> None:
    from snakemake.script import PythonScript

    def execute_script(self, fname, edit=False):
        command = "{py_exec} {fname:q}"
        self._execute_cmd(command, py_exec=python, fname=fname, is_python_script=True)

    PythonScript.execute_script = execute_script


def _serve(connection: socket.socket) -> None:
    """Have a process be what a client asks for, which hears how that ended.

    The process ends with its client.
    """
    request, streams, _, _ = socket.recv_fds(connection, 1 << 20, 3)
    child = os.fork()
    if not child:
        connection.close()
        _end(_become(request.decode(), streams))
    process = os.pidfd_open(child)
    if process not in select.select([process, connection], [], [])[0]:
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    try:
        connection.send(str(os.waitstatus_to_exitcode(status)).encode())
    finally:
        os._exit(0)


def _become(request: str, streams: list[int]) -> object:
    """Be the process that is asked for, and return what it exits with."""
    folder, count, *rest = request.split("\0")
    arguments, variables = rest[: int(count)], rest[int(count) :]
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(variable.split("=", 1) for variable in variables)
    # The first is where this file is.
    sys.path[:1] = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    try:
        if arguments[0] == "-m":
            sys.argv = arguments[1:]
            sys.path.insert(0, folder)
            runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = arguments
            sys.path.insert(0, str(Path(arguments[0]).parent))
            runpy.run_path(arguments[0], run_name="__main__")
    except SystemExit as end:
        return end.code
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def _end(code: object) -> None:
    """End as an interpreter does, without a second of taking down what is in memory."""
    if not isinstance(code, int | None):
        print(code, file=sys.stderr)
        code = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code or 0)


if __name__ == "__main__":
    main(socket.socket(fileno=int(sys.argv[1])))
