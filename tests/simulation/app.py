"""The app that most simulations here run: orders, with a projection of each kind."""

from __future__ import annotations

import attrs

from perdure.backends.limits import Limits
from perdure.runtime import App, Event, Keyed, Projection, Retention, event, of


@event("order-placed", tags=lambda e: [f"customer:{e.customer}"])
@attrs.frozen
class Placed:
    customer: str
    cents: int


@event("order-paid")
@attrs.frozen
class Paid:
    customer: str
    cents: int


@attrs.frozen
class Account:
    orders: int = 0
    owed: int = 0
    last: str = ""


def step(account: Account, event: Event[Placed | Paid]) -> Account:
    match event.data:
        case Placed(cents=cents):
            return Account(account.orders + 1, account.owed + cents, f"{event.stream} {event.seq}")
        case Paid(cents=cents):
            return Account(account.orders, account.owed - cents, f"{event.stream} {event.seq}")


ALL = Projection("all", version=1, initial=Account(), step=step, events=of(Placed, Paid))
ACCOUNTS = Keyed("accounts", version=1, initial=Account(), step=step, events=of(Placed, Paid), key=lambda event: event.data.customer)
APP = App(projections=[ALL, ACCOUNTS])
RETAINING = attrs.evolve(APP, retention=[Retention(streams=["order-1"], age_s=2), Retention(categories=["order"], count=2)])
SWEPT_SOON = Limits(page_records=8, commit_s=2)
"""What has been cut goes from frames as soon as no commit can be in doubt any more."""
