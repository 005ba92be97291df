"""What opening a store found and did: values for its status and its user."""

from __future__ import annotations

import attrs


@attrs.frozen
class Cut:
    """*size_bytes* at *offset* of *file* were no part of the log; they are kept as *kept*."""

    file: str
    offset: int
    size_bytes: int
    kept: str

    def __str__(self) -> str:
        return f"{self.size_bytes:,} bytes at offset {self.offset:,} of {self.file} were being written when the machine stopped: kept as {self.kept}"
