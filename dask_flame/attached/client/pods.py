"""Attach to an application in a pod, through the API server of Kubernetes (driver).

No port is opened on this machine: the connection leads from a pair of sockets of this process to
the port of the pod, which is open to the pod alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from typing import Any

from dask_flame.attached.places import LOOPBACK
from dask_flame.attached.tokens import TOKEN, check_token, prove_to_application
from dask_flame.attached.wire import SocketWire
from dask_flame.errors import AttachError

#: Seconds until the API server must have answered.
_PATIENCE = 15.0
#: Labels that name the application of a pod.
_LABELS = ("app.kubernetes.io/name", "app")


def connected_to_pod(
    name: str,
    *,
    pod: str | None,
    namespace: str | None,
    context: str | None,
    token: str | None,
    port: int,
) -> SocketWire:
    """Return a connection to an application in a pod, which has proved the token.

    Raises
    ------
    AttachError
        There is no such pod, or several; it cannot be reached; or it has another token.
    """
    secret = check_token(token)
    if secret is None:
        raise AttachError(
            f"{name}@kubernetes needs the token that the pod was given: write "
            f'dask_flame.attach("{name}@kubernetes", token=…), or set {TOKEN}'
        )
    tunnel = _Tunnel(name, pod=pod, namespace=namespace, context=context, port=port)
    try:
        return _PodWire(tunnel, prove_to_application(tunnel.socket, secret))
    except (AttachError, OSError) as error:
        tunnel.close()
        why = tunnel.trouble or str(error)
        raise AttachError(f"{name} in pod {tunnel.pod}, {LOOPBACK}:{port}: {why}") from None
    except BaseException:
        tunnel.close()
        raise


class _PodWire(SocketWire):
    def __init__(self, tunnel: _Tunnel, seal: Any) -> None:
        super().__init__(tunnel.socket, seal=seal)
        self._tunnel = tunnel

    def close(self) -> None:
        self._tunnel.close()


class _Tunnel:
    """A socket that leads to a port of a pod, by a thread with an event loop of its own.

    Attributes
    ----------
    socket : socket.socket
    pod : str
        Name of the pod.
    trouble : str
        Why the connection has failed.
    """

    def __init__(
        self, name: str, *, pod: str | None, namespace: str | None, context: str | None, port: int
    ) -> None:
        self.pod = pod or ""
        self.trouble = ""
        self._name = name
        self._namespace = namespace
        self._context = context
        self._port = port
        self._failed: BaseException | None = None
        self._ready = threading.Event()
        self.socket, self._inner = socket.socketpair()
        self._thread = threading.Thread(target=self._run, name="dask-flame-pod", daemon=True)
        self._thread.start()
        self._ready.wait()
        if failed := self._failure():
            self.close()
            raise AttachError(failed)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _failure(self) -> str:
        return "" if self._failed is None else str(self._failed)

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
        except Exception as error:
            self._failed = error
        finally:
            self._inner.close()
            self._ready.set()

    async def _main(self) -> None:
        # Requires the extra "kubernetes".
        from dask_flame.backends.kubernetes.api.client import PODS, Api
        from dask_flame.backends.kubernetes.api.port_forward import PortForward

        api = await Api.connect(
            namespace=self._namespace, context=self._context, patience=_PATIENCE
        )
        try:
            if not self.pod:
                pods: dict[str, Any] = {}
                for label in _LABELS:
                    found, _ = await api.list(PODS, f"{label}={self._name}")
                    pods |= {one["metadata"]["name"]: one for one in found}
                self.pod = self._chosen(
                    [name for name, one in pods.items() if one["status"]["phase"] == "Running"]
                )
            reader, writer = await asyncio.open_connection(sock=self._inner)
            forward = PortForward(api, self.pod, self._port)
            self._ready.set()
            await forward.carry(reader, writer)
            self.trouble = forward.trouble
        finally:
            await api.close()

    def _chosen(self, names: list[str]) -> str:
        name = self._name
        if len(names) == 1:
            return names[0]
        if not names:
            raise AttachError(
                f"no running pod has the label app.kubernetes.io/name={name}, or app={name}; write "
                f'dask_flame.attach("{name}@kubernetes", pod="its name")'
            )
        raise AttachError(
            f"{name} runs in the pods {', '.join(sorted(names))}; write "
            f'dask_flame.attach("{name}@kubernetes", pod="{min(names)}")'
        )
