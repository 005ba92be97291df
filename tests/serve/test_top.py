"""`perdure top`: what it says of a daemon and of a store is what is so; what it draws fits; keys mean what they say."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys

import attrs
import pytest
import trio
from rich.console import Console

from daemons import perdure, process, running
from perdure.backends.errors import Misuse, Unavailable
from perdure.runtime.cli.glances import Actor, Glance, Glances, worst_first
from perdure.runtime.cli.looking import looking
from perdure.runtime.cli.top import pressed
from perdure.runtime.cli.top_screen import screen

PLACED = {"events": [{"type": "placed", "data": {"customer": "ada", "cents": 5}}]}
PLAIN = Glance(source="lmdb:store", at_s=0.0, store="0" * 32, url="lmdb:store", head=10, state="open")


def drawn(glance, width, height, **more):
    console = Console(width=width, height=height, color_system=None, highlight=False)
    with console.capture() as captured:
        console.print(screen(glance, height=height, **more))
    return captured.get().splitlines()


# -- where it looks --------------------------------------------------------------------------


async def test_a_daemon_tells_its_tree_and_rates():
    async with running() as daemon, daemon.client() as client, looking(daemon.url, daemon.token) as look:
        glances = Glances()
        glances.note(await look())
        for _ in range(5):
            position = (await client.post("/v1/streams/order-1", json=PLACED)).json()["position"]
            await client.get(f"/v1/models/revenue?wait_for={position}")
        await trio.sleep(0.05)
        glance = glances.note(await look())

    [revenue] = [one for one in glance.actors if one.name == "revenue"]
    assert (revenue.state, revenue.position, revenue.lag_events, glance.ready) == ("running", glance.head, 0, True)
    assert revenue.rate is not None and revenue.rate > 0
    assert all(rate > 0 for rate in glance.rates.values()) and set(glance.rates) == {"events", "commits", "flushes", "requests"}


async def test_a_store_tells_what_is_kept_and_who_works_on_it(tmp_path):
    store = f"lmdb:{tmp_path / 'store'}"
    async with running(store) as daemon, daemon.client() as client:
        await client.post("/v1/streams/order-1", json=PLACED)
        with trio.fail_after(10):
            while True:
                async with looking(store, "") as look:
                    glance = await look()
                kept = {one.name: one for one in glance.actors}
                if "accounts" in kept and kept["accounts"].position:
                    break
                await trio.sleep(0.1)
    async with looking(store, "") as look:
        after = await look()

    assert (kept["accounts"].state, str(os.getpid()) in (kept["accounts"].owner or ""), len(glance.daemons)) == ("running", True, 1)
    assert ({one.state for one in after.actors if one.depth}, after.daemons) == ({"nobody's"}, ())


async def test_what_it_may_not_see_and_who_is_not_there_is_told():
    async with running() as daemon:
        url = daemon.url
        async with looking(url, "wrong") as look:
            with pytest.raises(Misuse, match="scope operate"):
                await look()
    async with looking(url, "") as look:
        with pytest.raises(Unavailable, match="does not answer"):
            await look()


# -- what it draws ---------------------------------------------------------------------------


@pytest.mark.parametrize(("width", "height"), [(150, 40), (80, 24), (60, 12)])
@pytest.mark.parametrize("first", [0, 20, 10_000])
def test_it_fits_the_terminal(width, height, first):
    actors = tuple(Actor(depth=1, name=f"model-{number}" * 5, state="running", position=number, last_error="x" * 500) for number in range(50))
    lines = drawn(attrs.evolve(PLAIN, actors=actors, reasons=("something is wrong" * 20,)), width, height, first=first)

    assert len(lines) <= height
    assert max(map(len, lines)) <= width


def test_what_is_in_trouble_comes_first_when_sorted():
    rows = [
        Actor(depth=1, name="near", state="running", lag_events=1),
        Actor(depth=1, name="far", state="running", lag_events=9),
        Actor(depth=1, name="broken", state="faulted", lag_events=0, last_error="no"),
        Actor(depth=0, name="journal", state="running"),
    ]

    assert [one.name for one in worst_first(rows)] == ["broken", "far", "near"]


def test_a_name_cannot_move_the_cursor():
    lines = drawn(attrs.evolve(PLAIN, actors=(Actor(depth=0, name="\x1b[2Jevil", state="running"),)), 100, 20)

    assert not any("\x1b" in line for line in lines)


def test_rates_begin_anew_with_the_daemon():
    glances = Glances()
    glances.note(attrs.evolve(PLAIN, at_s=0.0, up_s=100.0, head=1_000))
    again = glances.note(attrs.evolve(PLAIN, at_s=1.0, up_s=0.5, head=1_001))
    later = glances.note(attrs.evolve(PLAIN, at_s=2.0, up_s=1.5, head=1_011))

    assert (dict(again.rates), later.rates["events"]) == ({}, 10.0)


@pytest.mark.parametrize(
    ("read", "keys"),
    [(b"q", ["quit"]), (b"jjk", ["down", "down", "up"]), (b"\x1b[A\x1b[6~s", ["up", "page down", "sort"]), (b"\x1b", ["quit"]), (b"\x1b[Zx", [])],
)
def test_keys(read, keys):
    assert pressed(read) == keys


# -- the command -----------------------------------------------------------------------------


def test_in_a_terminal_it_shows_the_tree_until_q(tmp_path):
    """On a pseudo-terminal of its own: it takes the screen, and gives it back."""
    with process(tmp_path, "--store", "lmdb:store", "--listen", "127.0.0.1:0", "--set", "tokens=false") as daemon:
        ours, theirs = pty.openpty()
        command = [sys.executable, "-P", "-m", "perdure.runtime", "top", daemon.url, "--every", "0.2"]
        started = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env={**os.environ, "COLUMNS": "150", "LINES": "40", "TERM": "xterm"})
        os.close(theirs)
        seen = b""
        while b"revenue" not in seen:
            seen += os.read(ours, 65_536)
        os.write(ours, b"q")
        while True:
            try:
                part = os.read(ours, 65_536)
            except OSError:  # the other end is closed
                break
            if not part:
                break
            seen += part
        code = started.wait(10)
        os.close(ours)

    assert code == 0
    assert seen.count(b"\x1b[?1049h") == seen.count(b"\x1b[?1049l") == 1


def test_json_is_one_document_a_look(tmp_path):
    perdure("append", "lmdb:store", "order-1", "placed", "{}", folder=tmp_path)
    done = perdure("top", "lmdb:store", "--json", "--count", "2", "--every", "0.1", folder=tmp_path)
    documents = [json.loads(line) for line in done.stdout.splitlines()]

    assert [(one["format"], one["head"], one["kept_only"]) for one in documents] == [(1, 1, True)] * 2
    assert set(documents[0]) == {"format", *attrs.fields_dict(Glance)} - {"at_s"}
