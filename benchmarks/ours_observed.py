"""What it costs to watch a daemon: metrics asked for each second, documents in the log, spans; beside the same daemon with none of it."""

import os
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from benchmarks.harness import Case, Work
from benchmarks.ours import url_of
from benchmarks.ours_http import CONNECTIONS, append_request, loaded, made_token, serving, started, told
from benchmarks.sizes import Sizes

APP = "benchmarks.observed:app"
SCRAPE_S = 1.0


@contextmanager
def appends(folder: Path, sizes: Sizes, *, watched: str, traces: float = 0.0, of_cpu: bool = False) -> Iterator[Work]:
    """Appends a second that are acknowledged, or a second of the daemon's processor time; *watched* as `observed` understands it."""
    url = url_of(folder.absolute())
    token = made_token(url)
    settings = ("log_level=error",) if watched == "no" else ("log_level=info", "log_format=json", "metrics_open=true", f"trace_share={traces}")

    def work() -> float:
        before_s = cpu_s(pid)
        with scraped(port, watched != "no"):
            rate = told(loaded(port, append_request(token, 1), CONNECTIONS, sizes.seconds))["rate"]
        return rate * sizes.seconds / (cpu_s(pid) - before_s) if of_cpu else rate

    with started(*serving(APP, url, *settings), WATCHED=watched) as (pid, port):
        yield work


def cpu_s(pid: int) -> float:
    """What the process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def scraped(port: int, wanted: bool) -> Iterator[None]:
    """Somebody asks for the metrics again and again while the body runs."""
    over = threading.Event()

    def ask() -> None:
        while wanted and not over.is_set():
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


UNWATCHED = Case("perdure, unwatched", partial(appends, watched="no"))
UNWATCHED_CPU = Case("perdure, unwatched", partial(appends, watched="no", of_cpu=True))
WATCHED = Case("perdure, watched", partial(appends, watched="traces", traces=0.01))
WATCHED_CPU = Case("perdure, watched", partial(appends, watched="traces", traces=0.01, of_cpu=True))
METRICS_CPU = Case("perdure, no traces", partial(appends, watched="metrics", of_cpu=True))
TENTH_CPU = Case("perdure, 1 trace in 10", partial(appends, watched="traces", traces=0.1, of_cpu=True))
ALL_CPU = Case("perdure, all traces", partial(appends, watched="traces", traces=1.0, of_cpu=True))
