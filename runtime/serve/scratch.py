"""Stores that clients have for themselves, of the same kind as the daemon's and beside it, for trying things out: `perdure conformance http://...`."""

from __future__ import annotations

import re
from contextlib import ExitStack
from typing import Final

import attrs
import trio

from perdure.backends.conformance.law import Stores
from perdure.backends.conformance.stores import KIT_LIMITS, stores_of
from perdure.runtime.open import open_runtime
from perdure.runtime.runtime import Runtime
from perdure.runtime.serve.problems import Refused

OPEN_MAX: Final = 16
"""At one time; of more, the one that was not used for longest is closed."""
NAME: Final = re.compile("[A-Za-z0-9-]{1,64}")


@attrs.define(eq=False)
class _Opened:
    end: trio.Event = attrs.field(factory=trio.Event)
    ended: trio.Event = attrs.field(factory=trio.Event)
    rt: Runtime | None = None


@attrs.define(eq=False)
class Scratch:
    """Opens them when they are asked for; `run` removes them all at its end."""

    url: str
    _nursery: trio.Nursery | None = None
    _stores: Stores | None = None
    _stack: ExitStack = attrs.field(factory=ExitStack)
    _open: dict[str, _Opened] = attrs.field(factory=dict)
    _one: trio.Lock = attrs.field(factory=trio.Lock)

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Keep them open until cancelled."""
        try:
            async with trio.open_nursery() as self._nursery:
                task_status.started()
                await trio.sleep_forever()
        finally:
            self._nursery, self._stores = None, None
            self._open.clear()
            self._stack.close()

    async def runtime(self, name: str) -> Runtime:
        """The runtime over the store of that name, which is made if there is none.

        Raises:
          Refused: the name is none, or the daemon ends.
        """
        if NAME.fullmatch(name) is None:
            raise Refused(400, "misuse", "this names no store of your own", "name it by 1 to 64 letters, digits and hyphens")
        async with self._one:
            if self._nursery is None:
                raise Refused(503, "closed", "the daemon ends", "ask again: another one may have taken over")
            opened = self._open.pop(name, None)
            if opened is None:
                while len(self._open) >= OPEN_MAX:
                    await self._close(next(iter(self._open)))
                opened = await self._nursery.start(self._keep, name)
                assert opened is not None
            self._open[name] = opened
            assert opened.rt is not None
            return opened.rt

    async def _keep(self, name: str, *, task_status: trio.TaskStatus[_Opened]) -> None:
        if self._stores is None:
            self._stores = self._stack.enter_context(stores_of(self.url, faults=False))
        opened = _Opened()
        try:
            async with self._stores.open(name) as backend, open_runtime(backend, limits=KIT_LIMITS) as opened.rt:
                task_status.started(opened)
                await opened.end.wait()
        finally:
            opened.ended.set()

    async def _close(self, name: str) -> None:
        opened = self._open.pop(name)
        opened.end.set()
        await opened.ended.wait()
