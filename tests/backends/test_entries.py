"""Rows of kv: every byte of a row counts in its checksum."""

from __future__ import annotations

import pytest

from perdure.backends.errors import Corrupt
from perdure.backends.tables import pack_entry, read_entry


@pytest.mark.parametrize("value", [b"value", None])
def test_no_flipped_byte_of_an_entry_reads_as_another(value):
    raw = pack_entry(b"bucket\0key", 7, value)

    for place in range(len(raw)):
        damaged = bytearray(raw)
        damaged[place] ^= 1
        with pytest.raises(Corrupt):
            read_entry(b"bucket\0key", bytes(damaged))
