"""The certificate that HTTPS is served with: loaded whole, or what is wrong with which setting."""

from __future__ import annotations

import ssl
from pathlib import Path

from perdure.backends.errors import Misuse


def tls_of(cert: str, key: str) -> ssl.SSLContext | None:
    """TLS 1.2 and later with the files that `tls_cert` and `tls_key` name, or none.

    Raises:
      Misuse: they cannot be loaded.
    """
    if not cert:
        return None
    keeper = f"tls_key = {key!r}" if key else f"tls_cert = {cert!r}"
    if b"-----BEGIN CERTIFICATE-----" not in _read("tls_cert", cert):
        raise Misuse(f"tls_cert = {cert!r} holds no certificate: name a PEM file with the chain")
    if b"PRIVATE KEY-----" not in _read("tls_key", key or cert):
        raise Misuse(f"{keeper} holds no private key: name the PEM file with the certificate's as tls_key")

    def passphrase() -> str:
        raise Misuse(f"{keeper} holds a key with a passphrase, which nobody is there to type: name one without")

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(cert, key or None, passphrase)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise Misuse(f"{keeper} holds a private key that is not that of the certificate in tls_cert = {cert!r}") from error
        raise Misuse(f"tls_cert = {cert!r} or its key is damaged: {error.reason}") from error
    return context


def _read(name: str, file: str) -> bytes:
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise Misuse(f"{name} = {file!r} cannot be read: {error.strerror}") from error
