"""One machine of the fake Fly: its record, its events, its JSON (test process)."""

from __future__ import annotations

import asyncio
import copy
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

#: States in which a machine uses no CPU.
AT_REST = ("created", "stopped", "suspended", "failed")
GONE = ("destroying", "destroyed")
STATES = (
    "created", "starting", "started", "stopping", "stopped", "suspending", "suspended", "replacing",
    "destroying", "destroyed", "failed",
)  # fmt: skip


def version_id() -> str:
    """Return an identifier of the form that versions of machines have."""
    return "01" + "".join(secrets.choice("0123456789ABCDEFGHJKMNPQRSTVWXYZ") for _ in range(24))


def stamp(seconds: float) -> str:
    """Return a time as the API writes it.

    Examples
    --------
    >>> stamp(0)
    '1970-01-01T00:00:00Z'
    """
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass
class Lease:
    """Keeps others from changing a machine."""

    nonce: str
    expires_at: float
    owner: str
    description: str = ""


@dataclass(eq=False)
class Machine:
    """A machine's record. Its repr shows no configuration, which may hold secrets.

    Attributes
    ----------
    id, name, app, region, private_ip : str
    config, guest : dict
    clock : callable
        Returns the seconds that the fake's clock shows; it may be skewed.
    state : str
    instance_id : str
        Of the current version.
    versions : list of dict
        Oldest first.
    events : list of dict
        Latest first.
    index : int
        How many machines were made before it.
    requested_stop, oom : bool
        Why its process is about to end.
    restarts : int
        In a row, because of its restart policy.
    """

    id: str
    name: str
    app: str
    region: str
    private_ip: str
    config: dict[str, Any] = field(repr=False)
    guest: dict[str, Any]
    clock: Callable[[], float] = field(repr=False)
    index: int = 0
    state: str = "created"
    instance_id: str = field(default_factory=version_id)
    versions: list[dict[str, Any]] = field(default_factory=list, repr=False)
    events: list[dict[str, Any]] = field(default_factory=list, repr=False)
    cordoned: bool = False
    lease: Lease | None = field(default=None, repr=False)
    requested_stop: bool = False
    oom: bool = False
    restarts: int = 0
    stuck: asyncio.Event | None = field(default=None, repr=False)
    task: asyncio.Task[None] | None = field(default=None, repr=False)
    created_at: float = 0.0
    updated_at: float = 0.0
    _waiting: set[asyncio.Event] = field(default_factory=set, repr=False)

    def __post_init__(self) -> None:
        self.created_at = self.updated_at = self.clock()
        self.note_version()

    @property
    def here(self) -> bool:
        """Whether it exists still: a list without ``include_deleted`` has it."""
        return self.state != "destroyed"

    @property
    def metadata(self) -> dict[str, str]:
        found: dict[str, str] = self.config.setdefault("metadata", {})
        return found

    def note_version(self) -> None:
        version = {"version": self.instance_id, "user_config": copy.deepcopy(self.config)}
        self.versions.append(version)

    def move(self, state: str) -> None:
        """Change its state, and wake whoever waits for that."""
        assert state in STATES
        self.state = state
        self.updated_at = self.clock()
        for event in self._waiting:
            event.set()

    def say(self, type: str, status: str, source: str = "flyd", **request: Any) -> None:
        """Add an event.

        Parameters
        ----------
        type, status : str
            ``"launch"``, ``"start"``, ``"stop"``, ``"exit"``, …; the state that it led to.
        source : {"user", "flyd"}
        **request : object
            Details: ``exit_event`` and ``restart_count`` of an exit.
        """
        event = {
            "id": version_id(),
            "type": type,
            "status": status,
            "source": source,
            "timestamp": int(self.clock() * 1000),
        }
        self.events.insert(0, event | ({"request": request} if request else {}))

    def exit(self, code: int) -> None:
        """Add the event of its process' end.

        Parameters
        ----------
        code : int
            Minus the signal, if one ended it.
        """
        signal = -code if code < 0 else -1
        status = 128 - code if code < 0 else code
        self.say(
            "exit",
            "stopped",
            exit_event={
                "requested_stop": self.requested_stop,
                "restarting": False,
                "guest_exit_code": status,
                "guest_signal": signal,
                "guest_error": "",
                "exit_code": status,
                "signal": signal,
                "error": "",
                "oom_killed": self.oom,
                "exited_at": stamp(self.clock()),
            },
            restart_count=self.restarts,
        )

    async def reaches(self, state: str, timeout: float, instance: str | None = None) -> bool:
        """Wait until it is in a state, in a version if that is given; return whether it came."""
        changed = asyncio.Event()
        self._waiting.add(changed)
        try:
            async with asyncio.timeout(timeout):
                while self.state != state or instance not in (None, self.instance_id):
                    await changed.wait()
                    changed.clear()
        except TimeoutError:
            return False
        finally:
            self._waiting.discard(changed)
        return True

    def answer(self) -> dict[str, Any]:
        """Return what the API says of it."""
        image = self.config.get("image", "")
        name, _, tag = image.partition(":")
        registry, _, repository = name.rpartition("/")
        return {
            "id": self.id,
            "name": self.name,
            "state": self.state,
            "region": self.region,
            "instance_id": self.instance_id,
            "private_ip": self.private_ip,
            "created_at": stamp(self.created_at),
            "updated_at": stamp(self.updated_at),
            "config": {**copy.deepcopy(self.config), "guest": dict(self.guest)},
            "events": copy.deepcopy(self.events[:20]),
            "checks": [],
            "image_ref": {
                "registry": registry or "docker.io",
                "repository": repository,
                "tag": tag or "latest",
                "digest": "sha256:" + "0" * 64,
                "labels": {},
            },
        }
