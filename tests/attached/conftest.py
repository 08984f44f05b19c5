"""A folder for the sockets of each test's applications, and an application."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import dask_flame
from dask_flame.attached import places
from dask_flame.attached.client.application import Application
from tests.support.applications import SHOP, Program, program


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(places.FOLDER, str(tmp_path / "sockets"))
    return tmp_path / "sockets"


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Program]:
    with program(SHOP, tmp_path / "shop.py") as running:
        yield running


@pytest.fixture
def app(shop: Program) -> Iterator[Application]:
    with dask_flame.attach("shop") as app:
        yield app
