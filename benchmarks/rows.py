"""The rows, in the order of the table, with their goals. A new row is one entry here and a case on each side."""

from collections.abc import Sequence

from benchmarks import ours, ours_backend, ours_blobs, ours_http, ours_latency, ours_memory, ours_observed, ours_postgres, ours_processes, ours_segments
from benchmarks.harness import BEST, Case, Row, constant
from benchmarks.peers import bare_trio, eventsource, eventsourcing, eventsourcing_visible, postgres, raw_lmdb, raw_sqlite, umadb


def growth(name: str) -> Row:
    at_1m, at_10k = ours.GROWTH[name]
    return Row(f"growth-{name}", at_1m, [at_10k], {at_10k.name: 0.8}, why="the index of 1M events does not stay in the processor's caches")


def disk(name: str, case: Case, times_at_most: float) -> Row:
    return Row(f"disk-{name}", case, [ours.PAYLOAD], {ours.PAYLOAD.name: times_at_most}, at_most=True, unit="B/event")


def p99(name: str, case: Case, ms_at_most: float, *, why: str) -> Row:
    limit = constant(f"{ms_at_most:g} ms", ms_at_most)
    return Row(f"p99-append-{name}", case, [limit, ours_latency.P99_IDLE], {limit.name: 1}, at_most=True, unit="ms", why=why)


def watched(name: str, case: Case, at_least: float | None) -> Row:
    beside = ours_observed.UNWATCHED
    why = "metrics 1 to 2 %, the rest OpenTelemetry: a request that is traced costs about as much again, half of that to write its spans out"
    return Row(name, case, [beside], {} if at_least is None else {beside.name: at_least}, unit="of its rate", why=why)


ROWS: Sequence[Row] = [
    Row(
        "one-writer",
        ours.ONE_WRITER,
        [raw_lmdb.ONE_WRITER, raw_sqlite.ONE_WRITER, eventsourcing.ONE_WRITER, eventsource.ONE_WRITER, umadb.ONE_WRITER],
        {raw_lmdb.ONE_WRITER.name: 0.75},
        why="some 45 us of Python an append beside the flush: half of it deciding and building a frame of one, half Trio's two switches and encoding",
    ),
    Row(
        "64-writers",
        ours.WRITERS,
        [eventsourcing.WRITERS, eventsource.WRITERS, umadb.WRITERS],
        {eventsourcing.NAME: 20, umadb.NAME: 3.5},
        why="20 us of Python an append (encoding and checks a quarter, Trio's switches a quarter, deciding and framing a third) "
        "and the flush of 64 shared; the peers are faster on this machine than where the goals were set",
    ),
    Row(
        "bulk-1000",
        ours.BULK,
        [raw_lmdb.BULK, raw_sqlite.BULK, eventsourcing.BULK, eventsourcing.BULK_JSON, eventsource.BULK, umadb.BULK],
        {eventsourcing.NAME: 15, eventsourcing.JSON_NAME: 15, umadb.NAME: 2},
        why="half is LMDB's own commit of 110 KB; of the rest encoding with its guard is the most, then checksums and columns",
    ),
    Row(
        "replay",
        ours.REPLAY,
        [raw_lmdb.SCAN, raw_sqlite.REPLAY, eventsourcing.REPLAY, eventsourcing.REPLAY_JSON, eventsource.REPLAY, umadb.REPLAY],
        {eventsourcing.NAME: 10, eventsourcing.JSON_NAME: 10, umadb.NAME: 2.5, raw_lmdb.SCAN.name: 0.8},
        why="beside decoding (a third) each event costs its checksum, its record and its envelope, about as much again as decoding",
    ),
    Row(
        "segments-one-writer",
        ours_segments.ONE_WRITER,
        [raw_sqlite.ONE_WRITER, eventsourcing.ONE_WRITER, ours.ONE_WRITER, ours_segments.FILE_ONE_WRITER],
        {raw_sqlite.ONE_WRITER.name: 1, eventsourcing.NAME: 1.5},
        why="one flush of 4 KiB, and some 70 us of Python an append",
    ),
    Row(
        "segments-64-writers",
        ours_segments.WRITERS,
        [eventsourcing.WRITERS, umadb.WRITERS, ours.WRITERS, ours_segments.FILE_WRITERS],
        {eventsourcing.NAME: 30, umadb.NAME: 5},
        why="20 us of Python an append is 50,000 a second at most; the peers are faster on this machine than where the goals were set",
    ),
    Row("segments-bulk-1000", ours_segments.BULK, [ours.BULK, umadb.BULK], {}),
    Row("file-opening", ours_segments.FILE_OPENING, [constant("1 s", 1_000.0)], {}, at_most=True, unit="ms"),
    Row("file-memory", ours_segments.FILE_MEMORY, [ours_segments.PAYLOAD], {}, at_most=True, unit="B/event"),
    Row("read-all", ours.READ_ALL, [raw_lmdb.SCAN], {}),
    Row(
        "catch-up-single",
        ours.CATCH_UP_SINGLE,
        [eventsourcing.CATCH_UP_SINGLE, eventsource.CATCH_UP_SINGLE],
        {BEST: 150},
        why="as replay, plus a snapshot every 10,000 events",
    ),
    Row("catch-up-keyed", ours.CATCH_UP_KEYED, [eventsourcing.CATCH_UP_KEYED, eventsource.CATCH_UP_KEYED], {BEST: 40}),
    Row(
        "fold-streams",
        ours.FOLD_STREAMS,
        [eventsourcing.FOLD_STREAMS, eventsourcing.FOLD_STREAMS_JSON, eventsource.FOLD_STREAMS, umadb.FOLD_STREAMS],
        {BEST: 8},
        why="twenty runs of one event in twenty frames: a look-up, a slice and a checksum for each; a peer's index leads to neighbouring rows",
    ),
    *(growth(name) for name in ours.GROWTH),
    Row("backend-one-writer", ours_backend.ONE_WRITER, [raw_lmdb.ONE_WRITER], {}),
    Row("backend-bulk-1000", ours_backend.BULK, [raw_lmdb.BULK], {}),
    Row("backend-replay", ours_backend.REPLAY, [raw_lmdb.SCAN], {}),
    Row(
        "visible-durable",
        ours_latency.VISIBLE_DURABLE,
        [eventsourcing_visible.VISIBLE, eventsourcing_visible.VISIBLE_INLINE, eventsource.VISIBLE],
        {BEST: 1 / 3},
        at_most=True,
        unit="ms",
        why="two flushes one after the other, 0.3 ms each: the append's and the model's own, since it shows only what is durable; 0.2 ms of "
        "Python between them. A third of what a peer takes that flushes twice itself (eventsourcing) is less than the two flushes",
    ),
    Row("visible-memory", ours_latency.VISIBLE_MEMORY, [ours_latency.ANSWERED], {ours_latency.ANSWERED.name: 1.5}, at_most=True, unit="ms"),
    p99(
        "under-replay",
        ours_latency.P99_UNDER_REPLAY,
        10,
        why="an append takes three turns of the loop, and in each the reader has one: a page is read (that of one commit of 1,000 events here, "
        "1.2 ms) or 256 records are decoded; a program that does not freeze what lives (gc.freeze) adds collections of 30 ms",
    ),
    p99(
        "under-catch-up",
        ours_latency.P99_UNDER_CATCH_UP,
        15,
        why="while callers commit, a turn of the projection is a page read (1.2 ms), 256 events folded, or the states of a page committed "
        "(2 to 3 ms with the flush)",
    ),
    Row(
        "writer-with-projection",
        ours_latency.WRITER_WITH_PROJECTION,
        [ours_latency.WRITER_ALONE],
        {ours_latency.WRITER_ALONE.name: 0.75},
        why="a commit of the model each 5 ms, and the Python of following, folding and proposing it between two appends",
    ),
    Row("idle-stream-actor", ours_memory.IDLE_STREAM_ACTOR, [bare_trio.IDLE_TASK], {bare_trio.IDLE_TASK.name: 1.5}, at_most=True, unit="B/actor"),
    Row("two-processes-64", ours_processes.TWO_PROCESSES, [ours_processes.ONE_PROCESS], {ours_processes.ONE_PROCESS.name: 0.7}),
    Row("two-processes-least", ours_processes.LEAST_SHARE, [constant("both together", 1.0)], {"both together": 1 / 3}, unit="share"),
    Row(
        "wake-up",
        ours_processes.WAKE_UP,
        [bare_trio.HOP],
        {bare_trio.HOP.name: 3},
        at_most=True,
        unit="us",
        why="150 to 190 us are the kernel's and a sleeping core's, as with the socket; as much again is Python on cold caches: the side file, "
        "one page read, the payload decoded",
    ),
    Row(
        "http-appends",
        ours_http.APPENDS,
        [ours_http.CONSTANT],
        {ours_http.CONSTANT.name: 0.5},
        why="1.4 times the processor time of the constant with 64 connections, twice with 16, and flushes beside it; three processes on two cores",
    ),
    Row(
        "http-batches",
        ours_http.BATCHES,
        [ours_http.APPENDS_BESIDE],
        {ours_http.APPENDS_BESIDE.name: 20},
        why="an event of a batch costs its JSON, its checks and its encoding, some 15 us; a request some 600",
    ),
    Row(
        "http-health-p99",
        ours_http.HEALTH_P99,
        [constant("50 ms", 50.0)],
        {"50 ms": 1},
        at_most=True,
        unit="ms",
        why="64 appends are 64 times some 0.6 ms of one loop: a health answer waits for about one such round, longer where others have the processor",
    ),
    watched("http-watched", ours_observed.WATCHED, 0.95),
    watched("http-watched-no-traces", ours_observed.NO_TRACES, None),
    watched("http-watched-tenth", ours_observed.A_TENTH, None),
    watched("http-watched-all", ours_observed.ALL, None),
    disk("bulk", ours.DISK_BULK, 1.6),
    disk("interleaved", ours.DISK_INTERLEAVED_MERGED, 2.2),
    disk("interleaved-before-merging", ours.DISK_INTERLEAVED, 3.2),
    Row("blob-put", ours_blobs.PUT["directory"], [ours_blobs.PLAIN_COPY], {ours_blobs.PLAIN_COPY.name: 1 / 3}, unit="MB/s"),
    Row("blob-get", ours_blobs.GET["directory"], [ours_blobs.PLAIN_COPY], {ours_blobs.PLAIN_COPY.name: 1 / 3}, unit="MB/s"),
    Row("blob-memory", ours_blobs.MEMORY["directory"], [ours_blobs.MEMORY_LIMIT], {ours_blobs.MEMORY_LIMIT.name: 1}, at_most=True, unit="MiB"),
    Row("blob-put-ipfs", ours_blobs.PUT["ipfs"], [ours_blobs.PLAIN_COPY], {}, unit="MB/s"),
    Row("blob-get-ipfs", ours_blobs.GET["ipfs"], [ours_blobs.PLAIN_COPY], {}, unit="MB/s"),
    Row("blob-memory-ipfs", ours_blobs.MEMORY["ipfs"], [ours_blobs.MEMORY_LIMIT], {ours_blobs.MEMORY_LIMIT.name: 1}, at_most=True, unit="MiB"),
    Row("postgres-64-writers", ours_postgres.WRITERS, [postgres.LEDGER_WRITERS, postgres.STORE_WRITERS], {BEST: 20}),
    Row(
        "postgres-8x8-writers",
        ours_postgres.EIGHT_PROCESSES,
        [postgres.LEDGER_PROCESSES, postgres.STORE_PROCESSES, ours_postgres.ONE_PROCESS],
        {eventsourcing.NAME: 5, eventsource.NAME: 5, ours_postgres.ONE_PROCESS.name: 1},
    ),
    Row("postgres-bulk-1000", ours_postgres.BULK, [postgres.LEDGER_BULK, postgres.STORE_BULK], {BEST: 5}),
    Row("postgres-replay", ours_postgres.REPLAY, [postgres.LEDGER_REPLAY, postgres.STORE_REPLAY], {BEST: 5}),
    Row("postgres-catch-up-single", ours_postgres.CATCH_UP_SINGLE, [postgres.LEDGER_CATCH_UP, postgres.STORE_CATCH_UP], {BEST: 50}),
    Row("postgres-catch-up-keyed", ours_postgres.CATCH_UP_KEYED, [postgres.LEDGER_CATCH_UP, postgres.STORE_CATCH_UP], {}),
    Row("postgres-visible", ours_postgres.VISIBLE, [postgres.LEDGER_VISIBLE, postgres.STORE_VISIBLE], {BEST: 1 / 3}, at_most=True, unit="ms"),
]
