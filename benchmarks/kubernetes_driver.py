"""The measuring driver in a pod: ``kubernetes_driver.py WHO WHAT NAME NUMBER SECONDS``.

WHO is ``flame`` or ``stock`` (dask-kubernetes' KubeCluster). WHAT is ``calls`` (from zero to all
results), ``wave`` (the rate of pod creation), or ``kill`` (a driver with busy runners dies by
SIGKILL, and its pod lives on). The result is printed as a line of JSON; see kubernetes.py.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from typing import Any

MARK = "@measured "
#: Time limit for each event, in seconds.
_WITHIN = 900.0


def make(who: str, name: str, number: int) -> tuple[Any, Any]:
    """Return a cluster for up to so many runners, without any yet, and its client."""
    from dask.distributed import Client

    if who == "flame":
        from dask_flame import FlameCluster

        cluster: Any = FlameCluster(
            name=name, backend="kubernetes", max=number, idle_timeout="60s", dashboard_address=None
        )
    else:
        from dask_kubernetes.operator import KubeCluster

        cluster = KubeCluster(
            name=name,
            namespace=os.environ["BENCHMARK_NAMESPACE"],
            image=os.environ["BENCHMARK_IMAGE"],
            n_workers=0,
            quiet=True,
        )
        cluster.adapt(minimum=0, maximum=number)
    return cluster, Client(cluster)


def calls(who: str, name: str, number: int, seconds: float) -> dict[str, Any]:
    """Run as many calls as runners; measure the last registration and the last result."""
    cluster, client = make(who, name, number)
    start = time.monotonic()
    futures = client.map(lambda _: time.sleep(seconds), range(number), pure=False)
    found: dict[str, Any] = {}
    while "makespan" not in found:
        now = time.monotonic() - start
        if "registered" not in found and runners(who, cluster, client) >= number:
            found["registered"] = now
        if all(future.done() for future in futures):
            found["makespan"] = now
        if now > _WITHIN:
            break
        time.sleep(0.02)
    if who == "flame":
        found["boots"] = [dict(boot.steps) for boot in cluster.boots]
    client.close()
    cluster.close()
    return found


def runners(who: str, cluster: Any, client: Any) -> int:
    if who == "flame":
        return sum(member.phase.value == "ready" for member in cluster.runners.values())
    return len(client.scheduler_info(n_workers=-1)["workers"])


def wave(who: str, name: str, number: int, seconds: float) -> dict[str, Any]:
    """Boot one wave; measure when the API server accepted each pod."""
    cluster, client = make(who, name, number)
    futures = client.map(lambda _: time.sleep(seconds), range(number), pure=False)
    until = time.monotonic() + _WITHIN
    accepted: list[float] = []
    while len(accepted) < number and time.monotonic() < until:
        steps = [dict(boot.steps) for boot in cluster.boots]
        accepted = [s["accepted"] for s in steps if "accepted" in s]
        time.sleep(0.05)
    for future in futures:
        future.cancel()
    client.close()
    cluster.close()
    return {"accepted": accepted}


def hold(who: str, name: str, number: int, seconds: float) -> None:
    """Keep runners busy, and report it."""
    _cluster, client = make(who, name, number)
    futures = client.map(lambda _: time.sleep(3600), range(number), pure=False)
    while sum(map(bool, client.processing().values())) < number:
        time.sleep(0.05)
    print("busy", len(futures), flush=True)
    time.sleep(3600)


def kill(who: str, name: str, number: int, seconds: float) -> dict[str, Any]:
    """Kill a driver with busy runners."""
    arguments = [sys.executable, __file__, who, "hold", name, str(number), str(seconds)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdout is not None
        for line in driver.stdout:
            if line.startswith("busy"):
                break
        driver.kill()
    return {"killed": time.time()}


def main(argv: list[str]) -> None:
    """Measure, and print the result; keep the pod alive after a driver was killed."""
    who, what, name, number, seconds = argv
    measure = {"calls": calls, "wave": wave, "kill": kill, "hold": hold}[what]
    found = measure(who, name, int(number), float(seconds))
    print(MARK + json.dumps(found), flush=True)
    if what == "kill":
        time.sleep(3600)


if __name__ == "__main__":
    main(sys.argv[1:])
