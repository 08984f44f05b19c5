"""Values of `packages`, and what errors say of wrong ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dask
import pytest

from dask_flame import FlameCluster
from dask_flame.core.packages_option import PackagesOption, packages_option
from dask_flame.core.settings import configured
from dask_flame.errors import PoolError
from tests.support.wheels import wheel

pytestmark = pytest.mark.unit


def checked(value: Any) -> PackagesOption:
    return packages_option("packages", value)


def test_words_and_false() -> None:
    assert [checked(v).mode for v in ("check", "sync", "ignore", False)] == [
        "check",
        "sync",
        "ignore",
        "ignore",
    ]


def test_the_configuration() -> None:
    assert configured("packages").mode == "check"
    with dask.config.set({"flame.packages": ["polars==1.2"]}):
        assert configured("packages").named == {"polars"}
    with (
        dask.config.set({"flame.packages": "synch"}),
        pytest.raises(PoolError, match=r"flame\.packages='synch' in Dask's configuration"),
    ):
        FlameCluster(max=1)


def test_a_list_knows_which_one_version_satisfies_it() -> None:
    option = checked(["Polars ==1.2", "numpy>=2", "a==1.*", "b==1,<2", "c @ https://h/c.whl", "d"])
    assert [(w["name"], w["version"]) for w in option.wanted] == [
        ("polars", "1.2"),
        ("numpy", ""),
        ("a", ""),
        ("b", ""),
        ("c", ""),
        ("d", ""),
    ]


def test_a_wheel_is_known_by_its_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    wheel(tmp_path, "flame_a", "1.0")
    (first,) = checked(["./flame_a-1.0-py3-none-any.whl"]).wanted
    assert (first["name"], first["line"]) == ("flame-a", f"{tmp_path}/flame_a-1.0-py3-none-any.whl")
    wheel(tmp_path, "flame_a", "1.0", code="changed = True\n")
    (second,) = checked(["flame_a-1.0-py3-none-any.whl"]).wanted
    assert second["line"] == first["line"]
    assert second["digest"] != first["digest"]
    # In the image of a runner.
    (there,) = checked(["/opt/nowhere/flame_a-1.0-py3-none-any.whl"]).wanted
    assert "digest" not in there


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("polars==1.2", r"packages='polars==1.2' is not \"check\", \"sync\", \"ignore\" or a list"),
        (True, "packages=True is not"),
        ([], r"packages=\[\] is not"),
        ([1, "a @ https://me:hunter2@host/a.whl"], r"packages=\[1, .* is not"),
        (["polars=1.2"], r"packages=\['polars=1.2'\] is no requirement as .* write packages=\["),
        (["--index-url=https://me:hunter2@host/"], r"is an option of pip, which belongs into"),
        (["a @ https://me:hunter2@host /a"], "is no requirement as pip takes it"),
        (
            ["./nothing-1.0-py3-none-any.whl"],
            r"\['./nothing-1.0.*whl'\] is no file in '/",
        ),
        (["./x.whl"], "is not named as a wheel"),
        (["."], "is a folder, and runners install only archives"),
    ],
)
def test_wrong_values(value: Any, said: str) -> None:
    with pytest.raises(PoolError, match=said) as error:
        FlameCluster(max=1, packages=value)
    assert "hunter2" not in str(error.value)
    assert "write" in str(error.value)


def test_credentials_are_in_no_repr() -> None:
    assert "hunter2" not in repr(checked(["a @ https://me:hunter2@host/a-1.0-py3-none-any.whl"]))
