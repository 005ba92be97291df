"""What would not come back is refused with the field's name."""

from __future__ import annotations

import math
from datetime import datetime, time
from typing import Any

import attrs
import pytest

from perdure.backends.codec import Codec
from perdure.backends.errors import Misuse
from stored import NOON, Line, Tree


@attrs.frozen
class SubLine(Line):
    more: int = 1


@attrs.frozen
class Holder:
    line: Line
    when: datetime = NOON
    lines: list[Line] = attrs.field(factory=list)
    table: dict[str, int] = attrs.field(factory=dict)
    text: str = ""
    at: time | None = None


@attrs.frozen
class LooseHolder(Holder):
    names: set[str] = attrs.field(factory=set)


BAD: list[tuple[dict[str, Any], str]] = [
    ({"when": datetime(2020, 1, 1)}, ".when: a datetime without a time zone"),
    ({"lines": [Line("a", 2**64)]}, ".lines[0].n"),
    ({"lines": [Line("a", 1), Line("\ud800", 1)]}, ".lines[1].sku"),
    ({"lines": (Line("a", 1),)}, ".lines"),
    ({"lines": "ab"}, ".lines"),
    ({"line": SubLine("a", 1)}, ".line"),
    ({"line": None}, ".line"),
    ({"line": Line("a", True)}, ".line.n"),
    ({"line": Line("a", "1")}, ".line.n"),  # type: ignore[arg-type]  # wrong on purpose
    ({"line": Line("a", 1, 2**60 + 1)}, ".line.price"),
    ({"table": {"k": object()}}, ".table['k']"),
    ({"table": {1: 1}}, ".table"),
    ({"text": b"a"}, ".text"),
    ({"text": lambda: None}, ".text"),
    ({"at": "12:00"}, ".at"),
]


@pytest.mark.parametrize("cls", [Holder, LooseHolder])
@pytest.mark.parametrize(("fields", "where"), BAD)
def test_what_would_not_come_back_is_misuse_naming_the_field(cls, fields, where):
    codec = Codec()
    value = cls(**({"line": Line("a", 1)} | fields))

    with pytest.raises(Misuse) as caught:
        codec.encoder(cls)(value)

    assert f"{cls.__name__}{where}" in str(caught.value)


def test_a_field_that_is_not_set_is_misuse():
    with pytest.raises(Misuse, match=r"Line\.sku"):
        Codec().encoder(Line)(Line.__new__(Line))


def test_an_int_in_a_float_field_is_taken():
    codec = Codec()

    raw = codec.encoder(Line)(Line("a", 1, 2))

    assert codec.decoder(Line)(raw) == Line("a", 1, 2.0)


def test_what_contains_itself_is_misuse():
    loop = Tree("a")
    loop.kids.append(loop)

    with pytest.raises(Misuse, match="contains itself"):
        Codec().encoder(Tree)(loop)


def test_nan_is_taken():
    codec = Codec()

    for cls, value in [(Line, Line("a", 1, math.nan)), (list[float], [math.nan]), (set[float], {math.nan, 1.0}), (Any, [math.nan])]:
        assert codec.encoder(cls)(value)
