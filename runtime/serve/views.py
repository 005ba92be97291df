"""Views that clients hold open: each lives in the request that opened it, and all that is read of it is read there."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from typing import Any, Final

import attrs
import outcome
import trio

from perdure.backends.protocol import Reads
from perdure.runtime.serve.problems import Refused

VIEWS_MAX: Final = 64
"""At one time. Each keeps an old state of the store alive, for `limits.view_s` at most."""

Work = Callable[[Reads], Awaitable[Any]]


def ended() -> Refused:
    """The refusal of whoever asks too late."""
    return Refused(410, "view-ended", "the view has ended", "open another one")


@attrs.define(eq=False)
class _Job:
    work: Work
    done: trio.Event = attrs.field(factory=trio.Event)
    result: outcome.Outcome[Any] = attrs.field(factory=lambda: outcome.Error(ended()))


@attrs.define(eq=False)
class Views:
    """Those that are open, by name."""

    _open: dict[str, trio.MemorySendChannel[_Job]] = attrs.field(factory=dict)

    async def hold(self, view: Reads, told: Callable[[str], Awaitable[None]]) -> None:
        """Do what is asked of *view*, until cancelled; its name is *told*."""
        name = secrets.token_hex(16)
        send, receive = trio.open_memory_channel[_Job](0)
        self._open[name] = send
        job: _Job | None = None
        try:
            with receive:
                await told(name)
                async for job in receive:
                    try:
                        job.result = outcome.Value(await job.work(view))
                    except Exception as error:
                        job.result = outcome.Error(error)
                    job.done.set()
        finally:
            del self._open[name]
            if job is not None:
                job.done.set()

    def check_room(self) -> None:
        """Whether there may be one more.

        Raises:
          Refused: there are too many.
        """
        if len(self._open) >= VIEWS_MAX:
            raise Refused(503, "busy", "too many views are open", "try again")

    async def ask(self, name: str, work: Work) -> Any:
        """What *work* gives of the view of that name.

        Raises:
          Refused: it has ended.
        """
        send, job = self._open.get(name), _Job(work)
        if send is None:
            raise ended()
        try:
            await send.send(job)
        except trio.BrokenResourceError:
            raise ended() from None
        await job.done.wait()
        return job.result.unwrap()
