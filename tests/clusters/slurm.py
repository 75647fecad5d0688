"""A real Slurm on loopback: munge, controller and one node, started from a folder of its own."""

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

NEEDED = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol", "srun")
CONF = """
ClusterName=shelfwise
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
SlurmctldPort={controller_port}
SlurmdPort={node_port}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=1,batch_sched_delay=1,bf_interval=1
MaxArraySize=6
MinJobAge=3600
ReturnToService=2
KillWait=20
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=4000 State=UNKNOWN
PartitionName=low Nodes={host} Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime=30
PartitionName=high Nodes={host} PriorityTier=10 PreemptMode=OFF
"""


def missing() -> str:
    """Return why Slurm cannot run here; empty if it can."""
    absent = [name for name in NEEDED if shutil.which(name, path=_path()) is None]
    if absent:
        return f"no {', '.join(absent)}: apt-get install slurm-wlm munge"
    return "" if os.geteuid() == 0 else "its node daemon wants to be root"


def _path() -> str:
    return f"{os.environ['PATH']}:/usr/sbin:/sbin"


@dataclass(frozen=True, kw_only=True)
class Slurm:
    """A running cluster."""

    environment: dict[str, str]
    """In which its commands find it."""
    folder: Path

    def call(self, *command: str, **options: object) -> str:
        """Run a command of it; return what it prints."""
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, **options
        )
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        return done.stdout.strip()

    def states(self, job: str) -> dict[str, str]:
        """Return the state of a job, or of each task of an array."""
        lines = self.call("scontrol", "show", "job", "-o", job).splitlines()
        fields = [dict(part.partition("=")[::2] for part in line.split()) for line in lines]
        return {each.get("ArrayTaskId", "") or each["JobId"]: each["JobState"] for each in fields}

    def wait(self, job: str, *, seconds: float = 240) -> dict[str, str]:
        """Wait until nothing of a job is pending or runs; return the states."""
        deadline = time.monotonic() + seconds
        open_states = {"PENDING", "RUNNING", "COMPLETING", "REQUEUED", "PREEMPTED"}
        while open_states & set((found := self.states(job)).values()):
            assert time.monotonic() < deadline, (found, self.logs())
            time.sleep(0.5)
        return found

    def logs(self) -> str:
        """Return what the daemons had to say last."""
        names = ("slurmctld.log", "slurmd.log")
        return "\n".join((self.folder / name).read_text()[-3000:] for name in names)


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Slurm]:
    """Start munge and Slurm in a folder; end them."""
    ports = _free_ports(2)
    host = socket.gethostname().partition(".")[0]
    for name in ("state", "spool"):
        (folder / name).mkdir()
    conf = folder / "slurm.conf"
    conf.write_text(
        CONF.format(
            host=host,
            user=pwd.getpwuid(os.geteuid()).pw_name,
            controller_port=ports[0],
            node_port=ports[1],
            folder=folder,
        )
    )
    key = folder / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    environment = os.environ | {"PATH": _path(), "SLURM_CONF": str(conf)}
    munged = ["munged", "--foreground", "--force", f"--key-file={key}"]
    munged += [f"--{name}-file={folder}/munge.{name}" for name in ("pid", "log", "seed")]
    munged.append(f"--socket={folder}/munge.socket")
    daemons = [munged, ["slurmctld", "-D", "-c"], ["slurmd", "-D", "-N", host]]
    found = Slurm(environment=environment, folder=folder)
    with contextlib.ExitStack() as stack:
        for daemon in daemons:
            log = stack.enter_context((folder / f"{daemon[0]}.out").open("wb"))
            process = subprocess.Popen(
                daemon, env=environment, stdout=log, stderr=log, start_new_session=True
            )
            stack.callback(_end, process)
            if daemon is munged:
                _wait_for(lambda: (folder / "munge.socket").exists(), folder)
        _wait_for(lambda: _is_up(found), folder)
        yield found


def _is_up(slurm: Slurm) -> bool:
    done = subprocess.run(
        ["sinfo", "-h", "-o", "%T"], env=slurm.environment, capture_output=True, text=True
    )
    return "idle" in done.stdout


def _wait_for(is_reached: Callable[[], bool], folder: Path, seconds: float = 60) -> None:
    """Wait for a daemon; what all of them said is the error if it does not come up."""
    deadline = time.monotonic() + seconds
    while not is_reached():
        said = "\n".join(f"{log.name}: {log.read_text()[-2000:]}" for log in folder.glob("*.out"))
        assert time.monotonic() < deadline, f"Slurm does not come up here\n{said}"
        time.sleep(0.25)


def _end(process: subprocess.Popen[bytes]) -> None:
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _free_ports(num: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(num)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
