"""Leases: the right to run something in one process at a time. When one may be taken is in `claim`; this carries it out.

A runtime says what it wants with a `Claim`, and keeps it for as long as it wants it: the claim is held, lost, and held again as
things go. One beat speaks for all leases of a runtime, and is written only while it holds any. Nothing here makes anything safe: that
does the fence, checked by the engine in every commit of the holder. A lease only sees to it that somebody is there.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable

import trio

from perdure.actors import claim as claims
from perdure.actors.claim import Beat, Lease, Sightings
from perdure.backends.commit import BEATS, EXISTS, LEASES, Committed, Delete, Fence, Stored, Write
from perdure.backends.environment import Environment
from perdure.backends.errors import Closed, Compacted, Conflict, PerdureError
from perdure.backends.limits import Limits
from perdure.backends.processes import told
from perdure.backends.protocol import Backend

log = logging.getLogger("perdure.lease")

SETTLE_S = 0.05
"""Changes of kv wake whoever waits for a lease: it looks whether one is of leases so often at most."""
PAGE = 1_000

Commit = Callable[[list[Write]], Awaitable[Committed | Conflict]]


def _nothing() -> None:
    """Nobody is to be told."""


class Claim:
    """A wish for the lease *name*, and the lease while it is held. Made by `Leases.claim`; given back by `Leases.release`."""

    def __init__(self, name: str, leases: Leases, wake: Callable[[], None]) -> None:
        self.name = name
        self.number = 0
        """The fence; 0 while it is not held."""
        self.process = ""
        """Who holds it, as last seen."""
        self._leases = leases
        self._wake = wake

    @property
    def held(self) -> bool:
        """Whether it is ours, as far as is known: others may have taken it while this process was held up. A commit with `fence` finds out."""
        return self.number > 0

    @property
    def fresh(self) -> bool:
        """Whether it is held, and nobody can have taken it yet, unless clocks run at very different speeds."""
        return self.number > 0 and trio.current_time() < self._leases.until_s

    @property
    def fence(self) -> Fence:
        """What every commit of the holder carries: a conflict once the lease is another's."""
        return Fence(self.name, self.number)

    async def wait_fresh(self) -> None:
        """Return when it is held, and surely so.

        Raises:
          Closed: the runtime closes.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        while not self.fresh:
            await self._leases.wait_moved()

    def lose(self) -> None:
        """A commit with its fence was a conflict: it is another's."""
        self._leases.lost(self)

    def set(self, number: int, process: str) -> None:
        """It is held with this fence, or (0) not; whoever asked for it is told."""
        self.number, self.process = number, process
        self._wake()

    def expired(self) -> None:
        """It may not be ours any more."""
        self._wake()


class Leases:
    """The claims of one runtime: takes what is free, beats for what it holds, and watches the owners of the rest."""

    def __init__(self, backend: Backend, commit: Commit, environment: Environment, limits: Limits) -> None:
        self.until_s = float("-inf")
        """Until then nobody takes what we hold."""
        self.process = ""
        self._backend = backend
        self._commit = commit
        self._environment = environment
        self._lease_s = limits.lease_s
        self._claims: dict[str, deque[Claim]] = {}
        """Of each name the first one may be held, the others wait for it."""
        self._owed: dict[str, int] = {}
        """Fences of leases that are to be given back, and could not be yet."""
        self._me = environment.ids().hex()
        self._beating = False
        """Whether our beat is in the store."""
        self._sightings = Sightings()
        self._lot = trio.lowlevel.ParkingLot()
        self._asked = trio.Event()
        self._looks = 0
        self._turn = trio.Lock()
        """Whoever writes to our beat or our leases has it: what is believed of them is what is stored."""
        self._closed = False

    # -- for whoever wants one ---------------------------------------------------------------

    def claim(self, name: str, wake: Callable[[], None] = _nothing) -> Claim:
        """A wish for the lease *name*, from now on; *wake* is called when it is held, lost, or may be."""
        if self._closed:
            raise Closed("the runtime")
        claim = Claim(name, self, wake)
        self._claims.setdefault(name, deque()).append(claim)
        self._asked.set()
        return claim

    async def release(self, claim: Claim) -> None:
        """Give it back, at once; idempotent. What the store does not take now is given back as soon as it does."""
        queue = self._claims.get(claim.name, deque())
        if claim not in queue:
            return
        queue.remove(claim)
        if not queue:
            del self._claims[claim.name]
        if claim.held:
            self._owed[claim.name] = claim.number
            claim.set(0, "")
            try:
                await self._give_back()
            except Closed:
                pass
            except PerdureError as error:
                log.warning("the lease %s is given back later: %s", claim.name, error)
                self._moved()

    def lost(self, claim: Claim) -> None:
        """See `Claim.lose`."""
        if claim.held:
            log.warning("the lease %s was lost: another process has it", claim.name)
            claim.set(0, "")
            self._moved()

    async def wait_moved(self) -> None:
        """Return when a claim has become held or lost, or a beat was written.

        Raises:
          Closed: the runtime closes.
        """
        if self._closed:
            raise Closed("the runtime")
        await self._lot.park()
        if self._closed:
            raise Closed("the runtime")

    async def wait_looked(self) -> None:
        """Return when what is claimed now was tried for once."""
        looks = self._looks
        while self._looks == looks and self._wanted() and not self._closed:
            await self._lot.park()

    def held(self) -> list[Claim]:
        """Those that are held now."""
        return [queue[0] for queue in self._claims.values() if queue[0].held]

    def _wanted(self) -> list[Claim]:
        return [queue[0] for name, queue in self._claims.items() if not queue[0].held and name not in self._owed]

    def _moved(self) -> None:
        self._asked.set()
        self._lot.unpark_all()

    # -- its tasks ---------------------------------------------------------------------------

    async def run(self) -> None:
        """Until closed."""
        async with trio.open_nursery() as nursery:
            for task in (self._watch, self._keep_beating, self._expire):
                nursery.start_soon(self._until_closed, task)

    async def _until_closed(self, task: Callable[[], Awaitable[None]]) -> None:
        while not self._closed:
            try:
                await task()
            except Closed:
                return
            except PerdureError as error:
                log.warning("leases wait for the store: %s", error)
                await trio.sleep(self._lease_s * claims.RETRY_SHARE)

    async def _watch(self) -> None:
        """Look at what is wanted and not held, again and again."""
        while not self._closed:
            self._asked = trio.Event()
            if not self._wanted():
                await self._asked.wait()
                continue
            revision = await self._backend.revision()
            try:
                look_s = await self._look()
            finally:
                self._looks += 1
                self._lot.unpark_all()
            if self._wanted():
                await self._pause(revision, look_s)

    async def _pause(self, revision: int, look_s: float) -> None:
        """Until a lease changes, another one is asked for, or so long."""
        with trio.move_on_after(look_s):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._wait_asked, nursery.cancel_scope)
                while (examined := await self._examine(revision)) is not None:
                    revision = examined
                    await trio.sleep(SETTLE_S)
                    await self._backend.wait_changed(revision)
                nursery.cancel_scope.cancel()

    async def _examine(self, revision: int) -> int | None:
        """How far there is no change of a lease beyond *revision*; None: there is one."""
        try:
            changes = await self._backend.read_changes(LEASES, after=revision, limit=1)
        except Compacted:
            return None
        return None if changes.changes else changes.examined

    async def _wait_asked(self, scope: trio.CancelScope) -> None:
        await self._asked.wait()
        scope.cancel()

    async def _keep_beating(self) -> None:
        """While anything is held."""
        while not self._closed:
            if not (self._beating or self._owed):
                await self.wait_moved()
            elif self._owed:
                await self._give_back()
            else:
                await self._beat_when_due()

    async def _beat_when_due(self) -> None:
        due_s = self.until_s - self._lease_s * (claims.HELD_SHARE - claims.BEAT_SHARE)
        with trio.move_on_at(due_s) as early:
            await self.wait_moved()
        if early.cancelled_caught and self._beating:
            await self._beat()

    async def _beat(self) -> None:
        async with self._turn:
            if not self._beating:
                return
            began_s = trio.current_time()
            if isinstance(await self._commit([claims.beat(self._me, self.process, self._lease_s, beating=True)]), Conflict):
                self._thrown_out()
            else:
                self._renewed(began_s)

    async def _expire(self) -> None:
        """Tell holders when the beats do not get through for too long."""
        while not self._closed:
            if self.held() and trio.current_time() < self.until_s:
                await trio.sleep_until(self.until_s)
                continue
            for claim in self.held():
                claim.expired()
            await self.wait_moved()

    # -- taking ------------------------------------------------------------------------------

    async def _look(self) -> float:
        """Take what may be taken of what is wanted; how soon to look again."""
        wanted = {claim.name: claim for claim in self._wanted()}
        leases = {name: lease for name in wanted if (lease := await read_lease(self._backend, name)) is not None}
        owners = sorted({lease.owner for lease in leases.values()} - {self._me})
        beats = {owner: beat for owner in owners if (beat := await read_beat(self._backend, owner)) is not None}
        self._sightings.note(beats.values(), now_s := trio.current_time())
        planned = claims.plan(
            list(wanted),
            leases,
            beats,
            me=self._me,
            sightings=self._sightings,
            now_s=now_s,
            gone=self._environment.processes.gone,
        )
        for name, claim in wanted.items():
            owner = beats.get(leases[name].owner) if name in leases else None
            claim.process = "" if owner is None else owner.process
        if planned.take:
            async with self._turn:
                return await self._take(planned, leases, wanted)
        return planned.look_s

    async def _take(self, planned: claims.Plan, leases: dict[str, Lease], wanted: dict[str, Claim]) -> float:
        left = await self._left_by({beat.owner for beat in planned.over}) if planned.over else []
        self.process = self._environment.processes.mine()
        began_s = trio.current_time()
        writes = claims.take(planned, leases, left, me=self._me, process=self.process, lease_s=self._lease_s, beating=self._beating)
        answer = await self._commit(writes)
        if isinstance(answer, Conflict):
            await self._find_beat()
            return 0.0  # something has moved: it is read again
        self._beating = True
        stored = answer.parts[0]
        assert isinstance(stored, Stored)
        for beat in planned.over:
            if self._environment.processes.gone(beat.process):
                log.info("%s has ended: its leases are taken", told(beat.process))
            else:
                log.warning("%s gave no sign of life for %g s: its leases are taken", told(beat.process), beat.lease_s)
        for name in planned.take:
            claim = wanted[name]
            if self._claims.get(name, deque([None]))[0] is claim:
                claim.set(stored.revision, self.process)
            else:  # withdrawn meanwhile
                self._owed[name] = stored.revision
        self._renewed(began_s)
        return planned.look_s

    async def _left_by(self, owners: set[str]) -> list[Lease]:
        """The leases of owners that are over: what nobody wants goes too."""
        entries = await self._backend.scan(LEASES, limit=PAGE)
        found = [Lease.read(entry.key.decode(), entry.value, entry.revision) for entry in entries]
        return [lease for lease in found if lease.owner in owners]

    async def _find_beat(self) -> None:
        """After a conflict: whether our beat is there, and was meant to be."""
        there = await self._backend.get(BEATS, self._me.encode()) is not None
        if self._beating and not there:
            self._thrown_out()
        self._beating = there

    def _renewed(self, began_s: float) -> None:
        self.until_s = began_s + self._lease_s * claims.HELD_SHARE
        self._lot.unpark_all()

    def _thrown_out(self) -> None:
        """This runtime was silent for too long, and another one has taken what it held: it begins anew, under another name."""
        self._me, self._beating, self.until_s = self._environment.ids().hex(), False, float("-inf")
        held = self.held()
        if held:
            log.warning("another process has taken the leases of this one, which gave no sign of life: %s", ", ".join(claim.name for claim in held))
        for claim in held:
            claim.set(0, "")
        self._owed.clear()
        self._moved()

    # -- giving back -------------------------------------------------------------------------

    async def _give_back(self) -> None:
        """What is owed; with the last one the beat ends."""
        async with self._turn:
            for name, fence in list(self._owed.items()):
                writes, last = claims.release(name, fence), not self._claims and len(self._owed) == 1
                if last:
                    writes.append(Delete(BEATS, self._me.encode()))
                answer = await self._commit(writes)
                self._owed.pop(name, None)
                self._beating = self._beating and (not last or isinstance(answer, Conflict))
                self._moved()

    async def close(self) -> None:
        """Give everything back, in one commit. Nothing can be claimed any more."""
        if self._closed:
            return
        self._closed = True
        self._moved()
        held = {**self._owed, **{claim.name: claim.number for claim in self.held()}}
        for claim in self.held():
            claim.set(0, "")
        async with self._turn:
            if not self._beating:
                return
            writes: list[Write] = [Delete(BEATS, self._me.encode(), EXISTS)]
            for name, fence in held.items():
                writes += claims.release(name, fence)
            if isinstance(await self._commit(writes), Conflict):
                log.warning("leases were lost before they could be given back")


class Owner:
    """Who holds the lease *name*, seen from where nobody wants it."""

    def __init__(self, backend: Backend, name: str) -> None:
        self._backend = backend
        self._name = name
        self._sightings = Sightings()

    async def lives(self) -> bool:
        """Whether somebody holds it, and was not silent for its lease time since this was first asked."""
        lease = await read_lease(self._backend, self._name)
        beat = None if lease is None else await read_beat(self._backend, lease.owner)
        if beat is None:
            return False
        self._sightings.note([beat], now_s := trio.current_time())
        return self._sightings.left_s(beat, now_s) > 0


async def read_lease(backend: Backend, name: str) -> Lease | None:
    """The lease as it is kept."""
    entry = await backend.get(LEASES, name.encode())
    return None if entry is None else Lease.read(name, entry.value, entry.revision)


async def read_beat(backend: Backend, owner: str) -> Beat | None:
    """The beat of an owner."""
    entry = await backend.get(BEATS, owner.encode()) if owner else None
    return None if entry is None else Beat.read(owner, entry.value, entry.revision)
