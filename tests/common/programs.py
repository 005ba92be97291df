"""Programs on a store, in processes of their own, and what else the tests of `lmdb:`'s files do with stores."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from perdure.backends.commit import Put, SaveSnapshot
from perdure.backends.conformance.law import Desk, appending
from perdure.backends.event import Position
from perdure.backends.urls import open_backend

PRELUDE = """
import json, os, sys
import trio
from perdure.backends.commit import *
from perdure.backends.conformance.law import Desk, appending
from perdure.backends.errors import *
from perdure.backends.event import *
from perdure.backends.limits import Limits
from perdure.backends.urls import open_backend
"""


def run(code: str, *args: object) -> str:
    """Run *code* in a process of its own; what it printed."""
    done = subprocess.run([sys.executable, "-c", PRELUDE + textwrap.dedent(code), *map(str, args)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextmanager
def start(code: str, *args: object) -> Iterator[Any]:
    """The same, in the background; killed at the end, if it is still there."""
    command = [sys.executable, "-u", "-c", PRELUDE + textwrap.dedent(code), *map(str, args)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True)
    with process:
        try:
            yield process
        finally:
            process.kill()


async def refused(url: str, kind: type[Exception], **more: Any) -> Any:
    """The error of opening *url*."""
    with pytest.raises(kind) as caught:
        async with open_backend(url, **more):
            pass
    return caught.value


async def fill(url: str, commits: int = 5) -> None:
    """Streams, entries and snapshots."""
    async with open_backend(url) as backend:
        for number in range(commits):
            save = SaveSnapshot("s", Position(number), "f", b"x" * 30)
            await Desk(backend).done(appending(f"s-{number % 3}", 2), Put("k", b"%d" % (number % 4), b"%d" % number), save)


WRITER = """
    async def main():
        async with open_backend(sys.argv[1]) as backend:
            await Desk(backend).append("a")
            print("ready")
            await trio.to_thread.run_sync(sys.stdin.readline)
            await Desk(backend).append("a")
    trio.run(main)
"""
