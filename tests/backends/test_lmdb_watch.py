"""Who waits for what others commit always has somebody who watches."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from perdure.backends.commit import Put
from perdure.backends.conformance.law import Desk
from perdure.backends.event import Position
from perdure.backends.lmdb.watch import SideFile, Watcher
from perdure.backends.news import Moved
from perdure.backends.urls import open_backend


@pytest.fixture
def side(tmp_path):
    side = SideFile(tmp_path / "news")
    side.write(1, 1)
    yield side
    side.close()


@pytest.fixture
async def watcher(side):
    watcher = Watcher(side, lambda: 7)
    watcher.tell(Moved.LOG, Position(1), 1)
    yield watcher
    watcher.close()


async def settled():
    await trio.testing.wait_all_tasks_blocked(0.01)


async def test_the_file_says_what_was_said_last(side, tmp_path):
    side.write(1 << 40, 12)

    assert SideFile(tmp_path / "news").read() == (1 << 40, 12)


async def test_a_spoiled_file_says_nothing(side, tmp_path):
    raw = bytearray((tmp_path / "news").read_bytes())
    raw[20] ^= 1
    (tmp_path / "news").write_bytes(raw)

    assert side.read() is None


async def test_when_the_leader_leaves_another_one_watches(watcher, side):
    """Also when the one that was to follow it has what it waited for already."""
    woken: list[str] = []

    async def wait(name: str, what: Moved, scope: trio.CancelScope) -> None:
        with scope:
            await watcher.wait(what)
            woken.append(name)

    scopes = {name: trio.CancelScope() for name in ("leader", "log", "kv", "kv too")}
    async with trio.open_nursery() as nursery:
        for name, scope in scopes.items():
            nursery.start_soon(wait, name, Moved.KV if "kv" in name else Moved.LOG, scope)
            await settled()
        scopes["leader"].cancel()
        watcher.tell(Moved.LOG, Position(2), 1)  # the heir is woken by news and goes
        await settled()
        assert woken == ["log"]
        assert watcher._leader is not None

        other = SideFile(side.path)
        other.write(2, 2)
        with trio.fail_after(0.4):  # by being told: the poll would take longer
            while len(woken) < 3:
                await trio.sleep(0.005)
        other.close()

    assert set(woken) == {"log", "kv", "kv too"}


async def test_what_was_not_told_is_found_by_looking(side):
    transactions = [7]
    watcher = Watcher(side, lambda: transactions[-1])
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watcher.wait, Moved.LOG)
            await trio.sleep(0.7)
            transactions.append(8)
    watcher.close()


async def test_closing_while_somebody_waits_ends_the_wait(tmp_path):
    ended: list[str] = []

    async def wait(backend, name):
        with pytest.raises(Exception, match="is closed"):
            await getattr(backend, name)(100)
        ended.append(name)

    async with open_backend(f"lmdb:{tmp_path / 'store'}") as backend:
        await Desk(backend).done(Put("b", b"k", b"1"))
        async with trio.open_nursery() as nursery:
            for name in ("wait_beyond", "wait_beyond", "wait_changed", "wait_changed"):
                nursery.start_soon(wait, backend, name)
            await settled()
            await backend.aclose()

    assert len(ended) == 4
