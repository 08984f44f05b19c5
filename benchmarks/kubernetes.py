"""Compare dask-flame's pods with those of dask-kubernetes' KubeCluster, on a real cluster.

    KUBECONFIG=… python benchmarks/kubernetes.py --image ghcr.io/me/dask-flame-test:1
    python benchmarks/kubernetes.py --fake

The drivers are pods, as a JupyterHub server is. They use the image, which needs dask-flame,
dask-kubernetes and the requirements of their tests, in a namespace that is created and deleted by
the benchmark. KubeCluster is measured if its operator is installed (the kind DaskCluster exists):

    helm install --repo https://helm.dask.org --create-namespace -n dask-operator \\
        --generate-name dask-kubernetes-operator

With ``--fake`` the pods are processes of this machine, which share its cores: the figures only show
that the benchmark works. There is no operator.

registered
    Seconds from ``client.map`` of 8 calls of 20 s, without any runner, until 8 have registered.
makespan
    … until all 8 results have arrived.
pods
    Pods created per second, in one wave of 32.
boots
    Medians of the steps of the 8 boots: until the API server accepted the pod, it was assigned to a
    node, its container ran, it registered, it had its first call.
left
    Objects left 120 s after ``kill -9`` of a driver with 8 busy runners, in a pod that lives on.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

# The tests have the code that creates pods of drivers.
sys.path.append(str(Path(__file__).parents[1]))

from kubernetes_driver import MARK  # beside this file

from tests.e2e.real_kubernetes import setting
from tests.e2e.real_kubernetes.asking import Refused
from tests.e2e.real_kubernetes.world import World

_STEPS = ("accepted", "scheduled", "started", "registered", "first call")
#: KubeCluster's drivers have all permissions in the namespace created for this benchmark.
_ALL = [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]
_KINDS = ("Pod", "Job", "Secret", "Service", "NetworkPolicy", "Deployment", "DaskCluster")


class Bench:
    """Measure both contenders in one world.

    Parameters
    ----------
    world : World
    args : argparse.Namespace
    """

    def __init__(self, world: World, args: argparse.Namespace) -> None:
        self.world = world
        self.args = args

    def measure(self, who: str) -> dict[str, Any]:
        """Return all measurements of one contender."""
        args = self.args
        found = {"calls": self._ask(who, "calls", args.calls, args.seconds)}
        if who == "flame":
            found["wave"] = self._ask(who, "wave", args.wave, 600)
        _, pod = self._start(who, "kill", args.calls, 0)
        self._read(pod)
        name = f"{self.world.token}-{who}-kill"
        found["there"] = len(self._objects(name))
        time.sleep(args.left_after)
        found["left"] = self._objects(name)
        self.world.ask.delete("Pod", pod, grace=1)
        if who == "stock":
            self.world.ask.delete("DaskCluster", name)
        return found

    def _ask(self, who: str, what: str, number: int, seconds: float) -> Any:
        _, pod = self._start(who, what, number, seconds)
        found = self._read(pod)
        self.world.ask.delete("Pod", pod, grace=1)
        return found

    def _start(self, who: str, what: str, number: int, seconds: float) -> tuple[str, str]:
        name = f"{self.world.token}-{who}-{what}"
        print(f"{who}: {what} …", file=sys.stderr, flush=True)
        account = f"{self.world.name}-all" if who == "stock" else ""
        arguments = ["kubernetes_driver.py", who, what, name, str(number), str(seconds)]
        return name, self.world.drive(f"{who}-{what}", *arguments, account=account)

    def _read(self, pod: str) -> Any:
        lines = []
        for line in self.world.ask.log(pod):
            if line.startswith(MARK):
                return json.loads(line.removeprefix(MARK))
            lines.append(line)
        said = "\n".join(lines[-40:])
        raise SystemExit(f"the driver's pod has ended:\n{said}\n{self.world.why(pod)}")

    def _objects(self, name: str) -> list[str]:
        """Return the remaining objects of a cluster, except the driver's pod."""
        found = []
        for kind in _KINDS:
            try:
                objects = self.world.ask.list(kind)
            except Refused:
                continue  # the server does not have this kind
            for obj in objects:
                labels = obj["metadata"].get("labels") or {}
                mine = str(labels.get("dask.org/cluster-name", "")).startswith(name)
                if mine or obj["metadata"]["name"] == name:
                    found.append(f"{kind} {obj['metadata']['name']}")
        return found


def table(found: Mapping[str, Mapping[str, Any]], args: argparse.Namespace) -> str:
    """Return the measurements as a table in Markdown."""
    rows: list[tuple[str, str, dict[str, str]]] = []

    def row(what: str, unit: str, of: Any) -> None:
        cells = {}
        for who, mine in found.items():
            value = of(mine)
            cells[who] = (
                "" if value is None else value if isinstance(value, str) else f"{value:.3g}"
            )
        rows.append((what, unit, cells))

    n, seconds = args.calls, args.seconds
    row(f"from call to {n} registered", "s", lambda m: m["calls"].get("registered", "never"))
    row(f"{n} calls of {seconds:g} s from zero", "s", lambda m: m["calls"].get("makespan", "never"))
    row(f"pods made, in a wave of {args.wave}", "1/s", _rate)
    for step in _STEPS:
        row(f"boot: {step}, median", "s", lambda m, step=step: _median(m, step))
    row("objects before kill -9 of the driver", "", lambda m: str(m["there"]))
    row(f"left {args.left_after:g} s after it", "", lambda m: str(len(m["left"])))
    titles = {"flame": "dask-flame", "stock": "KubeCluster"}
    heads = [titles[who] for who in found]
    lines = [f"| | | {' | '.join(heads)} |", f"|---|---|{'---|' * len(heads)}"]
    for what, unit, cells in rows:
        lines.append(f"| {what} | {unit} | {' | '.join(cells[who] for who in found)} |")
    return "\n".join(lines)


def _rate(measured: Mapping[str, Any]) -> float | None:
    accepted: Sequence[float] = measured.get("wave", {}).get("accepted") or ()
    return len(accepted) / max(accepted) if accepted else None


def _median(measured: Mapping[str, Any], step: str) -> float | None:
    values = [boot[step] for boot in measured["calls"].get("boots") or () if step in boot]
    return statistics.median(values) if values else None


@contextmanager
def fake() -> Iterator[None]:
    """Use the fake Kubernetes instead of a real one."""
    from tests.fakes.kubernetes import FakeKubernetes

    everything = {"admin": _ALL}
    with (
        FakeKubernetes(users=everything).in_thread() as cluster,
        tempfile.TemporaryDirectory() as t,
    ):
        path = cluster.kubeconfig(f"{t}/kubeconfig", user="admin", namespace="default")
        os.environ["KUBECONFIG"] = path
        yield


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--image", default=os.environ.get(setting.IMAGE), help="of drivers and runners"
    )
    parser.add_argument(
        "--fake", action="store_true", help="on the fake: processes of this machine"
    )
    parser.add_argument("--calls", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=20, help="of each call")
    parser.add_argument("--wave", type=int, default=32, help="pods that are made at once")
    parser.add_argument("--left-after", type=float, default=120, help="seconds after kill -9")
    parser.add_argument("--json", type=Path, help="write what was measured there")
    args = parser.parse_args(arguments)
    if not args.fake and not args.image:
        parser.error("a real cluster needs --image; for a try on this machine: --fake")
    with ExitStack() as stack:
        if args.fake:
            stack.enter_context(fake())
        world = stack.enter_context(
            World(
                args.image or "image:1",
                os.environ.get(setting.NAMESPACE, "") if not args.fake else "",
                quota={},
                restricted=False,  # KubeCluster's pods are not
                files=[Path(__file__).with_name("kubernetes_driver.py")],
            )
        )
        bench = Bench(world, args)
        found = {"flame": bench.measure("flame")}
        operator = world.ask.has("DaskCluster")
        if operator:
            world.make_account(f"{world.name}-all", _ALL)
            found["stock"] = bench.measure("stock")
    if args.fake:
        print(
            "On the fake Kubernetes: its pods are processes of this machine, and no real cluster's."
        )
    if not operator:
        print("KubeCluster is not measured: its operator is not installed (no kind DaskCluster).")
    print(table(found, args))
    for who, measured in found.items():
        for line in measured["left"]:
            print(f"left by {who}: {line}")
    if args.json:
        args.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
