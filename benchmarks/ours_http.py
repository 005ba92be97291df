"""perdure over HTTP: a daemon as a process of its own, on LMDB, asked on keep-alive connections by another process."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from benchmarks.harness import Case, Work
from benchmarks.ours import NAME, url_of
from benchmarks.peers import hypercorn_constant
from benchmarks.sizes import Sizes
from perdure.runtime import App

CONNECTIONS = 64
EVENT = {"type": "paid", "data": {"account": 1234567, "cents": 4200, "currency": "EUR", "reference": "0123456789abcdef"}}
ROOT = Path(__file__).resolve().parent.parent

app = App()
"""What the daemon runs: nothing, for it is HTTP that is measured."""


@contextmanager
def started(*command: str, **environment: str) -> Iterator[tuple[int, int]]:
    """A server as a process; its pid, and the port that it says it listens on."""
    with subprocess.Popen([sys.executable, *command], cwd=ROOT, stdout=subprocess.PIPE, text=True, env={**os.environ, **environment}) as process:
        try:
            assert process.stdout is not None
            yield process.pid, int(process.stdout.readline().strip().rpartition(":")[2])
        finally:
            process.terminate()


@contextmanager
def server(*command: str) -> Iterator[int]:
    """The same; its port."""
    with started(*command) as (_, port):
        yield port


def made_token(url: str) -> str:
    """A token that may append."""
    made = [sys.executable, "-m", "perdure.runtime", "token", "new", url, "bench", "--scope", "append:*"]
    return subprocess.run(made, check=True, capture_output=True, text=True).stdout.strip()


def serving(app: str, url: str, *settings: str) -> list[str]:
    """The command that serves *app*."""
    told = [word for one in settings for word in ("--set", one)]
    return ["-m", "perdure.runtime", "serve", app, "--store", url, "--listen", "127.0.0.1:0", *told]


@contextmanager
def daemon(folder: Path) -> Iterator[tuple[int, str]]:
    """`perdure serve` on a store in *folder*: its port, and a token."""
    url = url_of(folder.absolute())
    token = made_token(url)
    with server(*serving("benchmarks.ours_http:app", url, "log_level=error")) as port:
        yield port, token


def append_request(token: str, events: int) -> bytes:
    """An append of so many events."""
    body = json.dumps({"events": [EVENT] * events}).encode()
    lines = ("POST /v1/streams/account-1 HTTP/1.1", "Host: localhost", f"Authorization: Bearer {token}", "Content-Type: application/json")
    return "\r\n".join((*lines, f"Content-Length: {len(body)}", "", "")).encode() + body


HEALTH = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"


def loaded(port: int, request: bytes, connections: int, seconds: float) -> subprocess.Popen[bytes]:
    """A load, begun."""
    command = [sys.executable, "-m", "benchmarks.http_load", str(port), str(connections), str(seconds)]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(request)
    process.stdin.close()
    return process


def told(process: subprocess.Popen[bytes]) -> dict[str, float]:
    """What a load came to."""
    assert process.stdout is not None
    found: dict[str, float] = json.loads(process.stdout.read())
    process.stdout.close()
    if process.wait() or found["other"]:
        raise RuntimeError(f"not all was answered with 200: {found}")
    return found


@contextmanager
def appends(folder: Path, sizes: Sizes, *, events: int) -> Iterator[Work]:
    """Events a second that are acknowledged, so many in a request."""
    with daemon(folder) as (port, token):
        yield lambda: told(loaded(port, append_request(token, events), CONNECTIONS, sizes.seconds))["rate"] * events


@contextmanager
def constant(folder: Path, sizes: Sizes) -> Iterator[Work]:
    """Answers a second of Hypercorn that answers a constant."""
    with server("-m", hypercorn_constant.__name__) as port:
        yield lambda: told(loaded(port, append_request("x" * 70, 1), CONNECTIONS, sizes.seconds))["rate"]


@contextmanager
def health_p99(folder: Path, sizes: Sizes) -> Iterator[Work]:
    """The p99 of health answers, one after the other, while all connections append."""

    def work() -> float:
        appending = loaded(port, append_request(token, 1), CONNECTIONS, sizes.seconds + 1)
        asking = loaded(port, HEALTH, 1, sizes.seconds)
        found = told(asking)["p99_ms"]
        told(appending)
        return found

    with daemon(folder) as (port, token):
        yield work


APPENDS = Case(NAME, partial(appends, events=1))
APPENDS_BESIDE = Case("perdure, one a request", partial(appends, events=1))
BATCHES = Case(NAME, partial(appends, events=100))
CONSTANT = Case("Hypercorn, a constant", constant)
HEALTH_P99 = Case(NAME, health_p99)
