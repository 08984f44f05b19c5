"""What tests do to the fake Fly, so that it goes wrong on demand (test process)."""

from __future__ import annotations

import time

from tests.fakes.fly.api import Api
from tests.fakes.fly.life import Lives
from tests.fakes.fly.machine import Machine
from tests.fakes.fly.rates import Buckets
from tests.fakes.fly.requests import Fault
from tests.fakes.fly.server import Server
from tests.fakes.http_fake import HttpFake


class Mischief(HttpFake):
    """The half of `FakeFly` that makes it fail. A machine is named by its id or its name."""

    _api: Api
    _lives: Lives
    _server: Server
    _buckets: Buckets
    _tokens: set[str]
    _skew: float
    _fault = Fault

    # Requests

    def calm(self) -> None:
        """Forget the faults that have not been answered with, storms and stuck creates to come."""

        def calm() -> None:
            self._server.faults.clear()
            self._server.storm_until = 0.0
            self._lives.stuck = 0

        self._call(calm)

    def storm(self, seconds: float) -> None:
        """Answer everything with 429 for some seconds."""
        until = time.monotonic() + seconds
        self._call(lambda: setattr(self._server, "storm_until", until))

    def unlimited(self, unlimited: bool = True) -> None:
        """Stop to enforce the rate limits, or begin again."""
        self._call(lambda: setattr(self._buckets, "enforced", not unlimited))

    def revoke(self, token: str | None = None) -> None:
        """Refuse a token, or all, with 401 from now on."""
        self._call(lambda: self._tokens.discard(token) if token else self._tokens.clear())

    def grant(self, token: str) -> None:
        """Accept a token from now on."""
        self._call(lambda: self._tokens.add(token))

    def skew(self, seconds: float) -> None:
        """Set the clock of the API forward, or back, from the computer's."""
        self._call(lambda: setattr(self, "_skew", seconds))

    # Room

    def capacity(self, region: str, machines: int | None, *, cpu_kind: str | None = None) -> None:
        """Let a region have room for so many machines.

        Parameters
        ----------
        region : str
        machines : int or None
            None is no limit. A create that finds no room is refused with 412.
        cpu_kind : str, optional
            Of this kind alone: ``"shared"`` or ``"performance"``.
        """
        key = (region, cpu_kind) if cpu_kind else region
        limits = self._api.rules.capacity.limits

        def change() -> None:
            if machines is None:
                limits.pop(key, None)
            else:
                limits[key] = machines

        self._call(change)

    def limit(self, machines: int | None) -> None:
        """Let the organization have so many machines; None is no limit."""
        self._call(lambda: setattr(self._api.rules, "limit", machines))

    # Machines

    def stick(self, creates: int = 1) -> None:
        """Let the next creates make machines that stay in the state ``created``."""
        self._call(lambda: setattr(self._lives, "stuck", creates))

    def release(self, machine: str | None = None) -> None:
        """Let one machine that is stuck in ``created``, or all, go on."""

        def release() -> None:
            for found in self._api.machines():
                if machine in (None, found.id, found.name) and found.stuck is not None:
                    found.stuck.set()

        self._call(release)

    def kill(self, machine: str) -> None:
        """Kill a machine's processes: it ends with SIGKILL and nobody asked for it."""
        self._call(lambda: self._lives.kill(self._named(machine)))

    def oom(self, machine: str) -> None:
        """Kill a machine's processes as the kernel does when they have taken too much memory."""
        self._call(lambda: self._lives.kill(self._named(machine), oom=True))

    def destroy(self, machine: str) -> None:
        """Destroy a machine as somebody else does, with force."""
        self._call(lambda: self._lives.destroy(self._named(machine), force=True))

    def halt(self, machine: str) -> None:
        """Stop a machine as somebody else does."""
        self._call(lambda: self._lives.stop(self._named(machine)))

    def _named(self, machine: str) -> Machine:
        found = [m for m in self._api.machines() if m.here and machine in (m.id, m.name)]
        if len(found) != 1:
            raise KeyError(f"{len(found)} machines are called {machine!r}")
        return found[0]
