"""The check of the rows that end lives can fail: each thing that it holds a store against is found, and nothing in a sound store."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from torment.lives.check import problems
from torment.lives.mother import Mother
from torment.lives.told import Told
from torment.lives.work import Life

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[str]]:
    """A store that a life has left by being killed, and all that it told."""
    folder = tmp_path_factory.mktemp("lived")
    lines: list[str] = []

    class Listening(Told):
        def take(self, line: str) -> None:
            lines.append(line)
            super().take(line)

    with Mother(Listening(), folder / "errors") as mother:
        mother.begin(Life(f"lmdb:{folder / 'store'}", "w", 7))
        mother.wait_open()
        time.sleep(0.5)
        mother.kill()
    return f"lmdb:{folder / 'store'}", lines


def told_of(lines: list[str]) -> Told:
    told = Told()
    for line in lines:
        told.take(line)
    return told


def test_a_sound_store_has_no_problems(lived: tuple[str, list[str]]) -> None:
    url, lines = lived
    told = told_of(lines)

    assert told.acknowledged > 50
    assert problems(url, told) == []
    assert problems(url, told) == []


def one_more(told: Told) -> None:
    stream = next(name for name in told.streams if name.startswith("run-"))
    told.streams[stream] += 10


def one_less(told: Told) -> None:
    stream = next(name for name in told.streams if name.startswith("keyed-"))
    told.streams[stream] -= 5


def another_value(told: Told) -> None:
    told.values["w3"] += 3


def another_event(told: Told) -> None:
    told.shared[1] = ("nobody", 1)


def an_event_more(told: Told) -> None:
    told.shared[1_000_000] = ("w7", 1)


def a_pair_more(told: Told) -> None:
    told.streams["pair-w5"] += 5


def a_gap_in_what_was_followed(told: Told) -> None:
    del told.followed[1]


SPOILS = [one_more, one_less, another_value, another_event, an_event_more, a_pair_more, a_gap_in_what_was_followed]


@pytest.mark.parametrize("spoil", SPOILS)
def test_what_does_not_fit_is_found(lived: tuple[str, list[str]], spoil: Callable[[Told], None]) -> None:
    url, lines = lived
    told = told_of(lines)
    spoil(told)

    assert len(problems(url, told)) >= 1


def test_what_is_acknowledged_too_early_is_found(tmp_path: Path) -> None:
    told, found = Told(), list[str]()
    url = f"lmdb:{tmp_path / 'store'}"

    with Mother(told, tmp_path / "errors") as mother:
        for number in range(20):
            mother.begin(Life(url, "w", number, lies=True))
            mother.wait_open()
            time.sleep(0.05)
            mother.kill()
            found += problems(url, told)
            if found:
                break

    assert "was acknowledged up to" in found[0]
