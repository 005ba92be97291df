"""An operation of the API as a value: its path, who may, what goes in and what comes out. Carrying it out and documenting it both start here."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import attrs
from starlette.responses import Response

from perdure.runtime.serve.config import ServeConfig
from perdure.runtime.serve.represent import JSON, as_json
from perdure.runtime.serve.scopes import Scopes
from perdure.runtime.serve.service import Service

OPEN: Final = ""
"""No token is needed."""


@attrs.define
class Call:
    """A request, understood: what an operation is given."""

    service: Service
    headers: Mapping[str, str]
    path: Mapping[str, str]
    query: Any
    body: Any
    scopes: Scopes
    valid: Callable[[], bool]
    """Whether its token still is: for what lasts."""
    address: str
    """Where it comes from."""
    now_us: int
    receive: Callable[[], Awaitable[Any]]
    """The body as it comes, where the operation takes a blob."""


@attrs.frozen
class Header:
    """A header that an operation understands."""

    name: str
    help: str
    pattern: str = ""


@attrs.frozen(kw_only=True)
class Operation:
    """One method on one path. *answers*: its success by status, None where there is no body; *problems*: the statuses of its own problems."""

    method: str
    path: str
    name: str
    summary: str
    run: Callable[[Call], Awaitable[Response] | Response]
    need: str = OPEN
    open_if: str = ""
    """A setting: where it is true no token is needed."""
    query: type | None = None
    body: type | None = None
    any_body: bool = False
    """The body is any JSON."""
    cloudevents: bool = False
    """CloudEvents may come in, or go out."""
    wire: bool = False
    """The body is handed on as it is, in the media type of the wire, and may be as large as a commit; *body* says what is in it."""
    blob: bool = False
    """The body is a blob of any media type: the operation receives it piece by piece."""
    live: bool = False
    """The answer is a stream of server-sent events."""
    headers: tuple[Header, ...] = ()
    media_type: str = "text/html"
    """Of an answer that is text."""
    answers: Mapping[int, Any] = attrs.field(factory=dict)
    problems: tuple[int, ...] = ()

    def needs(self, config: ServeConfig) -> str:
        """The scope it needs."""
        return OPEN if self.open_if and getattr(config, self.open_if) else self.need


IF_MATCH: Final = Header("If-Match", 'What you believe is there: its ETag, as "17"; * for anything. Else 409 with the facts.', r'^(\*|"[0-9]{1,19}")$')
IF_NONE_MATCH: Final = Header("If-None-Match", "* to write only where nothing is yet. Else 409 with the facts.", r"^\*$")
IF_CHANGED: Final = Header("If-None-Match", "An ETag: 304 where it still is that.", r'^"[0-9]{1,19}"$')
KEY: Final = Header("Idempotency-Key", "1 to 255 characters. The same request under it is done once, and answered alike.", r"^[!-~]{1,255}$")
LAST_ID: Final = Header("Last-Event-ID", "The id that was received last: goes before `after`.", r"^[0-9]{1,19}$")
TRACE: Final = Header("traceparent", "The W3C trace context; kept with the events.", r"^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$")


def json_answer(value: Any, status: int = 200, **headers: str) -> Response:
    """*value* as JSON, with a line end for who looks at it in a terminal."""
    return Response(as_json(value) + b"\n", status, {name.replace("_", "-"): text for name, text in headers.items()}, JSON)


def etag(number: int) -> str:
    """A seq or revision as an ETag."""
    return f'"{number}"'
