"""From what a program says to what a backend takes: payloads to drafts, values to bytes, now to a time."""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any, Final

from perdure.backends.codec import Codec
from perdure.backends.commit import Append, Check, Commit, Delete, Fence, Put, Unless, Write, propose
from perdure.backends.environment import Environment
from perdure.backends.errors import ClockAhead, Misuse
from perdure.backends.limits import CLOCK_AHEAD_S, Limits

traceparent: Final[ContextVar[str | None]] = ContextVar("perdure_traceparent", default=None)
"""The W3C trace context of the caller: set it, and appends carry it in their events' `meta`."""

AnyWrite = Append[Any] | Put[Any] | Delete | Check | Unless | Fence


class Encoder:
    """Makes commits. *last_us* tells the store's last time as far as it is known."""

    def __init__(self, codec: Codec, environment: Environment, limits: Limits, last_us: int) -> None:
        self.codec = codec
        self._environment = environment
        self._limits = limits
        self._ids = environment.ids
        self.buckets: dict[str, Any] = {}
        """The type of each bucket that was opened: its values are written as that."""
        self._store_us = last_us
        self._seen_us = environment.clock()
        self._seen_s = environment.elapsed()

    def now_us(self) -> int:
        """The time to propose.

        Raises:
          ClockAhead: it is over 300 s ahead of the store's last time and of the last time seen, plus what has passed since.
        """
        now = self._environment.clock()
        if now - self._seen_us > 1_000_000:
            passed = self._environment.elapsed() - self._seen_s
            ahead = (now - max(self._seen_us + passed * 1e6, self._store_us)) / 1e6
            if ahead > CLOCK_AHEAD_S:
                raise ClockAhead(ahead, CLOCK_AHEAD_S)
            self._seen_us, self._seen_s = now, self._seen_s + passed
        return now

    def append(self, stream: str, events: Sequence[object], expected: Any, key: bytes | None) -> Commit:
        """The commit of one append."""
        drafts = self.codec.drafts(_listed(events), traceparent=traceparent.get())
        return propose([Append(stream, drafts, expected)], id=self._ids(), at_us=self.now_us(), key=key, limits=self._limits)

    def transact(self, writes: Sequence[AnyWrite], key: bytes | None) -> Commit:
        """The commit of several writes."""
        return propose([self.write(write) for write in writes], id=self._ids(), at_us=self.now_us(), key=key, limits=self._limits)

    def own(self, writes: list[Write]) -> Commit:
        """The commit of perdure's own writes (checkpoints, snapshots, states)."""
        return propose(writes, id=self._ids(), at_us=self.now_us(), limits=_OWN, own=True)

    def write(self, write: AnyWrite) -> Write:
        """One write, encoded.

        Raises:
          Misuse: it is no write, or cannot be encoded.
        """
        match write:
            case Append(stream, events, expected):
                return Append(stream, self.codec.drafts(_listed(events), traceparent=traceparent.get()), expected)
            case Put(bucket, key, value, expected):
                name = name_of(bucket)
                kind = self.buckets.get(name, type(value))
                return Put(name, to_key(key), self.codec.encoder(kind)(value), expected)
            case Delete(bucket, key, expected):
                return Delete(name_of(bucket), to_key(key), expected)
            case Check():
                return write if write.key is None else Check(write.expected, bucket=name_of(write.bucket), key=to_key(write.key))
            case Unless() | Fence():
                return write
            case _:
                raise Misuse(f"transact takes Append, Put, Delete, Check, Unless and Fence, not a {type(write).__name__}")


_OWN = Limits(commit_bytes=256 << 20, value_bytes=64 << 20)
"""What projections keep has bounds of its own (`state_bytes`, batches)."""


def _listed(events: object) -> Sequence[object]:
    if isinstance(events, list | tuple):
        return events
    if isinstance(events, Sequence) and not isinstance(events, str | bytes | bytearray | memoryview):
        return events
    raise Misuse(f"append takes a list of events, not a {type(events).__name__}: write [event]")


def to_key(key: object) -> bytes:
    """A program's key (text) as the store's."""
    if isinstance(key, str) and key:
        try:
            return key.encode()
        except UnicodeEncodeError as error:
            raise Misuse(f"a key is text in UTF-8, {key!r} is none: write it in UTF-8") from error
    raise Misuse(f"a key is text, not empty: not {key!r}")


def name_of(bucket: object) -> str:
    """A bucket's name, given by name or as the bucket itself."""
    name = getattr(bucket, "name", bucket)
    if not isinstance(name, str):
        raise Misuse(f"a bucket is named by text, not by {bucket!r}")
    return name
