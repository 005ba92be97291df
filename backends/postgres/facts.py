"""The facts that a group is judged by, as questions: one round trip, after the statement that locks the head. Pure but for the types of values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from perdure.backends.commit import LEASES, Unless
from perdure.backends.engine import Facts, Needs, TooBroad
from perdure.backends.event import Position
from perdure.backends.limits import CONDITION_ROWS
from perdure.backends.postgres import cutting
from perdure.backends.postgres.packing import unpack_kept
from perdure.backends.postgres.reads import condition_of
from perdure.backends.postgres.schema import ELSEWHERE
from perdure.backends.postgres.wire import EPOCH_US, Question, Row, Statement, Wire, bodies, int8, texts
from perdure.backends.selector import Item

HEAD: Final = Statement(f"SELECT position, revision, at, {ELSEWHERE}, epoch FROM perdure.head")
LOCK: Final = Statement(HEAD.sql + " FOR UPDATE")
"""The right to write. What it gives is the state after the wait; what is asked by the same statement would be that before it."""

_STREAMS = Statement(
    "SELECT w.name, coalesce((SELECT seq + events - 1 FROM perdure.runs WHERE stream = w.name ORDER BY seq DESC LIMIT 1),"
    " (SELECT n.first - 1 FROM perdure.names n WHERE n.name = w.name), 0) FROM unnest($1) AS w (name)",
    ("text[]",),
)
_ENTRIES = Statement(
    "SELECT bucket, key, revision FROM perdure.kv JOIN unnest($1, $2) AS wanted (bucket, key) USING (bucket, key) WHERE value IS NOT NULL",
    ("text[]", "bytea[]"),
)
_KEPT = Statement("SELECT id, kept FROM perdure.commits WHERE id = ANY($1)", ("bytea[]",))
_LEASES = Statement(f"SELECT key, value FROM perdure.kv WHERE bucket = '{LEASES}' AND key = ANY($1) AND value IS NOT NULL", ("bytea[]",))


def questions(needs: Needs) -> list[Question]:
    """What to ask, as far as there is something to ask."""
    asked = []
    if needs.streams:
        asked.append(Question(_STREAMS, (texts(needs.streams),)))
    if needs.entries:
        asked.append(Question(_ENTRIES, (texts([bucket for bucket, _ in needs.entries]), bodies([key for _, key in needs.entries]))))
    if needs.ids:
        asked.append(Question(_KEPT, (bodies(needs.ids),)))
    if needs.leases:
        asked.append(Question(_LEASES, (bodies([name.encode() for name in needs.leases]),)))
    if needs.cuts:
        asked += cutting.questions(needs.cuts)
    told = [question for condition in needs.conditions for question in cutting.bounds_of(condition.query, condition.after)]
    return [*asked, *told, *(_match(item, condition.after) for condition in needs.conditions for item in condition.query.items)]


def facts(needs: Needs, head: Row, answers: Sequence[list[Row]]) -> Facts:
    """The facts, from the locked row and the answers to `questions`."""
    position, revision, at, *_ = head
    known = Facts(Position(position), at + EPOCH_US, revision)
    rest = iter(answers)
    if needs.streams:
        known.streams = dict.fromkeys(needs.streams, 0) | dict(next(rest))
    if needs.entries:
        known.entries = dict.fromkeys(needs.entries, 0) | {(bucket, key): revision for bucket, key, revision in next(rest)}
    if needs.ids:
        known.ids = {id: unpack_kept(kept) for id, kept in next(rest)}
    if needs.leases:
        known.leases = dict.fromkeys(needs.leases, 0) | {key.decode(): int.from_bytes(value[:8], "big") for key, value in next(rest)}
    if needs.cuts:
        cutting.add_facts(known, needs.cuts, next(rest), next(rest), next(rest))
    gone = {condition: cutting.truncated([next(rest) for _ in condition.query.items]) for condition in needs.conditions}
    known.conditions = {condition: gone[condition] or found for condition in needs.conditions for found in [_matched(condition, rest)]}
    return known


async def ask(wire: Wire, needs: Needs, *, within_s: float) -> tuple[Facts, int] | None:
    """The facts without a lock, the head's before the others, and the epoch; None while the store is being loaded."""
    (head,), *answers = await wire.ask(Question(HEAD), *questions(needs), within_s=within_s)
    return None if head[3] else (facts(needs, head, answers), head[4])


# -- conditions ------------------------------------------------------------------------------

_UNTAGGED = """
SELECT min(greatest(position - events, $1) + 1) FILTER (WHERE counted - own < $2 AND {test}), coalesce(max(counted), 0) > $2
FROM (
    SELECT *, sum(own) OVER (ORDER BY position ROWS UNBOUNDED PRECEDING)::int8 AS counted
    FROM (SELECT position, events, stream, type, tags, least(events, position - $1) AS own FROM perdure.runs
          WHERE position > $1 ORDER BY position LIMIT $2 + 1) r
) e
"""
_TAGGED = """
WITH rarest AS (
    SELECT tag, (SELECT count(*) FROM (SELECT FROM perdure.tags t WHERE t.tag = w.tag AND position > $1 LIMIT $2 + 1) c) AS rows
    FROM unnest($3) AS w (tag) ORDER BY rows LIMIT 1
)
SELECT (SELECT min(position) FROM (
           SELECT position FROM perdure.tags t WHERE t.tag = rarest.tag AND position > $1 ORDER BY position LIMIT $2
        ) p JOIN perdure.runs USING (position) WHERE {test}),
       rows > $2
FROM rarest
"""


def _match(item: Item, after: int) -> Question:
    """The first event beyond *after* that the item matches, and whether there is more to look at than is allowed."""
    sql, named = (_TAGGED, [texts(item.tags)]) if item.tags else (_UNTAGGED, [])
    test, values = condition_of(item, 3 + len(named))
    asked = [int8(after), int8(CONDITION_ROWS), *named, *values]
    return Question(Statement(sql.format(test=test), ("int8", "int8", *["text[]"] * (len(asked) - 2))), asked)


def _matched(condition: Unless, answers: Iterator[list[Row]]) -> Position | TooBroad | None:
    found = [next(answers)[0] for _ in condition.query.items]
    places = [place for place, _ in found if place is not None]
    if places:
        return Position(min(places))
    return TooBroad() if any(more for _, more in found) else None
