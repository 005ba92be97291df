"""What it costs to watch a daemon: metrics asked for each second, documents in the log, spans; beside the same daemon with none of it.

Both run at one time and are asked in turn, slice by slice; what is compared are appends in a second of their processor time, for the rest of the
machine moves rates by more than what is looked for.
"""

import os
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path

import attrs

from benchmarks.harness import Case, Work, constant
from benchmarks.ours import url_of
from benchmarks.ours_http import CONNECTIONS, append_request, loaded, made_token, serving, started, told
from benchmarks.sizes import Sizes

APP = "benchmarks.observed:app"
SCRAPE_S = 1.0
SLICE_S = 1.0
PAIRS = 8


@attrs.define
class Daemon:
    """One side: where it is, and what it has done in what time of the processor."""

    pid: int
    port: int
    token: str
    watched: bool
    appends: float = 0.0
    used_s: float = 0.0

    def work(self, seconds: float) -> None:
        """Append for so long."""
        before_s = cpu_s(self.pid)
        with scraped(self.port) if self.watched else nullcontext():
            self.appends += told(loaded(self.port, append_request(self.token, 1), CONNECTIONS, seconds))["rate"] * seconds
        self.used_s += cpu_s(self.pid) - before_s

    def rate(self) -> float:
        """Appends a second of the processor, since it was asked last."""
        found, self.appends, self.used_s = self.appends / self.used_s, 0.0, 0.0
        return found


@contextmanager
def daemon(folder: Path, watched: str, *settings: str) -> Iterator[Daemon]:
    """A daemon in *folder*; *watched* as `observed` understands it."""
    folder.mkdir()
    url = url_of(folder.absolute())
    token = made_token(url)
    with started(*serving(APP, url, *settings), WATCHED=watched) as (pid, port):
        yield Daemon(pid, port, token, watched != "no")


@contextmanager
def compared(folder: Path, sizes: Sizes, *, traces: float | None) -> Iterator[Work]:
    """The rate of one that is watched, with that share of *traces*, beside one that is not."""
    settings = ("log_level=info", "log_format=json", "metrics_open=true", f"trace_share={traces or 0.0}")

    def work() -> float:
        for pair in range(PAIRS):
            for one in (ours, bare) if pair % 2 else (bare, ours):
                one.work(min(SLICE_S, sizes.seconds))
        return ours.rate() / bare.rate()

    with (
        daemon(folder / "watched", "metrics" if traces is None else "traces", *settings) as ours,
        daemon(folder / "unwatched", "no", "log_level=error") as bare,
    ):
        yield work


def cpu_s(pid: int) -> float:
    """What the process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def scraped(port: int) -> Iterator[None]:
    """Somebody asks for the metrics again and again while the body runs."""
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
                answer.read()
            over.wait(SCRAPE_S)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        yield
    finally:
        over.set()
        asking.join()


UNWATCHED = constant("perdure, unwatched", 1.0)
WATCHED = Case("perdure, watched", partial(compared, traces=0.01))
NO_TRACES = Case("perdure, no traces", partial(compared, traces=None))
A_TENTH = Case("perdure, 1 trace in 10", partial(compared, traces=0.1))
ALL = Case("perdure, all traces", partial(compared, traces=1.0))
