"""Being woken when a file is written to, by another process too; where the system cannot tell, by the clock alone."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

import trio

try:
    from inotify_simple import INotify, flags  # type: ignore[import-untyped]  # it has no annotations
except ImportError:  # another system than Linux
    INotify = None

_BUFFER_BYTES = 16_384


class Watch(Protocol):
    """Watches some files. One task waits at a time."""

    tells: bool
    """Whether it is woken; else `wait` just takes its time."""

    async def wait(self, timeout_s: float) -> None:
        """Return when one of them has been written to since the last `drain`, or when the time is over."""
        ...

    def drain(self) -> bool:
        """Forget what has happened so far; whether anything had."""
        ...

    def close(self) -> None:
        """Whoever waits returns. Idempotent."""
        ...


class _Told:
    """By inotify."""

    tells = True

    def __init__(self, paths: tuple[Path, ...]) -> None:
        self._inotify = INotify(nonblocking=True)
        for path in paths:
            self._inotify.add_watch(path, flags.MODIFY)
        self._fd = self._inotify.fileno()

    async def wait(self, timeout_s: float) -> None:
        if not self._inotify.closed:
            with trio.move_on_after(timeout_s):
                try:
                    await trio.lowlevel.wait_readable(self._fd)
                except trio.ClosedResourceError:
                    return

    def drain(self) -> bool:
        if self._inotify.closed:
            return False
        try:
            while len(os.read(self._fd, _BUFFER_BYTES)) >= _BUFFER_BYTES - 1_024:
                pass
        except BlockingIOError:
            return False
        return True

    def close(self) -> None:
        if not self._inotify.closed:
            trio.lowlevel.notify_closing(self._fd)
            self._inotify.close()


class _Sleeps:
    """By nobody."""

    tells = False

    async def wait(self, timeout_s: float) -> None:
        await trio.sleep(timeout_s)

    def drain(self) -> bool:
        return False

    def close(self) -> None:
        """Nothing is held."""


def watch(*paths: Path) -> Watch:
    """Watch *paths*; of one that does not exist nobody tells."""
    if INotify is not None and all(path.exists() for path in paths):
        try:
            return _Told(paths)
        except OSError:  # this user has as many as are allowed
            pass
    return _Sleeps()
