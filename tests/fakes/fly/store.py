"""Apps of the fake Fly, their machines and volumes: what the actions share (test process)."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.fakes.fly import regions
from tests.fakes.fly.errors import Refused, no_app, no_machine
from tests.fakes.fly.life import Lives
from tests.fakes.fly.machine import Machine, stamp
from tests.fakes.fly.requests import Request

#: Of the answer: its status and its JSON; None is no body.
Answer = tuple[int, Any]


@dataclass
class App:
    """An app and what it holds."""

    name: str
    organization: str
    network: str = "default"
    id: str = field(default_factory=lambda: secrets.token_hex(7))
    machines: dict[str, Machine] = field(default_factory=dict)
    volumes: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass
class Rules:
    """What the API allows.

    Attributes
    ----------
    limit : int or None
        Machines of the organization.
    region : str
        Where a machine goes that names no region.
    capacity : Capacity
    bad_images : dict
        By image, why it cannot be had.
    private_ip : callable
        Returns the address of the machine that has so many before it.
    """

    limit: int | None
    region: str
    capacity: regions.Capacity
    private_ip: Callable[[int], str]
    bad_images: dict[str, str] = field(default_factory=dict)


class Store:
    """All apps, and what holds for them.

    Parameters
    ----------
    lives : Lives
    rules : Rules
    clock : callable
        Returns the seconds that the fake's clock shows.
    """

    def __init__(self, lives: Lives, rules: Rules, clock: Callable[[], float]) -> None:
        self.apps: dict[str, App] = {}
        self.rules = rules
        self._lives = lives
        self._clock = clock

    def machines(self) -> list[Machine]:
        """Return all machines of all apps, those that are destroyed too."""
        return [machine for app in self.apps.values() for machine in app.machines.values()]

    def address(self, machine: str) -> str | None:
        for found in self.machines():
            if found.id == machine and found.here:
                return found.private_ip
        return None

    def _app(self, request: Request) -> App:
        if request.app not in self.apps:
            raise no_app(request.app)
        return self.apps[request.app]

    def _machine(self, request: Request) -> Machine:
        machine = self._app(request).machines.get(request.machine)
        if machine is None:
            raise no_machine()
        return machine

    def _changeable(self, request: Request, nonce: str | None) -> Machine:
        """Return the machine; refuse if somebody else holds its lease, or if it is gone."""
        machine = self._machine(request)
        if not machine.here:
            raise no_machine()
        lease = machine.lease
        if lease is not None and lease.expires_at > self._clock() and lease.nonce != nonce:
            raise Refused(
                409,
                f"failed_precondition: machine ID {machine.id} lease currently held by "
                f"{lease.owner}, expires at {stamp(lease.expires_at)}",
            )
        return machine
