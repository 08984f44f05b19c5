"""What the fake API server does with a request, whoever it is from (test process)."""

from __future__ import annotations

import copy
import random
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from tests.fakes.kubernetes import defaults, fields, patches, quotas, security, validation
from tests.fakes.kubernetes.errors import (
    Refused,
    already_exists,
    bad_request,
    conflict,
    forbidden,
    invalid,
    no_such_resource,
    required,
)
from tests.fakes.kubernetes.kinds import JOBS, NAMESPACES, PODS, SERVICES, Kind
from tests.fakes.kubernetes.selectors import Chooses, by_fields, by_labels
from tests.fakes.kubernetes.store import Object, Store, now

#: Called with ``"CREATE"`` or ``"UPDATE"`` and the object; a text is why it is refused.
Admission = Callable[[str, Object], str | None]

FOREGROUND, ORPHAN = "foregroundDeletion", "orphan"
_STALE = (
    "The provided continue parameter is too old to display a consistent list result. You can "
    "start a new list without the continue parameter."
)
_KEPT = ("uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds")


class Api:
    """Create, list, update, patch and delete, as an API server does that has no memory but a store.

    Parameters
    ----------
    store : Store
    service_ip : str
        The ``clusterIP`` of Services that do not ask for one.

    Attributes
    ----------
    admission : callable or None
        See `Admission`.
    webhook : str
        Name of the webhook that `admission` is.
    """

    def __init__(self, store: Store, *, service_ip: str) -> None:
        self.store = store
        self.admission: Admission | None = None
        self.webhook = "policy.fake.test"
        self._service_ip = service_ip
        self._pages: dict[str, tuple[int, list[Object]]] = {}

    def create(
        self,
        kind: Kind,
        namespace: str,
        obj: Object,
        params: Mapping[str, str] | None = None,
        warnings: list[str] | None = None,
    ) -> Object:
        """Keep a new object, if it is valid and admitted."""
        params = params or {}
        obj = self._read(kind, namespace, obj, params, warnings)
        meta = obj["metadata"]
        if meta.get("resourceVersion"):
            raise bad_request("resourceVersion should not be set on objects to be created")
        for field in (*_KEPT, "managedFields", "selfLink"):
            meta.pop(field, None)
        if not meta.get("name") and (stem := meta.get("generateName")):
            meta["name"] = stem[:58] + "".join(random.choices("bcdfghjklmnpqrstvwxz2456789", k=5))
        if not meta.get("name"):
            wrong = required("metadata.name", "name or generateName is required")
            raise invalid(kind, "", [wrong])
        if kind.namespaced:
            self._in_namespace(kind, meta["name"], namespace)
        if kind in (PODS, JOBS, SERVICES):
            obj.setdefault("spec", {})
        if kind == JOBS:
            obj["spec"].setdefault("template", {}).setdefault("spec", {})
        defaults.fold(kind, obj)
        validation.check(kind, obj)
        defaults.fill(kind, obj, service_ip=self._service_ip)
        validation.check(kind, obj)
        # A name that is taken is told before what admission would say, as mostly seen.
        if self.store.get(kind, namespace, meta["name"]) is not None:
            raise already_exists(kind, meta["name"])
        self._admit("CREATE", kind, obj)
        meta |= {"uid": str(uuid.uuid4()), "creationTimestamp": now()}
        if kind in (PODS, JOBS):
            meta["generation"] = 1
        if kind == JOBS:
            defaults.label_job(obj)
        if params.get("dryRun") == "All":
            return obj
        return self.store.create(kind, obj)

    def listed(self, kind: Kind, namespace: str, params: Mapping[str, str]) -> Object:
        """Objects of a kind that its selectors choose, all or a page of them."""
        meta: Object = {"resourceVersion": str(self.store.version)}
        if token := params.get("continue"):
            version, items = self._pages.get(token, (0, []))
            if version < self.store.compacted:
                raise Refused(410, _STALE)
            meta["resourceVersion"] = str(version)
        else:
            chooses = self.chooser(kind, params)
            items = [obj for obj in self.store.items(kind, namespace) if chooses(obj)]
        limit = int(params.get("limit") or 0)
        if 0 < limit < len(items):
            following = uuid.uuid4().hex
            self._pages[following] = (int(meta["resourceVersion"]), items[limit:])
            meta["continue"] = following
            if not params.get("labelSelector") and not params.get("fieldSelector"):
                meta["remainingItemCount"] = len(items) - limit
            items = items[:limit]
        return {
            "kind": f"{kind.name}List",
            "apiVersion": kind.version,
            "metadata": meta,
            "items": items,
        }

    def chooser(self, kind: Kind, params: Mapping[str, str]) -> Chooses:
        """Whether an object is among those that the request is for."""
        labels = by_labels(params.get("labelSelector") or "")
        of_fields = by_fields(params.get("fieldSelector") or "", kind)
        return lambda obj: labels(obj) and of_fields(obj)

    def update(
        self,
        kind: Kind,
        namespace: str,
        name: str,
        obj: Object,
        params: Mapping[str, str] | None = None,
        warnings: list[str] | None = None,
        *,
        subresource: str = "",
    ) -> Object:
        """Put an object in the place of the one that is there."""
        if subresource not in ("", "status"):
            raise no_such_resource()
        obj = self._read(kind, namespace, obj, params or {}, warnings)
        meta = obj["metadata"]
        if meta.get("name") != name:
            raise bad_request(
                f"the name of the object ({meta.get('name', '')}) does not match the name on the "
                f"URL ({name})"
            )
        old = self.store.need(kind, namespace, name)
        if meta.get("uid", old["metadata"]["uid"]) != old["metadata"]["uid"]:
            raise conflict(
                kind,
                name,
                f"Precondition failed: UID in precondition: {meta['uid']}, UID in object meta: "
                f"{old['metadata']['uid']}",
            )
        version = meta.get("resourceVersion")
        for field in _KEPT:
            meta.pop(field, None)
            if field in old["metadata"]:
                meta[field] = old["metadata"][field]
        if subresource == "status":
            obj = {**old, "metadata": old["metadata"], "status": obj.get("status", {})}
        else:
            if "status" in old:
                obj["status"] = old["status"]
            defaults.fold(kind, obj)
            validation.check(kind, obj)
            validation.check_update(kind, old, obj)
            self._admit("UPDATE", kind, obj)
            if "generation" in old["metadata"]:
                changed = old.get("spec") != obj.get("spec")
                meta["generation"] = old["metadata"]["generation"] + changed
        return self.store.update(kind, obj, version=version) or obj

    def patch(
        self,
        kind: Kind,
        namespace: str,
        name: str,
        patch: Any,
        content_type: str,
        params: Mapping[str, str] | None = None,
        warnings: list[str] | None = None,
        *,
        subresource: str = "",
    ) -> Object:
        """Change an object that is there."""
        old = copy.deepcopy(self.store.need(kind, namespace, name))
        new = patches.apply(old, patch, content_type)
        if not (isinstance(patch, dict) and (patch.get("metadata") or {}).get("resourceVersion")):
            new["metadata"] = {**new["metadata"]}
            new["metadata"].pop("resourceVersion", None)
        return self.update(kind, namespace, name, new, params, warnings, subresource=subresource)

    def delete(
        self, kind: Kind, namespace: str, name: str, options: Mapping[str, Any] | None = None
    ) -> Object:
        """Delete an object, or begin to; what is left of it, or a Status of success."""
        options = options or {}
        old = self.store.need(kind, namespace, name)
        for field, what in (("uid", "UID"), ("resourceVersion", "ResourceVersion")):
            wanted = (options.get("preconditions") or {}).get(field)
            if wanted and wanted != old["metadata"][field]:
                raise conflict(
                    kind,
                    name,
                    f"Precondition failed: {what} in precondition: {wanted}, {what} in object "
                    f"meta: {old['metadata'][field]}",
                )
        policy = options.get("propagationPolicy")
        if policy is None and kind == JOBS:
            policy = "Orphan"  # of batch/v1 alone, "for backward compatibility"
        grace = _grace(kind, old, options.get("gracePeriodSeconds"))

        def mark(obj: Object) -> None:
            meta = obj["metadata"]
            finalizers = [f for f in meta.get("finalizers") or [] if f not in (FOREGROUND, ORPHAN)]
            extra = {"Foreground": [FOREGROUND], "Orphan": [ORPHAN]}.get(policy or "", [])
            meta["finalizers"] = finalizers + extra
            left = grace
            if "deletionTimestamp" in meta:
                left = min(grace, meta.get("deletionGracePeriodSeconds", 0))
            if "deletionTimestamp" not in meta or left < meta["deletionGracePeriodSeconds"]:
                meta["deletionTimestamp"] = now(left)
            meta["deletionGracePeriodSeconds"] = left
            if kind == NAMESPACES:
                obj["status"]["phase"] = "Terminating"

        left = self.store.modify(kind, old, mark)
        if left is not None or kind in (PODS, SERVICES):
            return left or old
        return {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Success",
            "details": {
                "name": name,
                "group": kind.group,
                "kind": kind.plural,
                "uid": old["metadata"]["uid"],
            },
        }

    def delete_all(
        self, kind: Kind, namespace: str, params: Mapping[str, str], options: Mapping[str, Any]
    ) -> Object:
        """Delete what the selectors choose; the list of it."""
        chosen = self.listed(kind, namespace, params)
        for obj in chosen["items"]:
            meta = obj["metadata"]
            self.delete(kind, meta.get("namespace", ""), meta["name"], options)
        return chosen

    def _read(
        self,
        kind: Kind,
        namespace: str,
        obj: Any,
        params: Mapping[str, str],
        warnings: list[str] | None,
    ) -> Object:
        """The object of a body, without the fields that there are not."""
        if not isinstance(obj, dict):
            raise bad_request("the body of the request is not an object")
        obj = _without_nulls(copy.deepcopy(obj))
        said = (obj.get("apiVersion", kind.version), obj.get("kind", kind.name))
        if said[0] != kind.version:
            raise bad_request(
                f"the API version in the data ({said[0]}) does not match the expected API version "
                f"({kind.version})"
            )
        if said[1] != kind.name:
            raise bad_request(
                f'{said[1]} in version "v1" cannot be handled as a {kind.name}: no kind '
                f'"{said[1]}" is registered for version "{kind.version}"'
            )
        obj |= {"apiVersion": said[0], "kind": said[1]}
        unknown = [f'unknown field "{name}"' for name in fields.unknown(kind.name, obj)]
        if unknown and params.get("fieldValidation") == "Strict":
            raise bad_request(
                f'{kind.name} in version "v1" cannot be handled as a {kind.name}: strict decoding '
                f"error: {', '.join(unknown)}"
            )
        if warnings is not None and params.get("fieldValidation") != "Ignore":
            warnings += unknown
        meta = obj.setdefault("metadata", {})
        if kind.namespaced:
            if meta.setdefault("namespace", namespace) != namespace:
                raise bad_request(
                    "the namespace of the provided object does not match the namespace sent on "
                    "the request"
                )
        else:
            meta.pop("namespace", None)
        read: Object = obj
        return read

    def _in_namespace(self, kind: Kind, name: str, namespace: str) -> None:
        there = self.store.need(NAMESPACES, "", namespace)
        if "deletionTimestamp" in there["metadata"]:
            raise forbidden(
                kind,
                name,
                f"unable to create new content in namespace {namespace} because it is being "
                "terminated",
            )

    def _admit(self, operation: str, kind: Kind, obj: Object) -> None:
        name = obj["metadata"]["name"]
        if self.admission is not None and (why := self.admission(operation, copy.deepcopy(obj))):
            raise Refused(403, f'admission webhook "{self.webhook}" denied the request: {why}')
        if operation != "CREATE" or not kind.namespaced:
            return
        namespace = self.store.need(NAMESPACES, "", obj["metadata"]["namespace"])
        labels = namespace["metadata"].get("labels") or {}
        if (
            kind == PODS
            and labels.get(security.ENFORCE) == "restricted"
            and (why := security.violations(obj["spec"]))
        ):
            version = labels.get(f"{security.ENFORCE}-version", "latest")
            raise forbidden(kind, name, f'violates PodSecurity "restricted:{version}": {why}')
        quotas.admit(self.store, kind, obj)


def _grace(kind: Kind, obj: Object, asked: Any) -> int:
    """Seconds that a pod has to end; nothing else has any."""
    if kind != PODS:
        return 0
    if not obj["spec"].get("nodeName") or obj["status"]["phase"] in ("Succeeded", "Failed"):
        return 0
    return int(obj["spec"]["terminationGracePeriodSeconds"] if asked is None else asked)


def _without_nulls(value: Any) -> Any:
    """What is null is as good as not there."""
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value
