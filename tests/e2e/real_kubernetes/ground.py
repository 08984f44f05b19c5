"""What a test stands on: a namespace, seen with a driver's rights (test process, or pod)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.e2e.real_kubernetes import setting
from tests.e2e.real_kubernetes.asking import Asking, Object

if TYPE_CHECKING:
    # Images for drivers need not have what it needs.
    from tests.fakes.kubernetes import FakeKubernetes

OURS = "app.kubernetes.io/managed-by=dask-flame"
#: No registry has it: names under "invalid" are nobody's.
NO_IMAGE = "registry.invalid/no/such:1"


@dataclass
class Ground:
    """A namespace, and what there is in it.

    Attributes
    ----------
    ask : Asking
    token : str
        What names of clusters are to begin with.
    room : int
        How many runners there may be at a time; beyond twice that a quota refuses more.
    gpus : int
        How many there are in the whole cluster.
    fake : FakeKubernetes or None
        The cluster, if it is a fake in this process.
    contained : bool
        Whether pods have a machine, and limits, of their own; those of a fake have not.
    other_image : str
        One with another minor version of Python; empty where none is known.
    """

    ask: Asking
    token: str
    room: int
    gpus: int
    fake: FakeKubernetes | None = None
    contained: bool = False
    other_image: str = ""

    @classmethod
    def inside(cls, ask: Asking) -> Ground:
        """As a driver's pod on a real cluster finds it."""
        return cls(
            ask,
            os.environ[setting.TOKEN],
            int(os.environ[setting.ROOM]),
            int(os.environ[setting.GPUS]),
            contained=setting.SERVICE_ACCOUNT.is_dir(),
            other_image=os.environ.get(setting.OTHER_IMAGE, ""),
        )

    def pods(self, component: str = "worker") -> list[Object]:
        """Those of this ground's clusters: of the runners, unless told."""
        selector = f"{OURS},dask.org/component={component}" if component else OURS
        return [
            pod
            for pod in self.ask.list("Pod", labelSelector=selector)
            if pod["metadata"]["labels"]["dask.org/cluster-name"].startswith(self.token)
        ]

    def at_rest(self) -> bool:
        """Whether no pod is left; on the fake, whether nothing is."""
        if self.fake is not None:
            return self.fake.at_rest()
        return not self.pods("")

    def watchdog(self) -> Object:
        """The Job that owns the runners that there are."""
        (name,) = {owner(pod)["name"] for pod in self.pods()}
        job = self.ask.get("Job", name)
        assert job is not None
        return job


def owner(obj: Mapping[str, Any]) -> Object:
    (found,) = obj["metadata"]["ownerReferences"]
    return dict(found)
