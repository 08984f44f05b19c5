"""Which differences between packages are errors, which are reported, and the texts."""

from __future__ import annotations

import pytest

from dask_flame.packages.differences import Difference, advice, compare, refusal

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("name", "driver", "runner", "breaks"),
    [
        ("dask", "2026.8.0", "2026.8.3", False),
        ("dask", "2026.8.0", "2026.9.0", True),
        ("distributed", "2026.8.0", "2025.8.0", True),
        ("cloudpickle", "3.1.2", "3.0.0", False),
        ("cloudpickle", "3.1.2", "2.2.1", True),
        ("msgpack", "1.2.4", "1.0.0", False),
        ("msgpack", "1.2.4", "0.6.2", True),
        ("dask-flame", "0.1.0", "0.1.1", True),
        ("dask-flame", "0.1.0", "", False),
        ("tornado", "6.6.1", "5.1", False),
        ("numpy", "2.1.0", "1.26.4", False),
    ],
)
def test_what_breaks(name: str, driver: str, runner: str, breaks: bool) -> None:
    (difference,) = compare({name: driver}, {name: runner} if runner else {})
    assert difference.breaks is breaks
    assert bool(refusal([difference], remote=True)) is breaks


def test_builds_for_other_hardware_are_equal() -> None:
    assert compare({"torch": "2.6.0"}, {"torch": "2.6.0+cu124"}) == []
    assert compare({"torch": "2.6.0+cpu"}, {"torch": "2.6.0"}) == []


def test_packages_that_a_runner_has_not_told_are_unknown() -> None:
    assert compare({"numpy": "2.1.0"}, {}, complete=False) == []
    assert [str(d) for d in compare({"numpy": "2.1.0"}, {})] == [
        "numpy is missing (the driver has 2.1.0)"
    ]


def test_a_refusal_names_both_versions_and_the_fix() -> None:
    differences = compare(
        {"dask": "2026.8.0", "numpy": "2.1.0"}, {"dask": "2026.7.0", "numpy": "1.0"}
    )
    said = refusal(differences, remote=True)
    assert said.startswith("has dask 2026.7.0, and the driver has dask 2026.8.0, which do not")
    assert "pip install dask==2026.8.0" in said
    assert 'image="IMAGE"' in said
    assert 'packages="sync"' in said
    assert "numpy" not in said
    said = refusal(differences, remote=False)
    assert "image" not in said
    assert "PYTHONPATH" in said


def test_dask_flame_itself_cannot_be_installed_by_a_runner() -> None:
    said = refusal([Difference("dask-flame", "0.2.0", "0.1.0")], remote=True)
    assert "pip install dask-flame==0.2.0" in said
    assert "sync" not in said


def test_a_warning_names_some_of_many() -> None:
    many = compare({f"p{n:02}": "1.0" for n in range(20)}, {"p00": "2.0+cpu"})
    said = advice(many, remote=True)
    assert said.startswith(
        "has other packages than the driver: p00 2.0+cpu (the driver has 1.0), p01 is missing "
    )
    assert "p12" not in said
    assert "and 8 more" in said
    assert "pip install p00==1.0 p01==1.0" in said
