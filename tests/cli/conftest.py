"""The command line in this process, and the stores, the app and the other process that its tests find there."""

from __future__ import annotations

import importlib
import json
import shutil
import subprocess
import sys

import pytest
import trio

from commands import Done
from perdure.runtime import open_runtime
from perdure.runtime.__main__ import main
from perdure.runtime.cli.exits import Exit

SHOP = """
import attrs
from perdure.runtime import App, Event, Keyed, Projection, event, of

@event("placed")
@attrs.frozen
class Placed:
    customer: str
    cents: int

@attrs.frozen
class Total:
    cents: int = 0

def step(total: Total, event: Event[Placed]) -> Total:
    return Total(total.cents + 100 // event.data.cents)

def single(version):
    return Projection("revenue", version=version, initial=Total(), step=step, events=of(Placed))

KEYED = Keyed("accounts", version=1, initial=Total(), step=step, events=of(Placed), key=lambda event: event.data.customer)
app = App(projections=[single(1), KEYED])
newer = App(projections=[single(2)])
nothing = 7
"""


@pytest.fixture
def cli(capsys):
    """`cli("read", url, ...)` in this process."""

    def run(*arguments):
        capsys.readouterr()
        code = main([str(one) for one in arguments])
        done = Done(int(code), *capsys.readouterr())
        assert "Traceback" not in done.err or code == Exit.FAULT
        return done

    return run


@pytest.fixture
def url(tmp_path, monkeypatch):
    """A store that is not there yet, in the current folder."""
    monkeypatch.chdir(tmp_path)
    return f"lmdb:{tmp_path}/store"


@pytest.fixture(scope="session")
def template(tmp_path_factory):
    """A folder with a store of two streams and a bucket."""
    folder = tmp_path_factory.mktemp("template")
    url = f"lmdb:{folder}/store"
    for stream, cents in (("order-1", 10), ("order-1", 20), ("order-2", 50)):
        assert main(["append", url, stream, "placed", json.dumps({"customer": stream, "cents": cents}), "--tag", f"of:{stream}"]) == 0
    for key, value in (("a", "1"), ("b", '{"x": [null, true]}')):
        assert main(["kv", "put", url, "settings", key, value]) == 0
    return folder


@pytest.fixture
def filled(url, template, tmp_path):
    """A copy of it: three events of two streams, and two entries."""
    shutil.copytree(template / "store", tmp_path / "store")
    return url


HOLDER = """
import sys, trio
from perdure.runtime import NewEvent, open_runtime

async def main(url):
    async with open_runtime(url) as rt:
        await rt.append("held-1", [NewEvent({"n": 0}, type="held")])
        print("ready", flush=True)
        async def more():
            for n in range(1, 10**9):
                await rt.append("held-1", [NewEvent({"n": n}, type="held")])
                await trio.sleep(0.01)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(more)
            await trio.to_thread.run_sync(sys.stdin.read)
            nursery.cancel_scope.cancel()

trio.run(main, sys.argv[1])
"""


@pytest.fixture
def writer(url):
    """Another process that writes to the store all the time."""
    process = subprocess.Popen([sys.executable, "-P", "-c", HOLDER, url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdin
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        yield process
        process.stdin.close()
        assert process.wait(timeout=20) == 0


@pytest.fixture
def shop(tmp_path, monkeypatch):
    """The module `shop` in the current folder."""
    (tmp_path / "shop.py").write_text(SHOP)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry != str(tmp_path)])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield tmp_path
    sys.modules.pop("shop", None)


@pytest.fixture
def kept(filled, shop):
    """The filled store after the app has run."""

    async def run(app):
        async with open_runtime(filled, app) as rt:
            for projection in app.projections:
                await rt.model(projection).wait_for(await rt.head())

    sys.path.insert(0, str(shop))
    trio.run(run, importlib.import_module("shop").app)
    return filled
