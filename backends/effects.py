"""What a commit does to others: whom a group wakes, what may go into a full store, what one of several is told. Pure."""

from __future__ import annotations

from typing import Any

from perdure.backends.commit import BEATS, CHECKPOINTS, Check, Commit, Cut, Delete, Fence, Unless
from perdure.backends.engine import Decisions
from perdure.backends.errors import InDoubt, PerdureError
from perdure.backends.news import Moved


def moved_by(done: Decisions) -> Moved:
    """What of a store has changed, for those who wait for it."""
    moved = Moved.LOG if done.pieces else Moved.NOTHING
    if done.states or done.snapshots or any(change.bucket not in (CHECKPOINTS, BEATS) for change in done.changes):
        return moved | Moved.KV
    return moved | Moved.CHECKPOINT if done.changes else moved


def frees_room(commit: Commit) -> bool:
    """Whether a commit only deletes, cuts and checks."""
    return all(isinstance(write, Delete | Check | Unless | Fence | Cut) for write in commit.writes)


def alone(commit: Commit, error: PerdureError) -> Any:
    """The error as the answer of one commit of several: an exception object carries one traceback."""
    answer = InDoubt(commit.id, commit.key) if isinstance(error, InDoubt) else type(error)(*error.args)
    answer.__cause__ = error
    return answer
