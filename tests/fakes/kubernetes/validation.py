"""What the fake API server does not take, as far as it looks (test process).

The wording is that of k8s.io/apimachinery/pkg/util/validation and k8s.io/kubernetes/pkg/apis.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
from collections.abc import Iterator
from typing import Any

from tests.fakes.kubernetes import quantities
from tests.fakes.kubernetes.errors import (
    Wrong,
    bad_request,
    duplicate_value,
    forbidden_value,
    invalid,
    invalid_value,
    not_found_value,
    not_supported_value,
    required,
)
from tests.fakes.kubernetes.kinds import (
    CONFIG_MAPS,
    JOBS,
    NAMESPACES,
    NODES,
    PODS,
    POLICIES,
    QUOTAS,
    SECRETS,
    SERVICES,
    Kind,
)

Object = dict[str, Any]

_LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_SUBDOMAIN = rf"{_LABEL}(\.{_LABEL})*"
_SERVICE = r"[a-z]([-a-z0-9]*[a-z0-9])?"
_PART = r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]"
_ENV_NAME = r"[-._a-zA-Z][-._a-zA-Z0-9]*"
_KEY = r"[-._a-zA-Z0-9]+"

_NO_LABEL = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and "
    "must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used "
    f"for validation is '{_LABEL}')"
)
_NO_SUBDOMAIN = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or "
    "'.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used "
    f"for validation is '{_SUBDOMAIN}')"
)
_NO_SERVICE = (
    "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an "
    "alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', "
    f"regex used for validation is '{_SERVICE}')"
)
_NO_PART = (
    "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end "
    "with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for "
    f"validation is '{_PART}')"
)
_NO_VALUE = (
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or "
    "'.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  "
    f"or '12345', regex used for validation is '({_PART})?')"
)
_NO_KEY = (
    "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. "
    f"'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '{_KEY}')"
)


#: Of a Job: what is a number of zero or more, and what cannot be changed, as
#: `ValidateJobSpecUpdate` says; its deadline, its suspension and its time to live can.
_NATURAL = (
    "activeDeadlineSeconds",
    "backoffLimit",
    "completions",
    "parallelism",
    "ttlSecondsAfterFinished",
)
_FIXED_OF_JOBS = (
    "backoffLimitPerIndex",
    "completionMode",
    "completions",
    "managedBy",
    "podFailurePolicy",
    "selector",
    "successPolicy",
    "template",
)


def check(kind: Kind, obj: Object) -> None:
    """Refuse, with 422, an object that is not valid; with 400 one that cannot be read."""
    name = obj["metadata"].get("name", "")
    wrongs = [*_metadata(kind, obj["metadata"])]
    spec = obj.get("spec") or {}
    if kind == PODS:
        wrongs += _pod(spec, "spec")
    elif kind == JOBS:
        wrongs += _job(spec, name)
    elif kind == SERVICES:
        wrongs += _service(spec)
    elif kind in (SECRETS, CONFIG_MAPS):
        wrongs += _data(kind, obj)
    elif kind == POLICIES:
        wrongs += _policy(spec)
    elif kind == QUOTAS:
        for text in (spec.get("hard") or {}).values():
            _quantity(kind, text)
    if wrongs:
        raise invalid(kind, name, wrongs)


def _metadata(kind: Kind, meta: Object, path: str = "metadata") -> Iterator[Wrong]:
    name = meta.get("name", "")
    form, longest, why = {
        SERVICES: (_SERVICE, 63, _NO_SERVICE),
        NAMESPACES: (_LABEL, 63, _NO_LABEL),
    }.get(kind, (_SUBDOMAIN, 253, _NO_SUBDOMAIN))
    if path == "metadata":
        if len(name) > longest:
            yield invalid_value(f"{path}.name", name, f"must be no more than {longest} characters")
        if not re.fullmatch(form, name):
            yield invalid_value(f"{path}.name", name, why)
    for key, value in (meta.get("labels") or {}).items():
        yield from _label_key(key, f"{path}.labels")
        if not isinstance(value, str):
            raise bad_request(
                f'{kind.name} in version "v1" cannot be handled as a {kind.name}: json: cannot '
                "unmarshal into Go struct field ObjectMeta.metadata.labels of type string"
            )
        if len(value) > 63:
            yield invalid_value(f"{path}.labels", value, "must be no more than 63 characters")
        if not re.fullmatch(f"({_PART})?", value):
            yield invalid_value(f"{path}.labels", value, _NO_VALUE)
    for key in meta.get("annotations") or {}:
        yield from _label_key(key.lower(), f"{path}.annotations")
    for index, owner in enumerate(meta.get("ownerReferences") or []):
        for field in ("apiVersion", "kind", "name", "uid"):
            if not owner.get(field):
                yield required(f"{path}.ownerReferences[{index}].{field}")


def _label_key(key: str, path: str) -> Iterator[Wrong]:
    prefix, slash, part = key.rpartition("/")
    if slash and not re.fullmatch(_SUBDOMAIN, prefix):
        yield invalid_value(path, key, f"prefix part {_NO_SUBDOMAIN}")
    if len(part) > 63:
        yield invalid_value(path, key, "name part must be no more than 63 characters")
    if not re.fullmatch(_PART, part):
        yield invalid_value(path, key, _NO_PART)


def _pod(spec: Object, path: str) -> Iterator[Wrong]:
    if not spec.get("containers"):
        yield required(f"{path}.containers")
    volumes = [volume.get("name", "") for volume in spec.get("volumes") or []]
    for index, name in enumerate(volumes):
        where = f"{path}.volumes[{index}].name"
        if not name:
            yield required(where)
        elif not re.fullmatch(_LABEL, name):
            yield invalid_value(where, name, _NO_LABEL)
        elif name in volumes[:index]:
            yield duplicate_value(where, name)
    seen: set[str] = set()
    for field in ("initContainers", "containers"):
        for index, container in enumerate(spec.get(field) or []):
            yield from _container(container, f"{path}.{field}[{index}]", volumes, seen)
    policies = ["Always", "OnFailure", "Never"]
    if (policy := spec.get("restartPolicy", "Always")) not in policies:
        yield not_supported_value(f"{path}.restartPolicy", policy, policies)
    for field, least in (("terminationGracePeriodSeconds", 0), ("activeDeadlineSeconds", 1)):
        if (seconds := spec.get(field)) is not None and seconds < least:
            bound = "greater than or equal to 0" if least == 0 else "greater than 0"
            yield invalid_value(f"{path}.{field}", seconds, f"must be {bound}")
    for index, toleration in enumerate(spec.get("tolerations") or []):
        if not toleration.get("key") and toleration.get("operator") != "Exists":
            yield invalid_value(
                f"{path}.tolerations[{index}].operator",
                toleration.get("operator", ""),
                'operator must be Exists when `key` is empty, which means "match all values and '
                'all keys"',
            )


def _container(container: Object, path: str, volumes: list[str], seen: set[str]) -> Iterator[Wrong]:
    name = container.get("name", "")
    if not name:
        yield required(f"{path}.name")
    elif not re.fullmatch(_LABEL, name) or len(name) > 63:
        yield invalid_value(f"{path}.name", name, _NO_LABEL)
    elif name in seen:
        yield duplicate_value(f"{path}.name", name)
    seen.add(name)
    if not container.get("image"):
        yield required(f"{path}.image")
    for index, variable in enumerate(container.get("env") or []):
        where = f"{path}.env[{index}]"
        if not variable.get("name"):
            yield required(f"{where}.name")
        elif not re.fullmatch(_ENV_NAME, variable["name"]):
            yield invalid_value(
                f"{where}.name",
                variable["name"],
                "a valid environment variable name must consist of alphabetic characters, digits, "
                "'_', '-', or '.', and must not start with a digit (e.g. 'my.env-name',  or "
                "'MY_ENV.NAME',  or 'MyEnvName1', regex used for validation is "
                f"'{_ENV_NAME}')",
            )
        if variable.get("value") and variable.get("valueFrom"):
            yield invalid_value(
                f"{where}.valueFrom", "", "may not be specified when `value` is not empty"
            )
    mounted: set[str] = set()
    for index, mount in enumerate(container.get("volumeMounts") or []):
        where = f"{path}.volumeMounts[{index}]"
        if not mount.get("mountPath"):
            yield required(f"{where}.mountPath")
        elif mount["mountPath"] in mounted:
            yield invalid_value(f"{where}.mountPath", mount["mountPath"], "must be unique")
        mounted.add(mount.get("mountPath", ""))
        if mount.get("name") not in volumes:
            yield not_found_value(f"{where}.name", mount.get("name", ""))
    resources = container.get("resources") or {}
    limits = {n: _quantity(PODS, q) for n, q in (resources.get("limits") or {}).items()}
    requests = {n: _quantity(PODS, q) for n, q in (resources.get("requests") or {}).items()}
    for resource, amount in requests.items():
        extended = "/" in resource
        if extended and resource not in limits:
            yield required(
                f"{path}.resources.limits", "Limit must be set for non overcommitable resources"
            )
        elif extended and amount != limits[resource]:
            yield invalid_value(
                f"{path}.resources.requests",
                str(resources["requests"][resource]),
                f"must be equal to {resource} limit of {resources['limits'][resource]}",
            )
        elif amount > limits.get(resource, amount):
            yield invalid_value(
                f"{path}.resources.requests",
                str(resources["requests"][resource]),
                f"must be less than or equal to {resource} limit of "
                f"{resources['limits'][resource]}",
            )


def _quantity(kind: Kind, text: Any) -> Any:
    try:
        return quantities.parse(text)
    except ValueError as error:
        raise bad_request(
            f'{kind.name} in version "v1" cannot be handled as a {kind.name}: {error}'
        ) from None


def _job(spec: Object, name: str) -> Iterator[Wrong]:
    if len(name) > 63:
        # The pods' label with it would not be valid.
        yield invalid_value("spec.template.labels", name, "must be no more than 63 characters")
    template = spec.get("template") or {}
    yield from _metadata(JOBS, template.get("metadata") or {}, "spec.template.metadata")
    yield from _pod(template.get("spec") or {}, "spec.template.spec")
    policy = (template.get("spec") or {}).get("restartPolicy", "Always")
    if policy == "Always":
        yield not_supported_value(
            "spec.template.spec.restartPolicy", policy, ["OnFailure", "Never"]
        )
    for field in _NATURAL:
        if (value := spec.get(field)) is not None and value < 0:
            yield invalid_value(f"spec.{field}", value, "must be greater than or equal to 0")


def _service(spec: Object) -> Iterator[Wrong]:
    ports = spec.get("ports") or []
    if not ports and spec.get("clusterIP") != "None" and spec.get("type") != "ExternalName":
        yield required("spec.ports")
    for index, port in enumerate(ports):
        if len(ports) > 1 and not port.get("name"):
            yield required(f"spec.ports[{index}].name")
        if not 0 < (port.get("port") or 0) < 65536:
            yield invalid_value(
                f"spec.ports[{index}].port",
                port.get("port") or 0,
                "must be between 1 and 65535, inclusive",
            )


def _policy(spec: Object) -> Iterator[Wrong]:
    yield from _selector(spec.get("podSelector") or {}, "spec.podSelector")
    for rules, ends in (("ingress", "from"), ("egress", "to")):
        for number, rule in enumerate(spec.get(rules) or []):
            for index, peer in enumerate(rule.get(ends) or []):
                path = f"spec.{rules}[{number}].{ends}[{index}]"
                for name in ("podSelector", "namespaceSelector"):
                    yield from _selector(peer.get(name) or {}, f"{path}.{name}")
                if not peer:
                    yield required(path, "must specify a peer")
                elif "ipBlock" in peer:
                    if len(peer) > 1:
                        yield forbidden_value(path, "may not specify both ipBlock and another peer")
                    yield from _cidr(peer["ipBlock"].get("cidr", ""), f"{path}.ipBlock.cidr")


def _selector(selector: Object, path: str) -> Iterator[Wrong]:
    for key, value in (selector.get("matchLabels") or {}).items():
        yield from _label_key(key, f"{path}.matchLabels")
        if len(value) > 63 or not re.fullmatch(f"({_PART})?", value):
            yield invalid_value(f"{path}.matchLabels", value, _NO_VALUE)


def _cidr(text: str, path: str) -> Iterator[Wrong]:
    if not text:
        yield required(path)
        return
    try:
        ipaddress.ip_network(text)
    except ValueError:
        said = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"
        yield invalid_value(path, text, said)


def _data(kind: Kind, obj: Object) -> Iterator[Wrong]:
    encoded = "data" if kind == SECRETS else "binaryData"
    for value in (obj.get(encoded) or {}).values():
        try:
            base64.b64decode(value, validate=True)
        except (binascii.Error, TypeError, ValueError):
            raise bad_request(
                f'{kind.name} in version "v1" cannot be handled as a {kind.name}: illegal base64 '
                "data at input byte 0"
            ) from None
    size = 0
    for field in ("data", "binaryData"):
        for key, value in (obj.get(field) or {}).items():
            size += len(value)
            if not re.fullmatch(_KEY, key):
                yield invalid_value(f"{field}[{key}]", key, _NO_KEY)
            elif key == "." or key.startswith(".."):
                said = f"must not be '{key}'" if key in (".", "..") else "must not start with '..'"
                yield invalid_value(f"{field}[{key}]", key, said)
    if size > 2**20 * (4 / 3 if kind == SECRETS else 1):
        yield Wrong("data", "FieldValueTooLong", "Too long: may not be more than 1048576 bytes")


#: As in ValidatePodUpdate.
_POD_UPDATES = (
    "pod updates may not change fields other than `spec.containers[*].image`,"
    "`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only "
    "additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set "
    "to 1 if it was previously negative)"
)


def check_update(kind: Kind, old: Object, new: Object) -> None:
    """Refuse a change of what cannot be changed."""
    wrongs: list[Wrong] = []
    if kind == PODS and _fixed(old) != _fixed(new):
        wrongs.append(forbidden_value("spec", _POD_UPDATES))
    for field in _FIXED_OF_JOBS if kind == JOBS else ():
        if old["spec"].get(field) != new["spec"].get(field):
            wrongs.append(invalid_value(f"spec.{field}", {}, "field is immutable"))
    if kind in (SECRETS, CONFIG_MAPS) and old.get("immutable"):
        for field in ("data", "binaryData", "immutable"):
            if old.get(field) != new.get(field):
                wrongs.append(forbidden_value(field, "field is immutable when `immutable` is set"))
    if kind not in (NODES, NAMESPACES) and "deletionTimestamp" in old["metadata"]:
        added = [
            finalizer
            for finalizer in new["metadata"].get("finalizers") or []
            if finalizer not in (old["metadata"].get("finalizers") or [])
        ]
        if added:
            names = ", ".join(f'"{one}"' for one in added)
            wrongs.append(
                forbidden_value(
                    "metadata.finalizers",
                    "no new finalizers can be added if the object is being deleted, found new "
                    f"finalizers []string{{{names}}}",
                )
            )
    if wrongs:
        raise invalid(kind, new["metadata"]["name"], wrongs)


def _fixed(pod: Object) -> Object:
    free = {"activeDeadlineSeconds", "tolerations", "terminationGracePeriodSeconds", "nodeName"}
    spec = {key: value for key, value in pod["spec"].items() if key not in free}
    spec["containers"] = [{**c, "image": ""} for c in spec.get("containers", [])]
    return spec
