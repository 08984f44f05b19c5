"""Actions of the fake Fly API on the metadata and leases of machines (test process)."""

from __future__ import annotations

import uuid
from typing import Any

from tests.fakes.fly.errors import Refused, invalid
from tests.fakes.fly.machine import Lease
from tests.fakes.fly.requests import Request
from tests.fakes.fly.store import Answer, Store


class Labels(Store):
    """Metadata and leases. Each method takes the request and returns the answer."""

    async def do_metadata(self, request: Request, nonce: str | None) -> Answer:
        return 200, dict(self._machine(request).metadata)

    async def do_metadata_set(self, request: Request, nonce: str | None) -> Answer:
        machine = self._changeable(request, nonce)
        value = (request.body or {}).get("value")
        if not isinstance(value, str):
            raise invalid("value is required")
        machine.metadata[request.path.rpartition("/")[2]] = value
        return 204, None

    async def do_metadata_delete(self, request: Request, nonce: str | None) -> Answer:
        machine = self._changeable(request, nonce)
        machine.metadata.pop(request.path.rpartition("/")[2], None)
        return 204, None

    async def do_lease(self, request: Request, nonce: str | None) -> Answer:
        lease = self._machine(request).lease
        if lease is None or lease.expires_at <= self._clock():
            raise Refused(404, "not_found: lease not found")
        return 200, self._leased(lease, show=False)

    async def do_lease_create(self, request: Request, nonce: str | None) -> Answer:
        machine, body = self._changeable(request, nonce), request.body or {}
        expires = self._clock() + (body.get("ttl") or 120)
        fresh = machine.lease is None or machine.lease.expires_at <= self._clock()
        same = uuid.uuid4().hex[:12] if fresh or machine.lease is None else machine.lease.nonce
        description = body.get("description") or ""
        machine.lease = Lease(same, expires, "user@example.com", description)
        return 200, self._leased(machine.lease, show=True)

    async def do_lease_delete(self, request: Request, nonce: str | None) -> Answer:
        self._changeable(request, nonce).lease = None
        return 200, {"ok": True}

    def _leased(self, lease: Lease, *, show: bool) -> dict[str, Any]:
        """Return a lease as the specification has it, and as the API really wraps it."""
        data = {
            "expires_at": int(lease.expires_at),
            "owner": lease.owner,
            "description": lease.description,
        } | ({"nonce": lease.nonce} if show else {})
        return {"status": "success", "data": data, **data}
