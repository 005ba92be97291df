"""Laws of current values: entries, their revisions, and scans."""

from __future__ import annotations

from functools import partial

from perdure.backends.commit import Appended, Check, Committed, Delete, Put, Stored, Write, propose
from perdure.backends.conformance.law import Desk, Part, Stores, appending, holds, is_a, new_id, new_name, open_desk, refused, same
from perdure.backends.errors import Conflict, Misuse
from perdure.backends.event import Position
from perdure.backends.protocol import Entry

PART = Part("kv")


async def _keys(desk: Desk, bucket: str, **how: bytes) -> list[bytes]:
    return [entry.key for entry in await desk.backend.scan(bucket, limit=1_000, **how)]


@PART.store("An entry is a kv value with its revision.")
async def an_entry_has_its_revision(desk: Desk) -> None:
    same(await desk.backend.get("k", b"x"), None, "an entry that was never put")
    await desk.store(Put("k", b"x", b"one"))
    same(await desk.backend.get("k", b"x"), Entry(b"x", b"one", 1), "the entry")
    await desk.store(Put("k", b"x", b""))
    same(await desk.backend.get("k", b"x"), Entry(b"x", b"", 2), "the entry with an empty value")
    await desk.store(Delete("k", b"x"))
    same(await desk.backend.get("k", b"x"), None, "the deleted entry")


@PART.store("Revisions are one counter per store; each commit that touches kv takes the next, and every key it touches gets it.")
async def revisions_are_one_counter(desk: Desk) -> None:
    await desk.done(Put("k", b"x", b"1"), Put("other", b"x", b"1"), Delete("k", b"z"))
    group = await desk.group([Put("other", b"y", b"1")], [appending("a", 2)], [Check(1, bucket="k", key=b"x")], [Put("k", b"y", b"1"), appending("a")])

    parts = [is_a(answer, Committed).parts for answer in group.answers]
    same(parts, [(Stored(2),), (Appended(1, 2, Position(2)),), (), (Stored(3), Appended(3, 3, Position(3)))], "the list of parts")
    entries = [*await desk.backend.scan("k", limit=9), *await desk.backend.scan("other", limit=9)]
    same([(entry.key, entry.revision) for entry in entries], [(b"x", 1), (b"y", 3), (b"x", 1), (b"y", 2)], "the entries")
    same(await desk.backend.revision(), 3, "the store's revision")


@PART.law("A revision never comes back, not even after a delete, and orders all changes.")
async def a_revision_never_comes_back(stores: Stores) -> None:
    name, seen = new_name(), list[int]()
    async with open_desk(stores, name) as desk:
        durable = desk.backend.capabilities.durable
        for _ in range(3):
            seen.append(await desk.store(Put("k", b"x", b"1")))
            seen.append(await desk.store(Delete("k", b"x")))
            while await desk.backend.maintain():
                pass
        group = await desk.group([Put("k", b"y", b"1")], [Delete("k", b"y")], [Put("k", b"y", b"1", 0)])
        seen += [is_a(part, Stored).revision for answer in group.answers for part in is_a(answer, Committed).parts]
        is_a(await desk.ask(Put("k", b"y", b"1", seen[0])), Conflict)
    if durable:
        async with open_desk(stores, name) as desk:
            seen.append(await desk.store(Put("k", b"x", b"1", 0)))

    holds(seen == sorted(set(seen)), f"the revisions are {seen}")


@PART.store("A commit that does not touch kv takes no revision.")
async def only_kv_takes_revisions(desk: Desk) -> None:
    await desk.append("a", 3)
    await desk.done(Check(0, bucket="k", key=b"x"))
    is_a(await desk.ask(Put("k", b"x", b"1", 9)), Conflict)

    same(await desk.backend.revision(), 0, "the store's revision")
    same(await desk.store(Put("k", b"x", b"1")), 1, "the first revision")


@PART.store("A bucket is a kv name space.")
async def buckets_are_apart(desk: Desk) -> None:
    for bucket in ("k", "k2", "k k", "ä"):
        await desk.store(Put(bucket, b"x", bucket.encode()))
    await desk.store(Delete("k", b"x"))

    same(await desk.backend.get("k", b"x"), None, "the entry of the first bucket")
    for bucket in ("k2", "k k", "ä"):
        same([entry.value for entry in await desk.backend.scan(bucket, limit=9)], [bucket.encode()], f"bucket {bucket}")


@PART.store("A scan gives entries in order of their keys' bytes, by prefix, those beyond a key; deleted ones are not among them.")
async def a_scan_is_in_order(desk: Desk) -> None:
    keys = [b"a", b"a\0", b"a\0b", b"ab", b"b", b"b\xff", b"b\xff\xff", b"c", b"\xff", b"\xff\xff"]
    for key in reversed(keys):
        await desk.done(Put("k", key, key), Put("k", key + b"-gone", b""))
    for key in keys:
        await desk.store(Delete("k", key + b"-gone"))

    same(await _keys(desk, "k"), keys, "the scan of all")
    for prefix in (b"a", b"a\0", b"b", b"b\xff", b"\xff", b"\xff\xff", b"\xff\xff\xff", b"d"):
        same(await _keys(desk, "k", prefix=prefix), [key for key in keys if key.startswith(prefix)], f"the scan with prefix {prefix!r}")
        for after in (*keys, b"A", b"b\xff-"):
            expected = [key for key in keys if key.startswith(prefix) and key > after]
            same(await _keys(desk, "k", prefix=prefix, after=after), expected, f"the scan with prefix {prefix!r} after {after!r}")
    for limit in range(1, 12):
        same([entry.key for entry in await desk.backend.scan("k", limit=limit)], keys[:limit], f"the scan limited to {limit}")


@PART.store("A scan goes over many deleted entries to the next that is there.")
async def a_scan_skips_the_deleted(desk: Desk) -> None:
    for hundred in range(3):
        await desk.done(*(Put("k", b"%03d" % (hundred * 100 + number), b"") for number in range(100)))
        await desk.done(*(Delete("k", b"%03d" % (hundred * 100 + number)) for number in range(100) if hundred * 100 + number not in (5, 250)))

    same(await _keys(desk, "k"), [b"005", b"250"], "the scan")
    same([entry.key for entry in await desk.backend.scan("k", limit=1, after=b"005")], [b"250"], "the entry after the first")


@PART.store("Keys and values are bytes, whichever.")
async def keys_and_values_are_bytes(desk: Desk) -> None:
    values = [bytes(range(256)), b"\0" * 10, b"x" * 100_000, b""]
    for value in values:
        key = value[:300] or b"\0"
        await desk.store(Put("k", key, value))
        entry = await desk.backend.get("k", key)
        holds(entry is not None and entry.value == value and entry.key == key, f"key {key[:10]!r}... comes back otherwise")


@PART.store("Buckets beginning with `$` are perdure's own: refused to users, as streams are.")
async def reserved_names_are_refused(desk: Desk) -> None:
    own: list[Write] = [Put("$models x", b"k", b""), Delete("$leases", b"k"), Check(0, bucket="$checkpoints", key=b"k")]
    for write in (*own, appending("$own"), Check(0, stream="$own")):
        refused(Misuse, partial(propose, [write], id=new_id(), at_us=1), f"{write} by a user")
        holds(propose([write], id=new_id(), at_us=1, own=True), f"{write} by perdure itself")
    same(await desk.backend.revision(), 0, "the store's revision")


@PART.store("Checkpoints and the states of keyed models are entries of reserved buckets, without change rows.")
async def reserved_buckets_have_no_changes(desk: Desk) -> None:
    for bucket in ("$checkpoints", "$models accounts"):
        for number in range(3):
            await desk.store(Put(bucket, b"x", b"%d" % number))
        revision = await desk.store(Put(bucket, b"y", b"1"))
        await desk.store(Delete(bucket, b"x", revision - 1))

        same([entry.key for entry in await desk.backend.scan(bucket, limit=9)], [b"y"], f"the scan of {bucket}")
        same((await desk.backend.read_changes(bucket, after=0, limit=9)).changes, [], f"the changes of {bucket}")
        is_a(await desk.ask(Put(bucket, b"y", b"2", revision + 5)), Conflict)
    same(await desk.backend.verify(), [], "the list of problems")


@PART.store("Deleting what is absent is a change as well: it is stored, with its revision.")
async def deleting_nothing_is_stored(desk: Desk) -> None:
    same(await desk.store(Delete("k", b"x")), 1, "the revision of a delete of nothing")
    same(await desk.store(Delete("k", b"x", 0)), 2, "the revision of a delete that expects nothing")
    same(await desk.backend.get("k", b"x"), None, "the entry")
