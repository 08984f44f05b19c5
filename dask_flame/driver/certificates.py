"""Certificates made for one cluster, for machines whose clocks differ (driver)."""

from __future__ import annotations

from datetime import timedelta

from distributed import Security

#: How far behind the driver's clock another machine's may be.
_BEHIND = timedelta(days=1)


def temporary_security() -> Security:
    """What :meth:`distributed.Security.temporary` makes, valid from a day before.

    Distributed's is valid from the second in which it is made: a laptop whose clock is a minute
    ahead is refused for a minute by the pods that it has made.
    """
    security = Security.temporary()
    # An extra; without it distributed has just said what to install.
    from cryptography import x509
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

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
