"""What `top` shows of a glance: lines of text with styles, as many as fit. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from rich.console import Group
from rich.table import Table
from rich.text import Text

from perdure.runtime.cli.glances import Actor, Glance, worst_first
from perdure.runtime.cli.values import shown

HELP: Final = "q quit   s sort by lag   space pause   up/down scroll"
DIM: Final = "dim"
STATES: Final = {"running": "green", "open": "green", "held": "green", "standing by": "cyan", "waiting": "yellow", "nobody's": "yellow", "draining": "yellow"}
BAD: Final = "bold red"
ERROR_MAX: Final = 200


def screen(glance: Glance, *, height: int, sort: bool = False, first: int = 0, note: str = "") -> Group:
    """The whole screen in *height* lines, the tree from line *first* on; *note* stands in the place of the help."""
    head = [*_head(glance), Text()]
    rows = worst_first(glance.actors) if sort else list(glance.actors)
    room = max(1, height - len(head) - 2)
    first = max(0, min(first, len(rows) - room))
    more = f"   lines {first + 1} to {min(len(rows), first + room)} of {len(rows)}" if len(rows) > room else ""
    return Group(*head, _table(rows[first : first + room], sort), Text(f"{note or HELP}{more}", DIM, no_wrap=True, overflow="ellipsis"))


def whole(glance: Glance) -> Group:
    """All of it, for where nothing moves."""
    return Group(*_head(glance), Text(), _table(glance.actors, False))


def _head(glance: Glance) -> list[Text]:
    lines = [_title(glance), _numbers(glance)]
    if glance.journal:
        lines.append(_flushes(glance))
    if glance.http:
        lines.append(_http(glance))
    if glance.daemons:
        lines.append(_line(("daemons", ", ".join(map(shown, glance.daemons)))))
    lines += [Text(f"  ! {shown(reason)}", BAD, no_wrap=True, overflow="ellipsis") for reason in glance.reasons]
    return lines


def _title(glance: Glance) -> Text:
    state = "kept" if glance.kept_only else "ready" if glance.ready else "not ready"
    told = Text(no_wrap=True, overflow="ellipsis")
    told.append("perdure top ", "bold")
    told.append(shown(glance.source))
    told.append(f"  {state.upper()}", BAD if glance.ready is False else "bold green" if glance.ready else "bold yellow")
    told.append(f"  store {glance.store[:8]} {glance.state}" + (f"  {shown(glance.url)}" if glance.url != glance.source else ""))
    if glance.up_s is not None:
        told.append(f"  up {duration(glance.up_s)}")
    return told


def _numbers(glance: Glance) -> Text:
    used = None
    if glance.used_bytes is not None:
        used = size(glance.used_bytes) + (f" of {size(glance.limit_bytes)}" if glance.limit_bytes else "")
    return _line(
        ("head", f"{glance.head:,}"),
        ("events/s", _rate(glance.rates.get("events"))),
        ("commits/s", _rate(glance.rates.get("commits"))),
        ("streams", None if glance.streams_live is None else f"{glance.streams_live:,}"),
        ("in use", used),
        ("longest stall", None if glance.stall_max_s is None else duration(glance.stall_max_s)),
    )


def _flushes(glance: Glance) -> Text:
    journal, flushes = glance.journal, glance.rates.get("flushes")
    each = glance.rates.get("commits", 0.0) / flushes if flushes else None
    return _line(
        ("flushes/s", _rate(flushes)),
        ("commits each", None if each is None else f"{each:,.1f}"),
        ("median", duration(journal["flush_p50_s"])),
        ("p99", duration(journal["flush_p99_s"])),
        ("longest", duration(journal["flush_max_s"])),
        ("waiting", f"{journal['waiting']:,} ({size(journal['waiting_bytes'])})"),
        ("refused", f"{journal.get('refused', 0):,}"),
        ("in doubt", f"{journal['doubts']:,}"),
    )


def _http(glance: Glance) -> Text:
    http = glance.http
    return _line(
        ("requests/s", _rate(glance.rates.get("requests"))),
        ("connections", f"{http['connections']:,}"),
        ("refused", f"{http['connections_refused']:,}"),
        ("live", f"{http['followers']:,}"),
        ("bodies", size(http["bodies_bytes"])),
        ("wrong tokens", f"{http['failures']:,}"),
    )


def _line(*facts: tuple[str, str | None]) -> Text:
    told = Text(no_wrap=True, overflow="ellipsis")
    for name, value in facts:
        if value is not None:
            told.append(f"{name} ", DIM)
            told.append(f"{value}   ")
    return told


def _table(rows: Sequence[Actor], flat: bool) -> Table:
    table = Table(box=None, padding=(0, 1), pad_edge=False, expand=True, header_style="bold underline")
    table.add_column("actor", no_wrap=True, overflow="ellipsis", ratio=5, min_width=16)
    table.add_column("state", no_wrap=True, min_width=8)
    for name in ("events/s", "position", "behind", "by", "mailbox", "restarts"):
        table.add_column(name, justify="right", no_wrap=True, min_width=min(7, len(name)))
    table.add_column("runs in", no_wrap=True, overflow="ellipsis", ratio=3)
    table.add_column("last error", no_wrap=True, overflow="ellipsis", ratio=5)
    for one in rows:
        table.add_row(*_cells(one, flat))
    return table


def _cells(one: Actor, flat: bool) -> Iterable[Text]:
    behind = "" if one.lag_events is None else f"{one.lag_events:,}"
    yield Text(("" if flat else "  " * one.depth) + shown(one.name))
    yield Text(one.state, STATES.get(one.state, BAD))
    yield Text(_rate(one.rate) or "")
    yield Text("" if one.position is None else f"{one.position:,}")
    yield Text(behind, "" if not one.lag_events else "yellow")
    yield Text("" if one.lag_s is None else duration(one.lag_s))
    yield Text(f"{one.mailbox:,}" if one.mailbox else "", "yellow")
    yield Text(f"{one.restarts:,}" if one.restarts else "", "yellow")
    yield Text(shown((one.owner or "").removeprefix("process ")))
    yield Text(shown((one.last_error or "")[:ERROR_MAX]), "red")


# -- numbers for people ----------------------------------------------------------------------


def _rate(value: float | None) -> str | None:
    return None if value is None else f"{value:,.0f}" if value >= 10 or value == 0 else f"{value:,.1f}"


def duration(seconds: float) -> str:
    """A time in the unit that suits it."""
    if seconds < 1:
        return f"{seconds * 1e3:,.{0 if seconds >= 0.01 or seconds == 0 else 1}f} ms"
    if seconds < 120:
        return f"{seconds:,.1f} s"
    minutes = int(seconds // 60)
    if minutes < 120:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min" if minutes < 2_880 else f"{minutes // 1_440:,} d {minutes % 1_440 // 60} h"


def size(size_bytes: float) -> str:
    """A size in the unit that suits it."""
    units = ("B", "KiB", "MiB", "GiB", "TiB")
    power = min(max(int(size_bytes).bit_length() - 1, 0) // 10, len(units) - 1)
    return f"{size_bytes / (1 << 10 * power):,.{1 if power else 0}f} {units[power]}"
