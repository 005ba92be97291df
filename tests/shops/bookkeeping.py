"""Payments of customers, and the SQL read model that keeps books of them."""

from __future__ import annotations

from typing import Any

import attrs

from perdure.backends.environment import Environment, InlineThreads
from perdure.backends.event import Position
from perdure.backends.protocol import Backend
from perdure.backends.sql import Transaction
from perdure.runtime import App, Event, SqlProjection, event, of, open_runtime
from perdure.runtime.runtime import Runtime
from shops import Shop

INLINE = Environment(threads=InlineThreads())


@event("paid")
@attrs.frozen
class Paid:
    """Some cents of a customer."""

    customer: str
    cents: int


def tables(tx: Transaction) -> None:
    """One row a payment, and one a customer."""
    tx.execute("CREATE TABLE payments (position INTEGER PRIMARY KEY, customer TEXT NOT NULL, cents INTEGER NOT NULL CHECK (cents >= 0))")
    tx.execute("CREATE INDEX payments_by_customer ON payments (customer)")
    tx.execute("CREATE TABLE totals (customer TEXT PRIMARY KEY, cents INTEGER NOT NULL)")


def book(event: Event[Paid], tx: Transaction) -> None:
    """What the read model does."""
    put(event, tx, event.data.cents)


def put(event: Event[Paid], tx: Transaction, cents: int) -> None:
    """Applied twice, or not at all, the totals are wrong."""
    customer = event.data.customer
    tx.execute("INSERT INTO payments VALUES (?, ?, ?)", (event.position, customer, cents))
    tx.execute("INSERT INTO totals VALUES (?, ?) ON CONFLICT (customer) DO UPDATE SET cents = totals.cents + excluded.cents", (customer, cents))


def payments(shop: Shop, **changes: Any) -> SqlProjection[Paid]:
    """The read model, but for the *changes*."""
    database, version = changes.pop("database", None) or shop.url, changes.pop("version", 1)
    what = {"tables": tables, "handle": book, "events": of(Paid), **changes}
    return SqlProjection("payments", version=version, database=database, **{**what, "tables": shop.says(what["tables"]), "handle": shop.says(what["handle"])})


def totals(shop: Shop) -> dict[str, int]:
    """What stands in its books."""
    return dict(shop.rows("SELECT customer, cents FROM totals"))


async def append(rt: Runtime, *cents: int, customer: str = "ada") -> Position:
    """Payments in one commit; its position."""
    answer = await rt.append("payments", [Paid(customer, each) for each in cents])
    assert answer.position is not None
    return answer.position


async def projected(backend: Backend, projection: SqlProjection[Paid], **options: Any) -> Position:
    """Run it to the head, and close."""
    async with open_runtime(backend, App(sql=[projection]), environment=INLINE, **options) as rt:
        model = rt.model(projection)
        await model.wait_for(await rt.head())
        return model.position
