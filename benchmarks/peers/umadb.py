"""UmaDB 0.7, a server in Rust, started from its wheel as a process of its own on 127.0.0.1 and a free port.

Its settings are its defaults: a commit is on disk before it is answered; pages are read by file IO. Payloads are
MessagePack bytes, as its documentation offers; a stream is a tag. Appends carry neither a condition nor a UUID, the fastest
it has. Its Python client is synchronous and gives up the interpreter lock while it waits, so writers are threads. Reads
take whole batches (`next_batch`). It keeps tracking positions, but no read models: it has no row of projections.
"""

import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, perf_counter, sleep

import umadb

from benchmarks.harness import FEWER, Case, Work
from benchmarks.payload import Payment, add_payment, decode_payment, encode_payment, payments, total_of
from benchmarks.sizes import Sizes

NAME = "UmaDB"
TYPE = "payment"
BATCH_RECORDS = 1_000
START_S = 10.0


# The server dies with us, however we die (Linux: prctl PR_SET_PDEATHSIG, SIGKILL).
SERVER = """
import ctypes, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, 9)
from umadb.umadb_server_cli import main
main()
"""


@contextmanager
def open_server(folder: Path) -> Iterator[str]:
    """Start a server on data in *folder*; yields its URL; stops it at the end."""
    port = _free_port()
    arguments = ["--listen", f"127.0.0.1:{port}", "--db-path", str(folder / "uma.db")]
    log = folder / "server.log"
    with log.open("wb") as output, subprocess.Popen([sys.executable, "-c", SERVER, *arguments], stdout=output, stderr=output) as server:
        try:
            _wait_started(server, port, log)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.kill()  # what it acknowledged is on disk, and nobody reads it again


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_started(server: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = monotonic() + START_S
    while server.poll() is None and monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
        except OSError:
            sleep(0.02)
        else:
            return
    raise RuntimeError(f"UmaDB did not start: {log.read_text(errors='replace')[-500:]}")


@contextmanager
def open_client(folder: Path) -> Iterator[umadb.Client]:
    with open_server(folder) as url, umadb.Client(url, batch_size=BATCH_RECORDS) as client:
        yield client


def event_of(stream: str, data: Payment) -> umadb.Event:
    return umadb.Event(TYPE, encode_payment(data), [stream])


@contextmanager
def one_writer(folder: Path, sizes: Sizes) -> Iterator[Work]:
    """One event for each `append`."""
    count = sizes.one_writer
    data = list(payments(count))

    with open_client(folder) as client:

        def work() -> float:
            begun = perf_counter()
            _append_each(client, "account-1", data)
            return count / (perf_counter() - begun)

        yield work


def _append_each(client: umadb.Client, stream: str, data: Sequence[Payment]) -> None:
    for each in data:
        client.append([event_of(stream, each)])


@contextmanager
def writers(folder: Path, sizes: Sizes) -> Iterator[Work]:
    """Sixty-four threads with one client, each appending single events to a stream of its own."""
    count, threads = sizes.writers_umadb, sizes.writers
    data = [list(payments(count // threads)) for _ in range(threads)]
    streams = [f"account-{number}" for number in range(threads)]

    with open_client(folder) as client, ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda _: None, range(threads)))

        def work() -> float:
            begun = perf_counter()
            list(pool.map(lambda stream, each: _append_each(client, stream, each), streams, data))
            return count / (perf_counter() - begun)

        yield work


@contextmanager
def bulk(folder: Path, sizes: Sizes) -> Iterator[Work]:
    """A thousand events for each `append`."""
    count = sizes.bulk_fast
    data = list(payments(count))

    with open_client(folder) as client:

        def work() -> float:
            begun = perf_counter()
            _append_all(client, "account-1", data, sizes.bulk_commit)
            return count / (perf_counter() - begun)

        yield work


def _append_all(client: umadb.Client, stream: str, data: Sequence[Payment], commit: int) -> None:
    for start in range(0, len(data), commit):
        client.append([event_of(stream, each) for each in data[start : start + commit]])


@contextmanager
def replay(folder: Path, sizes: Sizes) -> Iterator[Work]:
    """Everything from the start, in batches, each payload decoded by msgspec into the same fold."""
    count = sizes.replay

    with open_client(folder) as client:
        _append_all(client, "account-1", list(payments(count)), sizes.bulk_commit)

        def work() -> float:
            begun = perf_counter()
            total = _fold(client.read())
            rate = count / (perf_counter() - begun)
            assert total == total_of(count)
            return rate

        yield work


def _fold(response: umadb.ReadResponse) -> int:
    total = 0
    while batch := response.next_batch():
        for each in batch:
            total = add_payment(total, decode_payment(each.event.data))
    return total


@contextmanager
def fold_streams(folder: Path, sizes: Sizes) -> Iterator[Work]:
    """Each stream by a query for its tag."""
    count, each_count = sizes.fold_streams_slow, sizes.fold_stream_events
    streams = [f"account-{number}" for number in range(count)]
    queries = [umadb.Query([umadb.QueryItem(tags=[stream])]) for stream in streams]

    with open_client(folder) as client:
        for version in range(each_count):
            client.append([event_of(stream, each) for stream, each in zip(streams, payments(count, start=version * count), strict=True)])

        def work() -> float:
            begun = perf_counter()
            total = sum(_fold(client.read(query)) for query in queries)
            rate = count * each_count / (perf_counter() - begun)
            assert total == total_of(count * each_count)
            return rate

        yield work


ONE_WRITER = Case(NAME, one_writer, fresh=True)
WRITERS = Case(NAME, writers, fresh=True, note=FEWER)
BULK = Case(NAME, bulk, fresh=True)
REPLAY = Case(NAME, replay)
FOLD_STREAMS = Case(NAME, fold_streams, note=FEWER)
