"""The certificates of one cluster (driver)."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from distributed import Security

from dask_flame.core.pem import inline
from dask_flame.errors import BackendError

#: Maximum lag of another machine's clock behind the driver's.
_BEHIND = timedelta(days=1)


def temporary_security() -> Security:
    """Return :meth:`distributed.Security.temporary`, with certificates valid since yesterday.

    Distributed's certificates are valid from the current second: if the clock of a laptop is a
    minute ahead, its pods reject the connection for a minute.

    Raises
    ------
    BackendError
        If cryptography is not installed, an optional dependency.
    """
    try:
        from cryptography import x509
    except ImportError:
        raise BackendError(
            "certificates for this cluster cannot be made, because cryptography is not installed; "
            "type: pip install cryptography"
        ) from None
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

    security = Security.temporary()
    given = x509.load_pem_x509_certificate(security.tls_ca_file.encode())
    key = load_pem_private_key(security.tls_scheduler_key.encode(), None)
    builder = (
        x509.CertificateBuilder()
        .subject_name(given.subject)
        .issuer_name(given.issuer)
        .public_key(given.public_key())
        .serial_number(given.serial_number)
        .not_valid_before(given.not_valid_before_utc - _BEHIND)
        .not_valid_after(given.not_valid_after_utc)
    )
    for extension in given.extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    made = builder.sign(key, SHA256()).public_bytes(Encoding.PEM).decode()  # type: ignore[arg-type]
    security.tls_ca_file = made
    for part in ("client", "scheduler", "worker"):
        setattr(security, f"tls_{part}_cert", made)
    return security


def inlined(security: Security) -> dict[str, Any]:
    """Return the contents of a Security, with files replaced by their certificates and keys."""
    parts = ("scheduler", "worker", "client")
    keys = [f"tls_{part}_{what}" for part in parts for what in ("key", "cert")]
    given = {key: getattr(security, key) for key in ("tls_ca_file", *keys)}
    there = {key: value for key, value in given.items() if isinstance(value, str)}
    return {"require_encryption": True, **inline(there)}
