"""Leases as they are kept, and when one may be taken: pure.

    $leases   NAME    fence, 8 bytes, big end first; owner        who may run NAME
    $beats    OWNER   its lease time, milliseconds, 8 bytes;      written anew by the owner again and again
                      its process, as `Processes` names it

An owner is a runtime; however many leases it holds, its beat is one entry. A lease is free when there is no entry of it, or when
its owner has no beat. An owner whose beat was seen unchanged for its lease time, on the clock of who looks, is over: whoever finds that
deletes its beat, as it was seen, in the commit that takes its leases. So an owner is thrown out whole or not at all, its next beat
finds nothing to write over, and no clocks are compared. Taking a lease puts `NEW_FENCE`, which becomes the revision of that
commit: whatever its last owner still commits is a conflict.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

import attrs

from perdure.backends.commit import BEATS, EXISTS, LEASES, NEW_FENCE, Check, Delete, Fence, Put, Write

BEAT_SHARE: Final = 1 / 3
"""A beat is due after so much of the lease time."""
HELD_SHARE: Final = 0.7
"""An owner that could not beat for so much of it takes itself for one that holds nothing, well before others may."""
RETRY_SHARE: Final = 0.05
"""What the store did not take is tried again after so much of it."""
LOOK_SHARE: Final = 0.1
LOOK_MAX_S: Final = 1.0
LOOK_MIN_S: Final = 0.001
"""Beats of others are looked at so often: nobody is woken for them; and not sooner, since what is left of a lease time may be too little to move a clock."""


@attrs.frozen
class Lease:
    """A lease as it is kept; *revision* is that of its entry."""

    name: str
    fence: int
    owner: str
    revision: int

    @classmethod
    def read(cls, name: str, value: bytes, revision: int) -> Lease:
        """The lease of an entry."""
        return cls(name, int.from_bytes(value[:8], "big"), value[8:].decode(errors="replace"), revision)


@attrs.frozen
class Beat:
    """An owner's sign of life as it was read: *revision* moves with each; *process* is where it lives."""

    owner: str
    revision: int
    process: str
    lease_s: float

    @classmethod
    def read(cls, owner: str, value: bytes, revision: int) -> Beat:
        """The beat of an entry."""
        return cls(owner, revision, value[8:].decode(errors="replace"), int.from_bytes(value[:8], "big") / 1000)


@attrs.define
class Sightings:
    """Since when each owner's beat is seen as it is, on the clock of who looks."""

    _seen: dict[str, tuple[int, float]] = attrs.field(factory=dict)

    def note(self, beats: Iterable[Beat], now_s: float) -> None:
        """These are the beats there are now; others are forgotten."""
        before, self._seen = self._seen, {}
        for beat in beats:
            seen = before.get(beat.owner)
            self._seen[beat.owner] = seen if seen is not None and seen[0] == beat.revision else (beat.revision, now_s)

    def left_s(self, beat: Beat, now_s: float) -> float:
        """How long it has until it is over, if it stays silent."""
        return beat.lease_s - (now_s - self._seen[beat.owner][1])


@attrs.frozen
class Plan:
    """What to do about leases that are wanted: *take* some, whose owners are *over*; look again after *look_s*."""

    take: tuple[str, ...]
    over: tuple[Beat, ...]
    look_s: float


def plan(
    wanted: Sequence[str],
    leases: Mapping[str, Lease],
    beats: Mapping[str, Beat],
    *,
    me: str,
    sightings: Sightings,
    now_s: float,
    gone: Callable[[str], bool],
) -> Plan:
    """Judge the *wanted* names by what was read: the *leases* there are, and the *beats* of their owners."""
    over: dict[str, Beat] = {}
    take: list[str] = []
    look_s = LOOK_MAX_S
    for name in wanted:
        lease = leases.get(name)
        beat = None if lease is None else beats.get(lease.owner)
        if lease is None or beat is None or lease.owner == me:
            take.append(name)
            continue
        left_s = sightings.left_s(beat, now_s)
        if left_s <= 0 or gone(beat.process):
            over[beat.owner] = beat
            take.append(name)
        else:
            look_s = min(look_s, max(left_s, LOOK_MIN_S), beat.lease_s * LOOK_SHARE)
    return Plan(tuple(take), tuple(over.values()), look_s)


# -- what is written -------------------------------------------------------------------------


def take(plan: Plan, leases: Mapping[str, Lease], left: Iterable[Lease], *, me: str, process: str, lease_s: float, beating: bool) -> list[Write]:
    """One commit that does what is planned; a conflict if anything has moved since. *left* are the other leases of owners that are over."""
    writes = [beat(me, process, lease_s, beating=beating)]
    writes += [Delete(BEATS, owner.owner.encode(), owner.revision) for owner in plan.over]
    dead = {owner.owner for owner in plan.over}
    absent = {lease.owner for name in plan.take if (lease := leases.get(name)) is not None} - dead - {me}
    writes += [Check(0, bucket=BEATS, key=owner.encode()) for owner in sorted(absent) if owner]
    for name in plan.take:
        lease = leases.get(name)
        writes.append(Put(LEASES, name.encode(), NEW_FENCE + me.encode(), 0 if lease is None else lease.revision))
    writes += [Delete(LEASES, lease.name.encode(), lease.revision) for lease in left if lease.name not in plan.take]
    return writes


def beat(me: str, process: str, lease_s: float, *, beating: bool) -> Write:
    """A sign of life: a conflict if this owner was thrown out, or (the first one) is there already."""
    value = round(lease_s * 1000).to_bytes(8, "big") + process.encode()
    return Put(BEATS, me.encode(), value, EXISTS if beating else 0)


def release(name: str, fence: int) -> list[Write]:
    """Give a lease back: a conflict if it was lost."""
    return [Fence(name, fence), Delete(LEASES, name.encode())]
