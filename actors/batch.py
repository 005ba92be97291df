"""Which of the waiting commits become the next group: pure policy beside the journal.

Callers' commits go first, in order of arrival, then derived ones (projections, checkpoints). Each kind
is bounded by itself in commits and bytes, or is one commit: so neither keeps the other out.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final, Protocol, TypeVar

from perdure.backends.commit import Commit
from perdure.backends.limits import Limits

RIDE_TURNS: Final = 4
"""A derived commit waits so many turns of the loop for an event commit to ride on."""


class Waiting(Protocol):
    """A request for a commit."""

    commit: Commit


W = TypeVar("W", bound=Waiting)


def next_group(callers: deque[W], derived: deque[W], limits: Limits, take: Callable[[W], bool]) -> list[W]:
    """Take the next group out of both queues; *take* says of each whether it still wants to be committed."""
    group: list[W] = []
    for queue in (callers, derived):
        begun, room = len(group), limits.group_bytes
        while queue and len(group) - begun < limits.group_commits:
            size = queue[0].commit.size_bytes
            if size > room and len(group) > begun:
                break
            request = queue.popleft()
            if take(request):
                group.append(request)
                room -= size
    return group
