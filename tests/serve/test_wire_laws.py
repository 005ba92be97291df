"""The laws of every backend, and those of the runtime over it, hold through a client against a daemon, connections that break included; and they can fail."""

from __future__ import annotations

import json
import os

import pytest
import trio

from daemons import perdure, process
from perdure.backends import conformance
from perdure.backends.conformance import remote
from perdure.backends.conformance.stores import stores_of
from perdure.backends.http import open_http
from perdure.backends.http.backend import HttpBackend
from perdure.runtime.cli.conformance import all_laws

PARTS = list(dict.fromkeys(law.part for law in all_laws()))
ON_A_DISK = ("commits", "concurrency", "doubt", "doubt resolved", "sharing")
"""What may turn out otherwise where a commit takes as long as a flush; `make test-http` asks for all."""
WHICH = [("memory:", part) for part in PARTS] + [
    pytest.param("lmdb:store", part, marks=pytest.mark.slow) for part in (PARTS if "PERDURE_TEST_HTTP" in os.environ else ON_A_DISK)
]


@pytest.fixture(scope="module")
def url(request, tmp_path_factory):
    """Of a daemon over such a store, that asks for no token."""
    with process(tmp_path_factory.mktemp("laws"), "--store", request.param, "--listen", "127.0.0.1:0", "--set", "tokens=false") as daemon:
        yield daemon.url


async def held(url, laws):
    """The board of *laws*."""
    with stores_of(url) as stores:
        return await conformance.run_checks(stores, laws)


def complaints(board):
    return [f"{score.law.part}: {score.broken}" for score in board.failed]


@pytest.mark.parametrize(("url", "part"), WHICH, indirect=["url"])
async def test_the_laws_hold_through_a_daemon(url, part):
    board = await held(url, [law for law in all_laws() if law.part == part])

    assert complaints(board) == []
    assert {"loads", "images", "moves", "upkeep"} <= set(board.undeclared)


@pytest.mark.slow
def test_the_command_holds_them_with_a_token(tmp_path):
    with process(tmp_path, "--store", "lmdb:store", "--listen", "127.0.0.1:0") as daemon:
        tokens = {scope: perdure("token", "new", "lmdb:store", "laws", f"--scope={scope}", folder=tmp_path).stdout.strip() for scope in ("scratch", "read")}
        (tmp_path / "token").write_text(tokens["scratch"])
        done = perdure("conformance", f"{daemon.url}?token_file=token", "--only", "pages", "--json", folder=tmp_path)
        refused = perdure("conformance", daemon.url, "--only", "pages", folder=tmp_path, PERDURE_TOKEN=tokens["read"])
        streams = perdure("streams", daemon.url, folder=tmp_path, PERDURE_TOKEN=tokens["read"])

    told = json.loads(done.stdout.splitlines()[-1])
    assert (done.returncode, told["failed"], told["passed"] > 5) == (0, 0, True)
    assert refused.returncode != 0
    assert "the token needs the scope scratch" in refused.stdout + refused.stderr
    assert streams.stdout == ""  # in the daemon's own store nothing was written


# -- they can fail ---------------------------------------------------------------------------


class Hasty(HttpBackend):
    """Takes what has no answer for never begun."""

    async def _resolve(self):
        self._resolved.note(self._doubts, {})
        self._doubts, self._away = [], False


class Deaf(HttpBackend):
    """Is never told that the store has moved."""

    async def _wait(self, done):
        await trio.sleep_forever()


class Lossy(HttpBackend):
    """Takes a page that was cut for the whole."""

    async def _ask_daemon(self, question, kind, **more):
        said = await super()._ask_daemon(question, kind, **more)
        return type(said)(said.rows[:3], False) if hasattr(said, "more") and hasattr(said, "rows") else said


@pytest.mark.slow
@pytest.mark.parametrize(("liar", "part"), [(Hasty, "doubt resolved"), (Deaf, "waits"), (Lossy, "reads")])
async def test_a_client_that_lies_is_caught(liar, part, tmp_path, monkeypatch):
    true_open = open_http

    async def open_lying(*args, **more):
        backend = await true_open(*args, **more)
        backend.__class__ = liar
        backend._ask = backend._ask_daemon  # the liar's
        return backend

    monkeypatch.setattr(remote, "open_http", open_lying)
    monkeypatch.setattr(remote.RemoteStores, "law_s", 2.0)
    with process(tmp_path, "--store", "memory:", "--listen", "127.0.0.1:0", "--set", "tokens=false") as daemon:
        board = await held(daemon.url, [law for law in all_laws() if law.part == part])

    assert complaints(board) != []
