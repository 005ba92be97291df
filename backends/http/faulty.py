"""A network that fails when it is told to: between a client and a daemon that are real."""

from __future__ import annotations

import httpx2

from perdure.backends.http import wire


class FaultyTransport(httpx2.AsyncBaseTransport):
    """Carries requests, but for the commits that *next* tells of: lost before they arrive (False), or their answers on the way back (True)."""

    def __init__(self, inner: httpx2.AsyncBaseTransport) -> None:
        self._inner = inner
        self.next: list[bool] = []

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """See `httpx2.AsyncBaseTransport`."""
        if not (self.next and request.url.path.endswith(f"{wire.PATH}/commit")):
            return await self._inner.handle_async_request(request)
        if self.next.pop(0):
            response = await self._inner.handle_async_request(request)
            await response.aread()
            await response.aclose()
        raise httpx2.ReadError("cut off on purpose", request=request)

    async def aclose(self) -> None:
        """Close the one beneath."""
        await self._inner.aclose()
