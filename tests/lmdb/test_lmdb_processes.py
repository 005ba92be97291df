"""Processes on one `lmdb:` store: they share it, and one that is killed loses nothing."""

from __future__ import annotations

import os
import random

import pytest

from perdure.backends.conformance.law import Desk
from perdure.backends.errors import Unavailable
from perdure.backends.event import Position
from perdure.backends.limits import Limits
from perdure.backends.lmdb.files import FileLock
from perdure.backends.urls import open_backend
from programs import WRITER, fill, run, start

# -- processes -------------------------------------------------------------------------------


async def test_a_second_opener_in_this_process_shares(url):
    async with open_backend(url) as one, open_backend(url) as other:
        await Desk(one).append("a", 1, 0)
        await Desk(other).append("a", 1, 1)

        assert one.id == other.id
        assert len(await Desk(one).stream("a")) == 2


async def test_a_second_opener_by_another_name_shares(tmp_path, folder, url):
    await fill(url, 1)
    (tmp_path / "link").symlink_to(folder)

    async with open_backend(url) as one, open_backend(f"lmdb:{tmp_path}/link") as other:
        await Desk(one).append("a")

        assert (await Desk(other).append("a", 1, 1)).last == 2


def test_a_forked_child_is_refused_and_the_parent_goes_on(url):
    out = run(
        """
        async def main():
            async with open_backend(sys.argv[1]) as backend:
                await Desk(backend).append("a")
                child = os.fork()
                if not child:
                    said = []
                    for call in (backend.head, lambda: Desk(backend).append("a"), lambda: backend.get("k", b"x"), backend.view().__aenter__):
                        try:
                            await call()
                        except Misuse as error:
                            said.append("inherited by a fork" in str(error))
                    print(json.dumps(said), flush=True)
                    os._exit(0)
                os.waitpid(child, 0)
                await Desk(backend).append("a", 1, 1)
                print(await backend.head())
        trio.run(main)
        """,
        url,
    )

    assert out.split("\n")[:2] == ["[true, true, true, true]", "2"]


async def test_two_processes_write_in_turns(url):
    with start(WRITER, url) as first:
        assert first.stdout.readline() == "ready\n"
        async with open_backend(url) as backend:
            assert await Desk(backend).payloads("a") == [b"1"]

            first.stdin.write("\n")
            first.stdin.flush()
            await backend.wait_beyond(Position(1))
            assert len(await Desk(backend).stream("a")) == 2
            assert (await Desk(backend).append("a", 1, 2)).last == 3
            assert first.wait(10) == 0


@pytest.mark.parametrize("name", ["next.lock", "gate.lock"])
async def test_who_has_the_right_to_write_and_keeps_it_is_named_and_nothing_happens_later(url, folder, name):
    async with open_backend(url, limits=Limits(gate_s=0.1)) as backend:
        await Desk(backend).append("a")
        lock = FileLock(folder / name)
        assert lock.take()
        lock.write_pid()

        with pytest.raises(Unavailable, match=f"process {os.getpid()} "):
            await Desk(backend).append("a")
        assert await Desk(backend).payloads("a") == [b"1"]
        lock.close()

        assert (await Desk(backend).append("b")).position == 2
        assert len(await Desk(backend).log()) == 2


# -- killed ----------------------------------------------------------------------------------


KILLED = """
    async def main():
        async with open_backend(sys.argv[1]) as backend:
            desk = Desk(backend)
            number = await backend.revision()
            while True:
                number += 1
                value = b"%d" % number
                await desk.group([appending("a", 2), appending("b", 1), Put("k", b"x", value)], [SaveSnapshot("s", Position(number), "f", value)])
                print(number)
                if number % 20 == 0:
                    await backend.maintain()
    trio.run(main)
"""


async def test_kill_loses_nothing_acknowledged_and_shows_no_half(url, folder):
    last = 0
    for round in range(5):
        with start(KILLED, url) as process:
            for _ in range(random.Random(round).randrange(1, 60)):
                last = int(process.stdout.readline())
            process.kill()
            rest = process.stdout.read().split("\n")[:-1]
        last = int(rest[-1]) if rest else last

        assert not (folder / "clean").exists()
        async with open_backend(url) as backend:
            revision = await backend.revision()
            assert revision in (last, last + 1)
            assert (len(await Desk(backend).stream("a")), len(await Desk(backend).stream("b"))) == (2 * revision, revision)
            entry, snapshot = await backend.get("k", b"x"), await backend.read_snapshot("s")
            assert entry and snapshot
            assert entry.value == snapshot.state == b"%d" % revision
            assert await backend.verify() == []
            last = revision
