"""Arguments become columns: named, flat and plain; no secret is among them."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dask_flame.core.parameters import MOST, parameters

pytestmark = pytest.mark.unit


@dataclasses.dataclass
class Model:
    layers: int
    width: float
    cache: Any = dataclasses.field(default=None, repr=False)


class Size(NamedTuple):
    height: int
    width: int


def train(config: Any, rate: float = 0.1, *rest: Any, **more: Any) -> None:
    """Has arguments of all kinds."""


def test_containers_become_columns() -> None:
    given = {"lr": 0.1, "model": Model(4, 0.5, object()), "size": Size(2, 3)}
    assert parameters(train, (given,), {"seed": 3}) == {
        "config.lr": 0.1,
        "config.model.layers": 4,
        "config.model.width": 0.5,
        "config.size.height": 2,
        "config.size.width": 3,
        "seed": 3,
    }


@pytest.mark.parametrize(
    "only",
    [
        {"layers": 4, "width": 0.5},
        Model(4, 0.5),
        argparse.Namespace(layers=4, width=0.5),
    ],
)
def test_the_items_of_an_only_argument_keep_their_names(only: Any) -> None:
    assert parameters(train, (only,), {}) == {"layers": 4, "width": 0.5}


def test_values_are_plain() -> None:
    values = {
        "number": np.float32(0.5),
        "path": Path("data/a.csv"),
        "text": "cosine",
        "shapes": [4, 4],
        "nothing": None,
        "flag": True,
        "nan": math.nan,
        "array": np.zeros((3, 2)),
        "huge": 10**30,
    }
    told = parameters(functools.partial(train, {}, 1), (), values)
    json.dumps(told, allow_nan=False)
    assert told["number"] == 0.5
    assert told["path"] == "data/a.csv"
    assert told["text"] == "cosine"
    assert told["shapes"] == "[4, 4]"
    assert told["nothing"] is None
    assert told["flag"] is True
    assert told["nan"] == "nan"
    assert "3" in str(told["array"])
    assert told["huge"] == str(10**30)
    assert told["rate"] == 1


def test_secrets_are_hidden() -> None:
    secrets = {
        "password": "hunter2",
        "deep": {"api_token": "s3cret-s3cret"},
        "url": "postgres://me:hunter2@host/db",
    }
    told = parameters(train, ({"a": 1},), secrets)
    assert "hunter2" not in str(told)
    assert "s3cret" not in str(told)
    assert told["password"] == told["deep.api_token"] == "…"


class Rude:
    def __getattribute__(self, name: str) -> Any:
        raise SystemExit("must not be asked")


def test_no_code_of_an_argument_runs() -> None:
    assert parameters(train, (Rude(), Rude()), {}) == {"config": "Rude", "rate": "Rude"}
    assert parameters(train, (Rude(),), {}) == {"config": "Rude"}


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=70),
    max_leaves=90,
)


@given(st.lists(anything, max_size=4), st.dictionaries(st.text(min_size=1), anything, max_size=60))
def test_any_arguments_become_few_plain_values(args: list[Any], kwargs: dict[str, Any]) -> None:
    told = parameters(train, args, kwargs)
    assert len(told) <= MOST
    json.dumps(told, allow_nan=False)
    for value in told.values():
        assert type(value) in (bool, int, float, str, type(None))
        assert not isinstance(value, str) or len(value) <= 40
