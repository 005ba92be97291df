"""What is damaged in the file of `lmdb:` never gives wrong data."""

from __future__ import annotations

import pytest

from perdure.backends.commit import Put, SaveSnapshot
from perdure.backends.conformance.law import Desk, appending
from perdure.backends.errors import Corrupt
from perdure.backends.event import Position
from perdure.backends.urls import open_backend
from programs import refused, run

READ_ALL = """
    import hashlib, random, shutil
    from pathlib import Path
    from perdure.backends.selector import EVERYTHING

    async def everything(backend):
        said = [await Desk(backend).log(), await backend.streams(limit=999), await backend.scan("k", limit=999), await backend.snapshots("s")]
        said += [await Desk(backend).stream(f"s-{number}") for number in range(3)]
        said += [await Desk(backend).stream(f"s-{number}", backward=True) for number in range(3)]
        said += [await Desk(backend).log(where=EVERYTHING.within(streams=["s-1"])), await Desk(backend).log(where=EVERYTHING.within(tags=["t"]))]
        said += [await backend.read_snapshot("s"), await backend.read_changes("k", after=0, limit=999), await backend.revision(), await backend.head()]
        return hashlib.sha256(repr(said).encode()).hexdigest()

    async def ask(folder):
        try:
            async with open_backend(f"lmdb:{folder}") as backend:
                return await everything(backend)
        except PerdureError as error:
            return type(error).__name__

    async def main(good, data, tries):
        right = await ask(good)
        for place, mask in tries:
            damaged = Path(good).parent / "damaged"
            shutil.rmtree(damaged, ignore_errors=True)
            damaged.mkdir()
            raw = bytearray(data)
            raw[place] ^= mask
            (damaged / "data.mdb").write_bytes(raw)
            said = await ask(damaged)
            print("right" if said == right else said if len(said) < 64 else "WRONG", place, mask)

    good, seed, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    data = (Path(good) / "data.mdb").read_bytes()
    chance = random.Random(seed)
    trio.run(main, good, data, [(chance.randrange(len(data)), 1 << chance.randrange(8)) for _ in range(count)])
"""


@pytest.mark.parametrize("seed", range(2))
async def test_damage_is_corrupt_or_harmless_and_never_wrong(url, folder, seed):
    async with open_backend(url) as backend:
        for number in range(60):
            await Desk(backend).done(
                appending(f"s-{number % 3}", 1 + number % 4, tags=["t"] if number % 5 == 0 else []),
                Put("k", b"%d" % (number % 20), b"%d" % number),
                SaveSnapshot("s", Position(number), "f", b"state %d" % number, (Position(number - 3),) if number > 3 else ()),
            )

    lines = [line.split() for line in run(READ_ALL, folder, seed, 150).splitlines()]

    assert len(lines) == 150
    assert [line for line in lines if line[0] not in ("right", "Corrupt", "TooNew")] == []
    assert [line for line in lines if line[0] == "Corrupt"]


def records_of(folder):
    """Where the payloads of stream s-1 lie in the file."""
    data = (folder / "data.mdb").read_bytes()
    return [place for place in range(len(data)) if data.startswith(b"needle", place)]


async def test_verify_finds_planted_damage(folder, url):
    async with open_backend(url) as backend:
        await Desk(backend).done(appending("a", 3), Put("k", b"x", b"needle in kv"), SaveSnapshot("s", Position(1), "f", b"needle in a state"))
        assert await backend.verify() == []
    places = records_of(folder)
    assert len(places) >= 2
    with (folder / "data.mdb").open("r+b") as file:
        for place in places:
            file.seek(place)
            file.write(b"noodle")

    async with open_backend(url) as backend:
        problems = await backend.verify()

        assert any("kv entry" in problem for problem in problems)
        assert any("snapshot 's'" in problem for problem in problems)
        with pytest.raises(Corrupt):
            await backend.get("k", b"x")
        with pytest.raises(Corrupt):
            await backend.read_snapshot("s")


async def test_verify_full_refuses_what_is_damaged(folder, url):
    async with open_backend(url) as backend:
        await Desk(backend).done(Put("k", b"x", b"needle"))
    with (folder / "data.mdb").open("r+b") as file:
        for place in records_of(folder):
            file.seek(place)
            file.write(b"noodle")

    await refused(f"{url}?verify=full", Corrupt)
