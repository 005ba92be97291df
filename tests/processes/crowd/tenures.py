"""One named subscription in several processes: each event to somebody, in order from owner to owner. Pure."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from itertools import pairwise

import attrs

from crowd.laws import MOST
from crowd.notes import Note


@attrs.define
class Tenures:
    """What was got, judged: *violations*, each a sentence; how often it changed hands; how many events came again."""

    violations: list[str]
    changes: int = 0
    repeats: int = 0
    late: int = 0
    """Of these, those that an owner got after another one had taken over."""


@attrs.define
class _Span:
    """What one follower got without another one between."""

    by: str
    got: list[tuple[int, int]]
    """Index in the log, and when."""


def tenures(positions: Sequence[int], got: Mapping[str, Sequence[Note]], *, again_s: float) -> Tenures:
    """Judge what each follower *got* against the log's *positions*: whoever went on for *again_s* after an event has kept it as done."""
    told = Tenures([])
    kept: dict[int, bool] = {}
    furthest = -1
    for span in _without_late(_spans(positions, got), told):
        told.changes += 1
        if span.got[0][0] > furthest + 1:
            told.violations.append(f"{span.by} went on at {positions[span.got[0][0]]} though {positions[furthest + 1]} was not got by anybody")
        told.violations += [f"{span.by} got {positions[b]} after {positions[a]}" for (a, _), (b, _) in pairwise(span.got) if b != a + 1]
        told.repeats += sum(index <= furthest for index, _ in span.got)
        told.violations += [f"{span.by} got {positions[index]} again, which had been kept" for index, _ in span.got if kept.get(index)]
        kept.update((index, span.got[-1][1] - at_ns > again_s * 1e9) for index, at_ns in span.got)
        furthest = max(furthest, span.got[-1][0])
    if furthest + 1 != len(positions):
        told.violations.append(f"{len(positions) - furthest - 1} events at the end were not got by anybody")
    told.violations = told.violations[:MOST]
    return told


def _spans(positions: Sequence[int], got: Mapping[str, Sequence[Note]]) -> list[_Span]:
    spans: list[_Span] = []
    for at_ns, by, position in sorted((note.at_ns, by, note.number(0)) for by, notes in got.items() for note in notes):
        if not spans or spans[-1].by != by:
            spans.append(_Span(by, []))
        spans[-1].got.append((bisect_left(positions, position), at_ns))
    return spans


def _without_late(spans: list[_Span], told: Tenures) -> list[_Span]:
    """An owner that was not interrupted by what another one got between went on owning it: that one had not noticed yet."""
    kept: list[_Span] = []
    for span in spans:
        in_hand = len(kept) > 1 and len(kept[-1].got) == 1  # more than that is a tenure that ended before its place was kept
        if in_hand and kept[-2].by == span.by and kept[-2].got[-1][0] + 1 == span.got[0][0]:
            told.late += len(kept.pop().got)
            kept[-1].got += span.got
        else:
            kept.append(span)
    return kept
