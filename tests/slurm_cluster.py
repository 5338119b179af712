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
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

ETC = Path("/etc/slurm")
LINKED = ("slurm.conf", "gres.conf", "cgroup.conf")
LOCK = Path("/tmp/frankenlab-slurm.lock")
PREFIX = "frankenlab-slurm-"

DAEMONS = ("munged", "slurmctld", "slurmd", "sbatch")
ACCOUNTING = ("slurmdbd", "mariadbd", "mariadb-install-db", "sacctmgr")

PR_SET_PDEATHSIG = 1

SLURM_CONF = """
ClusterName=frankenlab
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ctld_port}
SlurmdPort={slurmd_port}
SlurmUser=root
AuthType=auth/munge
# Credentials that expire soon: a requeued job waits until its old one has.
AuthInfo=socket={folder}/munge.socket,cred_expire=10
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill,UsePss
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerParameters=sched_interval=2,bf_interval=2
GresTypes=gpu
SlurmdParameters=config_overrides
MinJobAge=300
KillWait=5
JobRequeue=0
ReturnToService=2
{accounting}
NodeName={host} NodeAddr=127.0.0.1 CPUs=4 RealMemory=64000 Gres=gpu:fake:2 State=UNKNOWN
PartitionName=cpu Nodes={host} Default=YES State=UP
PartitionName=gpu Nodes={host} State=UP
"""

NO_ACCOUNTING = "AccountingStorageType=accounting_storage/none"

WITH_ACCOUNTING = """
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={dbd_port}
AccountingStoragePass={folder}/munge.socket
AccountingStorageTRES=gres/gpu
"""

SLURMDBD_CONF = """
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
DbdHost={host}
DbdAddr=127.0.0.1
DbdPort={dbd_port}
SlurmUser=root
LogFile={folder}/slurmdbd.log
PidFile={folder}/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={sql_port}
StorageUser=slurm
StoragePass={password}
StorageLoc=slurm
"""

# Devices that every machine has stand for GPUs: SLURM wants a device file for each.
GRES_CONF = "NodeName={host} Name=gpu Type=fake File={folder}/fake[0-1]\n"

# 22.05 knows no "disabled"; an empty directory will do, as nothing asks for a cgroup.
CGROUP_CONF = "CgroupPlugin=cgroup/v1\nCgroupMountpoint={folder}/cgroup\n"


class Unavailable(Exception):
    """No cluster can be started here; the text says why."""


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


def write_configuration(folder: Path, accounting: bool) -> dict[str, str]:
    """Writes all files; what they were filled with."""
    ports = free_ports(4)
    values = {
        "folder": str(folder),
        "host": socket.gethostname(),
        "password": secrets.token_hex(8),
        **dict(zip(("ctld_port", "slurmd_port", "dbd_port", "sql_port"), ports, strict=True)),
    }
    for name in ("state", "spool", "cgroup"):
        (folder / name).mkdir()
    for name, device in (("fake0", "/dev/null"), ("fake1", "/dev/zero")):
        (folder / name).symlink_to(device)
    values["accounting"] = (WITH_ACCOUNTING if accounting else NO_ACCOUNTING).format(**values)
    for name, text in (
        ("slurm.conf", SLURM_CONF),
        ("gres.conf", GRES_CONF),
        ("cgroup.conf", CGROUP_CONF),
        ("slurmdbd.conf", SLURMDBD_CONF),
    ):
        (folder / name).write_text(text.format(**values))
        (folder / name).chmod(0o600 if name == "slurmdbd.conf" else 0o644)
    (folder / "munge.key").write_bytes(secrets.token_bytes(128))
    (folder / "munge.key").chmod(0o600)
    return values


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


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for item in sockets:
            item.bind(("127.0.0.1", 0))
        return [item.getsockname()[1] for item in sockets]


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


if __name__ == "__main__":
    # By hand: a cluster with a shell in it.
    with slurm_cluster("--accounting" in sys.argv):
        subprocess.run([os.environ.get("SHELL", "bash")])
