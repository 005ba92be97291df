"""A disk whose flushes fail when they are told to: for tests of doubt on real files. (`simulated_disk` can do more.)

disk = FaultyDisk()
async with open_backend("file:DIR", environment=Environment(disk=disk)) as backend:
    disk.fail_flush()                   # nothing of the next write is stored, and its flush fails
    disk.fail_flush(stored=True)        # it is stored, and its flush fails all the same
    disk.fail_flush(for_good=True)      # from the next one on, all of them
"""

from __future__ import annotations

import errno

from perdure.backends.disk import TrioDisk, TrioFile


class FaultyDisk(TrioDisk):
    """See the module. Only a write with its flush (`File.write_flush`) is struck."""

    def __init__(self) -> None:
        self._next: bool | None = None
        self._for_good = False

    def fail_flush(self, *, stored: bool = False, for_good: bool = False) -> None:
        """Let the next one fail."""
        self._next, self._for_good = stored, for_good

    def heal(self) -> None:
        """Nothing fails any more."""
        self._next = None

    def strikes(self) -> bool | None:
        """Whether the present one fails, and then whether it is stored."""
        now = self._next
        if not self._for_good:
            self._next = None
        return now

    async def open(self, path: str, *, create: bool = False, write: bool = True) -> TrioFile:
        file = await super().open(path, create=create, write=write)
        return _FaultyFile(file, self)


class _FaultyFile(TrioFile):
    def __init__(self, file: TrioFile, disk: FaultyDisk) -> None:
        self.__dict__.update(file.__dict__)
        self._disk = disk

    async def write_flush(self, offset: int, data: bytes, *, in_thread: bool = False) -> None:
        stored = self._disk.strikes()
        if stored is None:
            await super().write_flush(offset, data, in_thread=in_thread)
            return
        if stored:
            self._write(offset, data)
        raise OSError(errno.EIO, "Input/output error", self.path)
