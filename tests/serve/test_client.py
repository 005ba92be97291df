"""A runtime over a daemon's store: the same facade, whatever happens to connections and daemons; what is refused is told by an error of its own."""

from __future__ import annotations

import signal
import socket

import pytest
import trio
from shop import Placed, Total, app, step

from cutting import Cut, cutter
from daemons import perdure, process, running
from perdure.backends.commit import Draft, propose
from perdure.backends.http.address import read_url
from perdure.backends.http.facts import error_of, facts_of
from perdure.runtime import (
    START,
    App,
    Append,
    Appended,
    Conflict,
    Forbidden,
    InDoubt,
    KeyReused,
    Limits,
    Misuse,
    ModelFaulted,
    Position,
    Projection,
    Put,
    Truncated,
    Unavailable,
    Unsupported,
    WrongStore,
    of,
    open_runtime,
)
from perdure.runtime.client import open_client

revenue, accounts = app.projections
SHORT = Limits(commit_s=1)


async def program(rt):
    """Something of everything, and what it gave."""
    found = [
        await rt.append("order-1", [Placed("ada", 5), Placed("bob", 7)], expected=0),
        await rt.append("order-1", [Placed("ada", 1)], expected=0),
        await rt.append("order-2", [Placed("ada", 2)], key=b"once"),
        await rt.append("order-2", [Placed("ada", 2)], key=b"once"),
    ]
    with pytest.raises(KeyReused):
        await rt.append("order-2", [Placed("ada", 3)], key=b"once")
    desk = rt.kv("desk", dict[str, int])
    stored = await desk.put("till", {"cents": 5})
    found += [await desk.put("till", {"cents": 6}, expected=stored.revision - 1) is None, (await desk.get("till")).value, await desk.get("none")]
    both = await rt.transact(Append("order-3", [Placed("cid", 1)], expected=0), Put("desk", "other", {"cents": 1}))
    found += [both.position, [(entry.key, entry.value) for entry in (await desk.scan()).entries]]
    found.append([(event.stream, event.seq, event.position, event.data) async for event in rt.read("order-1", backward=True)])
    found.append([(event.stream, event.data) async for event in rt.read_all(of(Placed))])
    async with rt.subscribe(of(Placed), after=START, name="reader") as events:
        found.append([(await anext(events)).data.customer for _ in range(4)])
    async with rt.view() as view:
        found.append((await view.head(), [event.data async for event in view.read_all(of(Placed))]))
    async with rt.lease("till") as lease:
        found.append(isinstance(await rt.transact(Append("order-3", [Placed("cid", 2)]), lease.fence), Conflict))
    head = await rt.head()
    models = rt.model(revenue), rt.model(accounts)
    for model in models:
        await model.wait_for(head)
    await models[0].refresh()
    return [*found, head, models[0].state, await models[1].get("ada"), await models[1].get("none"), [entry async for entry in models[1].scan()]]


async def taken(rt):
    """The customers, in the order of the log."""
    return [event.data.customer async for event in rt.read_all(of(Placed))]


# -- the same program ------------------------------------------------------------------------


async def test_a_program_moves_by_its_url():
    async with open_runtime("memory:", app) as rt:
        local = await program(rt)
    async with running(tokens=False) as daemon, open_runtime(daemon.url) as rt:
        remote = await program(rt)

    assert [repr(one) for one in remote] == [repr(one) for one in local]


async def test_an_app_of_the_client_runs_at_the_client(tmp_path):
    """Under leases: the daemon's app has none of it."""
    mine = Projection("mine", version=1, initial=Total(), step=step, events=of(Placed))
    async with running(f"lmdb:{tmp_path / 'store'}") as daemon, open_client(daemon.url, App(projections=[mine]), token=daemon.token) as rt:
        done = await rt.append("order-1", [Placed("ada", 5)])
        assert done.position is not None
        await rt.model(mine).wait_for(done.position)
        state, running_here = rt.model(mine).state, rt.model(mine).running

    assert (state, running_here) == (Total(5), True)


async def test_a_model_of_nobody_is_told():
    nobodys = Projection("nobodys", version=1, initial=Total(), step=step, events=of(Placed))
    async with running(tokens=False) as daemon, open_runtime(daemon.url) as rt:
        done = await rt.append("order-1", [Placed("ada", 5)])
        assert done.position is not None
        with pytest.raises(ModelFaulted):
            await rt.model(nobodys).wait_for(done.position)


async def test_what_cannot_be_done_from_afar_says_so():
    async with running(tokens=False) as daemon, open_runtime(daemon.url) as rt:
        for call in (rt.backend.begin_load, rt.backend.snapshot_heads):
            with pytest.raises(Unsupported):
                await call()
        assert not {"loads", "images", "moves", "upkeep"} & set(rt.backend.capabilities.declared())


# -- tokens ----------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["argument", "file", "environment"])
async def test_the_token_comes_from(where, tmp_path, monkeypatch):
    async with running() as daemon:
        (tmp_path / "token").write_text(f"{daemon.token}\n")
        url, token = daemon.url, None
        match where:
            case "argument":
                token = daemon.token
            case "file":
                url = f"{url}?token_file={tmp_path / 'token'}"
            case "environment":
                monkeypatch.setenv("PERDURE_TOKEN", daemon.token)
        async with open_client(url, token=token) as rt:
            await rt.append("order-1", [Placed("ada", 5)])
            shown = repr(rt) + repr(rt.backend) + str(await rt.backend.store_status())

    assert daemon.token not in shown


@pytest.mark.parametrize(
    ("url", "token", "word"),
    [
        ("http://me:secret@localhost:1", None, "no place for a token"),
        ("http://store.example:1", "t", "unencrypted"),
        ("http://localhost:1?token=t", None, "no option 'token'"),
        ("http://localhost:1?token_file=/does/not/exist", None, "cannot be read"),
        ("http://localhost:1", "two words", "is no token"),
        ("http://", None, "daemon's URL is"),
        ("https://localhost:99999", None, "cannot be read"),
    ],
)
async def test_a_url_that_will_not_do_is_told(url, token, word):
    with pytest.raises(Misuse, match=word) as caught:
        async with open_client(url, token=token):
            pass

    assert "secret" not in str(caught.value)


def test_a_token_given_goes_before_the_file_and_that_before_the_environment():
    def read(path):
        return f"in {path}".replace(" ", "-")

    environment = {"PERDURE_TOKEN": "set"}
    assert read_url("http://localhost", "given", environment, read).token == "given"
    assert read_url("http://localhost?token_file=f", None, environment, read).token == "in-f"
    assert read_url("http://localhost", None, environment, read).token == "set"


# -- what is refused -------------------------------------------------------------------------


async def test_without_a_token_it_does_not_open(monkeypatch):
    monkeypatch.delenv("PERDURE_TOKEN", raising=False)
    async with running() as daemon:
        for token in (None, "perdure_0123456789abcdef_" + "A" * 43):
            with pytest.raises(Forbidden, match="token"):
                async with open_client(daemon.url, token=token):
                    pass


async def test_a_scope_that_is_missing_is_named_and_holds_up_nobody_else():
    """Two callers are committed in one request: the one that is permitted is stored."""
    async with running() as daemon, open_client(daemon.url, token=await daemon.make_token("read", "append:order")) as rt:
        refused = []

        async def try_it(stream):
            try:
                await rt.append(stream, [Placed("ada", 5)])
            except Forbidden as error:
                refused.append((stream, str(error)))

        async with trio.open_nursery() as nursery:
            for stream in ("order-1", "secret-1", "order-2", "secret-2"):
                nursery.start_soon(try_it, stream)
        with pytest.raises(Forbidden, match="kv:desk"):
            await rt.kv("desk", int).put("a", 1)
        streams = [event.stream async for event in rt.read_all(of(Placed))]

    assert sorted(streams) == ["order-1", "order-2"]
    assert sorted(stream for stream, _ in refused) == ["secret-1", "secret-2"]
    assert all("append:secret" in told for _, told in refused)


async def test_who_may_not_read_is_told():
    async with running() as daemon, open_client(daemon.url, token=await daemon.make_token("append:order")) as rt:
        await rt.append("order-1", [Placed("ada", 5)])
        with pytest.raises(Forbidden, match="read"):
            await taken(rt)


async def test_a_payload_that_does_not_fit_the_daemons_class_is_refused():
    async with running(tokens=False) as daemon, open_runtime(daemon.url) as rt:
        bad = propose([Append("order-1", [Draft("placed", 1, b"\x01")])], id=b"1" * 16, at_us=1)
        (answer,) = (await rt.backend.commit([bad])).answers

    assert isinstance(answer, Misuse)


async def test_who_is_not_there_is_told():
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        with pytest.raises(Unavailable, match="cannot be reached"):
            async with open_client(f"http://127.0.0.1:{held.getsockname()[1]}"):
                pass


async def test_what_is_no_daemon_is_told():
    async def answer(stream):
        async with stream:
            await stream.receive_some()
            await stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello")

    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, answer, [listener])
        with pytest.raises(Unavailable, match="does not answer as a daemon"):
            async with open_client(f"http://127.0.0.1:{listener.socket.getsockname()[1]}"):
                pass
        nursery.cancel_scope.cancel()


# -- connections that break ------------------------------------------------------------------


@pytest.mark.parametrize("cut", [Cut.BEFORE, Cut.AFTER, Cut.LATE])
@pytest.mark.parametrize("key", [b"once", None])
async def test_a_commit_is_stored_once_however_its_connection_is_cut(cut, key):
    async with running(tokens=False) as daemon, cutter(daemon.url) as proxy, open_client(proxy.url) as rt:
        await rt.append("order-1", [Placed("first", 1)])
        proxy.next.append(cut)
        done = await rt.append("order-1", [Placed("second", 1)], expected=1, key=key)
        third = await rt.append("order-1", [Placed("third", 1)], expected=2)
        await trio.sleep(0.5)
        stored = await taken(rt)

    assert proxy.struck == [cut]
    assert [(one.first, one.last) for one in (done, third) if isinstance(one, Appended)] == [(2, 2), (3, 3)]
    assert stored == ["first", "second", "third"]


async def test_many_that_are_cut_come_once_each_in_order():
    cuts = [Cut.AFTER, Cut.LATE, Cut.BEFORE] * 5
    async with running(tokens=False) as daemon, cutter(daemon.url) as proxy, open_client(proxy.url) as rt:
        for number in range(60):
            if number % 4 == 3:
                proxy.next.append(cuts[number // 4])
            await rt.append("order-1", [Placed(str(number), 1)], expected=number)
        stored = await taken(rt)

    assert len(proxy.struck) == 15
    assert stored == [str(number) for number in range(60)]


async def test_who_gets_no_answer_in_time_is_in_doubt_and_a_retry_with_the_key_tells():
    async with running(tokens=False) as daemon:
        async with cutter(daemon.url) as proxy:
            with pytest.raises(InDoubt):
                async with open_client(proxy.url, limits=SHORT) as rt:
                    proxy.next.append(Cut.SILENT)
                    with trio.fail_after(5):
                        await rt.append("order-1", [Placed("ada", 5)], key=b"once")
        async with open_client(daemon.url) as rt:
            again = await rt.append("order-1", [Placed("ada", 5)], key=b"once")
            stored = await taken(rt)

    assert (stored, again) == (["ada"], Appended(1, 1, Position(1)))


# -- a daemon that ends ----------------------------------------------------------------------


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_a_subscription_goes_on_over_a_daemon_that_ends_and_comes_back(number, tmp_path):
    """Killed in the middle of appends: what was acknowledged is there, the subscriber sees all of it once, in order."""
    token = perdure("token", "new", "lmdb:store", "all", "--scope=append:*", "--scope=read", "--scope=run", folder=tmp_path).stdout.strip()
    options = ("--store", "lmdb:store", "--listen", f"127.0.0.1:{free_port()}")
    seen, told, second_daemons = [], [], []
    with process(tmp_path, *options) as daemon:
        url = daemon.url
        async with open_client(url, token=token) as rt, rt.subscribe(of(Placed), after=START, name="reader") as events, trio.open_nursery() as nursery:

            async def follow():
                async for event in events:
                    seen.append(int(event.data.customer))  # noqa: PERF401 - others look at it meanwhile

            async def write():
                for one in range(60):
                    await rt.append("order-1", [Placed(str(one), 1)], expected=one, key=b"%d" % one)
                    told.append(one)
                    await trio.sleep(0.02)

            async def restart():
                while len(told) < 20:
                    await trio.sleep(0.01)
                daemon.signal(number)
                await trio.to_thread.run_sync(daemon.ended)
                second = process(tmp_path, *options)
                await trio.to_thread.run_sync(second.__enter__)
                nursery.start_soon(hold, second)

            async def hold(second):
                try:
                    with trio.fail_after(60):
                        while len(seen) < 60:
                            await trio.sleep(0.05)
                    nursery.cancel_scope.cancel()
                finally:
                    second_daemons.append(second)

            for task in (follow, write, restart):
                nursery.start_soon(task)
        for second in second_daemons:
            second.__exit__(None, None, None)

    assert told == list(range(60))
    assert seen == list(range(60))


async def test_reads_wait_for_a_daemon_that_is_away_and_then_say_so(tmp_path):
    with process(tmp_path, "--store", "memory:", "--listen", "127.0.0.1:0", "--set", "tokens=false") as daemon:
        async with open_client(daemon.url, limits=SHORT) as rt:
            await rt.append("order-1", [Placed("ada", 5)])
            daemon.signal(signal.SIGKILL)
            daemon.ended()
            with pytest.raises(Unavailable), trio.fail_after(10):
                await taken(rt)


async def test_another_store_behind_the_url_is_told(tmp_path):
    """A daemon that comes back with another store is not written to."""
    port = free_port()
    options = ("--store", "memory:", "--listen", f"127.0.0.1:{port}", "--set", "tokens=false")
    with process(tmp_path, *options) as first:
        async with open_client(first.url) as rt:
            first.signal(signal.SIGKILL)
            first.ended()
            with process(tmp_path, *options), trio.fail_after(20):
                with pytest.raises(WrongStore):
                    await rt.append("order-1", [Placed("ada", 5)])
                with pytest.raises(WrongStore):
                    await taken(rt)


def test_errors_arrive_as_what_they_were():
    """One that is not known here becomes `Unavailable`."""
    errors = [Truncated("order-1", 5), InDoubt(b"1" * 16, b"key"), Conflict("stream", "order-1", 0, 3), Forbidden("no"), Unavailable("x")]
    for error in errors:
        found = error_of(type(error).__name__, facts_of(error))
        assert (type(found), str(found)) == (type(error), str(error))
    assert isinstance(error_of("FromTheFuture", {"a": 1}), Unavailable)
