"""Laws of keeping snapshots."""

from __future__ import annotations

from perdure.backends.commit import Check, Committed, Put, SaveSnapshot
from perdure.backends.conformance.law import Desk, Part, Stores, appending, holds, is_a, new_name, open_desk, same
from perdure.backends.errors import Conflict
from perdure.backends.event import Position
from perdure.backends.protocol import Snapshot

PART = Part("snapshots")


def _save(name: str, position: int, state: bytes = b"", drop: tuple[int, ...] = ()) -> SaveSnapshot:
    return SaveSnapshot(name, Position(position), "print", state or b"at %d" % position, tuple(Position(place) for place in drop))


async def _read(desk: Desk, name: str, at_most: int | None = None) -> tuple[int, bytes] | None:
    snapshot = await desk.backend.read_snapshot(name, at_most=None if at_most is None else Position(at_most))
    return None if snapshot is None else (snapshot.position, snapshot.state)


@PART.store("A snapshot is a projection's state with the position it stands at and its fingerprint, kept as it was.")
async def a_snapshot_is_kept(desk: Desk) -> None:
    await desk.append("a", 5)
    at_us = await desk.backend.now_us() + 1_000_000
    state = bytes(range(256)) * 40

    same(await desk.backend.read_snapshot("s"), None, "a snapshot that was never saved")
    answer = await desk.done(SaveSnapshot("s", Position(5), "finger ü", state), at_us=at_us)

    same(answer, Committed(None, ()), "the answer")
    same(await desk.backend.read_snapshot("s"), Snapshot("s", Position(5), "finger ü", state, at_us), "the snapshot")


@PART.store("`read_snapshot` gives the newest, or the newest not beyond `at_most`.")
async def the_newest_snapshot_is_read(desk: Desk) -> None:
    await desk.append("a", 40)
    for position in (10, 30, 20):
        await desk.done(_save("s", position))

        newest = max(await desk.backend.snapshots("s"))
        same(await _read(desk, "s"), (newest, b"at %d" % newest), "the newest snapshot")

    expected: dict[int, int | None] = {0: None, 9: None, 10: 10, 11: 10, 19: 10, 20: 20, 29: 20, 30: 30, 99: 30}
    for at_most, place in expected.items():
        same(await _read(desk, "s", at_most), None if place is None else (place, b"at %d" % place), f"the snapshot at most {at_most}")


@PART.store("A snapshot ladder is kept by dropping older rungs in the commit that saves the new one.")
async def rungs_are_dropped(desk: Desk) -> None:
    await desk.append("a", 40)
    for position in (10, 20, 30):
        await desk.done(_save("s", position))

    await desk.done(_save("s", 40, drop=(10, 30, 35)))

    same(await desk.backend.snapshots("s"), [20, 40], "the list of positions")
    same(await _read(desk, "s", 39), (20, b"at 20"), "the snapshot at most 39")
    same(await _read(desk, "s", 19), None, "the snapshot at most 19")


@PART.store("Snapshots are listed by position, oldest first.")
async def snapshots_are_listed(desk: Desk) -> None:
    same(await desk.backend.snapshots("s"), [], "the list of a name without any")
    await desk.append("a", 300)
    for position in (300, 1, 256, 255, 2):
        await desk.done(_save("s", position))

    same(await desk.backend.snapshots("s"), [1, 2, 255, 256, 300], "the list of positions")


@PART.store("Snapshots of one name are apart from those of another.")
async def names_are_apart(desk: Desk) -> None:
    await desk.append("a", 9)
    for number, name in enumerate(("s", "s2", "s s", "t", "ü"), start=1):
        await desk.done(_save(name, number, name.encode()))
    await desk.done(_save("s", 9, drop=(1, 2, 3)))

    same(await _read(desk, "s2"), (2, b"s2"), "the snapshot of the longer name")
    same([await desk.backend.snapshots(name) for name in ("s", "s2", "s s", "t", "ü", "u")], [[9], [2], [3], [4], [5], []], "the lists")


@PART.store("A snapshot saved again at the same position takes the place of the first.")
async def the_same_position_is_replaced(desk: Desk) -> None:
    await desk.append("a", 5)
    await desk.done(_save("s", 5, b"one"))
    await desk.done(_save("s", 5, b"two"))

    same((await _read(desk, "s"), await desk.backend.snapshots("s")), ((5, b"two"), [5]), "snapshot and list")


@PART.store("State and checkpoint are one commit: the loser of the compare-and-set saves no snapshot.")
async def the_loser_saves_nothing(desk: Desk) -> None:
    await desk.append("a", 5)
    await desk.done(_save("s", 2), Put("$checkpoints", b"s", b"2", 0))

    is_a(await desk.ask(_save("s", 5, drop=(2,)), Put("$checkpoints", b"s", b"5", 0)), Conflict)
    is_a(await desk.ask(_save("s", 5, drop=(2,)), Check(4, stream="a")), Conflict)
    same(await desk.backend.snapshots("s"), [2], "the list after the conflicts")
    await desk.done(_save("s", 5, drop=(2,)), Put("$checkpoints", b"s", b"5", 1))

    same(await _read(desk, "s"), (5, b"at 5"), "the snapshot")


@PART.law("A snapshot is durable with its commit; a stale one never comes back.")
async def a_snapshot_is_durable(stores: Stores) -> None:
    name = new_name()
    async with open_desk(stores, name) as desk:
        if not desk.backend.capabilities.durable:
            return
        for position in (1, 2, 3):
            await desk.done(appending("a"), _save("s", position, drop=(position - 1,)))
    async with open_desk(stores, name) as desk:
        same((await _read(desk, "s"), await desk.backend.snapshots("s")), ((3, b"at 3"), [3]), "snapshot and list after reopening")


@PART.store("The newest snapshot is what the last commit saved, each time it is asked for.")
async def a_snapshot_is_never_stale(desk: Desk) -> None:
    for position in range(1, 20):
        await desk.done(appending("a"), _save("s", position, drop=(position - 3,) if position > 3 else ()))

        same(await _read(desk, "s"), (position, b"at %d" % position), "the newest snapshot")
        holds(len(await desk.backend.snapshots("s")) <= 3, "dropped snapshots are still there")


@PART.store("Large states are kept as well: 1 MiB.")
async def a_large_state_is_kept(desk: Desk) -> None:
    await desk.append("a", 2)
    for position in (1, 2):
        await desk.done(_save("s", position, b"%d" % position * (1 << 20)))

    holds(await _read(desk, "s", 1) == (1, b"1" * (1 << 20)), "the first state came back otherwise")
    holds(await _read(desk, "s") == (2, b"2" * (1 << 20)), "the second state came back otherwise")
