"""A real SLURM of two nodes on this machine: munge, one controller, two daemons, all in one folder. Needs root."""

import os
import shutil
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

PACKAGES = {"slurmctld": "slurmctld", "slurmd": "slurmd", "sbatch": "slurm-client", "munged": "munge"}
SBIN = "/usr/sbin:/sbin"  # where Debian has the daemons; not on everyone's PATH
NUM_GPUS = 8
STARTED = ("munged.pid", "slurmctld.pid", "slurmd-n1.pid", "slurmd-n2.pid")

# Two CPUs pose as many (config_overrides). linuxproc finds processes by their parents, so also the workers of
# torchrun, which have sessions of their own. A time limit over the partition's waits for ever unless EnforcePartLimits
# is set; it is not here, as it is not by default.
CONFIG = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
MpiDefault=none
MailProg=/bin/true
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SwitchType=switch/none
SlurmctldPort={ports[0]}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmdSpoolDir={folder}/spool-%n
StateSaveLocation={folder}/state
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_min_interval=100000
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=5
MinJobAge=600
InactiveLimit=0
Waittime=0
JobRequeue=1
GresTypes=gpu
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=16 RealMemory=64000 Gres=gpu:{gpus}
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=16 RealMemory=64000 Gres=gpu:{gpus}
PartitionName=debug Nodes=n1,n2 Default=YES MaxTime=01:00:00 State=UP OverSubscribe=NO
"""


def missing_packages() -> list[str]:
    """Debian packages whose programs are not here."""
    return [package for program, package in PACKAGES.items() if not shutil.which(program, path=_path())]


def start(folder: Path) -> dict[str, str]:
    """Starts SLURM in `folder`; the environment in which sbatch, squeue and the like talk to it.

    Raises CalledProcessError or TimeoutError, with what the daemons said.
    """
    for name in ("state", "spool-n1", "spool-n2"):
        (folder / name).mkdir()
    for i in range(NUM_GPUS):  # slurmd counts device nodes; these are /dev/null
        os.mknod(folder / f"gpu{i}", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    gpus = f"NodeName=n[1-2] Name=gpu File={folder}/gpu[0-{NUM_GPUS - 1}]\n"
    (folder / "gres.conf").write_text(gpus)
    host = socket.gethostname().split(".")[0]
    config = CONFIG.format(host=host, folder=folder, ports=_free_ports(3), gpus=NUM_GPUS)
    (folder / "slurm.conf").write_text(config)
    (folder / "munge.key").write_bytes(os.urandom(1024))
    (folder / "munge.key").chmod(0o600)
    environment = _environment(folder)

    munge = {"key": "munge.key", "socket": "munge.socket", "pid": "munged.pid", "log": "munged.log", "seed": "seed"}
    options = [f"--{name}{'' if name == 'socket' else '-file'}={folder}/{file}" for name, file in munge.items()]
    for command in (["munged", "--force", *options], ["slurmctld"], ["slurmd", "-N", "n1"], ["slurmd", "-N", "n2"]):
        subprocess.run(command, env=environment, check=True, timeout=60, stdin=subprocess.DEVNULL)
    nodes = ["sinfo", "-h", "-N", "-o", "%T"]
    if not wait_until(lambda: _lines(nodes, environment) == ["idle", "idle"], 60):
        logs = [path.read_text()[-2000:] for path in sorted(folder.glob("slurm*.log"))]
        raise TimeoutError("the two nodes did not come up:\n" + "\n".join(logs))
    return environment


def stop(folder: Path) -> None:
    """Ends jobs that a failed test left, and then what `start` began; also where that did not get far."""
    if (folder / "slurmctld.pid").exists():
        environment = _environment(folder)
        subprocess.run(["scancel", "--user=root"], env=environment)
        wait_until(lambda: not _lines(["squeue", "-h"], environment), 30)
    pids = [int((folder / name).read_text()) for name in reversed(STARTED) if (folder / name).exists()]
    for pid in pids:
        os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), 20)
    for pid in pids:
        if Path(f"/proc/{pid}").exists():
            os.kill(pid, signal.SIGKILL)


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether it came true in time."""
    deadline = time.monotonic() + seconds
    while not (true := condition()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return true


def _environment(folder: Path) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM_", "SBATCH_"))}
    return {**kept, "PATH": _path(), "SLURM_CONF": str(folder / "slurm.conf")}


def _lines(command: list[str], environment: dict[str, str]) -> list[str]:
    return subprocess.run(command, env=environment, capture_output=True, text=True).stdout.splitlines()


def _path() -> str:
    return f"{os.environ['PATH']}:{SBIN}"


def _free_ports(number: int) -> list[int]:
    sockets = [socket.socket() for _ in range(number)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports
