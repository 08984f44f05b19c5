"""The fake Kubernetes cluster: its parts, its life, and what tests do to it (test process)."""

from __future__ import annotations

import asyncio
import copy
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.fakes.kubernetes import accounts, kinds, scheduler
from tests.fakes.kubernetes.access import EVERYTHING, Access, Rules
from tests.fakes.kubernetes.api import Admission, Api
from tests.fakes.kubernetes.garbage import Garbage
from tests.fakes.kubernetes.jobs import Jobs
from tests.fakes.kubernetes.kinds import EVENTS, NAMESPACES, NODES
from tests.fakes.kubernetes.kubelet import Kubelet, Settings
from tests.fakes.kubernetes.mischief import Mischief
from tests.fakes.kubernetes.process import Reaper
from tests.fakes.kubernetes.quotas import Quotas
from tests.fakes.kubernetes.requests import Requests
from tests.fakes.kubernetes.scheduler import Scheduler
from tests.fakes.kubernetes.server import Server
from tests.fakes.kubernetes.store import Object, Store
from tests.fakes.kubernetes.watches import Watches

_NODES = ({"cpu": 64, "memory": "256Gi"},)


class FakeKubernetes(Mischief):
    """A Kubernetes API server over HTTP, and a cluster behind it whose pods are local processes.

    It keeps Pods, Jobs, Services, Secrets, ConfigMaps, NetworkPolicies, Events, Namespaces,
    ResourceQuotas, ServiceAccounts, Roles, RoleBindings and Nodes, and answers
    SelfSubjectAccessReviews and SelfSubjectRulesReviews. Its event loop runs in a thread of its
    own, so that it goes on whatever a test's loop does; all that is here may be called from any
    thread. To be used as a context manager: as ``async with``, or, by ``in_thread``, as ``with``.
    At its end every process and folder is gone.

    Parameters
    ----------
    nodes : sequence of mapping
        What each node has: ``{"cpu": 4, "memory": "16Gi", "nvidia.com/gpu": 1}``, and perhaps
        ``name``, ``labels`` and ``taints``. By default one large node.
    namespaces : iterable of str, or mapping of str to labels
        Beside ``default`` and ``kube-system``. ``pod-security.kubernetes.io/enforce: restricted``
        among a namespace's labels is heeded.
    users : mapping of str to rules
        Who may do what, as the rules of a Role are written, with ``namespaces`` beside those that
        do not hold everywhere. By default a user ``driver`` who may do everything.
    pod_address : str or callable
        ``status.podIP`` of pods; given a function, of the number of those before.
    service_address : str
        ``spec.clusterIP`` of Services that do not ask for one. There is no proxy behind it: with
        the pods' own address, the default, what listens on a Service's port is reached by it.
    scheduling_delay, pull_delay : float
        Seconds that a pod waits for its node, and for its image.
    bad_images : mapping of str to str
        Images that cannot be pulled, and why. It is looked at at each try.
    back_off : float
        Seconds between two tries: of an image, a missing Secret, a Job's pod.
    refresh : float
        Seconds until a Secret or ConfigMap that has changed is in the folders of pods: in a real
        cluster about a minute.
    bookmarks : float
        Seconds between the bookmarks of a watch.
    env : mapping of str to str
        Variables of all pods, as if their images had them.
    pythons : mapping of str to str
        By image, the program that ``python`` is in it: another interpreter, perhaps. By default the
        one that runs this.
    admission : callable, optional
        Called with ``"CREATE"`` or ``"UPDATE"`` and each object; a text that it returns is why a
        webhook refuses it.

    Attributes
    ----------
    url : str
    requests : Requests
        All that was asked.
    bad_images : dict

    Notes
    -----
    Simpler than a real one: there is no TLS; strategic merge patches merge as others do, lists
    are replaced; there are no apply patches, tables, exec, service account tokens
    or PersistentVolumeClaims; default grace and retention are real, but delays are those given
    here; limits of cpu and memory are counted, not enforced. See `Surroundings` for what stands in
    for mounts, `Life`, `Jobs`, `Scheduler` and `Garbage` for what those parts do not do.

    Examples
    --------
    >>> async with FakeKubernetes(nodes=[{"cpu": 4, "memory": "16Gi"}]) as cluster:
    ...     api = await kr8s.asyncio.api(kubeconfig=cluster.kubeconfig(path))
    ...     cluster.fail("create pods", status=429, times=2, retry_after=1)   # doctest: +SKIP
    """

    def __init__(
        self,
        *,
        nodes: Sequence[Mapping[str, Any]] = _NODES,
        namespaces: Iterable[str] | Mapping[str, Mapping[str, str]] = ("team",),
        users: Mapping[str, Rules] | None = None,
        pod_address: str | Callable[[int], str] = "127.0.0.1",
        service_address: str = "127.0.0.1",
        scheduling_delay: float = 0.0,
        pull_delay: float = 0.0,
        bad_images: Mapping[str, str] | None = None,
        back_off: float = 0.1,
        refresh: float = 0.5,
        bookmarks: float = 60.0,
        env: Mapping[str, str] | None = None,
        admission: Admission | None = None,
        pythons: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(name="cluster", prefix="dask-flame-k8s-")
        if not isinstance(namespaces, Mapping):
            namespaces = {name: {} for name in namespaces}
        self._namespaces = {"default": {}, "kube-system": {}, **namespaces}
        self._nodes = [scheduler.node(given, index) for index, given in enumerate(nodes)]
        self._access = Access({"driver": EVERYTHING} if users is None else users)
        self._store = Store()
        self._api = Api(self._store, service_ip=service_address)
        self._api.admission = admission
        # First of all listeners, so that watches are told of changes in their order.
        self._watches = Watches(self._api, bookmarks=bookmarks)
        self._scheduling_delay = scheduling_delay
        self._settings = Settings(
            Path(),
            pod_address,
            pull_delay,
            back_off,
            refresh,
            dict(bad_images or {}),
            dict(env or {}),
            pythons=dict(pythons or {}),
        )
        self._reaper = Reaper(uuid.uuid4().hex)
        self._controllers: list[asyncio.Task[None]] = []
        self._start_uids: set[str] = set()
        self._accounts = accounts.Accounts(self._store, self._access)
        self._settings.account = lambda pod: accounts.kubeconfig(
            self._store, self._access, pod, self.url
        )

    def in_thread(self) -> FakeKubernetes:
        """The same, for ``with``: what tests without an event loop write."""
        return self

    async def _begin(self) -> None:
        self._settings.folder = self._folder
        self._scheduler = Scheduler(self._store, delay=self._scheduling_delay)
        self._kubelet = Kubelet(self._store, self._settings, self._reaper)
        garbage = Garbage(self._api)
        jobs = Jobs(self._api, back_off=self._settings.back_off)
        quotas = Quotas(self._store)
        self._server = Server(self._api, self._access, self._watches, self._kubelet)
        for name, labels in self._namespaces.items():
            meta = {"name": name, "labels": dict(labels)}
            self._api.create(NAMESPACES, "", {"metadata": meta})
        for node in self._nodes:
            self._api.create(NODES, "", node)
        self._controllers = [
            asyncio.ensure_future(part.run()) for part in (self._scheduler, garbage, jobs, quotas)
        ]
        self._note()
        await self._server.start()

    async def _end(self) -> list[BaseException]:
        errors: list[BaseException] = []
        if hasattr(self, "_server"):
            await self._server.close()
        for task in self._controllers:
            task.cancel()
        results = await asyncio.gather(*self._controllers, return_exceptions=True)
        errors.extend(error for error in results if isinstance(error, Exception))
        if hasattr(self, "_kubelet"):
            await self._kubelet.close()
            errors.extend(self._kubelet.errors)
        return errors

    def _reap(self) -> None:
        self._reaper.reap_all()

    # Reaching it

    @property
    def requests(self) -> Requests:
        """All that was asked, in order."""
        return self._server.requests

    @property
    def bad_images(self) -> dict[str, str]:
        """Images that cannot be pulled, and why; may be changed."""
        return self._settings.bad_images

    def token(self, user: str = "driver") -> str:
        """What a user is known by: ``Authorization: Bearer <token>``."""
        return self._access.token(user)

    def kubeconfig(
        self, path: str | Path, *, user: str = "driver", namespace: str | None = None
    ) -> str:
        """Write a kubeconfig and return its path.

        Parameters
        ----------
        path : str or Path
        user : str
            Whose token is in it.
        namespace : str, optional
            Of its context: by default the first of those that the cluster was made with.
        """
        chosen = namespace or [*self._namespaces][2:][:1] or ["default"]
        namespace = chosen if isinstance(chosen, str) else chosen[0]
        text = accounts.config(self.url, self.token(user), namespace, user)
        Path(path).write_text(text)
        Path(path).chmod(0o600)
        return str(path)

    # What there is

    def objects(self, kind: str, namespace: str = "") -> list[Object]:
        """Copies of the objects of a kind, named as kubectl takes it, of all namespaces or one."""
        which = kinds.named(kind)
        return self._call(lambda: copy.deepcopy(list(self._store.items(which, namespace))))

    def create(self, obj: Mapping[str, Any]) -> Object:
        """Make an object as an administrator does; it counts as there from the start."""
        kind = kinds.by_name(obj.get("apiVersion", "v1"), obj["kind"])
        assert kind is not None, f"no kind {obj['kind']}"
        namespace = obj["metadata"].get("namespace", "default")

        def create() -> Object:
            made = self._api.create(kind, namespace, dict(obj))
            self._start_uids.add(made["metadata"]["uid"])
            return copy.deepcopy(made)

        return self._call(create)

    def delete(
        self, obj: Mapping[str, Any], *, grace: int | None = None, policy: str = "Background"
    ) -> None:
        """Delete an object, given as it was once, as an administrator does.

        Parameters
        ----------
        obj : mapping
        grace : int, optional
            Seconds, of a pod: by default its own.
        policy : {"Background", "Foreground", "Orphan"}
            What becomes of what it owns.
        """
        kind = kinds.by_name(obj["apiVersion"], obj["kind"])
        assert kind is not None, f"no kind {obj['kind']}"
        meta = obj["metadata"]
        options = {"gracePeriodSeconds": grace, "propagationPolicy": policy}
        self._call(lambda: self._api.delete(kind, meta.get("namespace", ""), meta["name"], options))

    def add_node(self, node: Mapping[str, Any]) -> str:
        """One more node, as an autoscaler makes it; its name."""
        count = len(self.objects("nodes"))
        made = self.create(scheduler.node(node, count))
        return str(made["metadata"]["name"])

    @property
    def pids(self) -> list[int]:
        """Of the processes of all containers that run."""
        return self._call(lambda: self._kubelet.pids)

    @property
    def watches(self) -> int:
        """How many are open."""
        return self._call(lambda: len(self._watches))

    def left(self) -> list[str]:
        """What there is that was not there at the start, as lines to read.

        Objects, but for Events, which stay for an hour in a real cluster; processes; folders.
        """

        def left() -> list[str]:
            lines = [
                f"{kind.plural} {meta.get('namespace', '')}/{meta['name']}"
                for kind, meta in ((kind, obj["metadata"]) for kind, obj in self._store.all())
                if kind != EVENTS and meta["uid"] not in self._start_uids
            ]
            return sorted(lines + self._kubelet.left(self._start_uids))

        return self._call(left)

    def at_rest(self) -> bool:
        """Whether nothing is left but what was there at the start: see `left`."""
        return not self.left()

    def _note(self) -> None:
        self._start_uids = {obj["metadata"]["uid"] for _, obj in self._store.all()}
