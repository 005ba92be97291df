"""Two writers, two followers, two that project, on one store, and what happens to them: drawn from a seed."""

from __future__ import annotations

import random
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

import attrs
import trio

from crowd.driver import Crowd, Member
from crowd.ledger import Life

What = Literal["kill", "freeze", "end"]

GATE_S = 1.5
CALM_S = 3.0
"""In the mean between two troubles of one process."""
FROZEN_S = 4.0
AWAY_S = 1.0


@attrs.frozen
class Part:
    """A process of the crowd through its lives; a *lasting* one is only frozen, so that its memory can be judged."""

    name: str
    jobs: tuple[str, ...]
    lasting: bool
    options: Mapping[str, Any] = MappingProxyType({})


PARTS = (
    Part("w1", ("append",), lasting=False, options={"pace_s": 0.004, "cancel_share": 0.1}),
    Part("w2", ("append", "put"), lasting=True, options={"pace_s": 0.004, "cancel_share": 0.1}),
    Part("f1", ("follow",), lasting=False, options={"subscription": "audit"}),
    Part("f2", ("follow",), lasting=True),
    Part("p1", ("project", "put"), lasting=False, options={"suffix": "-1", "pace_s": 0.02}),
    Part("p2", ("project", "watch"), lasting=True, options={"suffix": "-2"}),
)


@attrs.frozen
class Trouble:
    """Something that happens to a process after a while, for a while."""

    after_s: float
    what: What
    for_s: float


def draw_trouble(draw: random.Random, part: Part) -> Trouble:
    """The next one of *part*."""
    after_s = draw.expovariate(1 / CALM_S)
    what: What = "freeze" if part.lasting else draw.choice(("kill", "kill", "freeze", "end"))
    longest_s = FROZEN_S if what == "freeze" else AWAY_S
    return Trouble(after_s, what, longest_s * draw.random() ** 2)  # rather short than long


class Cast:
    """The living member of each part, and the life that the ledger keeps of each member."""

    def __init__(self, crowd: Crowd, seed: int) -> None:
        self.crowd = crowd
        self.seed = seed
        self.playing: dict[str, Member] = {}
        self.lives: dict[str, Life] = {}
        self.troubles: dict[What, int] = {"kill": 0, "freeze": 0, "end": 0}
        self.over = trio.Event()

    async def enter(self, part: Part) -> None:
        """A new life of *part*."""
        member = await self.crowd.launch(part.name, *part.jobs, gate_s=GATE_S, stream="shared-1", seed=self.seed, **part.options)
        self.playing[part.name] = member
        follows = part.options.get("subscription", "") if "follow" in part.jobs else None
        self.lives[member.options.by] = Life(member.options.by, GATE_S, follows, "project" in part.jobs)
        await member.noted("open")

    async def play(self, part: Part) -> None:
        """Trouble after trouble, until it is over; whoever is away then has come back."""
        draw = random.Random(f"{self.seed} {part.name}")
        while not self.over.is_set():
            trouble = draw_trouble(draw, part)
            await self._unless_over(trouble.after_s)
            if self.over.is_set():
                return
            self.troubles[trouble.what] += 1
            member = self.playing[part.name]
            match trouble.what:
                case "freeze":
                    member.freeze()
                    await self._unless_over(trouble.for_s)
                    member.thaw()
                case "kill" | "end":
                    await (member.kill() if trouble.what == "kill" else member.end())
                    await self._unless_over(trouble.for_s)
                    await self.enter(part)

    async def _unless_over(self, seconds: float) -> None:
        with trio.move_on_after(seconds):
            await self.over.wait()
