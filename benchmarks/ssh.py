"""Compare runners over SSH with Dask's own SSHCluster, on the same hosts and their sshd.

    python benchmarks/ssh.py
    python benchmarks/ssh.py --calls 2 --seconds 1 --rounds 1 --only flame

It needs openssh-server and root: the hosts are two of those of the tests
(tests/support/ssh_hosts.py), in namespaces of this machine, so that they share its cores. The
contenders take turns, each in a fresh process, and the figures are medians.

cluster
    Seconds until the constructor has returned and a Client is connected.
registered
    … from the constructor, until a worker for each call has registered.
results
    … until the results of all calls, each of which sleeps, have arrived.
again
    The last two for a second wave in the same cluster, from zero runners. SSHCluster cannot do
    that: it cannot start workers that it has ended, and has no adapt().
left
    Processes on the hosts some time after `kill -9` of a driver with busy runners.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

# The tests have the hosts.
sys.path.append(str(Path(__file__).parents[1]))

from tests.support.paths import ROOT
from tests.support.ssh_hosts import SshHosts, missing, ssh_hosts

HOSTS = ("gpu1", "gpu2")
WHO = ("flame", "SSHCluster")


def driver(hosts: SshHosts, *words: str) -> subprocess.Popen[str]:
    """Start a driver."""
    path = os.pathsep.join((str(ROOT), os.environ.get("PYTHONPATH", "")))
    program = str(Path(__file__).with_name("ssh_driver.py"))
    return subprocess.Popen(
        [sys.executable, program, *words, *HOSTS],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **hosts.environment(), "PYTHONPATH": path},
    )


def timed(hosts: SshHosts, who: str, args: argparse.Namespace) -> dict[str, float]:
    """Return the times of one contender."""
    process = driver(hosts, who, "wave", str(args.calls), str(args.seconds))
    printed, errors = process.communicate()
    if process.returncode:
        raise SystemExit(f"{who} failed:\n{errors[-4000:]}")
    found: dict[str, float] = json.loads(printed.splitlines()[-1])
    return found


def left(hosts: SshHosts, who: str, args: argparse.Namespace) -> dict[str, float]:
    """Kill a driver with busy runners; return how many processes are left on the hosts."""
    process = driver(hosts, who, "kill", str(args.calls), "0")
    assert process.stdout is not None
    while "running" not in (line := process.stdout.readline()):
        if not line:
            raise SystemExit(f"{who} failed:\n{process.communicate()[1][-4000:]}")
    process.kill()
    process.communicate()
    begun, gone = time.monotonic(), args.wait
    while time.monotonic() < begun + args.wait:
        if not hosts.left():
            gone = time.monotonic() - begun
            break
        time.sleep(0.05)
    there = [line for line in hosts.left() if ": process" in line]
    for host in hosts.values():
        host.kill()
    hosts.restore()
    return {"left": len(there), "gone after": gone if not there else float("nan")}


def main(words: Sequence[str] | None = None) -> dict[str, dict[str, float]]:
    """Run the benchmark; return the medians of each contender."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--calls", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=20, help="duration of a call")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--wait", type=float, default=30, help="seconds after the kill")
    parser.add_argument("--only", choices=WHO, help="one contender")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    args = parser.parse_args(words)
    if why := missing():
        raise SystemExit(why)
    contenders = [who for who in WHO if args.only in (None, who)]
    rounds: dict[str, list[dict[str, float]]] = {who: [] for who in contenders}
    with ssh_hosts() as hosts:
        if hosts.why:
            print(f"The hosts have no namespaces: {hosts.why}")
        for number in range(args.rounds):
            for who in contenders if number % 2 == 0 else contenders[::-1]:
                rounds[who].append({**timed(hosts, who, args), **left(hosts, who, args)})
                print(who, {k: round(v, 2) for k, v in rounds[who][-1].items()}, flush=True)
    medians = {
        who: {name: statistics.median(r[name] for r in found) for name in found[0]}
        for who, found in rounds.items()
    }
    for name in medians[contenders[0]]:
        row = [f"{m[name]:.2f}" if name in m else "-" for m in medians.values()]
        print(f"{name:>20}", *(f"{value:>12}" for value in row))
    if args.json:
        args.json.write_text(json.dumps(rounds, indent=1))
    return medians


if __name__ == "__main__":
    main()
