"""Addresses of Unix sockets."""

from __future__ import annotations

import os
from urllib.parse import urlparse

import pytest
from distributed.comm.addressing import address_from_user_args, parse_address
from hypothesis import given
from hypothesis import strategies as st

from dask_flame.comm.addresses import (
    PREFIX,
    SCHEME,
    location,
    new_socket_beside,
    new_socket_in,
    path_of,
)

pytestmark = pytest.mark.unit

names = st.text(st.characters(exclude_characters="/\0", codec="utf-8"), min_size=1, max_size=12)
paths = st.lists(names, min_size=1, max_size=4).map(lambda parts: "/" + "/".join(parts))
abstract = names.map(lambda name: "\0" + name)


@given(paths | abstract)
def test_a_location_names_its_socket_with_and_without_a_port(path: str) -> None:
    assert path_of(location(path)) == path
    assert path_of(f"{location(path)}:0") == path
    # As addresses were once.
    assert path_of(location(path).replace(":", "", 1)) == path


@given(paths | abstract)
def test_other_libraries_read_the_host_of_an_address(path: str) -> None:
    address = PREFIX + location(path)
    assert urlparse(address).hostname == "127.0.0.1"
    assert location(path).split(":")[0] == "127.0.0.1"
    assert parse_address(address) == (SCHEME, location(path))


@given(paths)
def test_dask_makes_a_listening_address_of_a_folder(folder: str) -> None:
    listening = address_from_user_args(host=new_socket_in(folder), protocol=SCHEME)
    path = path_of(parse_address(listening)[1])
    assert path.endswith("/")
    assert path.rstrip("/") == folder.rstrip("/")


@given(paths)
def test_a_socket_beside_another_is_in_the_same_folder(folder: str) -> None:
    beside = new_socket_beside(PREFIX + location(f"{folder}/scheduler"))
    assert beside == new_socket_in(folder)


def test_names_of_folders_need_not_be_text() -> None:
    path = os.fsdecode(b"/tmp/q\xff")
    assert path_of(location(path)) == path


def test_beside_a_socket_without_a_path_is_one_without_a_path() -> None:
    assert new_socket_beside(PREFIX + location("\0name")) == new_socket_in("") == "127.0.0.1"
    assert path_of("127.0.0.1") == path_of("127.0.0.1:0") == ""


def test_a_location_on_another_machine_is_refused() -> None:
    with pytest.raises(ValueError, match=r"flame://10\.0\.0\.1/tmp/s is on another machine"):
        path_of("10.0.0.1/tmp/s")
