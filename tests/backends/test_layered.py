"""Rows over rows read as if they were one."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.backends.errors import Corrupt
from perdure.backends.layered import Few, Layered, Many, Recorder
from perdure.backends.memory import MemoryTables
from perdure.backends.redo import decode, encode

keys = st.binary(max_size=2)
rows = st.dictionaries(keys, st.binary(max_size=3), max_size=12)
changes = st.dictionaries(keys, st.none() | st.binary(max_size=3), max_size=12)


def tables_of(found):
    tables = MemoryTables()
    tables.apply({"kv": dict(found)})
    return tables


def few(changed):
    return Few({"kv": changed} if changed else {})


def many(changed):
    layer = Many()
    layer.update({"kv": changed})
    return layer


def merged(below, above):
    return {key: value for key, value in {**below, **above}.items() if value is not None}


@given(rows, changes, keys, keys | st.none(), st.integers(1, 8), st.sampled_from([few, many]))
def test_a_scan_over_two_layers_is_one_over_their_sum(below, above, start, stop, limit, kind):
    layered = Layered(tables_of(below).reader, kind(above))
    told = tables_of(merged(below, above)).reader

    assert list(layered.scan("kv", start, stop, limit)) == list(told.scan("kv", start, stop, limit))
    assert list(layered.scan_back("kv", start, stop, limit)) == list(told.scan_back("kv", start, stop, limit))
    assert [layered.get("kv", key) for key in (start, *below, *above)] == [told.get("kv", key) for key in (start, *below, *above)]


@given(rows, changes)
def test_who_holds_a_reader_keeps_what_it_saw(before, changed):
    tables = tables_of(before)

    with tables.hold() as held:
        tables.apply({"kv": changed})

        assert list(held.scan("kv", b"", None, 100)) == sorted(before.items())
    assert list(tables.reader.scan("kv", b"", None, 100)) == sorted(merged(before, changed).items())
    assert tables.bytes_used == sum(len(key) + len(value) for key, value in merged(before, changed).items())


@given(rows, changes)
def test_what_was_recorded_is_read_and_changes_nothing_below(before, changed):
    tables = tables_of(before)
    recorder = Recorder(tables.reader)

    for key, value in changed.items():
        if value is None:
            assert recorder.delete("kv", key) == (key in before)
        else:
            recorder.put("kv", key, value)

    assert list(recorder.scan("kv", b"", None, 100)) == sorted(merged(before, changed).items())
    assert list(tables.reader.scan("kv", b"", None, 100)) == sorted(before.items())
    tables.apply(decode(encode(recorder.rows), "here"))
    assert list(tables.reader.scan("kv", b"", None, 100)) == sorted(merged(before, changed).items())


@given(st.binary(max_size=20))
def test_what_is_no_batch_of_rows_is_corrupt(payload):
    with suppress(Corrupt):
        assert isinstance(decode(payload, "batch 7"), dict)


def test_a_table_that_there_is_not_is_corrupt():
    import msgspec

    with pytest.raises(Corrupt):
        decode(msgspec.msgpack.encode([[99, b"k", b"v"]]), "here")
