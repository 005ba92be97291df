"""The audit: what operators did, as events of the stream `$audit`."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from perdure.backends.commit import Append, Draft

STREAM: Final = "$audit"

_pack = msgspec.msgpack.Encoder().encode


def audited(what: str, facts: Mapping[str, Any]) -> Append[Draft]:
    """The write that tells of an action; it belongs into the commit that does it. Never give it a secret."""
    by = {"process": os.getpid(), "host": socket.gethostname(), "user": _user()}
    return Append(STREAM, [Draft(f"$audit-{what}", 1, _pack({**facts, "by": by}))])


def _user() -> str:
    """Who runs this process, as the system numbers it."""
    return str(os.getuid()) if hasattr(os, "getuid") else ""
