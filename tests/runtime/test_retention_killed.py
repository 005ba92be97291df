"""Retention, killed at any instant: every event is in the log or in an archive that its stream leads to."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from perdure.backends.blobs.urls import open_blobs
from perdure.backends.commit import Append
from perdure.backends.conformance.law import Desk, drafts
from perdure.backends.environment import random_id
from perdure.backends.urls import open_backend
from perdure.runtime.archives import Archived
from perdure.runtime.compact import compact
from perdure.runtime.retention import Retention, retain

STREAMS = 150
DAY_US = 86_400_000_000
POLICIES = [Retention(categories=["s"], count=3)]

CHILD = textwrap.dedent(
    """
    import sys
    import trio
    from perdure.backends.blobs.urls import open_blobs
    from perdure.backends.environment import random_id
    from perdure.backends.urls import open_backend
    from perdure.runtime.compact import compact
    from perdure.runtime.retention import Retention, retain

    async def main():
        async with open_backend(sys.argv[1]) as backend, open_blobs(f"directory:{sys.argv[2]}") as blobs:
            print("open", flush=True)
            await retain(backend, [Retention(categories=["s"], count=int(sys.argv[3]))], ids=random_id, blobs=blobs)
            while await backend.maintain():
                pass
        print("done", flush=True)

    trio.run(main)
    """
)


async def _fill(url):
    async with open_backend(url) as backend:
        desk = Desk(backend)
        at_us = await backend.now_us() - DAY_US
        for round_ in range(4):
            for start in range(0, STREAMS, 50):
                await desk.done(*[Append(f"s-{number}", drafts(8)) for number in range(start, start + 50)], at_us=at_us + round_)
        return await desk.log()


@pytest.mark.parametrize("url", ["lmdb:{}/store", "lmdb:{}/store?log=segments", "file:{}/store"])
async def test_what_went_is_in_the_archive_whenever_it_is_killed(url, tmp_path):
    url, draw = url.format(tmp_path), random.Random(url)
    before = await _fill(url)
    async with open_blobs(f"directory:{tmp_path}/blobs") as blobs:
        await _kill_it_often(url, tmp_path, before, draw, blobs)


async def _kill_it_often(url, tmp_path, before, draw, blobs):
    killed, within_s = 0, 0.2
    for count in range(30, 2, -3):
        command = [sys.executable, "-c", CHILD, url, str(tmp_path / "blobs"), str(count)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None and child.stdout.readline() == "open\n"
            time.sleep(draw.uniform(0, within_s))  # noqa: ASYNC251 - nothing else runs here
            child.send_signal(signal.SIGKILL)
            if child.wait() == -signal.SIGKILL:
                killed += 1
            else:  # this machine is faster than that
                within_s /= 2
        async with open_backend(url) as backend:
            assert await backend.verify() == []
            assert await Desk(Archived(backend, blobs)).log() == before
    assert killed >= 3
    async with open_backend(url) as backend:
        await retain(backend, POLICIES, ids=random_id, blobs=blobs)
        await compact(backend)
        assert {info.first for info in await backend.streams(limit=999)} == {30}
        assert await Desk(Archived(backend, blobs)).log() == before
        assert (await backend.store_status()).bytes_used < sum(len(record.payload) + 60 for record in before)
