"""Loading a store: any log comes back as it was, whatever its frames; a process that dies in the middle leaves it loading."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from perdure.backends.commit import Append, Put
from perdure.backends.conformance.law import Desk, appending, draft
from perdure.backends.conformance.loading import moved
from perdure.backends.environment import Environment, InlineThreads
from perdure.backends.errors import Full, Misuse, TooLarge, Unavailable
from perdure.backends.memory import open_memory
from perdure.backends.protocol import State
from perdure.backends.urls import open_backend
from perdure.runtime.open import open_runtime

events = st.builds(
    lambda type, payload, tags, occurred: draft(payload, type=type, tags=tags, occurred_us=occurred) if tags or occurred else draft(payload, type=type),
    st.sampled_from(["happened", "ünï"]),
    st.binary(max_size=20),
    st.lists(st.sampled_from(["x", "y"]), max_size=2, unique=True),
    st.none() | st.integers(0, 2**50),
)
writes = st.dictionaries(st.sampled_from(["a", "b-1", "ä"]), st.lists(events, min_size=1, max_size=20), min_size=1, max_size=3)
commits = st.lists(writes, min_size=1, max_size=6)


@given(commits, st.lists(st.integers(1, 3), min_size=6, max_size=6), st.integers(1, 9))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_any_log_is_loaded_as_it_was(autojump_clock, given_commits, cuts, factor):
    """In calls of any number of commits, its positions as far apart as one likes."""
    environment = Environment(threads=InlineThreads())
    source, target = Desk(open_memory(environment=environment)), Desk(open_memory(environment=environment))
    for one in given_commits:
        await source.done(*(Append(stream, drafts) for stream, drafts in one.items()))
    records = [moved(record, position=record.position * factor) for record in await source.log()]
    ids = list(dict.fromkeys(record.commit for record in records))

    await target.backend.begin_load()
    while ids:
        part, ids = set(ids[: cuts[0]]), ids[cuts[0] :]
        cuts = [*cuts[1:], cuts[0]]
        await target.backend.load([record for record in records if record.commit in part])
    await target.backend.end_load()

    assert await target.log() == records
    for stream in ("a", "b-1", "ä"):
        assert await target.stream(stream) == [record for record in records if record.stream == stream]
    assert await target.backend.verify() == []


async def test_a_store_that_is_being_loaded_is_not_opened(tmp_path):
    url = f"lmdb:{tmp_path}/s"
    async with open_backend(url) as backend:
        await backend.begin_load()

    for opening in (open_backend(url), open_runtime(url)):
        with pytest.raises(Unavailable, match="being loaded"):
            async with opening:
                pass
    async with open_backend(url, loading=True) as backend:
        assert backend.state is State.LOADING
        with pytest.raises(Unavailable, match="being loaded"):
            async with open_runtime(backend):
                pass
        await backend.end_load()
    async with open_runtime(url) as rt:
        assert await rt.head() == 0


async def test_a_store_without_room_says_so_and_keeps_what_was_loaded(tmp_path):
    source = Desk(open_memory())
    for number in range(60):
        await source.append("a", 1, number, type="large" * 20)
        await source.done(Append("b", [draft(bytes(100_000))]))
    records = await source.log()

    async with open_backend(f"lmdb:{tmp_path}/s?size=2MiB") as backend:
        await backend.begin_load()
        loaded = 0
        with pytest.raises(Full):
            for record in records:
                await backend.load([record])
                loaded += 1

        assert 5 < loaded < 60
        assert await Desk(backend).log() == records[:loaded]


async def test_more_types_than_there_are_numbers_are_too_many(monkeypatch):
    monkeypatch.setattr("perdure.backends.apply.TYPES_MAX", 3)
    source, target = Desk(open_memory()), Desk(open_memory())
    for number in range(3):
        await source.append("a", 1, number, type=f"t-{number}")
    records = await source.log()
    more = moved(records[2], type="one-more", seq=4, position=4, commit=b"x" * 16)

    await target.backend.begin_load()
    with pytest.raises(TooLarge):
        await target.backend.load([*records, more])

    assert await target.log() == []


async def test_loading_nothing_is_nothing():
    backend = open_memory()
    await backend.begin_load()
    await backend.load([])
    await backend.end_load()

    assert await backend.head() == 0


@pytest.mark.parametrize("name", ["\n", "x" * 256])
async def test_names_that_no_store_may_have_are_not_loaded(name):
    source, target = Desk(open_memory()), Desk(open_memory())
    await source.append("a")
    (record,) = await source.log()
    await target.backend.begin_load()

    for field in ("stream", "type"):
        with pytest.raises((Misuse, TooLarge)):
            await target.backend.load([moved(record, **{field: name})])


CHILD = textwrap.dedent("""
    import sys, trio
    from perdure.backends.conformance.law import Desk, appending
    from perdure.backends.memory import open_memory
    from perdure.backends.urls import open_backend

    async def main():
        source = Desk(open_memory())
        for number in range(400):
            await source.append(f"s-{number % 7}", 3)
        records = await source.log()
        async with open_backend(sys.argv[1]) as backend:
            await backend.begin_load()
            for at in range(0, 1200, 30):
                await backend.load(records[at : at + 30])
                print(at + 30, flush=True)
            await backend.end_load()

    trio.run(main)
""")


@pytest.mark.parametrize("calls", [1, 7, 20])
async def test_a_process_that_dies_leaves_a_store_that_says_it_is_loading(tmp_path, calls):
    url = f"lmdb:{tmp_path}/s"
    child = subprocess.Popen([sys.executable, "-c", CHILD, url], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    told = [int(child.stdout.readline()) for _ in range(calls)]
    child.send_signal(signal.SIGKILL)
    rest = child.communicate()[0].split()
    told += map(int, rest)

    with pytest.raises(Unavailable, match="being loaded"):
        async with open_backend(url):
            pass
    async with open_backend(url, loading=True) as backend:
        assert await backend.head() in (told[-1], told[-1] + 30)
        assert await backend.verify() == []
        with pytest.raises(Unavailable):
            await Desk(backend).ask(appending("a"))
        with pytest.raises(Unavailable):
            await Desk(backend).ask(Put("k", b"x", b""))
