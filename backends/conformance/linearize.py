"""Whether what was answered can have happened in one order, each operation at an instant between its begin and its end. Pure.

A *cell* is a stream or a key, its *mark* a stream's last seq or an entry's revision (0: absent). An answer
says of a look which mark its cell had, and of a write which *place* it has in the one order of the store:
its position, or its revision. Writes with a place are links of a chain; open is only between which two
links each look falls. One sweep over all begins and ends decides that, in n log n (Gibbons and Korach,
"Testing shared memories", SIAM J. Comput. 26, 1997: the order of writes is known).

A write of unknown outcome floats: it came in at any time since its begin, or never. So a set of orders is
carried along, and each is moved on only when the end of an operation asks for it (Lowe, "Testing for
linearizability", Concurrency Computat. 29, 2017, after Wing and Gong, "Testing and verifying concurrent
objects", JPDC 17, 1993). A look that fits now is taken at once: it changes nothing, so later is no better.
Orders that differ in nothing are one. Where floating writes have left no trace, orders multiply.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from math import inf

import attrs

from perdure.backends.commit import ANY, EXISTS, Expected

Cell = Hashable

ORDERS_MAX = 20_000
"""So many orders are carried along; more is `Undecided`."""


class Undecided(Exception):
    """Too many writes of unknown outcome left no trace: read what is there more often."""


@attrs.frozen(eq=False)
class Look:
    """*cell* had *mark*; *said* is the operation that shows it."""

    began: float
    ended: float
    cell: Cell
    mark: int
    said: object


@attrs.frozen(eq=False)
class Write:
    """What changes *cell*: appends *count* events, or puts or *deletes* an entry.

    *place* None: it floats. *mark*: what the cell has afterwards, where that is known. *ended* is infinite where the outcome is not known.
    """

    began: float
    ended: float
    cell: Cell
    expected: Expected
    place: int | None
    mark: int | None
    said: object
    count: int = 0
    deletes: bool = False
    content: tuple[object, ...] = ()

    def after(self, mark: int, place: int) -> int | None:
        """The cell's mark after it; None if it is not accepted at *mark*."""
        expected = self.expected
        if expected is not ANY and expected != mark and not (expected is EXISTS and mark):
            return None
        after = mark + self.count if self.count else 0 if self.deletes else place
        return after if self.mark is None or self.mark == after else None


@attrs.frozen
class Traces:
    """What is known to be stored: contents by (cell, seq or revision), and the cells of revisions that were shown."""

    contents: Mapping[tuple[Cell, int], object]
    shown: Mapping[int, Cell] = attrs.field(factory=dict)
    dense: bool = False
    """Whether each write takes the next place: revisions do, positions need not."""

    def allow(self, write: Write, mark: int, place: int) -> bool:
        """Whether a floating write may have come in here."""
        if write.count:
            return all(self.contents.get((write.cell, mark + n), content) == content for n, content in enumerate(write.content, 1))
        if write.deletes:
            return place not in self.shown
        return self.shown.get(place, write.cell) == write.cell and self.contents.get((write.cell, place), write.content[0]) == write.content[0]


class _Order:
    """One that is possible so far: how many links it has, what floated in, and which looks still wait."""

    __slots__ = ("at", "floated", "marks", "place", "waiting")

    def __init__(self, at: int, place: int, marks: dict[Cell, int], floated: frozenset[Write], waiting: dict[Cell, set[Look]]) -> None:
        self.at, self.place, self.marks, self.floated, self.waiting = at, place, marks, floated, waiting

    def copy(self) -> _Order:
        return _Order(self.at, self.place, self.marks.copy(), self.floated, {cell: looks.copy() for cell, looks in self.waiting.items()})

    def key(self) -> Hashable:
        """Equal for orders that differ in nothing."""
        return self.at, self.floated, frozenset(self.marks.items()), frozenset(look for looks in self.waiting.values() for look in looks)

    def set(self, cell: Cell, mark: int) -> None:
        """The cell has that mark now; looks that see it are taken."""
        self.marks[cell] = mark
        waiting = self.waiting.get(cell)
        if waiting:
            waiting -= {look for look in waiting if look.mark == mark}

    def look(self, look: Look) -> None:
        """It begins."""
        if self.marks.get(look.cell, 0) != look.mark:
            self.waiting.setdefault(look.cell, set()).add(look)

    def waits(self, look: Look) -> bool:
        """Whether it has not been taken yet."""
        waiting = self.waiting.get(look.cell)
        return waiting is not None and look in waiting


class Search:
    """The sweep over one object. *chain* is in order of places."""

    def __init__(self, chain: Sequence[Write], floating: Iterable[Write], looks: Iterable[Look], traces: Traces) -> None:
        self.chain = chain
        self.floating = list(floating)
        self.looks = list(looks)
        self.traces = traces
        self._index = {write: at for at, write in enumerate(chain)}
        self._by_cell: dict[Cell, list[Write]] = {}
        seen = {(cell, content) for (cell, _), content in traces.contents.items()} if self.floating else set()
        self._kinds: dict[Write, Hashable] = {}
        """Floating writes of one kind would do the same, now and later: which of them it was leaves no trace."""
        for write in self.floating:
            self._by_cell.setdefault(write.cell, []).append(write)
            told = write.content if write.count or any((write.cell, content) in seen for content in write.content) else ()
            self._kinds[write] = (write.cell, write.deletes, write.expected, told)
        self.forced: list[Look | Write] = []
        """Of each link that must have come: whose end says so."""
        self.stuck: list[_Order] = []
        """The orders that came to no end when it failed."""
        self._now = -inf
        self._shown_last = max([*traces.shown, *(write.expected for write in self.floating if isinstance(write.expected, int))], default=0)
        """Beyond it nobody knows of a revision: there a put leaves no trace."""

    def refused(self) -> Look | Write | None:
        """The first operation, by its end, that no order has a place for; None if there is an order for all."""
        orders = [_Order(0, 0, {}, frozenset(), {})]
        for now, ends, operation in self._events():
            self._now = now
            if not ends:
                assert isinstance(operation, Look)
                for order in orders:
                    order.look(operation)
            else:
                orders = self._ended(orders, operation)
                if not orders:
                    return operation
        return None

    def _events(self) -> Iterator[tuple[float, bool, Look | Write]]:
        """Begins before ends of the same time: those overlap."""
        events: list[tuple[float, bool, Look | Write]] = []
        for look in self.looks:
            events.append((look.began, False, look))
            events.append((look.ended, True, look))
        events += [(write.ended, True, write) for write in self.chain if write.ended < inf]
        events.sort(key=lambda event: event[:2])
        return iter(events)

    def _ended(self, orders: list[_Order], operation: Look | Write) -> list[_Order]:
        """The orders in which it has come."""
        reached = self._goal(operation)
        if len(orders) == 1 and reached(orders[0]):
            return orders
        self.stuck = []
        found = [one for order in orders for one in self._advance(order, reached, operation.cell)]
        if len(found) > 1:
            found = list({one.key(): one for one in found}.values())
        if found:
            self.forced += [operation] * (min(order.at for order in found) - len(self.forced))
        return found

    def _goal(self, operation: Look | Write) -> Callable[[_Order], bool]:
        if isinstance(operation, Look):
            return lambda order: not order.waits(operation)
        at = self._index[operation]
        return lambda order: order.at > at

    def _advance(self, order: _Order, reached: Callable[[_Order], bool], cell: Cell) -> Iterator[_Order]:
        """Every order that goes on from *order* and ends as soon as the goal is reached."""
        open_, seen = [order], set[Hashable]()
        while open_:
            order = open_.pop()
            while not reached(order):
                for write in self._may_float(order, cell):
                    fork = order.copy()
                    self._float(fork, write)
                    if (key := fork.key()) not in seen:
                        seen.add(key)
                        open_.append(fork)
                if len(open_) + len(seen) > ORDERS_MAX:
                    raise Undecided(f"more than {ORDERS_MAX:,} orders are possible")
                if not self._link(order):
                    self.stuck.append(order)
                    break
            else:
                yield order

    def _link(self, order: _Order) -> bool:
        """Take the chain's next link, if it can come now."""
        if order.at == len(self.chain):
            return False
        write = self.chain[order.at]
        place = write.place or 0
        if write.began > self._now or (self.traces.dense and place != order.place + 1):
            return False
        after = write.after(order.marks.get(write.cell, 0), place)
        if after is None:
            return False
        order.at += 1
        order.place = place
        order.set(write.cell, after)
        return True

    def _may_float(self, order: _Order, cell: Cell) -> list[Write]:
        """Floating writes that may come in now and are of use: the others may as well come later."""
        if not self.floating:
            return []
        link = self.chain[order.at] if order.at < len(self.chain) else None
        useful: Iterable[Write] = ()
        if not self.traces.dense:
            cells = {cell: None} if link is None else {cell: None, link.cell: None}
            useful = (write for one in cells for write in self._by_cell.get(one, ()))
        elif link is not None:
            useful = self.floating if link.place != order.place + 1 else ()
        elif order.place < self._shown_last:
            useful = self.floating
        else:
            useful = (write for write in self._by_cell.get(cell, ()) if write.deletes)
        alike: dict[Hashable, Write] = {}  # of those that would do the same, the first
        for write in useful:
            if write.began <= self._now and write not in order.floated and self._allows(order, write):
                alike.setdefault(self._kinds[write], write)
        return list(alike.values())

    def _allows(self, order: _Order, write: Write) -> bool:
        mark = order.marks.get(write.cell, 0)
        return write.after(mark, order.place + 1) is not None and self.traces.allow(write, mark, order.place + 1)

    def _float(self, order: _Order, write: Write) -> None:
        order.floated |= {write}
        if self.traces.dense:
            order.place += 1
        after = write.after(order.marks.get(write.cell, 0), order.place)
        assert after is not None
        order.set(write.cell, after)

    # -- why ---------------------------------------------------------------------------------

    def why(self, refused: Look | Write) -> str:
        """The shortest reason why there is no place for it, from the order that came furthest."""
        order = max(self.stuck, key=lambda order: (order.at, len(order.floated)))
        if isinstance(refused, Look):
            over = self._over(refused, order)
            if over is not None:
                return over
        link = self.chain[order.at] if order.at < len(self.chain) else None
        if isinstance(refused, Look) and (link is None or not any(self._makes(write, refused) for write in self.chain[order.at :])):
            return f"{refused.said}\n  shows what no write had made that had begun by then"
        assert link is not None
        before = "" if link is refused else f"{refused.said}\n  has to come after\n"
        if link.began > self._now:
            return f"{before}{link.said}\n  which began later"
        if self.traces.dense and link.place != order.place + 1:
            return f"{before}{link.said}\n  but no write is known that took revision {order.place + 1}"
        mark = order.marks.get(link.cell, 0)
        last = next((write.said for write in reversed(self.chain[: order.at]) if write.cell == link.cell), "nothing was written there")
        return f"{before}{link.said}\n  does not fit what was there, {mark}:\n{last}"

    def _makes(self, write: Write, look: Look) -> bool:
        return write.cell == look.cell and write.mark == look.mark

    def _over(self, look: Look, order: _Order) -> str | None:
        """What had replaced it before it was looked at, and who shows that."""
        mark = 0
        for at, write in enumerate(self.chain[: order.at]):
            if write.cell != look.cell:
                continue
            if mark == look.mark and write.ended < look.began:
                return f"{look.said}\n  shows what had been replaced before it began:\n{write.said}"
            if mark == look.mark and at < len(self.forced) and self.forced[at].ended < look.began:
                return f"{look.said}\n  shows what had been replaced before it began:\n{write.said}\n  for it came before\n{self.forced[at].said}"
            mark = write.mark or 0
        return None
