"""Laws of kv as a program sees it."""

from __future__ import annotations

import trio

from perdure.backends.commit import Delete, Put, Stored
from perdure.backends.conformance.abilities import MovesClock
from perdure.backends.conformance.law import fails, holds, is_a, new_name, refused, same
from perdure.backends.environment import Environment, wall_us
from perdure.backends.errors import Compacted, Conflict, Misuse
from perdure.backends.protocol import Backend
from perdure.runtime.conformance.kit import Happened, RuntimePart
from perdure.runtime.kv import Changed, Watch
from perdure.runtime.open import open_runtime
from perdure.runtime.runtime import Runtime

PART = RuntimePart("runtime kv")


async def _soon(watch: Watch[int], count: int) -> list[Changed[int]]:
    with trio.fail_after(5):  # noqa: ASYNC100 - it waits in the comprehension
        return [await anext(watch) for _ in range(count)]


@PART.runtime("`get`, `put`, `delete` and `scan`; a value comes back as it went, with its revision.")
async def values_come_back(rt: Runtime) -> None:
    bucket = rt.kv("profiles", Happened)
    same(await bucket.get("x"), None, "an absent entry")
    stored = is_a(await bucket.put("x", Happened(1, "ä")), Stored)
    entry = await bucket.get("x")
    same((entry and entry.key, entry and entry.value, entry and entry.revision), ("x", Happened(1, "ä"), stored.revision), "the entry")
    is_a(await bucket.delete("x"), Stored)
    same(await bucket.get("x"), None, "the deleted entry")


@PART.runtime("With `expected` (a revision, 0: absent) the answer is `Stored` or `Conflict`.")
async def expectations_hold(rt: Runtime) -> None:
    bucket = rt.kv("k", int)
    first = is_a(await bucket.put("x", 1, expected=0), Stored)
    is_a(await bucket.put("x", 2, expected=0), Conflict)
    second = is_a(await bucket.put("x", 2, expected=first.revision), Stored)
    conflict = is_a(await bucket.delete("x", expected=first.revision), Conflict)
    same((conflict.what, conflict.actual), ("entry", second.revision), "the conflict")
    is_a(await bucket.delete("x", expected=second.revision), Stored)
    for key in ("", b"bytes", 5, "\ud800"):
        await fails(Misuse, bucket.put(key, 1), f"key {key!r}")  # type: ignore[arg-type]  # wrong on purpose


@PART.runtime("One type per bucket, stored without a type name; a value of another type is `Misuse`.")
async def a_bucket_has_one_type(rt: Runtime) -> None:
    bucket = rt.kv("k", dict[str, list[Happened]])
    await bucket.put("x", {"a": [Happened(1)]})
    await rt.transact(Put(bucket.name, "y", {"b": []}), Put("k", "z", {"c": [Happened(2)]}))
    same([entry.value for entry in (await bucket.scan()).entries], [{"a": [Happened(1)]}, {"b": []}, {"c": [Happened(2)]}], "the values")
    same(rt.kv("k", dict[str, list[Happened]]), bucket, "the bucket opened again")
    refused(Misuse, lambda: rt.kv("k", int), "the bucket with another type")
    refused(Misuse, lambda: rt.kv("$own", int), "a reserved bucket")
    await fails(Misuse, rt.kv("n", int).put("x", "text"), "a text in a bucket of numbers")  # type: ignore[arg-type]  # wrong on purpose


@PART.runtime("A scan gives entries in order of their keys' bytes, by prefix, all of one moment, with the revision to watch from.")
async def a_scan_is_of_one_moment(rt: Runtime) -> None:
    bucket = rt.kv("k", int)
    for number, key in enumerate(("b", "a/2", "a/1", "ä", "a")):
        await bucket.put(key, number)
    found = await bucket.scan("a")
    same([entry.key for entry in found.entries], ["a", "a/1", "a/2"], "the keys with prefix a")
    same([entry.key for entry in (await bucket.scan(after="a/1", limit=2)).entries], ["a/2", "b"], "two after a/1")
    same(found.revision, await rt.backend.revision(), "the scan's revision")


@PART.runtime("`watch` yields `Changed(key, revision, entry | None)` in revision order, deletes included, then waits.")
async def a_watch_yields_changes(rt: Runtime) -> None:
    bucket = rt.kv("k", int)
    await bucket.put("x", 1)
    await bucket.put("y", 2)
    await bucket.delete("x")
    watch = bucket.watch()
    found = await _soon(watch, 2)
    same([(one.key, one.revision, one.entry and one.entry.value) for one in found], [("y", 2, 2), ("x", 3, None)], "the changes")
    with trio.move_on_after(0.05) as scope:
        await anext(watch)
    holds(scope.cancelled_caught, "a watch without news does not wait")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bucket.put, "z", 3)
        same([one.key for one in await _soon(watch, 1)], ["z"], "the change that came")


@PART.runtime("Coalesced: of several changes of a key at least the last.")
async def a_watch_misses_no_last_change(rt: Runtime) -> None:
    bucket, seen = rt.kv("k", int), dict[str, int | None]()
    async with trio.open_nursery() as nursery:

        async def write() -> None:
            for number in range(60):
                await (bucket.delete(f"{number % 4}") if number % 5 == 0 else bucket.put(f"{number % 4}", number))
            await bucket.put("end", 0)

        nursery.start_soon(write)
        revisions = []
        with trio.fail_after(10):
            async for change in bucket.watch():
                seen[change.key] = None if change.entry is None else change.entry.value
                revisions.append(change.revision)
                if change.key == "end":
                    break
    expected = {f"{key}": (await bucket.get(f"{key}")) for key in range(4)}
    same({key: seen[key] for key in expected}, {key: entry and entry.value for key, entry in expected.items()}, "what was last seen of each key")
    same(revisions, sorted(revisions), "the order of revisions")


@PART.runtime("A watch is by prefix and resumable from any revision.")
async def a_watch_is_resumable(rt: Runtime) -> None:
    bucket = rt.kv("k", int)
    for number in range(6):
        await bucket.put(f"{'ab'[number % 2]}{number}", number)
    for after in range(6):
        expected = [f"b{number}" for number in (1, 3, 5) if number + 1 > after]
        same([one.key for one in await _soon(bucket.watch("b", after=after), len(expected))], expected, f"the changes after {after}")
    refused(Misuse, lambda: bucket.watch(after=-1), "watch(after=-1)")


@PART.law("Tombstones are kept 7 days; an older `after` gets `Compacted`: scan, then watch from the scan's revision.", needs=["advance"])
async def old_watches_are_compacted(stores: MovesClock) -> None:
    async with stores.open(new_name()) as backend, open_runtime(backend, environment=await _clock_of(backend)) as rt:
        bucket = rt.kv("k", int)
        await bucket.put("x", 1)
        await bucket.put("y", 1)
        await rt.transact(Delete("k", "x"))
        stores.advance(6 * 86_400)
        while await rt.backend.maintain():
            pass
        same(len(await _soon(bucket.watch(), 2)), 2, "the changes within 7 days")
        stores.advance(2 * 86_400)
        while await rt.backend.maintain():
            pass
        await fails(Compacted, _soon(bucket.watch(), 1), "a watch from before what was forgotten")
        scan = await bucket.scan()
        watch = bucket.watch(after=scan.revision)
        await bucket.put("z", 1)
        same([one.key for one in await _soon(watch, 1)], ["z"], "the change after the scan")


async def _clock_of(backend: Backend) -> Environment:
    """An environment whose clock is the store's: laws before this one may have moved it."""
    ahead_us = await backend.now_us() - wall_us()
    return Environment(clock=lambda: wall_us() + ahead_us)
