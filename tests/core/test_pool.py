from __future__ import annotations

import ast
import inspect
import pickle
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import dask.config
import pytest
from dask.utils import parse_bytes
from distributed import Security
from hypothesis import given
from hypothesis import strategies as st

from dask_flame import FlameCluster, Pool
from dask_flame.backends.environment import threads, usual_environment
from dask_flame.backends.kubernetes import KubernetesOptions
from dask_flame.backends.kubernetes.objects.quantities import cpu_quantity, memory_quantity
from dask_flame.core.text import exact_memory, memory
from dask_flame.driver.fleets import make_pools
from dask_flame.driver.launch import runner_spec
from dask_flame.errors import BackendError, FlameError, PoolError, PositionalError
from tests.fakes.kubernetes.quantities import parse

pytestmark = pytest.mark.unit


def test_defaults_come_from_the_configuration() -> None:
    with dask.config.set({"flame.pool.max": 7, "flame.pool.idle-timeout": "2m"}):
        pool = Pool()
    assert (pool.min, pool.max, pool.concurrency, pool.idle_timeout) == (0, 7, 1, 120)


def test_durations_and_sizes_are_read_as_dask_reads_them() -> None:
    pool = Pool(idle_timeout="2 minutes", boot_timeout=timedelta(seconds=5), memory="4 GiB")
    assert (pool.idle_timeout, pool.boot_timeout, pool.memory) == (120, 5, 4 * 2**30)


@pytest.mark.parametrize(
    ("written", "cpus"),
    [(2, 2), (2.0, 2), ("2", 2), (0.2, 0.2), ("500m", 0.5), (" 1.5 ", 1.5), (".25", 0.25)],
)
def test_cpus_are_written_as_in_kubernetes(written: Any, cpus: float) -> None:
    assert Pool(cpus=written).cpus == cpus
    assert type(Pool(cpus=written).cpus) is type(cpus)


@given(st.integers(1, 4_096_000))
def test_cpus_are_whole_thousandths_and_stay_as_they_are(thousandths: int) -> None:
    pool = Pool(cpus=f"{thousandths}m")
    assert pool.cpus == thousandths / 1000
    assert pool.replace(max=3).cpus == pool.cpus
    assert parse(cpu_quantity(pool.cpus)) * 1000 == thousandths


def test_an_amount_that_is_no_whole_thousandth_is_rounded_up() -> None:
    assert Pool(cpus=1 / 3).cpus == 0.334
    assert Pool(cpus=0.2 * 3).cpus == 0.6
    assert Pool(cpus=1e-9).cpus == 0.001


@pytest.mark.parametrize(
    ("options", "number"),
    [
        ({"cpus": "200m"}, "1"),
        ({"cpus": 1.9}, "1"),
        ({"cpus": 2.5}, "2"),
        ({"cpus": 4}, "4"),
        ({"cpus": 4, "concurrency": 2}, "2"),
        ({"cpus": 7.9, "concurrency": 2}, "3"),
        ({"cpus": 2, "concurrency": 3}, "1"),
        ({"cpus": 4, "env": {"OMP_NUM_THREADS": "3"}}, "3"),
        ({"env": {"OMP_NUM_THREADS": "3,1"}}, "3"),
        ({"cpus": 4, "secrets": {"OMP_NUM_THREADS": "3"}}, "3"),
        ({"cpus": 4, "env": {"OMP_NUM_THREADS": "many"}}, "4"),
    ],
)
def test_libraries_have_whole_threads_for_each_call_and_one_at_least(
    options: dict[str, Any], number: str
) -> None:
    spec = runner_spec("r", Pool(**options), of="p", scheduler="", security=Security())
    assert set(threads(spec).values()) == {number}
    assert threads(spec).keys() == {
        *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"),
        *("VECLIB_MAXIMUM_THREADS", "NUMEXPR_NUM_THREADS"),
    }


def test_without_cpus_libraries_have_the_threads_of_dasks_own_workers() -> None:
    spec = runner_spec("r", Pool(concurrency=2), of="p", scheduler="", security=Security())
    assert threads(spec) == {}
    dasks = dask.config.get("distributed.nanny.pre-spawn-environ")
    usual = usual_environment(spec)
    assert {name: usual[name] for name in dasks} == {n: str(v) for n, v in dasks.items()}
    assert usual["OMP_NUM_THREADS"] == "1"


@given(st.integers(1, 2**50))
def test_memory_is_the_same_amount_in_kubernetes(size: int) -> None:
    assert parse(memory_quantity(size)) == size


@given(st.integers(1, 999), st.sampled_from(["kB", "MB", "GB", "KiB", "MiB", "GiB"]))
def test_a_size_is_shown_as_it_was_written(number: int, unit: str) -> None:
    said = exact_memory(parse_bytes(f"{number} {unit}"))
    assert said is not None
    assert parse_bytes(said) == parse_bytes(f"{number} {unit}")
    assert len(said) <= len(f"{number} {unit}")


def test_sizes_in_a_pools_repr_are_as_they_were_written() -> None:
    assert "memory='300 MiB'" in repr(Pool(memory="300 MiB"))
    assert "memory='1.5 GB'" in repr(Pool(memory="1.5 GB"))
    assert "shm_size='2 GiB'" in repr(Pool(shm_size="2 GiB"))
    assert "memory=123456789" in repr(Pool(memory=123_456_789))
    assert memory(123_456_789, beside=300 * 2**20) == "118 MiB"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"min": 3, "max": 1}, "min=3 is more than max=1"),
        ({"min": -1}, "min=-1 is not a whole number of 0 or more; write min="),
        ({"max": 0}, "max=0 is not a whole number of 1 or more; write max=8"),
        ({"max": -1}, "max=-1 is not a whole number of 1 or more; write max=8"),
        ({"max": 0.5}, "max=0.5 is not a whole number of 1 or more; write max=8"),
        ({"max": "8"}, "max='8' is not a whole number of 1 or more; write max=8"),
        ({"pools": {"a": Pool(max=0)}}, "max=0 is not a whole number of 1 or more: nothing could"),
        ({"max": "many"}, "max='many'"),
        ({"max": True}, "max=True"),
        ({"concurrency": 1.5}, "concurrency=1.5"),
        ({"idle_timeout": "soon"}, "idle_timeout='soon' is not a duration such as 60, \"60s\""),
        ({"idle_timeout": -1}, "idle_timeout=-1 is not a duration of zero or more; write idle"),
        ({"idle_timeout": float("nan")}, "idle_timeout=nan"),
        ({"idle_timeout": [3]}, "idle_timeout=[3] is not a duration such as"),
        ({"boot_timeout": 0}, "boot_timeout=0 is not a duration above zero; write boot_timeout="),
        ({"max_lifetime": "0s"}, "max_lifetime='0s' is not a duration above zero; write max_l"),
        ({"memory": "lots"}, "memory='lots' is not a size"),
        ({"memory": -5}, "memory=-5"),
        ({"memory": 0.5}, 'memory=0.5 is not a size of one byte or more; write memory="4 GiB"'),
        ({"home_limit": "x"}, "home_limit='x' is not a size such as \"16 GiB\"; write home_limit="),
        ({"preload": "numpy"}, 'write preload=["numpy"]'),
        ({"cpus": 0}, "cpus=0"),
        (
            {"cpus": "0m"},
            "cpus='0m' is not a number of CPUs such as 2, 0.5 or \"500m\"; write cpus=2",
        ),
        ({"cpus": "2Gi"}, "cpus='2Gi' is not a number of CPUs"),
        ({"cpus": -0.5}, "cpus=-0.5 is not a number of CPUs"),
        ({"cpus": float("inf")}, "cpus=inf is not a number of CPUs"),
        ({"cpus": float("nan")}, "cpus=nan is not a number of CPUs"),
        ({"cpus": True}, "cpus=True is not a number of CPUs"),
        ({"namespace": "team"}, "namespace says where pods are, and backend='local' makes none"),
        ({"context": "c"}, "context says where pods are, and backend='local' makes none; leave it"),
        ({"idle_timout": 3}, "unknown option idle_timout; did you mean idle_timeout=3?"),
        (
            {"gizmo": 3},
            "unknown option gizmo; there are account, annotations, app, asynchronous, backend",
        ),
        ({"env": {"A=B": "s3cret"}}, "a variable that no process can be given, 'A=B'"),
        ({"env": {"A": "\0"}}, "a variable that no process can be given, 'A'"),
        ({"envs": {"A": "s3cret"}}, "unknown option envs; did you mean env="),
        (
            {"image": "i"},
            "image is an option of Fly Machines and pods, and backend='local' makes none",
        ),
        ({"pod": 3}, "unknown option pod; did you mean"),
        ({"n_workers": 4}, "unknown option n_workers; did you mean max=4?"),
        ({"threads_per_worker": 4}, "did you mean concurrency=4?"),
        ({"backnd": "local"}, 'did you mean backend="local"?'),
        ({"processes": True}, "unknown option processes; leave it out: runners are processes"),
        ({"host": "0.0.0.0"}, "unknown option host; leave it out: the backend says where"),
        ({"local_directory": "/x"}, "leave it out: it is dask.config.set({"),
        ({"queue": "gpu"}, 'unknown option queue; did you mean partition="gpu"?'),
        ({"shared_temp_directory": "/x"}, "did you mean folder="),
        (
            {"connect_options": {"port": 22}},
            "leave it out: users, ports and keys are those of ~/.ssh",
        ),
        ({"worker_options": {}}, "leave it out: what they hold are options of FlameCluster"),
        ({"reach": "x"}, 'or with backend="ssh" as reach="forward"); write reach="proxy"'),
        ({"name": 5}, "name=5 is not made of letters"),
        ({"name": "a/b"}, "name='a/b' is not made of letters"),
        ({"disconnect_grace": "x"}, "disconnect_grace='x' is not a duration"),
        (
            {"security": "yes"},
            "security is a str, not a distributed.Security, True or False; write security=True",
        ),
    ],
)
def test_a_wrong_option_names_the_field_the_value_and_a_line_that_works(
    options: dict[str, object], says: str
) -> None:
    with pytest.raises(PoolError) as caught:
        FlameCluster(**options)  # type: ignore[arg-type]
    assert says in str(caught.value)
    assert "s3cret" not in str(caught.value)
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, FlameError)


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda: FlameCluster(8), "FlameCluster(max=8)"),
        (lambda: FlameCluster(0, 8), "FlameCluster(min=0, max=8)"),
        (
            lambda: FlameCluster(0, 8, 2, "60s"),
            "FlameCluster(min=0, max=8, concurrency=2, idle_timeout='60s')",
        ),
        (lambda: FlameCluster(Pool(max=3)), "FlameCluster(max=8)"),
        (lambda: Pool(8), "Pool(max=8)"),
        (lambda: Pool(1, 8), "Pool(min=1, max=8)"),
    ],
)
def test_bounds_are_given_by_name(make: Callable[[], object], line: str) -> None:
    with pytest.raises(PositionalError, match="by name") as caught:
        make()
    assert f"write {line}" in str(caught.value)
    assert isinstance(caught.value, PoolError)
    assert isinstance(caught.value, TypeError)


@pytest.mark.parametrize(
    "name",
    [
        *("min", "max", "concurrency", "spare", "boot_attempts", "cpus", "gpus"),
        *("idle_timeout", "min_idle_timeout", "boot_timeout", "shutdown_timeout"),
        *("memory", "shm_size", "resources"),
    ],
)
@pytest.mark.parametrize("value", [-1, float("nan"), float("inf"), "many", True, [3]])
def test_the_line_to_write_instead_of_a_wrong_number_works(name: str, value: object) -> None:
    with pytest.raises(PoolError) as caught:
        make_pools(None, {name: value}, ())
    written = re.fullmatch(rf"{name}=.* is not .*; write {name}=(.*)", str(caught.value))
    assert written
    make_pools(None, {name: ast.literal_eval(written[1])}, ())
    # What is said to be right is right, and no more than that.
    if least := re.search(r"whole number of (\d+) or more", str(caught.value)):
        make_pools(None, {name: int(least[1])}, ())
        with pytest.raises(PoolError):
            make_pools(None, {name: int(least[1]) - 1}, ())


def test_an_unknown_backend_names_those_installed() -> None:
    with pytest.raises(
        BackendError, match="backend='cloud' is not known; installed: 'fly', 'kubernetes', 'local'"
    ):
        FlameCluster(backend="cloud")


def test_values_of_env_are_shown_nowhere() -> None:
    pool = Pool(
        env={"TOKEN": "s3cret"},
        secrets={"KEY": "s3cret", "THERE": {"name": "s3cret", "key": "k"}},
        pod_template={"spec": {"containers": [{"env": [{"name": "A", "value": "s3cret"}]}]}},
        image="i",
    )
    assert "secrets={KEY: …, THERE: …}" in repr(pool)
    for shown in (repr(pool), repr(KubernetesOptions(**pool.options))):
        assert "s3cret" not in shown
        assert "image='i', " in shown
        assert "pod_template={spec: …}" in shown
    assert "env={TOKEN: …}" in repr(pool)
    assert repr(Pool(max=3)) == (
        "Pool(min=0, max=3, concurrency=1, idle_timeout=60.0, "
        "idle_bounds=(2.0, 900.0), min_idle_timeout=None, boot_timeout=120.0, "
        "shutdown_timeout=30.0, spare=0, single_use=False, idle_check=None, boot_attempts=3, "
        "on_boot_failure='fail', on_grow=None, on_shrink=None, cpus=None, "
        "memory=None, gpus=0, price=None, resources={}, env={}, secrets={}, preload=(), "
        "post_mortem=False, setup=None)"
    )
    with pytest.raises(PoolError) as caught:
        Pool(env={"TOKEN": "s3cret", "N": 1})  # type: ignore[dict-item]
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    "secrets",
    [
        *("xyzzy", {"A B": "xyzzy"}, {"A": 3}, {"A": "x\0yzzy"}, {"A": {"name": "xyzzy"}}),
        *(["xyzzy"], [b"xyzzy"], [["xyzzy"]]),
        *(["hf_AbCdEfGhIjKlMnOpQrStUvWxYz"], ["AKIAIOSFODNN7EXAMPLE"]),
    ],
)
def test_an_error_shows_no_secret(secrets: Any) -> None:
    with pytest.raises(PoolError, match="secrets=") as error:
        Pool(secrets=secrets)
    for part in ("xyzzy", "yzzy", "AbCd", "AKIA"):
        assert part not in str(error.value)


@pytest.mark.parametrize("option", ["env", "secrets"])
def test_a_value_of_none_is_the_drivers_and_only_its_name_is_kept(
    option: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sent(pool: Pool, **more: Any) -> Mapping[str, Any]:
        spec = runner_spec("r", pool, of="p", scheduler="", security=Security(), **more)
        assert "v4lue" not in repr(spec)
        return spec.variables

    names: Any = {"FLAME_TOKEN": None}
    with pytest.raises(PoolError) as error:
        Pool(**{option: names})
    assert str(error.value) == (
        f"{option} takes FLAME_TOKEN from the environment of this process, which does not have it; "
        f'write os.environ["FLAME_TOKEN"] = "…" before, or {option}={{"FLAME_TOKEN": "…"}}'
    )
    monkeypatch.setenv("FLAME_TOKEN", "v4lue-1")
    pool = Pool(**{option: names})
    assert sent(pool) == {"FLAME_TOKEN": "v4lue-1"}
    monkeypatch.setenv("FLAME_TOKEN", "v4lue-2")
    assert sent(pool) == {"FLAME_TOKEN": "v4lue-2"}
    assert b"v4lue" not in pickle.dumps(pool)
    assert f"{option}={{FLAME_TOKEN: …}}" in repr(pool)
    monkeypatch.delenv("FLAME_TOKEN")
    # Other options can still be changed.
    changed = pool.replace(max=pool.max + 1)
    assert getattr(changed, option) == names
    assert pickle.loads(pickle.dumps(pool)) == pool
    assert hash(pool) == hash(changed.replace(max=pool.max))
    for make in (partial(sent, pool), partial(pool.replace, **{option: names})):
        with pytest.raises(PoolError, match=f"{option} takes FLAME_TOKEN from"):
            make()
    assert sent(pool, expected=True) == {}


def test_secrets_are_a_list_of_names_or_a_mapping(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A", "1")
    monkeypatch.setenv("B", "")
    there = {"name": "n", "key": "k"}
    assert Pool(secrets=["A", "B", "A"]).secrets == {"A": None, "B": None}
    pool = Pool(secrets={"A": None, "B": "2", "C": there}, env={"A": "0", "B": None, "D": "4"})
    spec = runner_spec("r", pool, of="p", scheduler="", security=Security())
    assert (spec.env, spec.secrets) == ({"A": "0", "D": "4"}, {"A": "1", "B": "2", "C": there})
    assert spec.variables == {"A": "1", "B": "2", "D": "4"}
    assert pool.abridged.secrets == pool.abridged.env == {}
    assert Pool(secrets=()).secrets == Pool(secrets={}).secrets == Pool().secrets == {}


def test_a_pool_is_a_value() -> None:
    pool = Pool(max=3, env={"A": "b"}, image="i", secrets={"TOKEN": "s3cret"})
    assert "s3cret" not in repr(pool)
    assert pool.replace(max=4).options == pool.options
    assert pool.replace(image="j").options == {"image": "j"}
    assert pool.replace(image="j").secrets == {"TOKEN": "s3cret"}
    assert Pool(options={"image": "i", "max": 3, "secrets": pool.secrets}, env=pool.env) == pool
    assert pickle.loads(pickle.dumps(pool)) == pool
    assert replace(pool, max=4).max == 4
    assert hash(pool) == hash(replace(pool))
    with pytest.raises(AttributeError):
        pool.max = 5  # type: ignore[misc]


@given(st.integers(0, 50), st.integers(0, 50))
def test_bounds_are_ordered_or_refused(low: int, high: int) -> None:
    if low > high:
        with pytest.raises(PoolError):
            Pool(min=low, max=high)
    else:
        assert (Pool(min=low, max=high).min, Pool(min=low, max=high).max) == (low, high)


def test_a_pool_refuses_what_it_does_not_know_as_a_cluster_does() -> None:
    with pytest.raises(PoolError, match="unknown option idle_timout; did you mean idle_timeout"):
        Pool(idle_timout="5s")


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"flame.pool.mx": 3}, "flame.pool.mx in Dask's configuration is no setting"),
        ({"flame.max": 3}, "did you mean flame.pool.max?"),
        ({"flame.local.fork": "no"}, 'write dask.config.set({"flame.local.fork": False})'),
        (
            {"flame.kubernetes.network-policy": "no"},
            'write dask.config.set({"flame.kubernetes.network-policy": False})',
        ),
        ({"flame.pool.max": "many"}, 'write dask.config.set({"flame.pool.max": 8})'),
    ],
)
def test_a_wrong_setting_in_the_configuration(settings: dict[str, object], says: str) -> None:
    with dask.config.set(settings), pytest.raises(PoolError) as caught:
        FlameCluster()
    assert says in str(caught.value)


def test_type_checkers_know_each_option() -> None:
    (declared,) = (
        node
        for node in ast.walk(ast.parse(Path(inspect.getfile(Pool)).read_text()))
        if isinstance(node, ast.FunctionDef) and node.name == "__init__" and node.args.kwonlyargs
    )
    assert [argument.arg for argument in declared.args.kwonlyargs] == list(Pool.declared())


def test_idle_bounds_may_be_equal_and_the_error_says_so() -> None:
    assert Pool(idle_bounds=("2s", "2s")).idle_bounds == (2, 2)
    for wrong in (("3s", "2s"), (0, 0)):
        with pytest.raises(PoolError, match="the second is above 0 and not below the first; write"):
            Pool(idle_bounds=wrong)


def test_max_follows_what_there_is_room_for_unless_it_was_written() -> None:
    pool = Pool(min=3)
    assert (pool.holding(64, "h").max, pool.holding(0, "h").max, Pool().holding(0, "h").max) == (
        64,
        3,
        1,
    )
    assert pool.holding(10**6, "h").max == 10_000
    grown = pickle.loads(pickle.dumps(pool.holding(64, "h").replace(min=1)))
    assert grown.holding(5, "h").max == 5
    assert pool.replace(max=8).holding(64, "h").max == 8
    assert Pool(max=8).holding(64, "h").max == 8
    with dask.config.set({"flame.pool.max": 7}):
        assert Pool().holding(64, "h").max == 7
    # It can be left to what there is room for again.
    assert Pool(max=8).replace(max=None).holding(64, "h").max == 64
