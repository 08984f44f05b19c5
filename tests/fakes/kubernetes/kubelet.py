"""The fake's kubelet: which pods run, and where their logs and folders are (test process)."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from tests.fakes.kubernetes.errors import bad_request
from tests.fakes.kubernetes.kinds import CONFIG_MAPS, PODS, SECRETS
from tests.fakes.kubernetes.life import Life
from tests.fakes.kubernetes.process import Reaper
from tests.fakes.kubernetes.recorder import Recorder
from tests.fakes.kubernetes.store import Change, Object, Store


@dataclass
class Settings:
    """What holds for all pods.

    Attributes
    ----------
    folder : Path
        Theirs are below it.
    address : str or callable
        Every pod's, or a function of how many there were before.
    pull_delay : float
        Seconds that an image takes.
    back_off : float
        Seconds between two tries of what failed.
    refresh : float
        Seconds until a Secret or ConfigMap that has changed is in the pods' folders.
    bad_images : dict
        By image, why it cannot be pulled.
    env : mapping of str to str
        Variables of all pods.
    account : callable
        Of a pod, the kubeconfig of its service account, if it has one.
    pythons : mapping of str to str
        By image, the program that ``python`` is in it, where it is not the one that runs this.
    """

    folder: Path
    address: str | Callable[[int], str]
    pull_delay: float
    back_off: float
    refresh: float
    bad_images: dict[str, str] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    account: Callable[[Object], str | None] = lambda pod: None
    pythons: Mapping[str, str] = field(default_factory=dict)


class Kubelet:
    """Runs the pods of all nodes: a `Life` for each.

    Parameters
    ----------
    store : Store
    settings : Settings
    reaper : Reaper
    """

    def __init__(self, store: Store, settings: Settings, reaper: Reaper) -> None:
        self.settings = settings
        self._store = store
        self._reaper = reaper
        self._events = Recorder(store, "kubelet")
        self._lives: dict[str, Life] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._count = 0
        #: Of lives that failed: errors of this fake.
        self.errors: list[Exception] = []
        store.listeners.append(self._look)

    @property
    def pids(self) -> list[int]:
        """Of the processes of all containers that run."""
        return [pid for life in self._lives.values() for pid in life.pids]

    def left(self, but: Set[str]) -> list[str]:
        """Processes and folders of all pods but some, known by their uids, as lines to read."""
        lives = [life for uid, life in self._lives.items() if uid not in but]
        return [f"process {pid}" for life in lives for pid in life.pids] + [
            f"folder of {life.name}" for life in lives
        ]

    def life(self, pod: Object) -> Life | None:
        return self._lives.get(pod["metadata"]["uid"])

    def _look(self, change: Change) -> None:
        if change.kind in (SECRETS, CONFIG_MAPS) and change.new is not None:
            self._refresh(change.object["metadata"]["namespace"])
        if change.kind != PODS:
            return
        pod = change.object
        uid = pod["metadata"]["uid"]
        life = self._lives.get(uid)
        if change.new is None:
            if life is not None:
                life.stop(0.0)
        elif life is None and pod["spec"].get("nodeName"):
            if pod["status"]["phase"] == "Pending":
                self._begin(pod)
        elif life is not None and "deletionTimestamp" in pod["metadata"]:
            life.stop(pod["metadata"]["deletionGracePeriodSeconds"])

    def _refresh(self, namespace: str) -> None:
        def refresh() -> None:
            for life in self._lives.values():
                if life.namespace == namespace:
                    life.refresh()

        asyncio.get_running_loop().call_later(self.settings.refresh, refresh)

    def _begin(self, pod: Object) -> None:
        uid = pod["metadata"]["uid"]
        settings = self.settings
        address = settings.address
        if callable(address):
            address = address(self._count)
        # A short name: what is in it may be a socket, whose path has to be short.
        folder = settings.folder / f"p{self._count}"
        self._count += 1
        life = Life(
            self._store,
            pod,
            folder=folder,
            address=address,
            settings=settings,
            reaper=self._reaper,
            events=self._events,
        )
        self._lives[uid] = life
        self._tasks[uid] = asyncio.ensure_future(self._see(uid, life, folder))

    async def _see(self, uid: str, life: Life, folder: Path) -> None:
        try:
            await life.run()
            # Its logs stay until it is deleted.
            await life.gone.wait()
        except Exception as error:
            self.errors.append(error)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            self._lives.pop(uid, None)
            self._tasks.pop(uid, None)

    def read(self, pod: Object, params: Mapping[str, str]) -> bytes:
        """A container's log, all of it."""
        with self.open(pod, params) as log:
            return log.read()

    def open(self, pod: Object, params: Mapping[str, str]) -> BinaryIO:
        """A container's log, to be read on while it grows."""
        name = pod["metadata"]["name"]
        names = [
            c["name"]
            for field in ("containers", "initContainers")
            for c in pod["spec"].get(field) or []
        ]
        container = params.get("container") or names[0]
        if not params.get("container") and len(pod["spec"]["containers"]) > 1:
            raise bad_request(
                f"a container name must be specified for pod {name}, choose one of: "
                f"[{' '.join(names)}]"
            )
        if container not in names:
            raise bad_request(f"container {container} is not valid for pod {name}")
        life = self.life(pod)
        log = life.open(container) if life else None
        if log is None:
            said = [
                status["state"].get("waiting", {}).get("reason", "")
                for status in pod["status"].get("containerStatuses", [])
                if status["name"] == container
            ]
            if not life:
                raise bad_request(f"pod {name} does not have a host assigned")
            raise bad_request(
                f'container "{container}" in pod "{name}" is waiting to start: '
                f"{said[0] if said and said[0] else 'ContainerCreating'}"
            )
        return log

    def running(self, pod: Object) -> bool:
        life = self.life(pod)
        return life is not None and not life.done

    async def close(self) -> None:
        """Kill all pods, as a node does that loses its power."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
