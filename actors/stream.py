"""Stream actors: each stream's appends in order, and back-pressure; the facts stay the engine's.

A caller puts its request into the stream's mailbox; the actor hands what waits to the journal, each
request staying its own commit with its own answer slot. An actor that has been idle ends in one
synchronous step (mailbox empty, nobody waiting to send, out of the registry); look-up and send are
one synchronous step too, so no request can fall between.

Where nothing stands before a request, the actor's turn is taken at once, in its caller's step: its task
would take the very same step a round of the loop later (a fifth of what an append costs without the
disk, see benchmarks/). The mailbox and the task serve when the journal has no room: then order and
back-pressure are theirs.
"""

from __future__ import annotations

import trio

from perdure.actors.journal import Journal, Request
from perdure.actors.mailbox import current_actor
from perdure.backends.commit import Commit, Committed
from perdure.backends.errors import Closed, Conflict, Unavailable
from perdure.backends.limits import Limits

IDLE_S = 2.0
"""An actor without work for between one and two of these ends."""


class StreamActor:
    """One stream's mailbox and its task."""

    __slots__ = ("_journal", "busy", "name", "pending", "receive", "send")

    def __init__(self, name: str, journal: Journal, mailbox: int) -> None:
        self.name = name
        self._journal = journal
        self.send, self.receive = trio.open_memory_channel[Request](mailbox)
        self.busy = True
        """Whether it worked since the reaper last looked."""
        self.pending = 0
        """Requests in the mailbox, before it, or in the actor's hand."""

    async def run(self) -> None:
        """Hand requests on until the mailbox is closed."""
        current_actor.set(f"stream {self.name}")
        journal = self._journal
        async for request in self.receive:
            self.busy = True
            try:
                if journal.full:
                    await journal.wait_room()
                journal.enqueue(request)
            except Closed as error:
                request.fail(error)
            except Unavailable as error:
                self._fail_all(request, error)
            except trio.Cancelled:
                request.fail(Closed("the runtime"))
                raise
            finally:
                self.pending -= 1

    def _fail_all(self, request: Request, error: Unavailable) -> None:
        """Nothing gets on: those behind are told as well, instead of one after the other."""
        request.fail(error)
        while True:
            try:
                self.receive.receive_nowait().fail(Unavailable(error.why))
            except (trio.WouldBlock, trio.EndOfChannel):
                return
            self.pending -= 1

    async def put(self, request: Request) -> None:
        """Hand *request* on at once if nothing stands before it, else put it into the mailbox, waiting for room there.

        Raises:
          Closed: the runtime closes; the request was not taken.
        """
        journal = self._journal
        if self.pending == 0 and not journal.full:
            self.busy = True
            journal.enqueue(request)
            return
        self.pending += 1
        try:
            try:
                self.send.send_nowait(request)
            except trio.WouldBlock:
                await self.send.send(request)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self.pending -= 1
            raise Closed("the runtime") from None
        except trio.Cancelled:
            self.pending -= 1
            raise

    @property
    def idle(self) -> bool:
        """Whether nothing waits: in the actor's hand, in the mailbox, or before it."""
        return self.pending == 0


class Streams:
    """The registry of live stream actors; `run` is the task whose nursery they live in."""

    def __init__(self, journal: Journal, limits: Limits) -> None:
        self._journal = journal
        self._limits = limits
        self._actors: dict[str, StreamActor] = {}
        self._nursery: trio.Nursery | None = None
        self._closed = False

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Live until closed; ends idle actors."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            while not self._closed:
                await trio.sleep(IDLE_S)
                self._reap()

    async def commit(self, stream: str, commit: Commit) -> Committed | Conflict:
        """The answer to a commit that appends to *stream*. See `Journal.commit` for what is raised and what a cancelled call has done."""
        self._journal.refuse_fork()
        request = Request(commit)
        actor = self._actors.get(stream) or self._start(stream)
        if actor is None:
            return await self._journal.commit(commit)
        await actor.put(request)
        return await request.wait()

    def _start(self, stream: str) -> StreamActor | None:
        """A new actor; None when as many live as may, then the journal serves the caller directly."""
        if self._closed or self._nursery is None:
            raise Closed("the runtime")
        if len(self._actors) >= self._limits.stream_actors:
            self._reap(all_idle=True)
            if len(self._actors) >= self._limits.stream_actors:
                return None
        actor = self._actors[stream] = StreamActor(stream, self._journal, self._limits.mailbox)
        self._nursery.start_soon(actor.run, name=f"stream {stream}")
        return actor

    def _reap(self, *, all_idle: bool = False) -> None:
        for name, actor in list(self._actors.items()):
            if actor.idle and (all_idle or not actor.busy):
                del self._actors[name]
                actor.send.close()
            actor.busy = False

    def close(self) -> None:
        """No more requests; those that wait get `Closed`."""
        self._closed = True
        for actor in self._actors.values():
            while True:
                try:
                    actor.receive.receive_nowait().fail(Closed("the runtime"))
                except (trio.WouldBlock, trio.EndOfChannel, trio.ClosedResourceError):
                    break
            actor.send.close()
            actor.receive.close()
        self._actors.clear()
        if self._nursery is not None:
            self._nursery.cancel_scope.cancel()

    def __len__(self) -> int:
        return len(self._actors)

    def depths(self) -> dict[str, int]:
        """Requests waiting in each live actor's mailbox."""
        return {name: actor.send.statistics().current_buffer_used for name, actor in self._actors.items()}
