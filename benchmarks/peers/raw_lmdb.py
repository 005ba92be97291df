"""LMDB by hand (py-lmdb), synced at each commit: what the tables of perdure cost without perdure.

One durable transaction puts a frame (of about 217 bytes for one event: envelope and payload) keyed by its position, and a
row of its run keyed by stream and seq. No writemap, no nosync, no metasync: the defaults.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from struct import Struct
from time import perf_counter
from typing import Any

import lmdb

from benchmarks.harness import Case, Work
from benchmarks.payload import PAYLOAD_BYTES, add_payment, decode_payment, encode_payment, payments, total_of
from benchmarks.sizes import Sizes

MAP_BYTES = 16 << 30
FRAME_BYTES = 217
VALUE_BYTES = 150
PAGE_RECORDS = 1_000

_POSITION = Struct(">Q")
_RUN_KEY = Struct(">QQ")
_RUN = Struct(">QII")


@contextmanager
def open_tables(folder: Path) -> Iterator[tuple[lmdb.Environment, Any, Any]]:
    with lmdb.open(str(folder), map_size=MAP_BYTES, max_dbs=4) as env:
        yield env, env.open_db(b"frames"), env.open_db(b"runs")


@contextmanager
def one_writer(folder: Path, sizes: Sizes) -> Iterator[Work]:
    """One event, one durable transaction, two rows."""
    count, head = sizes.one_writer, bytes(FRAME_BYTES - PAYLOAD_BYTES)
    events = list(payments(count))

    with open_tables(folder) as (env, frames, runs):

        def work() -> float:
            begun = perf_counter()
            for position, each in enumerate(events, 1):
                with env.begin(write=True) as txn:
                    txn.put(_POSITION.pack(position), head + encode_payment(each), db=frames, append=True)
                    txn.put(_RUN_KEY.pack(1, position), _RUN.pack(position, 0, 1), db=runs)
            return count / (perf_counter() - begun)

        yield work


@contextmanager
def bulk(folder: Path, sizes: Sizes) -> Iterator[Work]:
    """A thousand events, one durable transaction: one frame and one run for all of them."""
    count, commit = sizes.bulk_fast, sizes.bulk_commit
    events = list(payments(count))

    with open_tables(folder) as (env, frames, runs):

        def work() -> float:
            begun = perf_counter()
            for start in range(0, count, commit):
                frame = b"".join(encode_payment(each) for each in events[start : start + commit])
                with env.begin(write=True) as txn:
                    txn.put(_POSITION.pack(start + 1), frame, db=frames, append=True)
                    txn.put(_RUN_KEY.pack(1, start + 1), _RUN.pack(start + 1, 0, commit), db=runs)
            return count / (perf_counter() - begun)

        yield work


@contextmanager
def scan(folder: Path, sizes: Sizes) -> Iterator[Work]:
    """Values of 150 bytes by a cursor, a thousand at a time; msgspec decodes the payload in each, and the same fold takes it."""
    count, head = sizes.replay, bytes(VALUE_BYTES - PAYLOAD_BYTES)

    with open_tables(folder) as (env, frames, _):
        with env.begin(write=True) as txn:
            for position, each in enumerate(payments(count), 1):
                txn.put(_POSITION.pack(position), head + encode_payment(each), db=frames, append=True)

        def work() -> float:
            total, skip = 0, len(head)
            begun = perf_counter()
            with env.begin(buffers=False) as txn, txn.cursor(db=frames) as cursor:
                values = cursor.iternext(keys=False, values=True)
                while page := list(islice(values, PAGE_RECORDS)):
                    for value in page:
                        total = add_payment(total, decode_payment(value[skip:]))
            rate = count / (perf_counter() - begun)
            assert total == total_of(count)
            return rate

        yield work


ONE_WRITER = Case("raw LMDB", one_writer, fresh=True)
BULK = Case("raw LMDB", bulk, fresh=True)
SCAN = Case("raw LMDB scan", scan)
