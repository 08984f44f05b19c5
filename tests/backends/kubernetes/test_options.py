"""The options of pods: what is taken, and what is said of what is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dask
import pytest

from dask_flame import FlameCluster, Pool
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
        ({"tolerations": [{"kee": "a"}]}, "('kee' is none of key, operator, value, "),
        ({"spot": 1}, 'True, False or "prefer"'),
        ({"gpu_kind": ["a", "a"]}, "a list of different values"),
        ({"gpu_kind": ["a", ""]}, "gpu_kind=['a', ''] cannot be an order: gpu_kind='' is not"),
        ({"image": ["a", "b"]}, "image=['a', 'b'] is not a name"),
        ({"read_only_root": "yes"}, "True or False"),
        ({"image_pull_secrets": "one"}, "a list of names"),
        ({"volumes": {"data": "claim"}}, "absolute mount paths"),
        ({"volumes": {"/data": {"readOnly": True}}}, "volume sources"),
        ({"volumes": ["/data"]}, "a mapping of mount paths"),
        ({"labels": {"dask-flame/pool": "x"}}, "free of what"),
        ({"labels": {"a": "no spaces"}}, "valid values"),
        ({"annotations": {"kubernetes.io/x": "x"}}, "free of what"),
        ({"pod_template": "/no/such/file.yaml"}, "a file that is there"),
        ({"pod_template": 3}, "a YAML file or a function"),
        ({"pod_template": {"kind": "Deployment"}}, "its kind is Deployment"),
        ({"pod_template": {"metadata": {"labels": {"dask.org/x": ""}}}}, "dask-flame sets itself"),
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


@pytest.mark.parametrize(
    ("setting", "value", "says"),
    [
        ("gpu-kind", ["H100", "A100"], 'gpu_kind is an option .*gpu_kind="NVIDIA-A100-SXM4-40GB"'),
        ("spot", "prefer", r"spot is an option of a pool, without a .*FlameCluster\(spot=True\)"),
        ("gpu-kindz", {}, r"did you mean flame\.kubernetes\.gpu-kinds"),
    ],
)
def test_an_option_without_a_setting_is_said_to_be_one(setting: str, value: Any, says: str) -> None:
    with (
        dask.config.set({f"flame.kubernetes.{setting}": value}),
        pytest.raises(PoolError, match=says),
    ):
        FlameCluster(backend="kubernetes", max=1)


def test_a_kind_of_gpu_needs_gpus() -> None:
    said = r'without gpus: .* write gpus=1, gpu_kind=\["H100", "A100"\]'
    with pytest.raises(PoolError, match=said):
        FlameCluster(backend="kubernetes", max=1, gpu_kind=["H100", "A100"])


@pytest.mark.parametrize("given", [{"imagee": "a"}, {"image": ""}])
@pytest.mark.parametrize(
    ("backend", "example"), [("kubernetes", "ghcr.io/"), ("fly", "registry.fly.io/")]
)
def test_the_example_is_one_for_the_backend(
    given: dict[str, str], backend: str, example: str
) -> None:
    with pytest.raises(PoolError, match=f'image="{example}'):
        FlameCluster(backend=backend, max=1, **given)
    with (
        dask.config.set({"flame.backend": backend}),
        pytest.raises(PoolError, match=f'image="{example}'),
    ):
        Pool(**given)
