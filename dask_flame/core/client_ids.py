"""Tell kinds of clients by their ids (all places)."""

from __future__ import annotations

#: Why a request of an observer is refused; the name of the request comes before.
ONLY_LOOKS = (
    "is not for an observer, which only looks. The driver of the cluster does that; once it is "
    'gone: dask_flame.connect("NAME", adopt=True)'
)


def named(client: str, *names: str) -> bool:
    """Return whether a client was made with one of these names.

    Examples
    --------
    >>> named("Client-worker-3f9c", "worker"), named("Client-3f9c", "worker")
    (True, False)
    """
    # A client's id is "<class>-<name>-<uuid>", or "<class>-<uuid>" without a name.
    return any(client.split("-", 1)[-1].startswith(f"{name}-") for name in names)


def is_observer(client: object) -> bool:
    """Return whether a client only observes: ``Client(address, name="observer")``."""
    return isinstance(client, str) and named(client, "observer")
