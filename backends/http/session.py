"""Requests to a daemon: each bounded in time and size, its failure told apart into what cannot have arrived and what may have.

The token goes into one header, and nowhere else: never into an error, a log or a repr.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Final, NoReturn

import httpx2
import msgspec
import trio

from perdure.backends.errors import Closed, Forbidden, Misuse, Unavailable
from perdure.backends.http import wire
from perdure.backends.http.address import TOKEN_VARIABLE, Address
from perdure.backends.http.facts import FOREIGN, class_of, error_of

CONNECT_S: Final = 5.0
ASK_S: Final = 10.0
"""A daemon that says nothing for so long is taken for gone."""
CONNECTIONS: Final = 64
IDLE_S: Final = 20.0
"""Connections are given up before a daemon does it (`idle_s`, 60): it may be just doing it when the next request is sent."""
ANSWER_BYTES: Final = 256 << 20
PROBLEM_BYTES: Final = 64 << 10
MAKES_ONE: Final = "`perdure token new` makes one, where the daemon runs"
AGAIN_S: Final = (0.05, 1.0)
"""Before a read is asked again: at first, and at most."""


class Lost(Exception):
    """No answer; what was asked for may have been done."""


class Unreached(Lost):
    """It cannot have arrived: nothing was done, and nothing will be."""


class Session:
    """Speaks to the daemon at *address*."""

    def __init__(self, address: Address, *, jitter: Callable[[], float], transport: httpx2.AsyncBaseTransport | None = None) -> None:
        self.url = address.base
        self._jitter = jitter
        headers = {"user-agent": f"perdure/{wire.VERSION}", "accept-encoding": "identity"}
        if address.token:
            headers["authorization"] = f"Bearer {address.token}"
        self._client = httpx2.AsyncClient(
            base_url=address.base,
            headers=headers,
            verify=trusted(address),
            transport=transport,
            timeout=httpx2.Timeout(ASK_S, connect=CONNECT_S),
            limits=httpx2.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS // 4, keepalive_expiry=IDLE_S),
            follow_redirects=False,
        )

    def __repr__(self) -> str:
        return f"<session with {self.url}>"

    # -- asking ------------------------------------------------------------------------------

    async def ask(
        self, method: str, path: str, said: Any, kind: Any, *, headers: Mapping[str, str] | None = None, within_s: float = ASK_S
    ) -> Any:
        """The answer to *said*, as *kind*; asked once.

        Raises:
          Unreached, Lost: there is none.
          PerdureError: what the daemon says of it.
        """
        body = b"" if said is None else wire.to_bytes(said)
        told = {"content-type": wire.MEDIA_TYPE, "accept": wire.MEDIA_TYPE, **(headers or {})}
        raw: bytes | None = None
        with trio.move_on_after(within_s), _translated():
            async with self._client.stream(method, wire.PATH + path, content=body, headers=told, timeout=_timeout(within_s)) as response:
                if response.status_code != 200:
                    _raise_problem(response.status_code, await _read(response, PROBLEM_BYTES))
                raw = await _read(response, ANSWER_BYTES)
        if raw is None:
            raise Lost(f"no answer within {within_s:g} s")
        try:
            return wire.from_bytes(raw, kind)
        except Misuse as error:
            raise Lost(f"{self.url} does not answer as a daemon does") from error

    async def ask_again(
        self, method: str, path: str, said: Any, kind: Any, *, headers: Mapping[str, str] | None = None, for_s: float, within_s: float = ASK_S
    ) -> Any:
        """The same for what changes nothing: asked until there is an answer, for *for_s* seconds.

        Raises:
          Unavailable: there was none in time.
          PerdureError: what the daemon says of it.
        """
        until, pause_s = trio.current_time() + for_s, AGAIN_S[0]
        while True:
            try:
                return await self.ask(method, path, said, kind, headers=headers, within_s=within_s)
            except (Lost, Unavailable) as error:
                if trio.current_time() + pause_s >= until:
                    raise Unavailable(f"{self.url} does not answer ({why_of(error)})", "try again") from error
            await trio.sleep(pause_s * (0.5 + self._jitter()))
            pause_s = min(pause_s * 2, AGAIN_S[1])

    # -- what lasts --------------------------------------------------------------------------

    async def begin(self, path: str, *, headers: Mapping[str, str] | None = None, quiet_s: float) -> Listening:
        """An answer that goes on, line by line; *quiet_s* without any is its end. Whoever asked for it closes it.

        Raises:
          Unreached, Lost: it does not begin.
          PerdureError: what the daemon says of it.
        """
        request = self._client.build_request("GET", wire.PATH + path, headers=headers, timeout=_timeout(ASK_S, read_s=quiet_s))
        with _translated():
            response = await self._client.send(request, stream=True)
            if response.status_code != 200:
                try:
                    _raise_problem(response.status_code, await _read(response, PROBLEM_BYTES))
                finally:
                    await Listening(response).aclose()  # noqa: ASYNC102 - shielded, and it has a limit
        return Listening(response)

    async def aclose(self) -> None:
        """Close all connections."""
        await self._client.aclose()


LINE_BYTES: Final = 64 << 10


class Listening:
    """The lines of an answer that goes on. Whoever is cancelled while it waits for one has to close it."""

    def __init__(self, response: httpx2.Response) -> None:
        self._response = response
        self._parts = response.aiter_raw()
        self._rest = b""

    def __aiter__(self) -> Listening:
        return self

    async def __anext__(self) -> bytes:
        while b"\n" not in self._rest:
            if len(self._rest) > LINE_BYTES:
                raise Lost("a line without an end")
            with _translated():
                try:
                    self._rest += await anext(self._parts)
                except StopAsyncIteration:
                    raise Lost("it has ended") from None
        line, _, self._rest = self._rest.partition(b"\n")
        return line

    async def aclose(self) -> None:
        """Hang up. Whoever leaves httpx's generators half-way leaves them to the garbage collector: a cancellation ends them all."""
        with trio.CancelScope(shield=True) as over, suppress(httpx2.HTTPError, httpx2.StreamError, StopAsyncIteration):
            over.cancel()
            while True:
                await anext(self._parts)
        with trio.move_on_after(1) as scope, suppress(httpx2.HTTPError, httpx2.StreamError):
            scope.shield = True
            await self._response.aclose()


# -- what may go wrong -----------------------------------------------------------------------


@contextmanager
def _translated() -> Iterator[None]:
    """httpx2's errors as ours."""
    try:
        yield
    except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout, httpx2.ProxyError, httpx2.UnsupportedProtocol) as error:
        raise Unreached(_told(error)) from error
    except (httpx2.HTTPError, httpx2.InvalidURL, httpx2.StreamError) as error:
        raise Lost(_told(error)) from error
    except RuntimeError as error:
        if "client has been closed" not in str(error):
            raise
        raise Closed("the store") from error


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def why_of(error: Exception) -> str:
    """What is told of *error* within another one that says what to do."""
    return error.why if isinstance(error, Unavailable) else str(error)


def _raise_problem(status: int, raw: bytes) -> NoReturn:
    """Raise what an answer that is no success says.

    Raises:
      Unreached: a daemon says that it was not begun, and may be tried again.
      Lost: it is not a daemon who says so, or it does not know.
      PerdureError: the error that it was.
    """
    try:
        problem = msgspec.json.decode(raw, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError):
        problem = {}
    name, title, detail = (str(problem.get(field, "")) for field in ("type", "title", "detail"))
    if not name.startswith(FOREIGN):
        raise Lost(f"the answer is {status}, and not a daemon's")
    said = name.removeprefix(FOREIGN)
    told = f"{title}: {detail}" if detail else title
    if said == "view-ended":
        raise Closed("the view")
    if said == "closed":
        raise Unreached(told)
    kind, facts = class_of(said), problem.get("facts")
    if kind is not None and isinstance(facts, dict):
        raise error_of(kind, facts)
    match status:
        case 401 if said == "no-token":
            raise Forbidden(title, f"give one in {TOKEN_VARIABLE}, or in a file that the URL names (?token_file=PATH); {MAKES_ONE}")
        case 401:
            raise Forbidden(title, MAKES_ONE)
        case 403 if said != "forbidden":
            raise Forbidden(title, detail)
        case 403:
            raise Forbidden(told)
        case 413:
            raise Misuse(told)
        case 408 | 429 | 503:
            raise Unavailable(title, detail)
        case _ if status < 500:
            raise Misuse(told)
        case _:
            raise Lost(told)


async def _read(response: httpx2.Response, most: int) -> bytes:
    """The whole of an answer.

    Raises:
      Lost: it has more than *most* bytes.
    """
    parts, size = [], 0
    with trio.CancelScope() as scope:
        async for part in response.aiter_raw():
            size += len(part)
            if size > most:
                scope.cancel()  # and on, until it is felt: see `Listening.aclose`
            else:
                parts.append(part)
    if size > most:
        raise Lost(f"the answer has more than {most:,} bytes")
    return b"".join(parts)


def _timeout(within_s: float, *, read_s: float | None = None) -> httpx2.Timeout:
    return httpx2.Timeout(within_s, connect=min(CONNECT_S, within_s), read=within_s if read_s is None else read_s)


def trusted(address: Address) -> ssl.SSLContext | bool:
    """Whose certificates are trusted: the system's, or those of the file; without TLS none is needed.

    Raises:
      Misuse: it cannot be read.
    """
    if not address.base.startswith("https:"):
        return False
    try:
        return ssl.create_default_context(cafile=address.ca or None)
    except (OSError, ssl.SSLError) as error:
        raise Misuse(f"the certificates ca={address.ca} cannot be loaded: {error}") from error
