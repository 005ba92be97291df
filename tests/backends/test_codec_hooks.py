"""Hooks of the user: they read and write their type wherever it lies."""

from __future__ import annotations

from datetime import date
from typing import Any

import attrs
import cattrs
import pytest

from perdure.backends.codec import Codec
from perdure.backends.errors import Misuse
from perdure.backends.plain import why_not_plain
from perdure.backends.structuring import hooks_of
from stored import BY_TYPE, All, Base, Line, unpack


class Money:
    """Neither attrs nor anything else that is known."""

    def __init__(self, cents: int) -> None:
        self.cents = cents

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Money) and other.cents == self.cents

    __hash__ = None  # type: ignore[assignment]  # as Python does it


@attrs.frozen
class Priced:
    price: Money
    line: Line
    names: set[str]


def hooked_converter() -> cattrs.Converter:
    converter = cattrs.Converter()
    converter.register_unstructure_hook(Money, lambda money: f"{money.cents} ct")
    converter.register_structure_hook(Money, lambda text, _: Money(int(text.split()[0])))
    return converter


def test_a_hook_of_the_user_reads_and_writes_its_type():
    codec = Codec(converter=hooked_converter())
    value = Priced(Money(5), Line("a", 1), {"b", "a"})

    raw = codec.encoder(Priced)(value)

    assert unpack(raw)["price"] == "5 ct"
    assert unpack(raw)["names"] == ["a", "b"]
    assert codec.decoder(Priced)(raw) == value


def test_without_the_hook_the_type_is_misuse():
    with pytest.raises(Misuse, match="Money"):
        Codec().encoder(Priced)


def upper_hook(converter: cattrs.Converter) -> None:
    converter.register_unstructure_hook(Line, lambda line: line.sku)
    converter.register_structure_hook(Line, lambda sku, _: Line(sku, 0))


def predicate_hook(converter: cattrs.Converter) -> None:
    converter.register_unstructure_hook_func(lambda cls: cls is Line, lambda line: line.sku)
    converter.register_structure_hook_func(lambda cls: cls is Line, lambda sku, _: Line(sku, 0))


@pytest.mark.parametrize("register", [upper_hook, predicate_hook])
def test_a_hook_on_the_way_takes_the_class_off_the_list(register):
    converter = cattrs.Converter()
    register(converter)
    codec = Codec(converter=converter)

    raw = codec.encoder(list[Line])([Line("a", 0)])

    assert unpack(raw) == ["a"]
    assert codec.decoder(list[Line])(raw) == [Line("a", 0)]
    assert why_not_plain(list[Line], hooks_of(converter)) == "list[" + f"{Line.__module__}.Line]: the converter has a hook for Line"


def test_a_hook_for_a_native_type_is_used():
    converter = cattrs.Converter()
    converter.register_unstructure_hook(date, lambda day: day.toordinal())
    converter.register_structure_hook(date, lambda n, _: date.fromordinal(n))
    codec = Codec(converter=converter)

    raw = codec.encoder(dict[str, date])({"a": date(2020, 1, 2)})

    assert unpack(raw) == {"a": date(2020, 1, 2).toordinal()}
    assert codec.decoder(dict[str, date])(raw) == {"a": date(2020, 1, 2)}


def test_a_converter_without_hooks_changes_nothing():
    assert Codec(converter=cattrs.Converter()).form(All).surely(object()) is False
    assert not any(hooks_of(cattrs.Converter())(cls) for cls in (*BY_TYPE, list[int], set[int], Any, Base))


def test_a_converter_with_options_takes_classes():
    assert hooks_of(cattrs.Converter(omit_if_default=True))(Line)
