"""A SLURM cluster of one node with two pretend GPUs on this machine, in a scratch directory.

    with slurm_cluster() as cluster:
        cluster.run("squeue")

It stops what it started, and nothing else. Clients find it through links in /etc/slurm, for the
executor plugin for job steps drops SLURM_CONF; so there is one at a time on a machine, and none
where /etc/slurm is somebody else's.
"""

import ctypes
import fcntl
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from tests.support.slurm_files import write_configuration

ETC = Path("/etc/slurm")
LINKED = ("slurm.conf", "gres.conf", "cgroup.conf")
LOCK = Path("/tmp/frankenlab-slurm.lock")
PREFIX = "frankenlab-slurm-"

DAEMONS = ("munged", "slurmctld", "slurmd", "sbatch")
ACCOUNTING = ("slurmdbd", "mariadbd", "mariadb-install-db", "sacctmgr")

PR_SET_PDEATHSIG = 1


class Unavailable(Exception):
    """No cluster can be started here; the text says why."""


@dataclass(frozen=True)
class Job:
    """A job that SLURM remembers, finished or not.

    Attributes:
        gpus: as SLURM writes what the job holds or held; empty for none.
        mem, cpus: requested, mem in MB.
        submitted, begin, end: seconds; begin and end may be to come.
        restarts: how often SLURM requeued it.
    """

    id: str
    rule: str
    folder: str
    state: str
    partition: str
    gpus: str
    mem: int
    cpus: int
    submitted: float
    begin: float
    end: float
    restarts: int

    @classmethod
    def parse(cls, line: str) -> "Job":
        """From a line of `scontrol --oneliner --details show jobs`."""
        fields = dict(re.findall(r"(\S+?)=(.*?)(?= \S+?=|$)", line.strip()))
        mem = re.search(r"mem=([\d.]+)([MG])", fields["TRES"])
        return cls(
            id=fields["JobId"],
            rule=re.sub("^rule_|_wildcards_.*", "", fields.get("Comment", "").strip()),
            folder=fields["WorkDir"],
            state=fields["JobState"],
            partition=fields["Partition"],
            gpus=fields.get("JOB_GRES", "").strip().replace("(null)", ""),
            mem=round(float(mem[1]) * {"M": 1, "G": 1024}[mem[2]]),
            cpus=int(fields["NumCPUs"].split("-")[0]),
            submitted=_seconds(fields["SubmitTime"]),
            begin=_seconds(fields["StartTime"]),
            end=_seconds(fields["EndTime"]),
            restarts=int(fields["Restarts"]),
        )


class Cluster:
    """A running cluster."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(self, *command: str) -> str:
        """Output of a client command such as squeue."""
        done = subprocess.run(command, capture_output=True, text=True, env=clean_environment())
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout

    def queued(self) -> list[str]:
        """Jobs that wait, run or are about to end."""
        return self.run("squeue", "--noheader", "--format=%i").split()

    def jobs(self) -> list[Job]:
        """All that were ever submitted, by their number."""
        text = self.run("scontrol", "--oneliner", "--details", "show", "jobs")
        jobs = [Job.parse(line) for line in text.splitlines() if line.startswith("JobId=")]
        return sorted(jobs, key=lambda job: int(job.id))

    def empty(self) -> None:
        """Cancels all jobs and waits for their end."""
        if self.queued():
            self.run("scancel", "--user=root")
        wait_until(lambda: not self.queued(), 30, "the queue to become empty")


@contextmanager
def slurm_cluster(accounting: bool = False) -> Iterator[Cluster]:
    """A cluster for as long as the block runs, with slurmdbd on MariaDB if `accounting`.

    Raises:
        Unavailable: no cluster can be started here.
    """
    check_machine(accounting)
    with ExitStack() as stack:
        stack.enter_context(only_one())
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir="/tmp"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        values = write_configuration(folder, accounting)
        stack.enter_context(links(folder))
        start = Daemons(folder, stack)
        start("munged", *munged_arguments(folder), until=(folder / "munge.socket").exists)
        if accounting:
            start_database(start, folder, values)
        conf = str(folder / "slurm.conf")
        start("slurmctld", "-D", "-c", "-f", conf, until=answers("scontrol", "ping"))
        start("slurmd", "-D", "-c", "-f", conf, until=answers("sinfo", "-h", "-o%T", word="idle"))
        cluster = Cluster(folder)
        # Before its daemons: a job outlives the daemon that started it.
        stack.callback(cluster.empty)
        yield cluster


def check_machine(accounting: bool) -> None:
    """Raises Unavailable where something that a cluster needs is missing."""
    missing = [name for name in DAEMONS + ACCOUNTING * accounting if not shutil.which(name)]
    if missing:
        raise Unavailable(f"SLURM is not installed: no {', '.join(missing)}")
    if os.geteuid() != 0:
        raise Unavailable("a SLURM cluster can be started by root only")
    try:
        socket.gethostbyname(socket.gethostname())
    except OSError:
        raise Unavailable(f"the host's name {socket.gethostname()} does not resolve") from None


@contextmanager
def only_one(patience: float = 900) -> Iterator[None]:
    """A lock that ends with the process, for /etc/slurm is one."""
    with LOCK.open("w") as lock:
        deadline = time.monotonic() + patience
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise Unavailable(f"{LOCK} is held by another test run") from None
                time.sleep(0.5)
        yield


@contextmanager
def links(folder: Path) -> Iterator[None]:
    """Configuration of this cluster as that of the machine."""
    made = [ETC / name for name in LINKED]
    for link in made:
        # What a killed test run left is ours to remove, as only one runs.
        if link.is_symlink() and PREFIX in os.readlink(link):
            link.unlink()
        elif link.is_symlink() or link.exists():
            raise Unavailable(f"{link} is there already: this machine belongs to a SLURM cluster")
    ETC.mkdir(exist_ok=True)
    try:
        for link in made:
            link.symlink_to(folder / link.name)
        yield
    finally:
        for link in made:
            link.unlink(missing_ok=True)


def munged_arguments(folder: Path) -> list[str]:
    named = {"key-file": "key", "socket": "socket", "pid-file": "pid", "seed-file": "seed"}
    named["log-file"] = "log"
    files = [f"--{option}={folder}/munge.{suffix}" for option, suffix in named.items()]
    return ["--foreground", "--force", *files]


def start_database(start: "Daemons", folder: Path, values: dict[str, str]) -> None:
    """MariaDB, and slurmdbd on it."""
    data, rights = folder / "sql", folder / "rights.sql"
    rights.write_text(
        f"CREATE USER slurm@'127.0.0.1' IDENTIFIED BY '{values['password']}';\n"
        "GRANT ALL ON slurm.* TO slurm@'127.0.0.1';\n"
    )
    plain = ["--no-defaults", "--user=root", f"--datadir={data}"]
    install = ["mariadb-install-db", *plain, "--skip-test-db", "--auth-root-authentication-method"]
    subprocess.run([*install[:-1], f"{install[-1]}=normal"], check=True, capture_output=True)
    start(
        "mariadbd",
        *plain,
        "--bind-address=127.0.0.1",
        "--skip-name-resolve",
        f"--port={values['sql_port']}",
        f"--socket={folder}/sql.socket",
        f"--init-file={rights}",
        until=lambda: listens(int(values["sql_port"])),
    )
    start("slurmdbd", "-D", until=lambda: listens(int(values["dbd_port"])))
    wait_until(answers("sacctmgr", "-i", "add", "cluster", "frankenlab"), 30, "sacctmgr")


class Daemons:
    """Starts daemons that end with this process at the latest."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder, self.stack = folder, stack

    def __call__(self, *command: str, until: Callable[[], bool]) -> None:
        output = self.stack.enter_context((self.folder / f"{command[0]}.out").open("w"))
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=clean_environment() | {"SLURM_CONF": str(self.folder / "slurm.conf")},
            start_new_session=True,
            preexec_fn=_end_with_parent,
        )
        self.stack.callback(stop, process)

        def ready() -> bool:
            text = Path(output.name).read_text()[-2000:]
            assert process.poll() is None, f"{command[0]} ended: {text}"
            return until()

        wait_until(ready, 30, command[0])


def stop(process: subprocess.Popen) -> None:
    process.terminate()
    try:
        process.wait(15)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def clean_environment() -> dict[str, str]:
    """The environment as outside of any SLURM job."""
    return {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}


def wait_until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.2)


def answers(*command: str, word: str = "") -> Callable[[], bool]:
    """Whether a client command succeeds, with a word in its output."""

    def ask() -> bool:
        done = subprocess.run(command, capture_output=True, text=True, env=clean_environment())
        return done.returncode == 0 and word in done.stdout

    return ask


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _seconds(time: str) -> float:
    return datetime.fromisoformat(time).timestamp() if time[0].isdigit() else float("inf")


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


if __name__ == "__main__":
    # By hand: a cluster with a shell in it.
    with slurm_cluster("--accounting" in sys.argv):
        subprocess.run([os.environ.get("SHELL", "bash")])
