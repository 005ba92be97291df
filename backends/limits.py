"""The limits, as one frozen value: each has a default, a bound, and an error that names its number.

Sizes are in bytes of UTF-8 or of the stored form; times in seconds.
"""

from __future__ import annotations

from typing import Any

import attrs

MIB = 1 << 20


def whole_number(least: int, most: int) -> Any:
    """A validator: what is said is a whole number within these bounds."""

    def check(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise ValueError(f"{attribute.name} is a whole number from {least:,} to {most:,}, not {value!r}")

    return check


def number(least: int, most: int, *, above: bool = False) -> Any:
    """A validator: what is said is a number within these bounds; *above*: beyond the least."""

    def check(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most or (above and value == least):
            told = f"above {least:,}, up to {most:,}" if above else f"from {least:,} to {most:,}"
            raise ValueError(f"{attribute.name} is a number {told}, not {value!r}")

    return check


def as_float(value: Any) -> Any:
    """A converter: a whole number as a float; what is no number as it is, for the validator to refuse."""
    return float(value) if type(value) is int and abs(value) < 1 << 62 else value


def _limit(default: int, most: int) -> int:
    return attrs.field(default=default, validator=whole_number(1, most))


def _seconds(default: float, most: int) -> float:
    return attrs.field(default=default, converter=as_float, validator=number(0, most, above=True))


@attrs.frozen(kw_only=True)
class Limits:
    """What is refused, what is held back, and how long is waited.

    Raises:
      ValueError: a limit is outside its bound.
    """

    stream_name_bytes: int = _limit(255, 255)
    bucket_bytes: int = _limit(64, 64)
    key_bytes: int = _limit(400, 400)
    value_bytes: int = _limit(MIB, 64 * MIB)
    type_bytes: int = _limit(128, 128)
    tag_bytes: int = _limit(128, 128)
    tags: int = _limit(8, 8)
    idempotency_key_bytes: int = _limit(255, 255)
    archive_bytes: int = _limit(255, 255)
    event_bytes: int = _limit(MIB, 64 * MIB)
    extra_bytes: int = _limit(65_535, 65_535)
    selector_items: int = _limit(8, 8)
    commit_events: int = _limit(10_000, 60_000)
    commit_bytes: int = _limit(16 * MIB, 256 * MIB)
    page_records: int = _limit(1_000, 100_000)
    page_bytes: int = _limit(MIB, 64 * MIB)
    group_commits: int = _limit(4_096, 60_000)
    group_bytes: int = _limit(4 * MIB, 256 * MIB)
    ring_bytes: int = _limit(16 * MIB, 1024 * MIB)
    journal_bytes: int = _limit(64 * MIB, 4096 * MIB)
    mailbox: int = _limit(256, 65_536)
    state_bytes: int = _limit(MIB, 64 * MIB)
    stream_actors: int = _limit(10_000, 1_000_000)
    keyed_memory_bytes: int = _limit(64 * MIB, 4096 * MIB)
    view_s: float = _seconds(5, 60)
    commit_s: float = _seconds(30, 3_600)
    gate_s: float = _seconds(5, 3_600)
    reopen_s: float = _seconds(60, 86_400)
    ask_s: float = _seconds(5, 3_600)
    close_s: float = _seconds(10, 3_600)
    lease_s: float = _seconds(10, 3_600)
    keys_kept_s: float = _seconds(7 * 86_400, 3650 * 86_400)
    tombstones_kept_s: float = _seconds(7 * 86_400, 3650 * 86_400)


LIMITS = Limits()

# Bounds that are part of the meaning, the same in every store.
CONDITION_ROWS = 10_000
"""So many rows of the rarest tag, or records, an append condition may examine."""
PAGE_EXAMINED = 10_000
"""A page ends after so many examined records, whatever it found."""
CUT_EVENTS = 10_000
"""So many events of a stream may be cut in one commit."""
CLOCK_AHEAD_S = 300
"""A commit's proposed time may be so far ahead of the store's."""
