"""Daemons for the tests: in this process with a client, or as a process of their own. `daemons` is no test."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import httpx2
import trio
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from shop import app

from perdure.backends.environment import Environment
from perdure.runtime import App
from perdure.runtime.serve.config import ServeConfig
from perdure.runtime.serve.daemon import serve
from perdure.runtime.serve.scopes import ALL, Scopes
from perdure.runtime.serve.service import Service
from perdure.runtime.serve.tokens import new_token

SECRET = re.compile(r"perdure_[0-9a-f]{16}_[A-Za-z0-9_-]{20,}")
"""A token, as it must never be told."""
SHOP = Path(__file__).with_name("shop.py")


class Kept:
    """The spans of a daemon that is given its `environment`."""

    def __init__(self, sampler: Any = None) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider(sampler=sampler)
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.environment = Environment(tracers=lambda: self.provider)

    def named(self) -> dict[str, Any]:
        return {span.name: span for span in self.exporter.get_finished_spans()}


@attrs.frozen
class Running:
    """A daemon in this process."""

    service: Service
    url: str
    token: str
    """One that permits everything."""

    def client(self, token: str | None = "", **more: Any) -> httpx2.AsyncClient:
        """A client with that token; '' for the one that permits everything, None for none."""
        used = self.token if token == "" else token
        headers = {} if used is None else {"authorization": f"Bearer {used}"}
        return httpx2.AsyncClient(base_url=self.url, headers={**headers, **more.pop("headers", {})}, timeout=20, **more)

    async def make_token(self, *scopes: str, **more: Any) -> str:
        """A token with these scopes, known to the daemon."""
        token = await new_token(self.service.rt, "test", Scopes(scopes), **more)
        with trio.fail_after(5):
            while token.split("_")[1] not in self.service.tokens.known:
                await trio.sleep(0.01)
        return token


@asynccontextmanager
async def running(store: str = "memory:", with_app: App = app, environment: Environment | None = None, **config: Any) -> AsyncIterator[Running]:
    """A daemon in this process on a free port; drained at the end."""
    told = ServeConfig(**{"store": store, "listen": ("127.0.0.1:0",), "log_level": "debug", **config})
    ended: list[int] = []

    async def daemon(*, task_status: trio.TaskStatus[Service]) -> None:
        ended.append(await serve(with_app, told, signals=False, environment=environment, task_status=task_status))

    async with trio.open_nursery() as nursery:
        service: Service = await nursery.start(daemon)
        held = Running(service, service.urls[0], "")
        yield attrs.evolve(held, token=await held.make_token(*ALL)) if told.tokens else held
        nursery.cancel_scope.cancel()


async def sse(daemon: Running, path: str, count: int, *, headers: Mapping[str, str] | None = None) -> list[tuple[str, Any]]:
    """So many events with data of a live stream, as (id, data). In HTTP/1.0, where a body is bare."""
    host = daemon.url.removeprefix("http://")
    lines = {"host": host, "authorization": f"Bearer {daemon.token}", **(headers or {})}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    found: list[tuple[str, Any]] = []
    text, id = b"", ""
    with trio.fail_after(10):
        async with await trio.open_tcp_stream("127.0.0.1", int(host.rpartition(":")[2])) as stream:
            await stream.send_all(f"GET {path} HTTP/1.0\r\n{head}\r\n".encode())
            async for part in stream:
                text += part
                while b"\n" in text and len(found) < count:
                    line, _, text = text.partition(b"\n")
                    if line.startswith(b"id: "):
                        id = line[4:].decode()
                    elif line.startswith(b"data: "):
                        found.append((id, json.loads(line[6:])))
                if len(found) == count:
                    return found
    raise AssertionError(f"the stream ended: {text!r}")


# -- as a process ----------------------------------------------------------------------------


@attrs.define
class Process:
    """A daemon as a process of its own."""

    process: subprocess.Popen[str]
    url: str
    told: list[str]
    """What it said on standard error, line by line."""

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def ended(self, timeout: float = 10) -> int:
        return self.process.wait(timeout)


def perdure(*arguments: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command."""
    command = [sys.executable, "-P", "-m", "perdure.runtime", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False, env={**os.environ, **environment})


@contextmanager
def process(folder: Path, *arguments: str, app: str = "shop:app", **environment: str) -> Iterator[Process]:
    """`perdure serve` in *folder*, ready; killed at the end if it still runs."""
    (folder / "shop.py").write_text(SHOP.read_text())
    command = [sys.executable, "-P", "-m", "perdure.runtime", "serve", app, *arguments]
    started = subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1", **environment}
    )
    told: list[str] = []
    assert started.stdout is not None
    assert started.stderr is not None
    reader = threading.Thread(target=partial(told.extend, started.stderr), daemon=True)
    reader.start()
    try:
        line = started.stdout.readline()
        found = re.fullmatch(r"listening on (\S+)\n", line)
        if found is None:
            started.wait(10)
            reader.join(5)
            raise AssertionError(f"it did not start: {line!r} {''.join(told)}")
        yield Process(started, found[1], told)
    finally:
        if started.poll() is None:
            started.send_signal(signal.SIGKILL)
        started.wait(10)
        reader.join(5)
        started.stdout.close()
        started.stderr.close()
    assert SECRET.search("".join(told)) is None
