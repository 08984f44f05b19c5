"""The token is found, and shown nowhere; it crosses no network unencrypted."""

from __future__ import annotations

import pytest

from dask_flame.backends.fly.api.credentials import (
    INTERNAL,
    PUBLIC,
    Token,
    checked_base,
    find_base,
    find_token,
)
from dask_flame.errors import BackendError

pytestmark = pytest.mark.unit

VALUE = "FlyV1 fm2_lJPECAAAAAAAB3,fm2_lJPEToK9876543"


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FLY_API_TOKEN", "FLY_API_HOSTNAME", "FLY_FLAPS_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


def test_a_token_is_not_shown() -> None:
    token = Token(VALUE)
    assert VALUE not in f"{token} {token!r} {[token]}"
    assert "fm2_" not in f"{token} {token!r} {[token]}"


@pytest.mark.parametrize(
    "text",
    [
        f"bad header: {VALUE}",
        "unknown macaroon fm2_lJPECAAAAAAAB3",
        "fm2_lJPEToK9876543 has expired",
        "fm2_lJPECAAAAAAAB3,fm2_lJPEToK9876543",
    ],
)
def test_what_repeats_a_part_of_it_is_cleaned(text: str) -> None:
    assert "fm2_" not in Token(VALUE).clean(text)
    assert "(hidden)" in Token(VALUE).clean(text)


def test_the_header_has_the_scheme_of_the_token() -> None:
    assert Token(VALUE).header == VALUE
    assert Token("fo1_0123456789").header == "Bearer fo1_0123456789"


def test_the_configuration_is_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BackendError, match="type: export FLY_API_TOKEN="):
        find_token(None)
    monkeypatch.setenv("FLY_API_TOKEN", " fo1_from_environment\n")
    assert find_token(None).value == "fo1_from_environment"
    assert find_token("fo1_configured").value == "fo1_configured"


def test_what_is_no_token_is_refused_without_being_shown() -> None:
    with pytest.raises(BackendError, match="line break") as caught:
        find_token("fo1_one\nfo1_two")
    assert "fo1_" not in str(caught.value)


def test_the_base_is_private_inside_and_public_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_base(None, inside=False) == PUBLIC
    assert find_base(None, inside=True) == INTERNAL
    monkeypatch.setenv("FLY_API_HOSTNAME", "https://proxy.example.org/fly/")
    assert find_base(None, inside=True) == "https://proxy.example.org/fly"
    assert find_base("http://[::1]:8080", inside=True) == "http://[::1]:8080"


@pytest.mark.parametrize(
    "base",
    [
        "http://127.0.0.1:1",
        "http://_api.internal:4280",
        "http://[fdaa:0:18::3]:4280",
        "http://localhost",
    ],
)
def test_networks_that_need_no_tls(base: str) -> None:
    assert checked_base("flame.fly.api", base) == base


@pytest.mark.parametrize("base", ["http://api.machines.dev", "http://10.0.0.1", "http://[fd00::1]"])
def test_networks_that_need_tls(base: str) -> None:
    with pytest.raises(BackendError, match=r"would send the token unencrypted .*https://"):
        checked_base("flame.fly.api", base)


@pytest.mark.parametrize("base", ["api.machines.dev", "ftp://x", "https://", "https://me:pw@x"])
def test_what_is_no_address_is_refused(base: str) -> None:
    with pytest.raises(BackendError, match="is not the address of an API") as caught:
        checked_base("flame.fly.api", base)
    assert "pw" not in str(caught.value)
