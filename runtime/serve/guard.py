"""Who may come in: the host that was asked for, where the request comes from, and whose token it carries. Before anything else is looked at."""

from __future__ import annotations

import logging
from collections.abc import Iterable, MutableMapping
from functools import lru_cache
from typing import Any, Final
from urllib.parse import urlsplit

from perdure.runtime.serve.config import is_loopback
from perdure.runtime.serve.problems import Refused
from perdure.runtime.serve.scopes import EVERYTHING, Scopes
from perdure.runtime.serve.service import Service
from perdure.runtime.serve.tokens import Token

log = logging.getLogger("perdure.serve")

LOCAL: Final = ("localhost", "127.0.0.1", "::1")
RETRY_S: Final = 60
SEND_TOKEN: Final = "send Authorization: Bearer TOKEN with one of this store; `perdure token new` makes one, where the daemon runs"


def check_head(service: Service, scope: MutableMapping[str, Any]) -> None:
    """That the head is no larger than it may be: the parser itself only bounds what comes in several pieces.

    Raises:
      Refused: it is.
    """
    size = len(scope["raw_path"]) + len(scope["query_string"]) + sum([len(name) + len(value) + 4 for name, value in scope["headers"]])
    if size > service.config.head_bytes:
        told = f"send at most {service.config.head_bytes:,} bytes (head_bytes)"
        raise Refused(431, "not-http", "the head of the request is too large", told, {"connection": "close"})


def check_host(service: Service, host: str | None) -> None:
    """The name by which this host was asked for: one of ours, so that no other site's name can be bound to us.

    Raises:
      Refused: it is another one, or none.
    """
    name = host_of(host or "")
    if not name:
        raise Refused(400, "misuse", "the request names no host", "send Host: HOST:PORT")
    ours = {*service.config.hosts, *service.listening}
    if any(is_loopback(one) for one in service.listening):
        ours |= {*LOCAL}
    if name not in {one.lower() for one in ours}:
        raise Refused(421, "misdirected", "this is not the host that was asked for", "add it to hosts, if it is", {"connection": "close"})


@lru_cache(maxsize=1_024)
def host_of(host: str) -> str:
    """The name in a Host header, without its port."""
    try:
        parts = urlsplit(f"//{host}")
        if parts.path or parts.query or parts.fragment or "@" in parts.netloc:
            return ""
        _ = parts.port  # is looked at only when asked for
        return (parts.hostname or "").lower()
    except ValueError:
        return ""


def check_origin(service: Service, headers: dict[str, str], scheme: str) -> str | None:
    """Where a web page's request comes from: from us, or from one of `origins`, which is the answer then.

    Raises:
      Refused: from elsewhere.
    """
    origin = headers.get("origin")
    if origin is None:
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            raise _foreign()
        return None
    if origin in service.config.origins:
        return origin
    if origin.lower() == f"{scheme}://{headers.get('host', '')}".lower():
        return None
    raise _foreign()


def _foreign() -> Refused:
    return Refused(403, "foreign", "requests from other web pages are refused", "add the page's origin to origins, if it is yours")


def check_token(service: Service, headers: dict[str, str], address: str, now_us: int) -> tuple[Scopes, Token | None]:
    """What the request's token permits.

    A valid token is always heard: 256 random bits are not found by trying, and one who tries must not shut out others at his address.

    Raises:
      Refused: there is none, or it does not count.
    """
    if not service.config.tokens:
        return EVERYTHING, None
    given = headers.get("authorization")
    if given is None:
        raise Refused(401, "no-token", "a token is needed", SEND_TOKEN, {"www-authenticate": "Bearer"})
    kind, _, text = given.partition(" ")
    found = service.tokens.check(text.strip() if kind.lower() == "bearer" else "", now_us)
    if isinstance(found, Token):
        return found.scopes, found
    most = service.config.failures_per_minute
    if service.failures.note(address, most):
        if service.failures.first(address, most):
            log.warning("more than %d wrong tokens in a minute from %s", most, address)
        raise Refused(429, "too-many", "too many wrong tokens", "wait a minute", {"retry-after": str(RETRY_S), "connection": "close"})
    why = "the token has expired" if found == "expired" else "the token is not valid"
    raise Refused(401, f"token-{found}", why, SEND_TOKEN, {"www-authenticate": 'Bearer error="invalid_token"'})


def still_valid(service: Service, token: Token | None, now_us: int) -> bool:
    """Whether a token that was valid is it still: for what lasts."""
    if token is None:
        return not service.config.tokens
    known = service.tokens.known.get(token.id)
    return known is not None and known.digest == token.digest and (known.expires_us is None or known.expires_us > now_us)


def check_scope(need: str, scopes: Scopes, path: dict[str, str]) -> None:
    """Whether the scopes suffice for an operation that needs *need*.

    Raises:
      Refused: they do not.
    """
    if not _suffices(need, scopes, path):
        told = {"append": "append:CATEGORY", "kv": "kv:BUCKET"}.get(need, need)
        raise Refused(403, "forbidden", "the token does not permit this", f"it needs the scope {told}")


def _suffices(need: str, scopes: Scopes, path: dict[str, str]) -> bool:
    match need:
        case "read":
            return scopes.may_read()
        case "operate":
            return scopes.may_operate()
        case "blob":
            return scopes.may_put_blobs()
        case "append":
            return scopes.may_append(path["stream"])
        case "kv":
            return scopes.may_use(path["bucket"])
        case _:
            return True


def headers_of(raw: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """Headers by name; of those that must be one and are several, none is to be believed.

    Raises:
      Refused: one of them occurs twice.
    """
    found: dict[str, str] = {}
    for name_bytes, value in raw:
        name = name_bytes.decode("latin-1")
        if name in found:
            if name in SINGLE:
                raise Refused(400, "misuse", f"the header {name} occurs twice", "send it once")
            found[name] += ", " + value.decode("latin-1")
        else:
            found[name] = value.decode("latin-1")
    return found


SINGLE: Final = frozenset(
    ("host", "authorization", "origin", "content-length", "content-type", "if-match", "if-none-match", "idempotency-key", "last-event-id", "traceparent")
)
