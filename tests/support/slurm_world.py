"""A private Slurm on this machine: real munged, slurmctld and slurmd, in a temporary folder.

Debian's slurmd is built without ``--enable-multiple-slurmd``, so that it takes its name from
that of the host. Therefore each node has a UTS namespace with a host name of its own. It also has
a PID namespace: with the first process of that, everything on the node ends, as if it lost its
power. All daemons get SIGKILL when the process of the tests ends, however that ends.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.support.waiting import wait_for

NODES = ("n1", "n2")
_PROGRAMS = ("slurmctld", "slurmd", "sbatch", "munged", "unshare", "setpriv")
_CPUS, _MEMORY, _GPUS = 8, 64_000, 2

_CONFIGURATION = """
ClusterName=flametest
SlurmctldHost=ctl(127.0.0.1)
SlurmctldPort={controller}
SlurmUser=root
AuthType=auth/munge
CryptoType=crypto/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/ctl.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/ctl.log
SlurmdLogFile={folder}/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
MpiDefault=none
SwitchType=switch/none
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0,bf_interval=1
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
ReturnToService=2
GresTypes=gpu
SlurmctldTimeout=30
SlurmdTimeout={node_timeout}
KillWait=5
MinJobAge=60
DefMemPerCPU=500
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
{nodes}
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE DefaultTime=60 State=UP
PartitionName=short Nodes=n1 MaxTime=2 State=UP
PartitionName=closed Nodes=n1 MaxTime=INFINITE State=DOWN
"""


def why_impossible() -> str:
    """Return why there can be no Slurm on this machine; empty if there can."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    if absent := [name for name in _PROGRAMS if shutil.which(name, path=path) is None]:
        return f"{', '.join(absent)} missing; type: apt-get install slurm-wlm munge"
    if os.geteuid() != 0:
        return "slurmd needs root"
    tried = subprocess.run(["unshare", *_NAMESPACES, "true"], capture_output=True, text=True)
    return tried.stderr.strip()


_NAMESPACES = ("--uts", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")


def _free_ports(number: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


class SlurmWorld:
    """A Slurm with two nodes, `n1` and `n2`.

    Its configuration gives each more cores and memory than this machine has.

    Attributes
    ----------
    folder : Path
        All that it writes.
    environment : dict of str to str
        Variables for its commands: ``sbatch`` and others.
    """

    def __init__(self, *, node_timeout: int = 30) -> None:
        # Short, because the path of a socket may have 107 characters.
        self.folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))
        self.folder.chmod(0o755)  # munged refuses a socket that others could not reach
        self.environment = {"SLURM_CONF": str(self.folder / "slurm.conf")}
        self._node_timeout = node_timeout
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        """Start all daemons; return when both nodes are idle."""
        self._configure()
        try:
            self._start_munge()
            self.start_controller()
            for node in NODES:
                self.start_node(node)
            wait_for(lambda: self.states() == dict.fromkeys(NODES, "idle"), what="idle nodes")
        except BaseException as error:
            error.add_note(self.logs())
            self.stop()
            raise

    def stop(self) -> None:
        """End all daemons and jobs, and remove all files."""
        for name in reversed(list(self._daemons)):
            self.kill(name)
        shutil.rmtree(self.folder, ignore_errors=True)

    def kill(self, name: str) -> None:
        """End a daemon, with everything on its node, as a loss of power does."""
        daemon = self._daemons.pop(name)
        daemon.kill()
        daemon.wait()

    def start_controller(self) -> None:
        self._start("ctl", "hostname ctl; slurmctld -D -i & wait")

    def start_node(self, node: str, *, hides: str = "") -> None:
        """Start a node.

        Parameters
        ----------
        node : str
        hides : str, default ""
            A folder in which nothing is seen on this node, as if it was not shared.
        """
        hidden = f"mount -t tmpfs none '{hides}'; " if hides else ""
        self._start(node, f"hostname {node}; {hidden}slurmd -D & wait")

    def unreachable(self) -> str:
        """Return a configuration with which commands do not find the controller."""
        there = self.folder / "unreachable.conf"
        text = (self.folder / "slurm.conf").read_text()
        there.write_text(re.sub(r"SlurmctldPort=\d+", "SlurmctldPort=1", text))
        return str(there)

    def states(self) -> dict[str, str]:
        """Return the state of each node; empty while the controller does not answer."""
        said = self.command("sinfo", "-h", "-N", "-p", "main", "-o", "%N %t", check=False)
        return dict(line.split() for line in said.splitlines() if len(line.split()) == 2)

    def jobs(self) -> list[str]:
        """Return the name and the state of each job that has not ended."""
        return self.command("squeue", "-h", "-r", "-o", "%j %T").splitlines()

    def processes(self) -> list[str]:
        """Return the programs that run in jobs."""
        found = []
        for stat in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):
                variables = stat.read_bytes().split(b"\0")
                mine = f"SLURM_CONF={self.environment['SLURM_CONF']}".encode() in variables
                if mine and any(v.startswith(b"SLURM_JOB_ID=") for v in variables):
                    found.append((stat.parent / "cmdline").read_text().replace("\0", " "))
        return found

    def command(self, *arguments: str, check: bool = True) -> str:
        """Run one of Slurm's commands; return what it says."""
        env = {**os.environ, **self.environment}
        done = subprocess.run(arguments, env=env, capture_output=True, text=True, timeout=120)
        if check and done.returncode:
            raise AssertionError(f"{' '.join(arguments)}: {done.stderr}\n{self.logs()}")
        return done.stdout

    def logs(self) -> str:
        """Return the ends of what the daemons have said."""
        return "\n".join(
            f"{log.name}: {log.read_text(errors='replace')[-2000:]}"
            for log in sorted(self.folder.glob("*.out"))
        )

    def _configure(self) -> None:
        controller, *ports = _free_ports(1 + len(NODES))
        devices = []
        for number in range(_GPUS):
            device = self.folder / f"gpu{number}"
            os.mknod(device, 0o20666, os.makedev(1, 3))  # as /dev/null; slurmd wants a device
            devices.append(device)
        lines = [
            f"NodeName={node} NodeHostname={node} NodeAddr=127.0.0.1 Port={port} CPUs={_CPUS} "
            f"RealMemory={_MEMORY} Gres=gpu:tesla:{_GPUS}"
            for node, port in zip(NODES, ports, strict=True)
        ]
        text = _CONFIGURATION.format(
            controller=controller,
            folder=self.folder,
            nodes="\n".join(lines),
            node_timeout=self._node_timeout,
        )
        (self.folder / "slurm.conf").write_text(text)
        gres = "".join(f"Name=gpu Type=tesla File={device}\n" for device in devices)
        (self.folder / "gres.conf").write_text(gres)
        (self.folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
        for name in ("state", *(f"spool.{node}" for node in NODES)):
            (self.folder / name).mkdir()
        key = self.folder / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(128))

    def _start_munge(self) -> None:
        files = {
            "--key-file": "munge.key",
            "--socket": "munge.socket",
            "--pid-file": "munge.pid",
            "--seed-file": "munge.seed",
            "--log-file": "munge.log",
        }
        arguments = [f"{option}={self.folder / name}" for option, name in files.items()]
        self._start("munge", f"munged --foreground --force --num-threads=2 {' '.join(arguments)}")
        wait_for((self.folder / "munge.socket").exists, what="munged")

    def _start(self, name: str, script: str) -> None:
        dies_with_us: Sequence[str] = ("setpriv", "--pdeathsig", "KILL", "--")
        path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
        with (self.folder / f"{name}.out").open("ab") as output:
            self._daemons[name] = subprocess.Popen(
                [*dies_with_us, "unshare", *_NAMESPACES, "sh", "-c", script],
                env={**os.environ, **self.environment, "PATH": path},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd="/",
            )


@contextlib.contextmanager
def slurm_world(**options: int) -> Iterator[SlurmWorld]:
    """Start a Slurm, and end it."""
    world = SlurmWorld(**options)
    world.start()
    try:
        yield world
    finally:
        world.stop()
