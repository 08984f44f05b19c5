"""What tests do to the fake cluster, so that it goes wrong on demand (test process)."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

from tests.fakes.http_fake import HttpFake
from tests.fakes.kubernetes import conditions
from tests.fakes.kubernetes.access import Access, Rules
from tests.fakes.kubernetes.api import Admission, Api
from tests.fakes.kubernetes.kinds import PODS
from tests.fakes.kubernetes.kubelet import Kubelet
from tests.fakes.kubernetes.life import Life
from tests.fakes.kubernetes.recorder import Recorder
from tests.fakes.kubernetes.requests import Fault
from tests.fakes.kubernetes.scheduler import Scheduler
from tests.fakes.kubernetes.server import Server
from tests.fakes.kubernetes.store import Object, Store
from tests.fakes.kubernetes.watches import Watches

_EVICTED = (
    "The node was low on resource: memory. Threshold quantity: 100Mi, available: 52Mi. Container "
    "{} was using 512Mi, request is 0, has larger consumption of memory. "
)


class Mischief(HttpFake):
    """The half of `FakeKubernetes` that makes it fail: requests, connections, watches and pods."""

    _store: Store
    _api: Api
    _access: Access
    _watches: Watches
    _server: Server
    _scheduler: Scheduler
    _kubelet: Kubelet
    _fault = Fault

    def grant(self, user: str, rules: Rules) -> None:
        """Let a user, a new one perhaps, do this and nothing else."""
        self._call(lambda: self._access.grant(user, rules))

    def admit(self, admission: Admission | None) -> None:
        """From now on let this refuse what is made or changed: see `admission`."""
        self._call(lambda: setattr(self._api, "admission", admission))

    def calm(self) -> None:
        """Forget the errors that were asked for and have not been answered with."""
        self._call(lambda: self._server.faults.clear())

    def up(self, *, unready: float = 0.0) -> None:
        """Listen again, at the same address.

        Parameters
        ----------
        unready : float
            Seconds for which everything is refused with 403 at first, as by an API server that has
            started anew and has not read yet who may do what.
        """

        async def up() -> None:
            if unready:
                self._access.ready = False
                self._loop.call_later(unready, setattr, self._access, "ready", True)
            await self._server.up()

        self._run(up())

    def drop_watches(self, *, clean: bool = False) -> None:
        """Cut all watches, or end them as their timeout would."""
        self._call(lambda: self._watches.drop(clean=clean))

    def compact(self, *, http: bool = False, open_watches: bool = False) -> None:
        """Forget all changes so far: to watch from an earlier version is refused with 410 Gone.

        Parameters
        ----------
        http : bool
            Whether it is refused with that HTTP status. Otherwise, as mostly, the answer is 200
            and an ERROR event.
        open_watches : bool
            Whether those that are open are sent the ERROR event as well.
        """

        def compact() -> None:
            self._store.compact()
            self._watches.gone_at_once = http
            if open_watches:
                self._watches.expire()

        self._call(compact)

    def hold_scheduling(self) -> None:
        """Bind no pod to a node until ``release_scheduling``."""
        self._call(lambda: setattr(self._scheduler, "held", True))

    def release_scheduling(self) -> None:
        """Bind again what waits."""

        def release() -> None:
            self._scheduler.held = False
            self._scheduler.wake()

        self._call(release)

    def preempt(self, pod: str | Mapping[str, Any]) -> None:
        """Take a pod away for one of more priority: it is deleted, with its grace."""

        def preempt() -> None:
            found = self._pod(pod)
            text = "Preempted by pod {} on node {}".format(
                uuid.uuid4(), found["spec"].get("nodeName", "")
            )
            Recorder(self._store, "default-scheduler").say(found, "Preempted", text)
            self._disrupt(
                found,
                "PreemptionByScheduler",
                "default-scheduler: preempting to accommodate a higher priority pod",
            )
            meta = found["metadata"]
            self._api.delete(PODS, meta["namespace"], meta["name"])

        self._call(preempt)

    def evict(self, pod: str | Mapping[str, Any]) -> None:
        """End a pod because its node has no memory left: it stays, Failed with reason Evicted."""

        def evict() -> None:
            found = self._pod(pod)
            text = _EVICTED.format(found["spec"]["containers"][0]["name"])
            Recorder(self._store, "kubelet").say(found, "Evicted", text, warning=True)
            self._disrupt(found, "TerminationByKubelet", text)
            self._life(found).fail("Evicted", text)

        self._call(evict)

    def oom(self, pod: str | Mapping[str, Any]) -> None:
        """Kill a pod's processes as the kernel does when they have taken too much memory."""
        self._call(lambda: self._life(self._pod(pod)).kill("OOMKilled"))

    def kill(self, pod: str | Mapping[str, Any]) -> None:
        """Kill a pod's processes, as anybody may who is on its node."""
        self._call(lambda: self._life(self._pod(pod)).kill("Error"))

    def _disrupt(self, pod: Object, reason: str, message: str) -> None:
        self._store.modify(
            PODS, pod, lambda obj: conditions.put(obj, "DisruptionTarget", True, reason, message)
        )

    def _pod(self, pod: str | Mapping[str, Any]) -> Object:
        """A pod by its name, ``namespace/name``, or what it was once."""
        if isinstance(pod, Mapping):
            meta = pod["metadata"]
            pod = f"{meta['namespace']}/{meta['name']}"
        namespace, _, name = pod.rpartition("/")
        found = [p for p in self._store.items(PODS, namespace) if p["metadata"]["name"] == name]
        if len(found) != 1:
            raise KeyError(f"{len(found)} pods are called {pod!r}")
        return found[0]

    def _life(self, pod: Object) -> Life:
        life = self._kubelet.life(pod)
        if life is None:
            raise KeyError(f"pod {pod['metadata']['name']!r} is on no node")
        return life
