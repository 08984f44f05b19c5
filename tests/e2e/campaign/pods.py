"""A case on Kubernetes (driver): what is done to its pods, its watchdog and the API server."""

from __future__ import annotations

import contextlib
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from dask_flame.backends.kubernetes import KubernetesBackend
from dask_flame.scaling.fleet import Phase
from tests.e2e.campaign.case import Case, Fault
from tests.e2e.campaign.faults import Faults, phase_of
from tests.e2e.campaign.judge import wrong_reasons
from tests.e2e.campaign.play import Local, Played
from tests.fakes.kubernetes import FakeKubernetes

_SLOW = 0.4
#: What may stand in the reason of a runner's end that had such a thing done to it.
_WORDS = {
    "pod-kill": ("SIGKILL",),
    "pod-delete": ("deleted by somebody else", "exit code 0"),
    "pod-force": ("deleted by somebody else", "SIGKILL"),
    "pod-oom": ("out of memory",),
    "pod-evict": ("Evicted",),
    "pod-preempt": ("preempted",),
}


class _Backend(KubernetesBackend):
    """With what the parts of a campaign ask of one."""

    supervisor: int | None = None
    refused = 0

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.mark = uuid.uuid4().hex

    def pod_of(self, runner: str) -> str:
        """The name of a runner's pod; empty where there is none."""
        known = self._pods.runners.get(runner) if self._pods is not None else None
        return known.pod if known is not None else ""


class Pods(Local):
    """Where a case is played: in pods of this cluster.

    Parameters
    ----------
    fake : FakeKubernetes, optional
        The cluster, where it is in this process; what is to be done to it is else not done.
    """

    remote = True

    def __init__(self, fake: FakeKubernetes | None = None) -> None:
        self.fake = fake

    def backend(self, case: Case, through: Callable[[str], str], *args: Any) -> Any:
        return _Backend(*args)

    def faults(self, *args: Any) -> Faults:
        return PodFaults(self.fake, *args)


class PodFaults(Faults):
    """Does the faults of a case to a cluster on Kubernetes."""

    def __init__(self, fake: FakeKubernetes | None, *args: Any) -> None:
        super().__init__(*args)
        self.fake = fake

    def _count(self, now: float) -> None:
        if self.fake is None or not self._time_to_count(now):
            return
        found: Counter[str] = Counter()
        for pod in _of(self.fake, "worker"):
            if pod["status"]["phase"] in ("Pending", "Running"):
                found[pod["metadata"]["labels"]["dask-flame/pool"]] += 1
        for pool, number in found.items():
            self.seen.most[pool] = max(self.seen.most.get(pool, 0), number)

    def _strike(self, fault: Fault) -> None:
        if self.fake is None:
            return
        if fault.what.startswith("api-"):
            self._say(f"{fault.what} for {fault.seconds:.2f} s")
            with trouble(self.fake, fault.what):
                self._sleep(fault.seconds or 0.0)
        elif fault.what.startswith("watchdog-"):
            self._say(fault.what)
            # Kubernetes deletes what the watchdog owned, now or when its Job is given up.
            self.seen.victims |= dict.fromkeys(self.cluster.runners, fault.what)
            strike_watchdog(self.fake, fault.what)
            self._doomed()
        else:
            self._strike_pods(self.fake, fault)

    def _strike_pods(self, fake: FakeKubernetes, fault: Fault) -> None:
        members = sorted(self.cluster.runners.items())
        self._random.shuffle(members)
        members.sort(key=lambda item: phase_of(item[1]) != fault.phase)
        for name, member in members[: fault.count]:
            pod = f"team/{self.backend.pod_of(name)}"  # type: ignore[attr-defined]
            ready = member.phase is Phase.READY and name not in self.seen.victims
            try:
                _DO[fault.what](fake, pod)
            except KeyError:
                continue  # it is not there, or on no node, any more or yet
            self.seen.victims[name] = fault.what if ready else "several things"
            self._say(f"{fault.what} {name}, which was {phase_of(member)}")

    def _doomed(self) -> None:
        """Runners that come now may be owned by the watchdog that has gone."""
        for _ in range(20):
            self._sleep(0.1)
            self.seen.victims |= {
                name: "watchdog" for name in self.cluster.runners if name not in self.seen.victims
            }


def _of(fake: FakeKubernetes, component: str) -> list[dict[str, Any]]:
    return [
        pod
        for pod in fake.objects("pods")
        if (pod["metadata"].get("labels") or {}).get("dask.org/component") == component
    ]


@contextlib.contextmanager
def trouble(fake: FakeKubernetes, what: str) -> Iterator[None]:
    """Have the API server in trouble for as long as this lasts."""
    over = threading.Event()
    more: threading.Thread | None = None
    if what == "api-down":
        fake.down()
    elif what == "api-slow":
        fake.slow(_SLOW)
    else:
        more = threading.Thread(target=_again, args=(fake, what, over), name="campaign-trouble")
        more.start()
    try:
        yield
    finally:
        over.set()
        if more is not None:
            more.join()
        fake.slow(0)
        fake.up()


def _again(fake: FakeKubernetes, what: str, over: threading.Event) -> None:
    """Troubles that come again and again."""
    number = 0
    while not over.is_set():
        number += 1
        if what == "api-errors":
            fake.fail("* *", status=(429, 500, 503, 409)[number % 4], retry_after=0.1)
        elif what == "api-lost":
            changes = ("create", "delete")[number % 2]
            fake.fail(f"{changes} *", status=None, after=True)
        elif what == "api-cut":
            fake.drop_watches(clean=bool(number % 2))
        else:
            fake.compact(http=bool(number % 2), open_watches=number % 3 == 0)
            fake.drop_watches()
        over.wait(0.15)
    fake.calm()


def strike_watchdog(fake: FakeKubernetes, what: str) -> None:
    """Do something to all watchdogs that there are."""
    if what == "watchdog-delete":
        for job in fake.objects("jobs"):
            fake.delete(job)
        return
    for pod in _of(fake, "watchdog"):
        with contextlib.suppress(KeyError):
            if what == "watchdog-kill":
                fake.kill(pod)
            elif what == "watchdog-pod":
                fake.delete(pod)
            else:
                fake.evict(pod)


def _delete(fake: FakeKubernetes, pod: str, grace: int | None = None) -> None:
    found = [p for p in _of(fake, "worker") if f"team/{p['metadata']['name']}" == pod]
    if not found:
        raise KeyError(pod)
    fake.delete(found[0], grace=grace)


_DO: dict[str, Callable[[FakeKubernetes, str], None]] = {
    "pod-kill": lambda fake, pod: fake.kill(pod),
    "pod-delete": _delete,
    "pod-force": lambda fake, pod: _delete(fake, pod, 0),
    "pod-oom": lambda fake, pod: fake.oom(pod),
    "pod-evict": lambda fake, pod: fake.evict(pod),
    "pod-preempt": lambda fake, pod: fake.preempt(pod),
}


def judge_pods(case: Case, played: Played) -> Iterator[str]:
    """What is wrong beside what :func:`tests.e2e.campaign.judge.judge` finds."""
    yield from wrong_reasons(played, _WORDS)
    if case.theme == "api":
        for event in played.events:
            if event.kind == "failed":
                yield f"the API server's trouble has passed, and a boot failed: {event}"
