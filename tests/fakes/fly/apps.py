"""Actions of the fake Fly API on apps and their volumes (test process)."""

from __future__ import annotations

from typing import Any

from tests.fakes.fly import regions
from tests.fakes.fly.errors import Refused, invalid, precondition
from tests.fakes.fly.machine import stamp, version_id
from tests.fakes.fly.requests import Request
from tests.fakes.fly.store import Answer, App, Store


class Apps(Store):
    """Apps and volumes. Each method takes the request and returns the answer."""

    async def do_apps_list(self, request: Request, nonce: str | None) -> Answer:
        slug = request.query["org_slug"]
        found = [
            {
                "id": app.id,
                "name": app.name,
                "machine_count": sum(m.here for m in app.machines.values()),
                "network": {"name": app.network},
            }
            for app in self.apps.values()
            if app.organization == slug
        ]
        return 200, {"apps": found, "total_apps": len(found)}

    async def do_apps_create(self, request: Request, nonce: str | None) -> Answer:
        name = request.body.get("app_name") or ""
        if not name:
            raise invalid("app_name is required")
        if name in self.apps:
            raise Refused(422, "Validation failed: Name has already been taken")
        slug = request.body.get("org_slug") or "personal"
        self.apps[name] = App(name, slug, request.body.get("network") or "default")
        return 201, {"id": self.apps[name].id, "created_at": int(self._clock() * 1000)}

    async def do_apps_get(self, request: Request, nonce: str | None) -> Answer:
        app = self._app(request)
        organization = {"name": app.organization, "slug": app.organization}
        status = "deployed" if any(m.here for m in app.machines.values()) else "pending"
        return 200, {
            "id": app.id,
            "name": app.name,
            "organization": organization,
            "status": status,
        }

    async def do_apps_delete(self, request: Request, nonce: str | None) -> Answer:
        app = self._app(request)
        if any(m.state != "destroyed" for m in app.machines.values()):
            raise precondition("app has machines, destroy them first")
        del self.apps[app.name]
        return 202, None

    async def do_volumes(self, request: Request, nonce: str | None) -> Answer:
        return 200, list(self._app(request).volumes.values())

    async def do_volumes_create(self, request: Request, nonce: str | None) -> Answer:
        app, body = self._app(request), request.body
        region = regions.candidates(body.get("region"), self.rules.region)[0]
        volume = {
            "id": f"vol_{version_id().lower()[2:18]}",
            "name": body.get("name") or "data",
            "state": "created",
            "size_gb": body.get("size_gb") or 3,
            "region": region,
            "zone": "fake",
            "encrypted": body.get("encrypted", True),
            "fstype": body.get("fstype") or "ext4",
            "created_at": stamp(self._clock()),
            "snapshot_retention": body.get("snapshot_retention") or 5,
        }
        app.volumes[volume["id"]] = volume
        return 200, dict(volume)

    def _volume(self, request: Request) -> dict[str, Any]:
        found = self._app(request).volumes.get(request.path.split("/")[5])
        if found is None:
            raise Refused(404, "not_found: volume not found")
        return found

    async def do_volumes_get(self, request: Request, nonce: str | None) -> Answer:
        return 200, dict(self._volume(request))

    async def do_volumes_delete(self, request: Request, nonce: str | None) -> Answer:
        volume = self._volume(request)
        for machine in self._app(request).machines.values():
            mounts = machine.config.get("mounts") or []
            if machine.here and any(mount.get("volume") == volume["id"] for mount in mounts):
                raise precondition(f"volume is attached to machine {machine.id}")
        del self._app(request).volumes[volume["id"]]
        return 200, {**volume, "state": "pending_destroy"}
