"""The world of a run: a machine with a disk in memory, processes on it that die and stand still, and points where things go wrong.

Each call of a process's disk is two points, before it acts and after it has; where followers are told is one, and where a
store has no simulated disk, each call of the backend is two. Points are numbered over the whole run.

A killed process runs no further step: its tasks are held until the run has been judged, and only then unwound. So is a frozen
one's until it is thawed, while the time of all others passes. Its locks it keeps while frozen, and loses when killed.
"""

from __future__ import annotations

import errno
import heapq
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from random import Random
from typing import Any

import attrs
import trio

from perdure.backends.cuts import Policy
from perdure.backends.environment import Environment, InlineThreads
from perdure.backends.faults import Fault, Op
from perdure.backends.processes import NamedProcess
from perdure.backends.simulated_disk import SimulatedDisk
from perdure.backends.simulated_process import SimulatedProcess
from perdure.runtime.simulation.faults import Drawn, Injection, Phase, Replayed
from perdure.runtime.simulation.ledger import Ledger
from perdure.runtime.simulation.scheduler import queue
from perdure.runtime.simulation.trace import Kind, Trace

FOLDER = "store"
STARTED_US = 1_767_225_600_000_000
"""The wall clocks begin about here: 2026."""
FULL_BYTES = 1 << 12
"""So much room is left on a full disk."""


@attrs.frozen
class Violation:
    """A law that a run broke: *law* names it, *text* says what was seen."""

    law: str
    text: str

    def __str__(self) -> str:
        return f"{self.law}: {self.text}"


@attrs.define(eq=False)
class Life:
    """A process from its start to its end. *node* is which runtime it is of; each life is another process of it."""

    node: int
    number: int
    process: SimulatedProcess
    environment: Environment
    held: bool = False
    parked: list[Any] = attrs.field(factory=list)
    dead: bool = False
    opened: bool = False
    """Whether it has got the store open."""
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    ended: trio.Event = attrs.field(factory=trio.Event)
    leave: trio.Event = attrs.field(factory=trio.Event)
    leaves_by: str = ""
    pause_s: float = 0.0
    """How long after its end the next one begins."""
    sessions: dict[int, trio.CancelScope] = attrs.field(factory=dict)
    mine: list[int] = attrs.field(factory=list)
    """The sessions it is at."""

    @property
    def who(self) -> str:
        """`runtime.life`, as it stands in the trace."""
        return f"{self.node}.{self.number}"


@attrs.define
class NodeClock:
    """A runtime's own clocks: wrong by *ahead_s*, and going *rate* times as fast as they should."""

    ahead_s: float
    rate: float

    def wall_us(self) -> int:
        """What its wall clock says."""
        return STARTED_US + int((self.ahead_s + trio.current_time() * self.rate) * 1e6)

    def elapsed_s(self) -> float:
        """What its other clock says."""
        return trio.current_time() * self.rate


class World:
    """See the module."""

    def __init__(self, seed: int, script: Drawn | Replayed, runtimes: int) -> None:
        self.seed = seed
        self.script = script
        self.trace = Trace()
        self.injections: list[Injection] = []
        """What went wrong, in order."""
        self.violations: list[Violation] = []
        self.counts: dict[str, int] = {}
        """How often what happened."""
        self.points = 0
        self.full_until = 0.0
        """Until then the disk is full."""
        self.calm = False
        """Nothing goes wrong any more."""
        self.ledger = Ledger(lambda who, text: self.note("told", text, who))
        self.kept: Any = None
        """What outlives the processes where there is no simulated disk: the store itself, or its folder."""
        self.lives: list[Life] = []
        """All there were."""
        draw = Random(f"world {seed}")
        high_s = draw.choice((0.0, 0.0, 0.001, 0.02))
        self.disk = SimulatedDisk(seed=seed, latency_s=(0.0, high_s))
        self.disk.on_point = lambda process, _, op, path: self._at_disk(process, "before", op, path)
        self.disk.after_point = lambda process, _, op, path: self._at_disk(process, "after", op, path)
        self.segment_bytes = draw.choice((4_608, 4_608, 8 << 10, 64 << 10))
        self._clocks = [NodeClock(draw.choice((0.0, draw.uniform(-3_600, 3_600))), draw.choice((1.0, draw.uniform(0.5, 2)))) for _ in range(runtimes + 1)]
        self._by_pid: dict[int, Life] = {}
        self._pids = count(1)
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._timer_numbers = count()
        self._timers_changed = trio.Event()

    # -- the trace ---------------------------------------------------------------------------

    def note(self, kind: Kind, text: str, who: str = "") -> None:
        """A line of the trace."""
        self.trace.add(kind, trio.current_time(), who, text)

    def tally(self, what: str) -> None:
        """One more of these."""
        self.counts[what] = self.counts.get(what, 0) + 1

    def violate(self, law: str, text: str) -> None:
        """A law is broken."""
        self.violations.append(Violation(law, text))
        self.note("law", f"broken: {law}: {text}")

    # -- processes ---------------------------------------------------------------------------

    def start(self, node: int) -> Life:
        """A new process of *node*."""
        number = sum(life.node == node for life in self.lives) + 1
        process = self.disk.process(next(self._pids))
        ids = Random(f"ids {self.seed} {node} {number}")
        clock = self._clocks[node - 1]
        environment = Environment(
            clock=clock.wall_us,
            elapsed=clock.elapsed_s,
            ids=lambda: ids.randbytes(16),
            jitter=Random(f"jitter {self.seed} {node} {number}").random,
            threads=InlineThreads(),
            disk=process,
            processes=NamedProcess(f"process {node}.{number} on a simulated machine"),
            tracers=lambda: None,
        )
        life = Life(node, number, process, environment)
        self.lives.append(life)
        self._by_pid[process.pid] = life
        self.note("life", "begins", life.who)
        return life

    def kill(self, life: Life) -> None:
        """End it at once: none of its tasks runs another step before `unwind`."""
        if life.dead or life.ended.is_set():
            return
        life.process.kill()
        life.dead = life.held = True
        life.ended.set()
        self.note("life", "is killed", life.who)

    def freeze(self, life: Life, for_s: float) -> None:
        """Let it stand still for so long."""
        if life.held or life.ended.is_set():
            return
        life.process.freeze()
        life.held = True
        self.after(for_s, lambda: self.thaw(life))

    def thaw(self, life: Life) -> None:
        """Let it go on."""
        if life.held and not life.dead:
            life.held = False
            life.process.thaw()
            self.note("life", "goes on", life.who)
            parked, life.parked = life.parked, []
            queue(parked)

    def unwind(self) -> None:
        """The run has been judged: let the tasks of all that is dead end, which nobody looks at any more."""
        self.calm = self.ledger.closed = True
        for life in self.lives:
            life.scope.cancel()
            life.process.bury()
            life.held = False
            parked, life.parked = life.parked, []
            queue(parked)

    # -- time --------------------------------------------------------------------------------

    def after(self, seconds: float, act: Callable[[], None]) -> None:
        """Do *act* then, in a task of no process."""
        heapq.heappush(self._timers, (trio.current_time() + seconds, next(self._timer_numbers), act))
        self._timers_changed.set()

    async def run_timers(self) -> None:
        """The task that does what `after` was told."""
        while True:
            due = self._timers[0][0] if self._timers else float("inf")
            with trio.move_on_at(due):
                await self._timers_changed.wait()
            self._timers_changed = trio.Event()
            while self._timers and self._timers[0][0] <= trio.current_time():
                heapq.heappop(self._timers)[2]()

    # -- points ------------------------------------------------------------------------------

    def _at_disk(self, process: SimulatedProcess, phase: Phase, op: Op, path: str) -> None:
        life = self._by_pid[process.pid]
        injection = self.point(life, phase, op, path)
        if injection is not None:
            self._fail_disk(injection, life, op, path)

    def point(self, life: Life, phase: Phase, op: str, path: str) -> Injection | None:
        """Something may go wrong here, and does if the script says so; what did."""
        self.points += 1
        self.note("point", f"{self.points} {phase} {op} {path}", life.who)
        if self.calm:
            return None
        injection = self.script.at(self.points, phase, op)
        if injection is not None:
            self.injections.append(injection)
            self.tally(injection.what)
            self.note("fault", f"{injection} {phase} {op} {path}".rstrip(), life.who)
            self._do(injection, life)
        return injection

    def _do(self, injection: Injection, life: Life) -> None:
        """What befalls a process or the machine, whatever the call."""
        how = injection.how.split()
        match injection.what:
            case "crash":
                life.pause_s = float(how[0])
                self.kill(life)
            case "power":
                self.cut_power(how[0], int(how[1]), float(how[2]))  # type: ignore[arg-type]  # drawn from them
            case "freeze":
                self.freeze(life, float(how[0]))
            case "restart":
                life.leaves_by = how[0]
                life.leave.set()
            case "cancel":
                if life.sessions:
                    list(life.sessions.values())[int(how[0]) % len(life.sessions)].cancel()

    def _fail_disk(self, injection: Injection, life: Life, op: Op, path: str) -> None:
        """What befalls the call."""
        how = injection.how.split()
        match injection.what:
            case "flush":
                self._inject(life, op, path, "fail" if how[0] == "fail" else "drop", part=float(how[1]) if how[1:] else 0.0)
            case "slow":
                self._inject(life, op, path, "stall", stall_s=float(how[0]))
            case "io":
                kind: Any = "short" if how[0] == "short" and op == "write" else "fail"
                code = errno.ENOSPC if how[0] == "ENOSPC" else errno.EIO
                self._inject(life, op, path, kind, error=code, part=float(how[1]) if kind == "short" else 0.0)
            case "full":
                self.disk.resize(self.disk.used_bytes + FULL_BYTES)
                self.full_until = max(self.full_until, trio.current_time() + float(how[0]))
                self.after(float(how[0]), self._make_room)

    def _make_room(self) -> None:
        if trio.current_time() >= self.full_until:
            self.disk.resize(None)

    def _inject(self, life: Life, op: Op, path: str, kind: Any, **more: Any) -> None:
        """It strikes this very call."""
        self.disk.inject(Fault(kind, op=op, path=_plain(path), pid=life.process.pid, **more))

    def cut_power(self, policy: Policy, seed: int, pause_s: float) -> None:
        """Kill all processes, and lose what was not flushed, or some of it."""
        for life in self.lives:
            if not life.ended.is_set():
                life.pause_s = pause_s
                self.kill(life)
        self.disk.power_cut(policy, seed)
        self.note("life", f"the power was cut, {policy}")

    def heal(self) -> None:
        """Nothing goes wrong from here on."""
        self.calm = True
        self.full_until = 0.0
        self.disk.heal()
        self.disk.resize(None)
        for life in self.lives:
            with suppress(trio.RunFinishedError):
                self.thaw(life)


def _plain(path: str) -> str:
    """The path as a pattern that matches it alone."""
    return "".join(f"[{one}]" if one in "*?[" else one for one in path)
