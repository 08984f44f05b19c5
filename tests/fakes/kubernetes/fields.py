"""The fields of the kinds that the fake API server takes, as far as it looks (test process).

Not the whole schemas: deep down, where a value here is None, anything is taken.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Fields = dict[str, Any]


def _of(names: str, **deeper: Any) -> Fields:
    return {**dict.fromkeys(names.split()), **deeper}


_META = _of(
    "name generateName namespace uid resourceVersion generation creationTimestamp "
    "deletionTimestamp deletionGracePeriodSeconds labels annotations finalizers managedFields "
    "selfLink",
    ownerReferences=_of("apiVersion kind name uid controller blockOwnerDeletion"),
)
_SELECTOR = _of("matchLabels", matchExpressions=_of("key operator values"))
_KEY_REF = _of("name key optional")
_ENV = _of(
    "name value",
    valueFrom=_of(
        "fileKeyRef",
        secretKeyRef=_KEY_REF,
        configMapKeyRef=_KEY_REF,
        fieldRef=_of("apiVersion fieldPath"),
        resourceFieldRef=_of("containerName resource divisor"),
    ),
)
_NAME_REF = _of("name optional")
_CONTAINER = _of(
    "name image command args workingDir lifecycle livenessProbe readinessProbe startupProbe "
    "terminationMessagePath terminationMessagePolicy imagePullPolicy stdin stdinOnce tty "
    "restartPolicy restartPolicyRules resizePolicy volumeDevices targetContainerName",
    env=_ENV,
    envFrom=_of("prefix", secretRef=_NAME_REF, configMapRef=_NAME_REF),
    ports=_of("name containerPort hostPort hostIP protocol"),
    resources=_of("limits requests claims"),
    securityContext=_of(
        "allowPrivilegeEscalation appArmorProfile capabilities privileged procMount "
        "readOnlyRootFilesystem runAsGroup runAsNonRoot runAsUser seLinuxOptions seccompProfile "
        "windowsOptions"
    ),
    volumeMounts=_of(
        "name mountPath subPath subPathExpr readOnly recursiveReadOnly mountPropagation"
    ),
)
_VOLUME = _of(
    "name persistentVolumeClaim hostPath projected csi ephemeral nfs iscsi fc gitRepo image "
    "awsElasticBlockStore gcePersistentDisk azureDisk azureFile cephfs cinder glusterfs rbd "
    "flexVolume flocker portworxVolume photonPersistentDisk quobyte scaleIO storageos "
    "vsphereVolume",
    secret=_of("secretName optional defaultMode", items=_of("key path mode")),
    configMap=_of("name optional defaultMode", items=_of("key path mode")),
    emptyDir=_of("medium sizeLimit"),
    downwardAPI=_of("defaultMode", items=_of("path mode fieldRef resourceFieldRef")),
)
_POD_SPEC = _of(
    "activeDeadlineSeconds affinity automountServiceAccountToken dnsConfig dnsPolicy "
    "enableServiceLinks hostAliases hostIPC hostNetwork hostPID hostUsers hostname "
    "hostnameOverride nodeName nodeSelector os overhead preemptionPolicy priority "
    "priorityClassName readinessGates resourceClaims resources restartPolicy runtimeClassName "
    "schedulerName schedulingGates serviceAccount serviceAccountName setHostnameAsFQDN "
    "shareProcessNamespace subdomain terminationGracePeriodSeconds topologySpreadConstraints",
    containers=_CONTAINER,
    initContainers=_CONTAINER,
    ephemeralContainers=_CONTAINER,
    imagePullSecrets=_of("name"),
    securityContext=_of(
        "appArmorProfile fsGroup fsGroupChangePolicy runAsGroup runAsNonRoot runAsUser "
        "seLinuxChangePolicy seLinuxOptions seccompProfile supplementalGroups "
        "supplementalGroupsPolicy sysctls windowsOptions"
    ),
    tolerations=_of("key operator value effect tolerationSeconds"),
    volumes=_VOLUME,
)
_PEER = _of("", ipBlock=_of("cidr except"), podSelector=_SELECTOR, namespaceSelector=_SELECTOR)
_PORT = _of("port endPort protocol")

_KINDS: dict[str, Fields] = {
    "Pod": _of("status", spec=_POD_SPEC),
    "Job": _of(
        "status",
        spec=_of(
            "activeDeadlineSeconds backoffLimit backoffLimitPerIndex completionMode completions "
            "managedBy manualSelector maxFailedIndexes parallelism podFailurePolicy "
            "podReplacementPolicy selector successPolicy suspend ttlSecondsAfterFinished",
            template=_of("", metadata=_META, spec=_POD_SPEC),
        ),
    ),
    "Service": _of(
        "status",
        spec=_of(
            "allocateLoadBalancerNodePorts clusterIP clusterIPs externalIPs externalName "
            "externalTrafficPolicy healthCheckNodePort internalTrafficPolicy ipFamilies "
            "ipFamilyPolicy loadBalancerClass loadBalancerIP loadBalancerSourceRanges "
            "publishNotReadyAddresses selector sessionAffinity sessionAffinityConfig "
            "trafficDistribution type",
            ports=_of("name port targetPort nodePort protocol appProtocol"),
        ),
    ),
    "Secret": _of("data stringData type immutable"),
    "ConfigMap": _of("data binaryData immutable"),
    "NetworkPolicy": _of(
        "",
        spec=_of(
            "policyTypes",
            podSelector=_SELECTOR,
            ingress=_of("", ports=_PORT, **{"from": _PEER}),
            egress=_of("", ports=_PORT, to=_PEER),
        ),
    ),
    "ResourceQuota": _of("status", spec=_of("hard scopes scopeSelector")),
    "ServiceAccount": _of("secrets imagePullSecrets automountServiceAccountToken"),
    "Role": _of("rules"),
    "RoleBinding": _of(
        "", subjects=_of("kind name namespace apiGroup"), roleRef=_of("apiGroup kind name")
    ),
    "Namespace": _of("spec status"),
    "Node": _of("spec status"),
    "Event": _of(
        "involvedObject reason message source firstTimestamp lastTimestamp count type eventTime "
        "series action related reportingComponent reportingInstance"
    ),
    "SelfSubjectAccessReview": _of("spec status"),
    "SelfSubjectRulesReview": _of("spec status"),
}


def unknown(kind: str, obj: Any) -> Iterator[str]:
    """Take the fields that the kind does not have out of an object, and name them."""
    yield from _unknown({**_of("apiVersion kind", metadata=_META), **_KINDS[kind]}, obj, "")


def _unknown(fields: Fields, value: Any, path: str) -> Iterator[str]:
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from _unknown(fields, item, f"{path}[{index}]")
    elif isinstance(value, dict):
        for name in list(value):
            where = f"{path}.{name}" if path else name
            if name not in fields:
                del value[name]
                yield where
            elif fields[name] is not None:
                yield from _unknown(fields[name], value[name], where)
