"""When and what to restart: OTP's rules as pure decisions beside the supervisor.

Counted are restarts *without progress*: a child that moved its position, or ran ten times its last
delay, is forgiven. After five in a row the supervisor gives up.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Final

import attrs

GIVE_UP_AFTER: Final = 5
FIRST_DELAY_S: Final = 0.1
LONGEST_DELAY_S: Final = 30.0
SPREAD: Final = 0.2
"""A delay varies by so much of itself, so that children that failed together do not come back together."""
FORGIVEN_AFTER_DELAYS: Final = 10


class Restart(enum.Enum):
    """Whether a child that ended is started again."""

    PERMANENT = "permanent"
    """Always."""
    TRANSIENT = "transient"
    """If it failed."""
    TEMPORARY = "temporary"
    """Never."""


class Strategy(enum.Enum):
    """Which children are restarted when one fails."""

    ONE_FOR_ONE = "one_for_one"
    """That one."""
    ONE_FOR_ALL = "one_for_all"
    """All."""
    REST_FOR_ONE = "rest_for_one"
    """That one and those started after it."""


class Cause(enum.Enum):
    """Why a child ended."""

    DONE = "done"
    FAILED = "failed"
    FINAL = "final"
    """It failed so that starting it again cannot help."""
    STORE = "store"
    """The store was in trouble: nobody's fault here, never counted."""


class Decision(enum.Enum):
    """What the supervisor does with a child that ended."""

    LEAVE = "leave"
    RESTART = "restart"
    GIVE_UP = "give up"


@attrs.define
class History:
    """One child's failures in a row without progress."""

    failures: int = 0
    last_delay_s: float = 0.0
    troubles: int = 0
    """Of the store, in a row: not counted against the child, but waited out ever longer."""

    def note(self, cause: Cause, restart: Restart, *, ran_s: float, progressed: bool, jitter: float) -> tuple[Decision, float]:
        """What to do about a child that ended, and after which delay in seconds; *jitter* is in [0, 1)."""
        if cause is Cause.FINAL or restart is Restart.TEMPORARY or (cause is Cause.DONE and restart is Restart.TRANSIENT):
            return Decision.LEAVE, 0.0
        if progressed or (self.last_delay_s and ran_s >= FORGIVEN_AFTER_DELAYS * self.last_delay_s):
            self.failures = 0
        self.troubles = self.troubles + 1 if cause is Cause.STORE else 0
        if cause is Cause.FAILED:
            self.failures += 1
            if self.failures > GIVE_UP_AFTER:
                return Decision.GIVE_UP, 0.0
        self.last_delay_s = delay_s(max(0, (self.troubles or self.failures) - 1), jitter)
        return Decision.RESTART, self.last_delay_s


def delay_s(failures_before: int, jitter: float) -> float:
    """0.1 s, doubled with each failure in a row, at most 30 s, plus or minus 20 %."""
    plain = min(LONGEST_DELAY_S, FIRST_DELAY_S * 2.0 ** min(failures_before, 16))
    return plain * (1 + SPREAD * (2 * jitter - 1))


def to_restart(names: Sequence[str], failed: str, strategy: Strategy) -> tuple[str, ...]:
    """Which children are stopped (in reverse) and started again (in order) when *failed* is."""
    match strategy:
        case Strategy.ONE_FOR_ONE:
            return (failed,)
        case Strategy.ONE_FOR_ALL:
            return tuple(names)
        case Strategy.REST_FOR_ONE:
            return tuple(names[names.index(failed) :])
