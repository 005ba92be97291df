"""An `lmdb:` store without room says so, and goes on."""

from __future__ import annotations

from perdure.backends.commit import Delete, Put
from perdure.backends.conformance.law import Desk, appending, is_a
from perdure.backends.errors import Full
from perdure.backends.urls import open_backend
from programs import run


async def test_a_full_store_says_so_takes_deletes_and_goes_on(folder):
    url = f"lmdb:{folder}?size=1MiB"
    async with open_backend(url) as backend:
        desk, stored = Desk(backend), 0
        while not isinstance(answer := await desk.ask(Put("k", b"%03d" % stored, b"x" * 9_000)), Full):
            stored += 1
        assert is_a(answer, Full).limit_bytes == 1 << 20
        before = await backend.scan("k", limit=999)
        assert len(before) == stored > 20

        for number in range(stored // 2):
            await desk.done(Delete("k", b"%03d" % number))
        await desk.done(Put("k", b"again", b"x" * 9_000))
        assert await backend.verify() == []
    async with open_backend(url) as backend:
        assert [entry.key for entry in await backend.scan("k", limit=999)] == [*(b"%03d" % number for number in range(stored // 2, stored)), b"again"]


async def test_events_are_refused_too_and_nothing_is_lost(folder):
    async with open_backend(f"lmdb:{folder}?size=1MiB") as backend:
        desk, stored = Desk(backend), 0
        while not isinstance(await desk.ask(appending("a", 100)), Full):
            stored += 100
        for _ in range(3):
            assert isinstance(await desk.ask(appending("a", 100)), Full)

        assert len(await desk.stream("a")) == stored
        assert await backend.verify() == []


async def test_a_larger_size_helps(folder):
    async with open_backend(f"lmdb:{folder}?size=1MiB") as backend:
        while not isinstance(await Desk(backend).ask(Put("k", b"%d" % await backend.revision(), b"x" * 9_000)), Full):
            pass
    async with open_backend(f"lmdb:{folder}?size=2MiB") as backend:
        await Desk(backend).done(Put("k", b"more", b"x" * 9_000))


def test_a_map_that_cannot_grow_is_unavailable_and_reads_say_so_too(url):
    out = run(
        """
        import resource
        async def main():
            async with open_backend(sys.argv[1], limits=Limits(commit_s=0.1)) as backend:
                shared = backend._store._shared
                shared.size = 1 << 30
                shared.env.set_mapsize(1 << 21)
                await Desk(backend).append("a")
                pages = int(open("/proc/self/statm").read().split()[0])
                resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (64 << 20), resource.RLIM_INFINITY))
                for call in (lambda: Desk(backend).done(Put("k", b"x", b"x" * 900_000), Put("k", b"y", b"y" * 900_000)), backend.head):
                    try:
                        while True:
                            await call()
                    except PerdureError as error:
                        print(type(error).__name__)
            resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            async with open_backend(sys.argv[1]) as backend:
                print(await backend.head(), await backend.verify())
        trio.run(main)
        """,
        url,
    )

    assert out.split("\n")[:3] == ["Unavailable", "Unavailable", "1 []"]
