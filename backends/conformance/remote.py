"""Stores to hold the laws against behind a daemon, also with connections that break when they are told to."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx2
import trio

from perdure.backends.conformance.law import LAW_S
from perdure.backends.http import open_http
from perdure.backends.http.address import read_url
from perdure.backends.http.faulty import FaultyTransport
from perdure.backends.http.session import trusted
from perdure.backends.limits import Limits
from perdure.backends.protocol import Backend


class RemoteStores:
    """`http://...`, each named store beside that of the daemon."""

    law_s = 4 * LAW_S
    """Each commit is a request, and some laws make thousands."""

    def __init__(self, url: str, limits: Limits) -> None:
        self._url = url
        self._limits = limits
        self._ours = os.urandom(4).hex()
        self._transports: dict[Backend, FaultyTransport] = {}
        self._opened: dict[str, int] = {}
        """How many have a store open,"""
        self._lives: dict[str, int] = {}
        """and how often one was forgotten, where they are not durable."""

    @asynccontextmanager
    async def open(self, name: str) -> AsyncIterator[Backend]:
        transport = FaultyTransport(httpx2.AsyncHTTPTransport(verify=trusted(read_url(self._url, "", {}, str))))
        backend = await open_http(self._url, limits=self._limits, transport=transport, scratch=self._named(name))
        self._transports[backend] = transport
        self._opened[name] = self._opened.get(name, 0) + 1
        try:
            yield backend
        finally:
            del self._transports[backend]
            self._opened[name] -= 1
            if not (self._opened[name] or backend.capabilities.durable):
                self._lives[name] = self._lives.get(name, 0) + 1  # the daemon still has it
            with trio.CancelScope(shield=True):
                await backend.aclose()

    def _named(self, name: str) -> str:
        return f"{self._ours}-{self._lives.get(name, 0)}-{name}"


class FaultyRemoteStores(RemoteStores):
    """The same, whose connections break when they are told to."""

    def fail_flush(self, backend: Backend, *, stored: bool) -> None:
        """Let the connection of *backend* break at its next commit, before it arrives or after it is done."""
        self._transports[backend].next.append(stored)


def remote_stores(url: str, limits: Limits, *, faults: bool) -> RemoteStores:
    """Stores of our own at the daemon of *url*."""
    return FaultyRemoteStores(url, limits) if faults else RemoteStores(url, limits)
