"""A real Slurm to send jobs to: controller, munge and two nodes of a private cluster on this machine."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from real import free_ports

PROGRAMS = ("munged", "mungekey", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue")
NODES = ("127.0.0.1", "127.0.0.2")
"""Names of nodes are what processes look each other up by, and these need no name service."""
CONF = """\
ClusterName=cropseg
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
ReturnToService=2
KillWait=2
SchedulerParameters=batch_sched_delay=0,sched_interval=1,requeue_delay=1
{nodes}
PartitionName=all Nodes={names} Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str | None:
    """Why Slurm cannot run here; None if it can."""
    absent = [name for name in PROGRAMS if _found(name) is None]
    if absent:
        return f"Slurm is not installed: no {', '.join(absent)} (apt-get install slurm-wlm munge)"
    return None


def _found(name: str) -> str | None:
    """Debian keeps daemons off the path of most users."""
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


@dataclass(frozen=True)
class Cluster:
    """A running cluster of two nodes with two processors each.

    Attributes:
        folder: Of its config and logs.
        environment: What a process needs to send jobs to it.
    """

    folder: Path
    environment: dict[str, str]

    def call(self, *command: str | Path) -> str:
        """Run one of Slurm's programs; what it prints."""
        done = subprocess.run(command, capture_output=True, text=True, env=self.environment, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def submit(self, script: Path, *options: str) -> str:
        """Send a job script; the job's number."""
        return self.call("sbatch", "--parsable", *options, script).strip()

    def state(self, job: str) -> str:
        """State of a job, such as RUNNING or COMPLETED."""
        words = self.call("scontrol", "--oneliner", "show", "job", job).split()
        return dict(word.split("=", 1) for word in words if "=" in word)["JobState"]

    def wait(self, job: str, states: Sequence[str], seconds: float = 300) -> str:
        """Wait until a job is in one of ``states``; which it is."""
        for _ in range(int(seconds / 0.5)):
            if (state := self.state(job)) in states:
                return state
            time.sleep(0.5)
        raise TimeoutError(f"job {job} is {state}, not {' or '.join(states)}:\n{self.logs()}")

    def clear(self) -> None:
        """Cancel all jobs and wait until their processes are gone: they would outlive the daemons."""
        self.call("scancel", f"--user={getpass.getuser()}")
        for _ in range(60):
            if not self.call("squeue", "--noheader").strip():
                return
            time.sleep(0.5)

    def logs(self) -> str:
        """The ends of the daemons' logs."""
        return "\n".join(f"{path.name}:\n{path.read_text()[-2000:]}" for path in sorted(self.folder.glob("*.log")))


@contextlib.contextmanager
def slurm() -> Iterator[Cluster]:
    """Run munged, slurmctld and a slurmd for each node, until the block is left."""
    folder = Path(tempfile.mkdtemp(prefix="cropseg-slurm-"))  # munge's socket needs a short path
    (folder / "state").mkdir()
    ports = free_ports(1 + len(NODES))
    nodes = [
        f"NodeName={name} NodeHostname=localhost NodeAddr={name} Port={port} CPUs=2 RealMemory=8000 State=UNKNOWN"
        for name, port in zip(NODES, ports[1:], strict=True)
    ]
    conf = folder / "slurm.conf"
    conf.write_text(
        CONF.format(folder=folder, ports=ports, user=getpass.getuser(), nodes="\n".join(nodes), names=",".join(NODES))
    )
    # Jobs are not of the job that the tests may run in, and their coverage is not measured.
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("COVERAGE", "SLURM_", "PYTEST"))}
    environment = {**kept, "SLURM_CONF": str(conf)}
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)

        def start(name: str, *options: str) -> None:
            log = stack.enter_context((folder / f"{name}.out.log").open("ab"))
            program = _found(name)
            assert program is not None
            daemon = subprocess.Popen([program, *options], env=environment, stdout=log, stderr=log)
            stack.callback(_stop, daemon)

        key = folder / "munge.key"
        subprocess.run([_found("mungekey") or "", "--create", f"--keyfile={key}"], check=True, timeout=60)
        start("munged", "--foreground", "--force", f"--socket={folder}/munge.socket", f"--key-file={key}",
            f"--pid-file={folder}/munged.pid", f"--log-file={folder}/munged.log", f"--seed-file={folder}/munged.seed",
            "--num-threads=2")  # fmt: skip
        start("slurmctld", "-D", "-c")
        for name in NODES:
            start("slurmd", "-D", "-N", name)
        cluster = Cluster(folder, environment)
        stack.callback(cluster.clear)
        for _ in range(120):
            found = subprocess.run(["sinfo", "-h", "-o", "%T %D"], capture_output=True, text=True, env=environment)
            if found.stdout.split() == ["idle", str(len(NODES))]:
                break
            time.sleep(0.5)
        else:
            raise RuntimeError(f"Slurm did not start: {found.stdout} {found.stderr}\n{cluster.logs()}")
        yield cluster


def _stop(daemon: subprocess.Popen[bytes]) -> None:
    daemon.terminate()
    try:
        daemon.wait(20)
    except subprocess.TimeoutExpired:
        daemon.kill()
        daemon.wait(20)
