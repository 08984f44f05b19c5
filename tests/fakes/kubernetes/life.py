"""One pod's life on its node, as a kubelet sees it through (test process)."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from tests.fakes.kubernetes import conditions, statuses
from tests.fakes.kubernetes.kinds import PODS
from tests.fakes.kubernetes.process import MARK, Process, Reaper
from tests.fakes.kubernetes.recorder import Recorder
from tests.fakes.kubernetes.store import Object, Store, now
from tests.fakes.kubernetes.volumes import Missing, Surroundings

if TYPE_CHECKING:
    from tests.fakes.kubernetes.kubelet import Settings

_DEADLINE = "Pod was active on the node longer than the specified deadline"


class Life:
    """From binding to end: image, volumes, processes, and a status that tells of them.

    Containers for initialisation run one after another, then the others at once. No container is
    started again, whatever ``restartPolicy`` says; probes and hooks are not asked, so that a
    container is ready when it runs.

    Parameters
    ----------
    store : Store
    pod : dict
    folder : Path
        The pod's, not made yet.
    address : str
    settings : Settings
    reaper : Reaper
    events : Recorder

    Attributes
    ----------
    name, namespace : str
    done : bool
        Whether its processes have ended and its status says so.
    gone : asyncio.Event
        Set when it is deleted.
    """

    def __init__(
        self,
        store: Store,
        pod: Object,
        *,
        folder: Path,
        address: str,
        settings: Settings,
        reaper: Reaper,
        events: Recorder,
    ) -> None:
        self.done = False
        self.name = str(pod["metadata"]["name"])
        self.namespace = str(pod["metadata"]["namespace"])
        self.gone = asyncio.Event()
        self._store = store
        self._pod = pod
        self._folder = folder
        self._address = address
        self._settings = settings
        self._reaper = reaper
        self._events = events
        uid = pod["metadata"]["uid"]
        env = {**settings.env, MARK: reaper.mark(uid)}
        self._around = Surroundings(
            store, pod, folder, address, env, settings.account, settings.pythons
        )
        self._processes: dict[str, Process] = {}
        self._killed: dict[str, str] = {}
        self._changed = asyncio.Event()
        self._stopping = False
        self._kill_at: float | None = None
        self._verdict: tuple[str, str] | None = None

    @property
    def pids(self) -> list[int]:
        return [process.pid for process in self._processes.values()]

    def open(self, container: str) -> BinaryIO | None:
        """What a container prints, as a file; None if it has not started."""
        try:
            return self._around.log({"name": container}).open("rb")
        except FileNotFoundError:
            return None

    def stop(self, grace: float) -> None:
        """SIGTERM, and after the grace SIGKILL.

        The first grace counts: once a kubelet has asked for a container's end, it waits for as long
        as it has said then. A shorter grace that the API server takes later, as it does, comes to
        nothing, see https://github.com/kubernetes/kubernetes/issues/83916 and 113606, which its
        source names. Only a pod that is in the API no more is killed at once.
        """
        pod = self._store.get(PODS, self.namespace, self.name)
        gone = pod is None or pod["metadata"]["uid"] != self._pod["metadata"]["uid"]
        if gone:
            self.gone.set()
            grace = 0.0
        elif self.done:
            if pod is not None and "deletionTimestamp" in pod["metadata"]:
                self._remove()
            return
        if not self._stopping:
            self._stopping = True
            for name, process in self._processes.items():
                self._say("Killing", f"Stopping container {name}")
                process.end(signal.SIGTERM)
        elif not gone:
            return
        self._kill_at = time.monotonic() + grace
        self._changed.set()

    def fail(self, reason: str, message: str, *, grace: float = 0.0) -> None:
        """End it, so that its status says it has failed and why."""
        if not self.done:
            self._verdict = reason, message
            self.stop(grace)

    def refresh(self) -> None:
        """Bring the files of its volumes up to date."""
        if not self.done:
            self._around.refresh()

    def kill(self, reason: str) -> None:
        """Kill its processes, with this as the reason that their containers ended for."""
        for name, process in self._processes.items():
            self._killed[name] = reason
            process.end(signal.SIGKILL)

    async def run(self) -> None:
        """Return when its processes have ended; cancelled, they are killed first."""
        work = asyncio.ensure_future(self._work())
        limit = self._pod["spec"].get("activeDeadlineSeconds")
        overdue = None if limit is None else time.monotonic() + limit
        try:
            while not work.done():
                await self._wait(work, overdue)
                if overdue is not None and time.monotonic() >= overdue:
                    overdue = None
                    self.fail("DeadlineExceeded", _DEADLINE, grace=self._grace)
                if self._stopping and not self._processes:
                    work.cancel()
                elif self._kill_at is not None and time.monotonic() >= self._kill_at:
                    for process in self._processes.values():
                        process.end(signal.SIGKILL)
                    self._kill_at = None
        finally:
            work.cancel()
            for process in self._processes.values():
                process.reap()
            (error,) = await asyncio.gather(work, return_exceptions=True)
        if isinstance(error, Exception):
            raise error
        await self._reaper.reap(self._pod["metadata"]["uid"])
        self._end()

    async def _wait(self, work: asyncio.Task[None], overdue: float | None) -> None:
        dues = [due for due in (self._kill_at, overdue) if due is not None]
        timeout = max(0.0, min(dues) - time.monotonic()) if dues else None
        changed = asyncio.ensure_future(self._change())
        try:
            await asyncio.wait(
                [work, changed], timeout=timeout, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            changed.cancel()
        self._changed.clear()

    async def _change(self) -> None:
        await self._changed.wait()

    @property
    def _grace(self) -> float:
        return float(self._pod["spec"]["terminationGracePeriodSeconds"])

    def _say(self, reason: str, message: str, *, warning: bool = False) -> None:
        node = self._pod["spec"]["nodeName"]
        self._events.say(self._pod, reason, message, warning=warning, node=node)

    def _write(self, change: Callable[[Object], None]) -> None:
        self._store.modify(PODS, self._pod, change)

    async def _work(self) -> None:
        # Not while the change is being told of that bound it.
        await asyncio.sleep(0)
        self._write(statuses.creating)
        spec = self._pod["spec"]
        inits, containers = spec.get("initContainers") or [], spec["containers"]
        for image in dict.fromkeys(c["image"] for c in [*inits, *containers]):
            await self._pull(image)
        await self._until(self._around.prepare, self._no_volume)
        for container in inits:
            code = await self._contain(container)
            if code or self._stopping:
                return
        self._write(lambda obj: conditions.put(obj, "Initialized", True))
        async with asyncio.TaskGroup() as group:
            for container in containers:
                group.create_task(self._contain(container))

    async def _pull(self, image: str) -> None:
        while True:
            self._say("Pulling", f'Pulling image "{image}"')
            await asyncio.sleep(self._settings.pull_delay)
            why = self._settings.bad_images.get(image)
            if why is None:
                took = f"{self._settings.pull_delay * 1000:.0f}ms"
                self._say(
                    "Pulled",
                    f'Successfully pulled image "{image}" in {took} ({took} including waiting). '
                    "Image size: 41824921 bytes.",
                )
                return
            self._say("Failed", f'Failed to pull image "{image}": {why}', warning=True)
            self._say("Failed", "Error: ErrImagePull", warning=True)
            self._wait_for(image, "ErrImagePull", why)
            await asyncio.sleep(self._settings.back_off)
            back_off = f'Back-off pulling image "{image}"'
            self._say("BackOff", back_off)
            self._say("Failed", "Error: ImagePullBackOff", warning=True)
            self._wait_for(image, "ImagePullBackOff", f"{back_off}: ErrImagePull: {why}")
            await asyncio.sleep(self._settings.back_off)

    def _wait_for(self, image: str, reason: str, message: str) -> None:
        def change(pod: Object) -> None:
            for status in statuses.all_of(pod):
                if status["image"] == image:
                    status["state"] = {"waiting": {"reason": reason, "message": message}}

        self._write(change)

    async def _until(self, what: Callable[[], Any], missing: Callable[[str], None]) -> Any:
        """Try again until what is referred to is there."""
        while True:
            try:
                return what()
            except Missing as error:
                missing(str(error))
                await asyncio.sleep(self._settings.back_off)

    def _no_volume(self, message: str) -> None:
        self._say("FailedMount", message, warning=True)

    async def _contain(self, container: Object) -> int:
        """Run one container; its exit code."""
        name = container["name"]

        def missing(message: str) -> None:
            self._say("Failed", f"Error: {message}", warning=True)
            state = {"waiting": {"reason": "CreateContainerConfigError", "message": message}}
            self._write(lambda pod: statuses.of(pod, name).update(state=state))

        env = await self._until(lambda: self._around.variables(container), missing)
        started = now()
        log = self._around.log(container)
        try:
            command = self._around.command(container, env)
            process = Process(command, env, self._around.start(container), log)
        except OSError as error:
            log.touch()
            self._unstarted(container, error)
            return 128
        self._processes[name] = process
        self._say("Created", f"Created container: {name}")
        self._say("Started", f"Started container {name}")
        self._write(lambda pod: statuses.running(pod, name, started, self._address))
        code = await process.wait()
        del self._processes[name]
        reason = self._killed.get(name) or ("Completed" if code == 0 else "Error")
        state = {"exitCode": code, "reason": reason, "startedAt": started, "finishedAt": now()}
        if message := self._message(container, code):
            state["message"] = message
        self._write(lambda pod: statuses.ended(pod, name, state, started=True))
        return code

    def _unstarted(self, container: Object, error: OSError) -> None:
        program = (container.get("command") or container.get("args") or [""])[0]
        message = (
            "failed to create containerd task: failed to create shim task: OCI runtime create "
            "failed: runc create failed: unable to start container process: error during "
            f'container init: exec: "{program}": executable file not found in $PATH: unknown'
        )
        if not program:
            message = f"failed to generate container spec: {error}"
        self._say("Failed", f"Error: {message}", warning=True)
        time = "1970-01-01T00:00:00Z"
        state = {"exitCode": 128, "reason": "StartError", "message": message}
        state |= {"startedAt": time, "finishedAt": now()}
        self._write(lambda pod: statuses.ended(pod, container["name"], state, started=False))

    def _message(self, container: Object, code: int) -> str:
        """What a container says at its end: in its file, or by what it printed last."""
        path = self._around.message(container)
        text = path.read_bytes()[:4096] if path.is_file() else b""
        fall_back = container["terminationMessagePolicy"] == "FallbackToLogsOnError"
        if not text and code and fall_back:
            lines = self._around.log(container).read_bytes().splitlines(keepends=True)
            text = b"".join(lines[-80:])[-2048:]
        return text.decode(errors="replace")

    def _end(self) -> None:
        """Write the phase that it ends in, and let go of it if it is being deleted."""
        self.done = True
        self._write(lambda pod: statuses.over(pod, self._verdict))
        pod = self._store.get(PODS, self.namespace, self.name)
        if pod is not None and "deletionTimestamp" in pod["metadata"]:
            self._remove()

    def _remove(self) -> None:
        self._store.remove(PODS, self._pod)
