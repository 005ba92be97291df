"""How much each case does. Slow peers do less of the same, and rates are compared."""

import attrs


@attrs.frozen
class Sizes:
    """Counts of one run: events unless said otherwise."""

    one_writer: int = 2_000
    writers: int = 64
    writers_ours: int = 64 * 400
    writers_umadb: int = 64 * 150
    writers_slow: int = 64 * 30
    bulk_commit: int = 1_000
    bulk_fast: int = 200_000
    bulk_slow: int = 20_000
    replay: int = 1_000_000
    replay_slow: int = 50_000
    catch_up: int = 1_000_000
    catch_up_slow: int = 3_000
    fold_streams: int = 10_000
    fold_streams_slow: int = 1_000
    fold_stream_events: int = 20
    grown: int = 1_000_000
    small: int = 10_000
    disk_bulk: int = 200_000
    disk_interleaved: int = 64 * 1_000
    visible: int = 500
    requests: int = 600
    behind: int = 300_000
    actors: int = 10_000
    seconds: float = 3.0
    wake_ups: int = 400
    blob_mib: int = 1_024


FULL = Sizes()
QUICK = Sizes(
    one_writer=50,
    writers_ours=64 * 4,
    writers_umadb=64 * 4,
    writers_slow=64,
    bulk_fast=4_000,
    bulk_slow=2_000,
    replay=5_000,
    replay_slow=2_000,
    catch_up=5_000,
    catch_up_slow=50,
    fold_streams=100,
    fold_streams_slow=50,
    grown=5_000,
    small=1_000,
    disk_bulk=4_000,
    disk_interleaved=64 * 20,
    visible=50,
    requests=50,
    behind=20_000,
    actors=1_000,
    seconds=0.5,
    wake_ups=50,
    blob_mib=40,
)
