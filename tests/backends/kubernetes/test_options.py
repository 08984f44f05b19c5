"""The options of pods: what is taken, and what is said of what is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dask_flame.backends.kubernetes.options import KubernetesOptions
from dask_flame.errors import PoolError

pytestmark = pytest.mark.unit


def test_what_is_given_is_kept_in_one_form(tmp_path: Path) -> None:
    template = tmp_path / "pod.yaml"
    template.write_text("spec: {}")
    options = KubernetesOptions(
        image="img",
        shm_size="2 GiB",
        tolerations=[{"key": "a"}],
        image_pull_secrets=["one"],
        volumes={"/data/": "claim"},
        pod_template=template,
    )
    assert options.shm_size == 2 << 30
    assert options.volumes == {"/data": {"persistentVolumeClaim": {"claimName": "claim"}}}
    assert set(options.given) == {
        *("image", "shm_size", "tolerations", "image_pull_secrets", "volumes", "pod_template"),
    }
    assert KubernetesOptions(**options.given) == options
    assert KubernetesOptions().given == {}


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"image": ""}, 'image="ghcr'),
        ({"image": 3}, "not a name"),
        ({"gpu_kind": " a"}, "gpu_kind=' a'"),
        ({"shm_size": "much"}, 'shm_size="2 GiB"'),
        ({"node_selector": {"disk": 1}}, "'disk': 1"),
        ({"node_selector": {"a/b/c": "x"}}, "valid keys"),
        ({"node_selector": "disk=ssd"}, "a mapping"),
        ({"tolerations": {"key": "a"}}, "a list of tolerations"),
        ({"tolerations": [{"kee": "a"}]}, "a list of tolerations"),
        ({"spot": 1}, "True or False"),
        ({"image_pull_secrets": "one"}, "a list of names"),
        ({"volumes": {"data": "claim"}}, "absolute mount paths"),
        ({"volumes": {"/data": {"readOnly": True}}}, "volume sources"),
        ({"volumes": ["/data"]}, "a mapping of mount paths"),
        ({"labels": {"dask-flame/pool": "x"}}, "free of what"),
        ({"labels": {"a": "no spaces"}}, "valid values"),
        ({"annotations": {"kubernetes.io/x": "x"}}, "free of what"),
        ({"pod_template": "/no/such/file.yaml"}, "a file that is there"),
        ({"pod_template": 3}, "a YAML file or a function"),
    ],
)
def test_what_is_not_taken_is_named_with_a_line_that_works(
    given: dict[str, Any], says: str
) -> None:
    with pytest.raises(PoolError) as error:
        KubernetesOptions(**given)
    assert says in str(error.value)
    (name,) = given
    assert f"write {name}=" in str(error.value)
