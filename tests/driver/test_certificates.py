"""Certificates of a cluster's own, on machines whose clocks differ."""

from __future__ import annotations

import ssl
import sys
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from distributed.comm import connect, listen

from dask_flame.driver.certificates import temporary_security
from dask_flame.driver.launch import make_security
from dask_flame.errors import BackendError


@pytest.mark.unit
@pytest.mark.parametrize(("security", "remote"), [(True, False), (None, True)])
def test_they_are_valid_where_clocks_are_behind(security: bool | None, remote: bool) -> None:
    made = make_security(security, remote=remote)
    parts = ("ca_file", "client_cert", "scheduler_cert", "worker_cert")
    (text,) = {getattr(made, f"tls_{part}") for part in parts}
    certificate = x509.load_pem_x509_certificate(text.encode())
    now = datetime.now(UTC)
    assert certificate.not_valid_before_utc < now - timedelta(hours=23)
    assert now + timedelta(days=300) < certificate.not_valid_after_utc < now + timedelta(days=366)


@pytest.mark.unit
@pytest.mark.parametrize("part", ["client", "scheduler", "worker"])
def test_both_sides_show_a_certificate_and_no_old_tls_is_spoken(part: str) -> None:
    made = temporary_security()
    contexts = [made.get_connection_args(part)["ssl_context"]]
    if part != "client":
        contexts.append(made.get_listen_args(part)["ssl_context"])
    for context in contexts:
        assert context.minimum_version >= ssl.TLSVersion.TLSv1_2
        assert context.verify_mode is ssl.CERT_REQUIRED


@pytest.mark.unit
def test_without_cryptography_the_error_has_the_line_to_type(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "cryptography", None)
    with pytest.raises(BackendError, match=r"certificates .*; type: pip install cryptography"):
        temporary_security()


@pytest.mark.process
@pytest.mark.asyncio
async def test_nobody_else_gets_in() -> None:
    mine, other = temporary_security(), temporary_security()

    async def answer(comm: object) -> None:
        pass

    listener = await listen("tls://127.0.0.1:0", answer, **mine.get_listen_args("scheduler"))
    try:
        for security, lets in ((mine, True), (other, False)):
            arguments = security.get_connection_args("client")
            if lets:
                comm = await connect(listener.contact_address, **arguments)
                comm.abort()
            else:
                with pytest.raises(OSError, match="certificate"):
                    await connect(listener.contact_address, timeout=30, **arguments)
    finally:
        listener.stop()
