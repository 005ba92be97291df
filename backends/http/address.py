"""The URL of a daemon, and the token that it is asked with. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping
from typing import Final
from urllib.parse import parse_qsl, urlsplit

import attrs

from perdure.backends.errors import Misuse

TOKEN_VARIABLE: Final = "PERDURE_TOKEN"
OPTIONS: Final = ("ca", "insecure", "token_file")


@attrs.frozen
class Address:
    """Where a daemon is. *token* is shown nowhere."""

    base: str
    """Scheme, host, port, and the path that comes before the daemon's own."""
    ca: str = ""
    """A file with the certificates to trust, where the system's are not the ones."""
    token: str = attrs.field(default="", repr=False)


def read_url(url: str, token: str | None, environment: Mapping[str, str], read_file: Callable[[str], str]) -> Address:
    """The address that *url* names, to be asked with *token*, or with the one in its `token_file`, or with the one in the environment.

    Raises:
      Misuse: it names none, has a user or a password in it, or the token would go over the wire as it is.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise Misuse("that URL of a daemon cannot be read: write https://HOST:PORT") from error
    if parts.username is not None or parts.password is not None:
        raise Misuse(f"a URL is no place for a token: give it in {TOKEN_VARIABLE}, in a file by ?token_file=PATH, or as token=")
    if parts.scheme not in ("http", "https") or not host or parts.fragment:
        raise Misuse("a daemon's URL is http://HOST:PORT or https://HOST:PORT")
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    for name in query:
        if name not in OPTIONS:
            raise Misuse(f"a daemon's URL has no option {name!r}: known are {', '.join(OPTIONS)}")
    if token is None:
        token = _from_file(query["token_file"], read_file) if "token_file" in query else environment.get(TOKEN_VARIABLE, "")
    if token and not (token.isascii() and token.isprintable() and " " not in token):
        raise Misuse("that is no token: `perdure token new` makes one")
    if token and parts.scheme == "http" and not _is_loopback(host) and query.get("insecure") != "1":
        raise Misuse(f"the token would go to {host} unencrypted: use https://, or insist by ?insecure=1")
    shown = f"[{host}]" if ":" in host else host
    return Address(f"{parts.scheme}://{shown}{'' if port is None else f':{port}'}{parts.path.rstrip('/')}", query.get("ca", ""), token)


def _from_file(path: str, read_file: Callable[[str], str]) -> str:
    try:
        return read_file(path).strip()
    except (OSError, UnicodeDecodeError) as error:
        raise Misuse(f"the token cannot be read from {path}: {error}") from error


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
