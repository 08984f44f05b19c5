"""Actions of the fake Fly API on machines, and with them all actions (test process)."""

from __future__ import annotations

import asyncio
import secrets
import signal
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from tests.fakes.fly import regions
from tests.fakes.fly.apps import Apps
from tests.fakes.fly.errors import (
    Refused,
    expired,
    invalid,
    name_taken,
    no_memory,
    precondition,
    too_many,
)
from tests.fakes.fly.guests import guest_of
from tests.fakes.fly.labels import Labels
from tests.fakes.fly.life import Lives
from tests.fakes.fly.machine import STATES, Lease, Machine, stamp
from tests.fakes.fly.requests import Request
from tests.fakes.fly.rootfs import check_files
from tests.fakes.fly.store import Answer, App, Rules

#: Lines of a page of output.
_PAGE = 100


class Api(Apps, Labels):
    """All actions. Each method takes the request and returns the answer.

    Parameters
    ----------
    lives : Lives
    rules : Rules
    clock : callable
        Returns the seconds that the fake's clock shows.
    """

    def __init__(self, lives: Lives, rules: Rules, clock: Callable[[], float]) -> None:
        super().__init__(lives, rules, clock)
        self._count = 0

    async def do_list(self, request: Request, nonce: str | None) -> Answer:
        filters = {
            name.removeprefix("metadata."): value
            for name, value in request.query.items()
            if name.startswith("metadata.")
        }
        region = request.query.get("region")
        found = [
            machine.answer()
            for machine in self._app(request).machines.values()
            if (machine.here or request.query.get("include_deleted") == "true")
            and region in (None, "", machine.region)
            and all(machine.metadata.get(name) == value for name, value in filters.items())
        ]
        return 200, found

    async def do_create(self, request: Request, nonce: str | None) -> Answer:
        app, body = self._app(request), request.body
        config = body.get("config")
        if not config:
            raise invalid("config is required")
        guest = self._check(app, config)
        there = [m for m in self.machines() if m.here]
        name = body.get("name") or f"fake-{secrets.choice('bcdfgh')}{secrets.token_hex(2)}"
        for other in app.machines.values():
            if other.name == name and other.here:
                raise name_taken(other.id, name)
        if self.rules.limit is not None and len(there) >= self.rules.limit:
            raise too_many(self.rules.limit)
        asked = regions.candidates(body.get("region"), self.rules.region)
        region = self.rules.capacity.choose(asked, guest, self._room(there))
        machine = Machine(
            id=f"{secrets.randbits(53) | 1 << 53:014x}",
            name=name,
            app=app.name,
            region=region,
            private_ip=self.rules.private_ip(self._count),
            config=dict(config),
            guest=guest,
            clock=self._clock,
            index=self._count,
        )
        self._count += 1
        app.machines[machine.id] = machine
        self._lives.launch(machine, start=not body.get("skip_launch"))
        answer = machine.answer()
        if ttl := body.get("lease_ttl"):
            machine.lease = Lease(uuid.uuid4().hex[:12], self._clock() + ttl, "user@example.com")
            answer["nonce"] = machine.lease.nonce
        return 200, answer

    def _check(self, app: App, config: Mapping[str, Any]) -> dict[str, Any]:
        """Return the guest of a configuration; refuse what a machine cannot have."""
        image = config.get("image")
        if not image:
            raise invalid("config.image is required")
        if image in self.rules.bad_images:
            raise invalid(f"failed to get manifest {image}: {self.rules.bad_images[image]}")
        stop = (config.get("stop_config") or {}).get("signal")
        if stop and stop not in signal.Signals.__members__:
            raise invalid(f"invalid config.stop_config.signal: {stop}")
        for mount in config.get("mounts") or []:
            volume = app.volumes.get(mount.get("volume", ""))
            if volume is None:
                raise Refused(404, f"not_found: volume {mount.get('volume')} not found")
        check_files(config, self._lives.settings.secrets.get(app.name, {}))
        return guest_of(config)

    def _room(self, machines: list[Machine]) -> list[tuple[str, str]]:
        """Return region and kind of machines that have CPUs and memory at the moment."""
        resting = ("stopped", "suspended", "failed")
        return [(m.region, m.guest["cpu_kind"]) for m in machines if m.state not in resting]

    async def do_get(self, request: Request, nonce: str | None) -> Answer:
        return 200, self._machine(request).answer()

    async def do_update(self, request: Request, nonce: str | None) -> Answer:
        machine, body = self._changeable(request, nonce), request.body
        config = body.get("config")
        if not config:
            raise invalid("config is required")
        version = body.get("current_version")
        if version not in (None, machine.instance_id):
            raise Refused(409, "aborted: machine update failed due to concurrent update")
        guest = self._check(self._app(request), config)
        machine.config, machine.guest = dict(config), guest
        if body.get("name"):
            machine.name = body["name"]
        self._lives.update(machine, start=not body.get("skip_launch"))
        return 200, machine.answer()

    async def do_delete(self, request: Request, nonce: str | None) -> Answer:
        machine = self._changeable(request, nonce)
        self._lives.destroy(machine, force=request.query.get("force") == "true")
        return 200, {"ok": True}

    async def do_start(self, request: Request, nonce: str | None) -> Answer:
        machine = self._changeable(request, nonce)
        there = [m for m in self.machines() if m.here and m is not machine]
        kind = machine.guest["cpu_kind"]
        if not self.rules.capacity.room(machine.region, kind, self._room(there)):
            raise no_memory()
        before = self._lives.start(machine)
        return 200, {"previous_state": before, "migrated": False, "new_host": ""}

    async def do_stop(self, request: Request, nonce: str | None) -> Answer:
        machine, body = self._changeable(request, nonce), request.body or {}
        if (sig := body.get("signal")) and sig not in signal.Signals.__members__:
            raise invalid(f"invalid signal: {sig}")
        self._lives.stop(machine, sig, body.get("timeout"))
        return 200, {"ok": True}

    async def do_suspend(self, request: Request, nonce: str | None) -> Answer:
        self._lives.suspend(self._changeable(request, nonce))
        return 200, {"ok": True}

    async def do_restart(self, request: Request, nonce: str | None) -> Answer:
        machine = self._changeable(request, nonce)
        self._lives.restart(machine, request.query.get("timeout"))
        return 200, {"ok": True}

    async def do_signal(self, request: Request, nonce: str | None) -> Answer:
        machine, sig = self._changeable(request, nonce), request.body.get("signal")
        if sig not in signal.Signals.__members__:
            raise invalid(f"invalid signal: {sig}")
        self._lives.signal(machine, sig)
        return 200, {"ok": True}

    async def do_wait(self, request: Request, nonce: str | None) -> Answer:
        machine, query = self._machine(request), request.query
        state = query.get("state", "started")
        if state not in STATES:
            raise invalid(f"invalid state: {state}")
        seconds = float(query.get("timeout", 60))
        if not 1 <= seconds <= 60:
            raise invalid(f"timeout must be between 1 and 60 seconds, got {seconds:g}")
        if state in ("stopped", "suspended") and not query.get("instance_id"):
            raise invalid(f"instance_id is required to wait for the state {state}")
        if not await machine.reaches(state, seconds, query.get("instance_id")):
            raise expired(state, machine.state)
        return 200, {"ok": True}

    async def do_events(self, request: Request, nonce: str | None) -> Answer:
        return 200, list(self._machine(request).events)

    async def do_versions(self, request: Request, nonce: str | None) -> Answer:
        return 200, list(reversed(self._machine(request).versions))

    async def do_cordon(self, request: Request, nonce: str | None) -> Answer:
        self._changeable(request, nonce).cordoned = True
        return 200, {"ok": True}

    async def do_uncordon(self, request: Request, nonce: str | None) -> Answer:
        self._changeable(request, nonce).cordoned = False
        return 200, {"ok": True}

    async def do_exec(self, request: Request, nonce: str | None) -> Answer:
        """Run a command on the machine; the answer is 200 whatever comes of it."""
        machine, body = self._machine(request), request.body
        if machine.state != "started":
            raise precondition(f"machine is not running, currently {machine.state}")
        words = body.get("command") or (body.get("cmd") or "").split()
        if not words:
            raise invalid("command is required")
        return 200, await self._lives.inside.execute(machine, words, body.get("timeout") or 60)

    async def do_logs(self, request: Request, nonce: str | None) -> Answer:
        """Return a page of what a machine has printed, one that is destroyed too."""
        app, id = self._app(request), request.query.get("instance", "")
        first, lines = int(request.query.get("next_token") or 0), list[str]()
        if id in app.machines and (log := self._lives.inside.log(app.machines[id])).exists():
            lines = log.read_text(errors="replace").splitlines()
        data = [
            {
                "id": f"{id}-{number}",
                "type": "log",
                "attributes": {
                    "timestamp": stamp(self._clock()),
                    "message": line,
                    "level": "info",
                    "instance": id,
                    "region": app.machines[id].region,
                    "meta": {},
                },
            }
            for number, line in enumerate(lines[first : first + _PAGE], first)
        ]
        return 200, {"data": data, "meta": {"next_token": str(first + len(data))}}

    async def do_ps(self, request: Request, nonce: str | None) -> Answer:
        machine = self._machine(request)
        if machine.state != "started":
            raise precondition(f"machine is not running, currently {machine.state}")
        return 200, await asyncio.to_thread(self._lives.inside.processes, machine)
