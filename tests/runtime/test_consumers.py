"""Who keeps events from being cut: listed, put, named by a run that leaves something, and let go by hand."""

from __future__ import annotations

import attrs
import pytest

from perdure.backends.commit import Append
from perdure.backends.conformance.law import Desk, draft
from perdure.backends.environment import Environment, InlineThreads, random_id
from perdure.backends.errors import Misuse
from perdure.backends.event import Position
from perdure.backends.faulty import FaultyBackend
from perdure.backends.memory import open_memory
from perdure.runtime import START, App, Keyed, event, of, open_runtime
from perdure.runtime.cli import app as cli
from perdure.runtime.consumers import consumers, drop_consumer, put_hold
from perdure.runtime.retention import Retention, retain


@event("consumed")
@attrs.frozen
class Consumed:
    n: int


BY_STREAM = Keyed("by-stream", version=1, initial=0, step=lambda state, event: state + event.data.n, events=of(Consumed), key=lambda event: event.stream)
ALL = [Retention(categories=["s"], count=0, archive=False)]


@pytest.fixture
async def backend():
    """Ten events, of which a projection has seen 6 and a subscription 4."""

    class Unclosed(FaultyBackend):
        async def aclose(self):
            return

    backend = Unclosed(open_memory(environment=Environment(threads=InlineThreads())))
    async with open_runtime(backend, App(projections=[BY_STREAM])) as rt:
        await rt.append("s-1", [Consumed(1)] * 4)
        async with rt.subscribe(of(Consumed), after=START, name="mail") as events:
            for _ in range(4):
                await anext(events)
            await rt.append("s-1", [Consumed(1)] * 2)
            with pytest.raises(StopAsyncIteration):
                events.stop()
                await anext(events)
        await rt.model(BY_STREAM).wait_for(Position(6))
    await Desk(backend).done(Append("s-1", [draft(b"1")] * 4))
    return backend


async def told(backend):
    return [(one.name, one.position) for one in await consumers(backend)]


async def test_all_are_listed_the_lowest_first(backend, autojump_clock):
    await put_hold(backend, "audit", Position(5), why="case 17", ids=random_id)

    assert await told(backend) == [("subscription mail", 4), ("audit", 5), ("projection by-stream", 6)]
    assert str((await consumers(backend))[1]) == "audit at position 5 (case 17)"


async def test_a_run_says_who_holds_what_back(backend, autojump_clock):
    dry = await retain(backend, ALL, ids=random_id, dry_run=True)
    done = await retain(backend, ALL, ids=random_id)

    for one in (dry, done):
        assert (one.events, one.waiting) == (4, 6)
        assert [holder.name for holder in one.holders] == ["subscription mail", "projection by-stream"]


async def test_who_holds_nothing_back_is_not_named(backend, autojump_clock):
    done = await retain(backend, [Retention(categories=["s"], count=5, archive=False)], ids=random_id)

    assert (done.events, done.waiting, [holder.name for holder in done.holders]) == (4, 1, ["subscription mail"])


async def test_who_is_dropped_holds_nothing_any_more(backend, autojump_clock):
    (dropped,) = await drop_consumer(backend, "subscription mail", ids=random_id)

    assert dropped.position == 4
    assert await told(backend) == [("projection by-stream", 6)]
    assert (await retain(backend, ALL, ids=random_id)).events == 6
    assert await drop_consumer(backend, "subscription mail", ids=random_id) == []


async def test_a_projection_that_comes_back_is_built_anew(backend, autojump_clock):
    await drop_consumer(backend, "projection by-stream", ids=random_id)

    async with open_runtime(backend, App(projections=[BY_STREAM])) as rt:
        await rt.model(BY_STREAM).wait_for(await rt.head())
        assert await rt.model(BY_STREAM).get("s-1") == 6


async def test_who_moves_on_meanwhile_is_not_dropped(backend, autojump_clock):
    class Moves(FaultyBackend):
        async def commit(self, commits):
            await put_hold(backend, "audit", Position(6), ids=random_id)
            return await super().commit(commits)

    await put_hold(backend, "audit", Position(5), ids=random_id)

    with pytest.raises(Misuse, match="a program runs it"):
        await drop_consumer(Moves(backend), "audit", ids=random_id)
    assert ("audit", 6) in await told(backend)


@pytest.mark.parametrize(("name", "position"), [("projection x", 0), ("subscription x", 0), ("", 0), ("x", 11), ("x", -1), ("$x", 0)])
async def test_a_hold_that_cannot_be_is_misuse(backend, name, position, autojump_clock):
    with pytest.raises(Misuse):
        await put_hold(backend, name, position, ids=random_id)


# -- commands --------------------------------------------------------------------------------


def run(*args):
    with pytest.raises(SystemExit) as ended:
        cli.app(list(args), exit_on_error=False)
    return ended.value.code or 0


def test_the_commands(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "held_app.py").write_text("from perdure.runtime import App, Retention\napp = App(retention=[Retention(categories=['s'], count=0)])\n")
    for number in range(3):
        assert run("append", "lmdb:store", "s-1", "happened", str(number)) == 0
    assert run("hold", "put", "lmdb:store", "audit", "--position", "1", "--why", "case 17") == 0
    assert run("hold", "list", "lmdb:store") == 0
    assert run("retain", "lmdb:store", "--app", "held_app:app", "--blobs", "directory:blobs") == 0
    said = capsys.readouterr().out
    assert "       1       2  audit  case 17" in said
    assert "1 events of 1 streams went" in said
    assert "2 more are held back, by:\n  audit at position 1 (case 17)" in said
    assert run("retain", "lmdb:store", "--app", "held_app:app", "--dry-run", "--json") == 0
    assert '"holders":[{"name":"audit","position":1,"why":"case 17"}]' in capsys.readouterr().out.replace(", ", ",").replace(": ", ":")

    assert run("hold", "drop", "lmdb:store", "audit") == 0
    assert run("hold", "drop", "lmdb:store", "audit") == 1
    assert run("retain", "lmdb:store", "--app", "held_app:app", "--blobs", "directory:blobs") == 0
    assert "2 events of 1 streams went" in capsys.readouterr().out
