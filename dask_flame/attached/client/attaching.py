"""``attach``: find a running application, and connect to it (driver)."""

from __future__ import annotations

from dask_flame.attached.client.application import Application
from dask_flame.attached.client.channel import Channel, connected, program
from dask_flame.attached.client.found import find, listing
from dask_flame.attached.places import PORT, check_name
from dask_flame.attached.wire import SocketWire
from dask_flame.errors import AttachError


def attach(
    name: str,
    *,
    instance: int | None = None,
    pod: str | None = None,
    namespace: str | None = None,
    context: str | None = None,
    token: str | None = None,
    port: int = PORT,
) -> Application:
    """Attach to a running application.

    Parameters
    ----------
    name : str
        The name that it is exposed with (:func:`dask_flame.expose`), for an application of this
        user on this machine; ``"shop@kubernetes"`` for one in a pod.
    instance : int, optional
        Process id of one of several instances.
    pod : str, optional
        In Kubernetes: the name of the pod. Default: the one that runs with the label
        ``app.kubernetes.io/name``, or ``app``, of the application.
    namespace, context : str, optional
        In Kubernetes: the namespace, and the context of the kubeconfig.
    token : str, optional
        In Kubernetes: the token that the application was given. Default: the environment variable
        ``DASK_FLAME_ATTACH_TOKEN``.
    port : int, default 8790
        In Kubernetes: the port of the pod. Further processes of the application have the next ones.

    Returns
    -------
    Application

    Raises
    ------
    AttachError
        There is none, or there are several instances; the message lists them.
    """
    short, at, place = name.partition("@") if isinstance(name, str) else (name, "", "")
    if not at:
        found = find(name, instance)
        return Application(Channel(SocketWire(connected(found.path)), program()))
    if place != "kubernetes":
        raise AttachError(
            f'{name!r}: an application is on this machine ("{short}") or "{short}@kubernetes"'
        )
    # Requires the extra "kubernetes" when it connects.
    from dask_flame.attached.client.pods import connected_to_pod

    check_name(short)
    wire = connected_to_pod(
        short, pod=pod, namespace=namespace, context=context, token=token, port=port
    )
    return Application(Channel(wire, program()))


applications = listing
