"""What the daemon logs: documents with actor, stream and position, no secret, and never a wait for who reads them."""

from __future__ import annotations

import io
import json
import logging
import os
import signal
import sys
import time

import httpx2
import pytest

from daemons import perdure, process
from perdure.actors.mailbox import current_actor
from perdure.backends.errors import ProjectionFailed
from perdure.runtime.serve.telling import LINES_MAX, Teller, formatter

TOKEN = "perdure_" + "0" * 16 + "_" + "a" * 43


def said(form, text, *args, level=logging.ERROR, **more):
    """A record as a line."""
    record = logging.LogRecord("perdure.supervisor", level, "x.py", 1, text, args, more.pop("exc_info", None))
    for name, value in more.items():
        setattr(record, name, value)
    return formatter(form).format(record)


def raised(error):
    try:
        raise error
    except type(error):
        return sys.exc_info()


def test_a_document_has_actor_stream_and_position():
    token = current_actor.set("projection revenue")
    try:
        line = json.loads(said("json", "%s failed", "it", exc_info=raised(ProjectionFailed("revenue", 7, "order-1", 3))))
    finally:
        current_actor.reset(token)

    assert (line["event"], line["level"], line["logger"], line["actor"]) == ("it failed", "error", "perdure.supervisor", "projection revenue")
    assert (line["position"], line["stream"], line["seq"]) == (7, "order-1", 3)
    assert "Traceback" in line["exception"]
    assert line["timestamp"].endswith("Z")


def test_a_record_may_say_its_place_itself():
    assert json.loads(said("json", "x", stream="order-1", position=4, nonsense=1)).items() >= {"stream": "order-1", "position": 4}.items()


@pytest.mark.parametrize("form", ["json", "console"])
def test_no_line_has_a_secret(form):
    url = "postgresql://me:hunter2@host/db"
    line = said(form, f"{TOKEN} {url}", exc_info=raised(ValueError(f"{TOKEN} {url}")), stream=url)

    assert "a" * 43 not in line
    assert "hunter2" not in line


def test_who_does_not_read_holds_nobody_up():
    """A pipe that is full and read by nobody: what finds no room is counted, and ending takes a moment."""
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as pipe:
        teller = Teller(pipe)
        teller.setFormatter(logging.Formatter("%(message)s"))
        began = time.monotonic()
        for _ in range(LINES_MAX + 2_000):
            teller.emit(logging.LogRecord("x", logging.ERROR, "x.py", 1, "x" * 100, (), None))
        took_s = time.monotonic() - began
        lost = teller.lost
        teller.end()
        os.close(reading)  # the thread's write fails, and it ends

    assert lost > 0
    assert took_s < 5


def test_all_that_was_said_is_written_at_the_end():
    out = io.StringIO()
    teller = Teller(out)
    teller.setFormatter(logging.Formatter("%(message)s"))

    for number in range(100):
        teller.emit(logging.LogRecord("x", logging.ERROR, "x.py", 1, str(number), (), None))
    teller.end()

    assert out.getvalue().split() == [str(number) for number in range(100)]


def test_a_daemon_says_documents_when_told_to(tmp_path):
    with process(tmp_path, "--store", "lmdb:store", "--listen", "127.0.0.1:0", "--set", "log_format=json") as daemon:
        token = perdure("token", "new", "lmdb:store", "all", "--scope=append:*", folder=tmp_path).stdout.strip()
        event = {"type": "placed", "data": {"customer": "ada", "cents": 5}}
        httpx2.post(f"{daemon.url}/v1/streams/order-1", json={"events": [event]}, headers={"authorization": f"Bearer {token}"}).raise_for_status()
        daemon.signal(signal.SIGTERM)
        assert daemon.ended() == 0
        time.sleep(0.2)
        lines = [json.loads(line) for line in daemon.told]

    assert [line["event"] for line in lines][-1] == "drained and closed"
    assert all(line.keys() >= {"event", "level", "logger", "timestamp"} for line in lines)
