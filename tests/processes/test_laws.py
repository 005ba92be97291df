"""The laws can fail: each finds what it is for in a small history that was spoilt in one place, and nothing in the sound one."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from crowd.laws import Logged, Reference, acknowledged, followed, handed_over, modelled, ordered, turning, watched
from crowd.ledger import LOOP_S, SAMPLES_MIN, Ledger, Life
from crowd.notes import Note, parse

LOG = [Logged(1, "one-1", 1, "w1.1", 1), Logged(2, "one-1", 2, "w2.1", 1), Logged(3, "two-1", 1, "w1.1", 2)]


def notes(*lines: str) -> list[Note]:
    return [parse(f"{number} {line}") for number, line in enumerate(lines, 1)]


WRITTEN = notes(
    "try w1.1 1",
    "ack w1.1 1 1 one-1 1 9",
    "try w2.1 1",
    "ack w2.1 1 2 one-1 2 9",
    "try w1.1 2",
    "ack w1.1 2 3 two-1 1 9",
    "try w1.1 3",
    "no w1.1 3 Unavailable 77",
)
GOT = notes("got 1 1 one-1 w1.1 1", "got 2 2 one-1 w2.1 1", "got 3 1 two-1 w1.1 2")
STATE = Reference(LOG).last("-")
SHOWN = notes("model all - 0 0 0", f"model all - 3 {STATE.events} {STATE.digest}")
PUT = notes("put k 1 a", "put k 2 b")
TRIED = notes("tryput k a", "tryput k b")


def test_a_sound_history_breaks_no_law() -> None:
    assert ordered(LOG) == []
    assert acknowledged(LOG, WRITTEN) == []
    assert followed(LOG, GOT, after=0, complete=True) == followed(LOG, GOT[1:], after=1, complete=True) == []
    assert handed_over(LOG, [GOT[:2], GOT[1:]]) == []
    assert modelled(Reference(LOG), SHOWN) == []
    assert watched(notes("changed k 2 b"), PUT, TRIED, {"k": (2, "b")}) == []
    assert turning(notes("gap 0"), [], 1) == []


@pytest.mark.parametrize(
    ("index", "change"),
    [(1, {"position": 1}), (1, {"seq": 3}), (1, {"seq": 1}), (2, {"number": 1}), (2, {"seq": 0})],
    ids=["position twice", "gap", "seq twice", "event twice", "seq before 1"],
)
def test_a_spoilt_log_is_found(index: int, change: dict[str, Any]) -> None:
    spoilt = [attrs.evolve(event, **change) if at == index else event for at, event in enumerate(LOG)]

    assert ordered(spoilt)
    ledger = Ledger()
    for event in spoilt:
        ledger.add(event)
    assert ledger.violations


@pytest.mark.parametrize(
    "spoilt",
    [
        notes("try w1.1 4", "ack w1.1 4 4 one-1 3 9"),
        notes("try w1.1 1", "ack w1.1 1 1 one-1 2 9"),
        notes("try w1.1 2", "no w1.1 2 Unavailable 77"),
        notes("try w1.1 2", "no w1.1 2 Cancelled 0"),
    ],
    ids=["lost", "elsewhere", "refused and there", "cancelled and there"],
)
def test_a_broken_promise_to_a_writer_is_found(spoilt: list[Note]) -> None:
    ledger, life = Ledger(), Life("w1.1", 1.0)
    for event in LOG:
        ledger.add(event)
    ledger.judge(life, [*WRITTEN, *spoilt], [])

    assert acknowledged(LOG, [*WRITTEN, *spoilt])
    assert ledger.violations


def test_an_event_that_nobody_tried_is_found() -> None:
    ledger = Ledger()
    for event in LOG:
        ledger.add(event)
    ledger.close([], {})

    assert acknowledged(LOG, WRITTEN[2:])
    assert len(ledger.violations) == 3


@pytest.mark.parametrize(
    "got", [GOT[:1] + GOT[2:], GOT[:2] + GOT[1:], [GOT[1], GOT[0], GOT[2]], GOT[:2]], ids=["left out", "twice", "out of order", "not to the end"]
)
def test_a_follower_that_errs_is_found(got: list[Note]) -> None:
    ledger, life = Ledger(), Life("f.1", 1.0, follows="")
    for event in LOG:
        ledger.add(event)
    ledger.judge(life, [*notes("from 0"), *got], [])
    ledger.close([life], {})

    assert followed(LOG, got, after=0, complete=True)
    assert any(violation.startswith("f.1") for violation in ledger.violations)


def test_a_gap_between_two_runs_is_found() -> None:
    ledger = Ledger()
    for event in LOG:
        ledger.add(event)
    ledger.judge(Life("f.1", 1.0, follows="audit"), [*notes("from kept"), *GOT[:1]], [])
    ledger.judge(Life("f.2", 1.0, follows="audit"), [*notes("from kept"), *GOT[2:]], [])

    assert handed_over(LOG, [GOT[:1], GOT[2:]])
    assert len(ledger.violations) == 1


@pytest.mark.parametrize(
    "line", [f"model all - 3 {STATE.events} 5", f"model all - 2 {STATE.events} {STATE.digest}", "model all - 9 4 4"], ids=["other", "ahead", "beyond the log"]
)
def test_a_wrong_state_is_found(line: str) -> None:
    assert modelled(Reference(LOG), notes(line))


def test_a_model_that_goes_back_is_found() -> None:
    assert modelled(Reference(LOG), SHOWN[::-1])


@pytest.mark.parametrize(
    "lines",
    [("changed k 2 b", "changed k 1 a"), ("changed k 2 a",), ("changed k 1 a",), ("changed k 2 c",)],
    ids=["back", "moved", "old", "made up"],
)
def test_a_watcher_that_errs_is_found(lines: tuple[str, ...]) -> None:
    ledger, life = Ledger(), Life("p.1", 1.0)
    ledger.judge(life, [*TRIED, *PUT, *notes(*lines)], [])
    ledger.close([life], {"k": (2, "b")})

    assert watched(notes(*lines), PUT, TRIED, {"k": (2, "b")})
    assert ledger.violations


def test_a_loop_that_stands_still_is_found_unless_its_process_was_frozen() -> None:
    second = 10**9
    gap = [Note(int(LOOP_S * 2 * second), "gap", ("0",))]
    free, frozen = Ledger(), Ledger()
    free.judge(Life("w.1", 1.0), gap, [])
    frozen.judge(Life("w.1", 1.0), gap, [(second // 2, 2 * second)])

    assert turning(gap, [], 100)
    assert not turning(gap, [(second // 2, 2 * second)], 100)
    assert (len(free.violations), len(frozen.violations)) == (1, 0)


def test_an_answer_that_comes_too_late_is_found() -> None:
    ledger = Ledger()
    ledger.judge(Life("w1.1", 0.1), [Note(0, "try", ("w1.1", "9")), Note(5 * 10**9, "no", ("w1.1", "9", "Unavailable", "7"))], [])

    assert ledger.violations


def test_memory_that_grows_is_found() -> None:
    flat, growing = Life("w.1", 1.0), Life("w.2", 1.0)
    flat.memory_kib, growing.memory_kib = [30_000] * SAMPLES_MIN, [30_000 + 500 * second for second in range(SAMPLES_MIN)]
    ledger = Ledger()
    for life in (flat, growing):
        ledger.judge_memory(life)

    assert len(ledger.violations) == 1
    assert ledger.violations[0].startswith("w.2")
