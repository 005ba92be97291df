"""Pretends that the machine was started anew: after a power cut no mark of before counts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from perdure.backends.lmdb import files


def pretend(boot: str) -> None:
    """From now on this process believes to run in that boot."""
    files.boot_id = lambda: boot


@contextmanager
def pretended(boot: str) -> Iterator[None]:
    """The same, for a while."""
    before = files.boot_id
    pretend(boot)
    try:
        yield
    finally:
        files.boot_id = before
