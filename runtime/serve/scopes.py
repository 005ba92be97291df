"""What a token permits: pure.

    read               the log, streams and models
    append:CATEGORY    events for the streams of a category; append:* for all
    kv:BUCKET          the entries of a bucket, to read and to write; kv:* for all
    blob               blobs, to put them (to get them is `read`)
    operate            status, audit, and what else is an operator's
    run                what a runtime elsewhere keeps for its projections, leases and named subscriptions
    scratch            stores of its own, for `perdure conformance`; nothing of the store
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import attrs

from perdure.backends.commit import check_name
from perdure.backends.errors import Misuse
from perdure.backends.event import category_of

READ: Final = "read"
OPERATE: Final = "operate"
BLOB: Final = "blob"
RUN: Final = "run"
SCRATCH: Final = "scratch"
ALL: Final = (READ, "append:*", "kv:*", BLOB, OPERATE, RUN, SCRATCH)


def _checked(scopes: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(check_scope(scope) for scope in scopes))


def check_scope(scope: str) -> str:
    """*scope*, if it is one.

    Raises:
      Misuse: it is none.
    """
    kind, colon, name = scope.partition(":")
    if scope in (READ, BLOB, OPERATE, RUN, SCRATCH):
        return scope
    if kind in ("append", "kv") and colon:
        if name != "*":
            check_name("category" if kind == "append" else "bucket name", name, 255, own=False)
        return scope
    raise Misuse(f"{scope!r} is no scope: read, append:CATEGORY, append:*, kv:BUCKET, kv:*, blob, operate, run and scratch are")


@attrs.frozen
class Scopes:
    """Some scopes, and the questions that are asked of them."""

    names: tuple[str, ...] = attrs.field(converter=_checked)

    def may_read(self) -> bool:
        return READ in self.names

    def may_operate(self) -> bool:
        return OPERATE in self.names

    def may_put_blobs(self) -> bool:
        return BLOB in self.names

    def may_run(self) -> bool:
        return RUN in self.names

    def may_scratch(self) -> bool:
        return SCRATCH in self.names

    def may_append(self, stream: str) -> bool:
        return "append:*" in self.names or f"append:{category_of(stream)}" in self.names

    def may_use(self, bucket: str) -> bool:
        return "kv:*" in self.names or f"kv:{bucket}" in self.names


EVERYTHING: Final = Scopes(ALL)
