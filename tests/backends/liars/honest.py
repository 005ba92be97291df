"""What the liars are made of: an honest store in memory that lasts as long as its map."""

from __future__ import annotations

from perdure.backends.environment import Environment, InlineThreads
from perdure.backends.faulty import FaultyBackend
from perdure.backends.memory import MemoryMap
from perdure.backends.ordered import OrderedBackend
from perdure.backends.protocol import Capabilities


class Honest(OrderedBackend):
    """What the liars are made of; it keeps all laws, durable in that its map outlives it."""

    _store: MemoryMap

    def __init__(self, rows: MemoryMap) -> None:
        capabilities = Capabilities(loads=True, images=True, moves=True, cuts=True)
        super().__init__(rows, url="liar:", capabilities=capabilities, environment=Environment(threads=InlineThreads()))


class Liar(FaultyBackend):
    """Around an honest store in memory."""

    inner: Honest

    def __init__(self, rows: MemoryMap) -> None:
        super().__init__(Honest(rows))


class Durable(Liar):
    """One that claims to be durable, too."""

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(durable=True, loads=True, images=True, moves=True, cuts=True)


def copy_of(backend: Honest) -> MemoryMap:
    """What it holds."""
    rows = MemoryMap(backend.id)
    rows._tables = backend._store._tables.copy()
    return rows
