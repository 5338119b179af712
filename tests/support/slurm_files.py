"""Configuration of the tests' SLURM cluster: SLURM 22.05 of Debian, no systemd, no cgroups."""

import secrets
import socket
from contextlib import ExitStack
from pathlib import Path

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
MinJobAge=3600
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


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for item in sockets:
            item.bind(("127.0.0.1", 0))
        return [item.getsockname()[1] for item in sockets]
